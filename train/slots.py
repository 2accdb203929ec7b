"""How raw samples become slot values, whatever order they come in and however often.

Samples of the out-of-order window are kept raw, each series and time once. Every arrival folds the
slots it touches anew from all their samples, so a slot's value is a function of the set of
samples. A series is one metric of one server: `row * metrics + column`. Times are epoch
milliseconds, slots `time_ms // step_ms`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forecast.clock import SILENT_SLOTS
from forecast.schema import Metric

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_FAR = np.iinfo(np.int64).max
"""Later than any slot and any time; before all of them when negated."""
_SPARE = 4096
"""Samples that may be kept without use, beside a quarter of those that have one."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples as columns of one length: series, epoch milliseconds, value in the metric's unit."""

    series: IntArray
    time_ms: IntArray
    value: FloatArray

    def __len__(self) -> int:
        return len(self.series)

    def select(self, chosen: BoolArray | IntArray) -> Samples:
        """The samples for which `chosen` is True, or that stand at these places."""
        return Samples(self.series[chosen], self.time_ms[chosen], self.value[chosen])

    def together(self, *others: Samples) -> Samples:
        """These samples and the other ones, each series and time once, sorted by both.

        Of two values for the same series and time the larger stays: a rule that needs no order.
        """
        parts = (self, *others)
        series = np.concatenate([part.series for part in parts])
        time_ms = np.concatenate([part.time_ms for part in parts])
        value = np.concatenate([part.value for part in parts])
        order = _order(series, time_ms)
        if order is not None:
            series, time_ms, value = series[order], time_ms[order], value[order]
        first = np.ones(len(series), dtype=np.bool_)
        first[1:] = (series[1:] != series[:-1]) | (time_ms[1:] != time_ms[:-1])
        if first.all():
            return Samples(series, time_ms, value)
        largest = np.maximum.reduceat(value, np.flatnonzero(first))
        return Samples(series[first], time_ms[first], largest)


def _order(series: IntArray, time_ms: IntArray) -> IntArray | None:
    """What sorts by series and time; None when they are sorted.

    One key of both, where it fits, is sorted much faster than two: two sorted sets are two runs.
    """
    if not len(series):
        return None
    begin = int(time_ms.min())
    span = int(time_ms.max()) - begin + 1
    if (int(series.max()) + 1) * span >= 2**63:
        return np.lexsort((time_ms, series))
    key = series * span + (time_ms - begin)
    return None if (key[1:] >= key[:-1]).all() else np.argsort(key, kind="stable")


def no_samples() -> Samples:
    """An empty set."""
    return Samples(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float64))


@dataclass(frozen=True, slots=True)
class Folded:
    """Slot values as columns: series, slot, value (NaN where the samples do not say one).

    `count` is the number of samples behind each.
    """

    series: IntArray
    slot: IntArray
    value: FloatArray
    count: IntArray

    def select(self, chosen: BoolArray) -> Folded:
        """The values for which `chosen` is True."""
        return Folded(
            self.series[chosen], self.slot[chosen], self.value[chosen], self.count[chosen]
        )


class SlotRules:
    """The metrics' ways to fill a slot, as arrays by column."""

    def __init__(self, metrics: Sequence[Metric], *, step_ms: int) -> None:
        self.step_ms = step_ms
        self.rule = np.array([metric.slot_rule for metric in metrics])
        self.rate = self.rule == "rate"
        self._max, self._last = self.rule == "max", self.rule == "last"
        widest = float(np.finfo(np.float32).max)
        self._lower = np.array([-widest if m.lower is None else m.lower for m in metrics])
        self._upper = np.array([widest if m.upper is None else m.upper for m in metrics])

    def fold(self, samples: Samples) -> Folded:
        """The value of every slot that holds a sample; `samples` sorted, each time once.

        mean, max and last speak for themselves. A rate is the rise between successive readings per
        second, counted in the slot of the later one; a fall is a reset and says nothing, neither
        do readings more than 3 steps apart. A rate beyond the metric's bounds is no value.
        """
        if not len(samples):
            nothing = no_samples()
            return Folded(nothing.series, nothing.time_ms, nothing.value, nothing.series)
        series, slot = samples.series, samples.time_ms // self.step_ms
        begins = np.ones(len(series), dtype=np.bool_)
        begins[1:] = (series[1:] != series[:-1]) | (slot[1:] != slot[:-1])
        starts = np.flatnonzero(begins)
        group = np.cumsum(begins) - 1
        count = np.bincount(group)
        column = series[starts] % len(self.rule)
        # bincount adds one after the other: the same samples give the same bits.
        value = np.bincount(group, weights=samples.value) / count
        if self._max.any():
            largest = np.maximum.reduceat(samples.value, starts)
            value = np.where(self._max[column], largest, value)
        if self._last.any():
            value = np.where(self._last[column], samples.value[starts + count - 1], value)
        if (rates := self.rate[column]).any():
            rate = self._rate(samples, group)
            outside = (rate < self._lower[column]) | (rate > self._upper[column])
            value = np.where(rates, np.where(outside, np.nan, rate), value)
        return Folded(series[starts], slot[starts], value, count)

    def _rate(self, samples: Samples, group: IntArray) -> FloatArray:
        """Rise per second of each group; NaN where no pair of readings tells one."""
        rise = np.zeros(len(samples))
        lapse_s = np.zeros(len(samples))
        risen = np.diff(samples.value)
        lapse_ms = np.diff(samples.time_ms)
        known = (samples.series[1:] == samples.series[:-1]) & (risen >= 0)
        known &= lapse_ms <= SILENT_SLOTS * self.step_ms
        rise[1:][known] = risen[known]
        lapse_s[1:][known] = lapse_ms[known] / 1000
        total_s = np.bincount(group, weights=lapse_s)
        total = np.bincount(group, weights=rise)
        rate = np.full(len(total), np.nan)
        np.divide(total, total_s, out=rate, where=total_s > 0)
        return rate


class RawSamples:
    """The samples of the out-of-order window, and what they fold to.

    `edges` are slots by server row: samples later than a row's edge are folded together with what
    is kept; at or before it, nothing is kept but, for a rate, the last reading.

    >>> rules = SlotRules([Metric(name="cpu")], step_ms=1000)
    >>> raw = RawSamples(rules)
    >>> def one(time_ms, value):
    ...     return Samples(np.array([0]), np.array([time_ms]), np.array([value]))
    >>> raw.add(one(1700, 3.0), edges=np.array([0]))[0].value
    array([3.])
    >>> raw.add(one(1200, 1.0), edges=np.array([0]))[0].value
    array([2.])
    """

    def __init__(self, rules: SlotRules, kept: Samples | None = None) -> None:
        self._rules = rules
        self._pieces = [] if kept is None else [kept]
        """Sorted sets, the larger ones first, with no series and time in common."""
        self._left = 0
        """How many samples were left when those of no more use last went."""
        self._edges: IntArray | None = None
        self._unfolded = np.empty(0, np.int64) if kept is None else np.unique(kept.series)
        """Series that were read back, maybe under another schema: all their slots fold anew."""

    @property
    def kept(self) -> Samples:
        """All samples kept, sorted by series and time."""
        whole = no_samples().together(*self._pieces)
        if self._edges is not None:
            whole = self._useful(whole, self._edges)
        self._pieces, self._left = [whole], len(whole)
        return whole

    def add(self, new: Samples, *, edges: IntArray) -> tuple[Folded, int]:
        """Fold new samples, all later than their row's edge, with those kept.

        Returns the values of every slot after the edge that may have changed, and how many of the
        new samples repeated a time that was known.
        """
        fresh = no_samples().together(new)
        since, since_ms = self._since(fresh, rows=len(edges))
        found = [_near(piece, since_ms) for piece in self._pieces]
        near = [piece for piece in found if len(piece)]
        merged = fresh.together(*near) if near else fresh
        together = sum(map(len, near)) + len(fresh)
        if together > len(merged):  # of two values for one time the larger one has to stay
            self._pieces = [fresh.together(*self._pieces)]
        else:
            self._keep(fresh)
        folded = self._rules.fold(merged)
        changed = folded.slot > np.maximum(
            since[folded.series] - 1, edges[self._row(folded.series)]
        )
        if not changed.all():
            folded = folded.select(changed)
        return folded, len(new) - len(fresh) + together - len(merged)

    def _since(self, fresh: Samples, *, rows: int) -> tuple[IntArray, IntArray]:
        """By series, the first slot that new samples change, and from when on samples matter to it.

        A rate starts from a reading up to 3 slots before, and a late reading changes that of the
        next one; whatever is later is folded too.
        """
        step_ms, metrics = self._rules.step_ms, len(self._rules.rule)
        first = np.ones(len(fresh), dtype=np.bool_)
        first[1:] = fresh.series[1:] != fresh.series[:-1]
        touched, slot = fresh.series[first], fresh.time_ms[first] // step_ms
        since, since_ms = np.full((2, rows * metrics), _FAR)
        since[touched] = slot
        since_ms[touched] = (slot - SILENT_SLOTS * self._rules.rate[touched % metrics]) * step_ms
        if self._unfolded.size:
            again = np.intersect1d(touched, self._unfolded)
            since[again] = since_ms[again] = -_FAR
            self._unfolded = np.setdiff1d(self._unfolded, again)
        return since, since_ms

    def _keep(self, fresh: Samples) -> None:
        """Add a piece; where it is as large as the one before, both become one.

        So a sample is moved a few times in all, and pieces stay few.
        """
        while self._pieces and len(self._pieces[-1]) <= len(fresh):
            fresh = self._pieces.pop().together(fresh)
        self._pieces.append(fresh)

    def trim(self, edges: IntArray) -> None:
        """Drop what lies at or before its row's edge, but for the last reading of a rate.

        It goes once there is much of it: until then it changes no slot after the edge.
        """
        self._edges = edges
        if sum(map(len, self._pieces)) > self._left + self._left // 4 + _SPARE:
            self._pieces = [self._useful(piece, edges) for piece in self._pieces]
            self._left = sum(map(len, self._pieces))

    def forget(self, *rows: int) -> None:
        """Drop all samples of server rows."""
        self._pieces = [
            piece.select(np.isin(self._row(piece.series), rows, invert=True))
            for piece in self._pieces
        ]
        self._edges = None  # the next owner's are others

    def _useful(self, piece: Samples, edges: IntArray) -> Samples:
        after = piece.time_ms >= (edges[self._row(piece.series)] + 1) * self._rules.step_ms
        # Sorted: the last reading before the edge is the one that a sample after it, or another
        # series, follows.
        last = ~after
        last[:-1] &= after[1:] | (piece.series[1:] != piece.series[:-1])
        last[last] = self._rules.rate[piece.series[last] % len(self._rules.rule)]
        return piece.select(after | last)

    def _row(self, series: IntArray) -> IntArray:
        return series // len(self._rules.rule)


def _near(piece: Samples, since_ms: IntArray) -> Samples:
    """The samples that are not before their series' time."""
    late = np.flatnonzero(piece.time_ms >= since_ms.min(initial=_FAR))
    return piece.select(late[piece.time_ms[late] >= since_ms[piece.series[late]]])
