"""How raw samples become slot values, whatever order they come in and however often.

Samples of the out-of-order window are kept raw, sorted by series and time, each time once. Every
arrival folds its series anew from all of them, so a slot's value is a function of the set of
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


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples as columns of one length: series, epoch milliseconds, value in the metric's unit."""

    series: IntArray
    time_ms: IntArray
    value: FloatArray

    def __len__(self) -> int:
        return len(self.series)

    def select(self, chosen: BoolArray) -> Samples:
        """The samples for which `chosen` is True."""
        return Samples(self.series[chosen], self.time_ms[chosen], self.value[chosen])

    def together(self, other: Samples) -> Samples:
        """These samples and the other ones, each series and time once, sorted by both.

        Of two values for the same series and time the larger stays: a rule that needs no order.
        """
        series = np.concatenate([self.series, other.series])
        time_ms = np.concatenate([self.time_ms, other.time_ms])
        value = np.concatenate([self.value, other.value])
        order = np.lexsort((value, time_ms, series))
        series, time_ms, value = series[order], time_ms[order], value[order]
        last = np.ones(len(series), dtype=np.bool_)
        last[:-1] = (series[1:] != series[:-1]) | (time_ms[1:] != time_ms[:-1])
        return Samples(series[last], time_ms[last], value[last])


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
        rule = self.rule[column]
        # bincount adds one after the other: the same samples give the same bits.
        value = np.bincount(group, weights=samples.value) / count
        value[rule == "max"] = np.maximum.reduceat(samples.value, starts)[rule == "max"]
        value[rule == "last"] = samples.value[starts + count - 1][rule == "last"]
        if self.rate[column].any():
            rate = self._rate(samples, group)
            outside = (rate < self._lower[column]) | (rate > self._upper[column])
            value = np.where(rule == "rate", np.where(outside, np.nan, rate), value)
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
        self._kept = no_samples() if kept is None else kept

    @property
    def kept(self) -> Samples:
        """All samples kept, sorted by series and time."""
        return self._kept

    def add(self, new: Samples, *, edges: IntArray) -> tuple[Folded, int]:
        """Fold new samples, all later than their row's edge, with those kept.

        Returns the values of all slots of the touched series after the edge, and how many of the
        new samples repeated a time that was known.
        """
        touched = np.isin(self._kept.series, np.unique(new.series))
        merged = self._kept.select(touched).together(new)
        repeated = int(touched.sum()) + len(new) - len(merged)
        folded = self._rules.fold(merged)
        self._kept = self._kept.select(~touched).together(merged)
        return folded.select(folded.slot > edges[self._row(folded.series)]), repeated

    def trim(self, edges: IntArray) -> None:
        """Drop what lies at or before its row's edge, but for the last reading of a rate."""
        kept = self._kept
        if not len(kept):
            return
        after = kept.time_ms // self._rules.step_ms > edges[self._row(kept.series)]
        # Sorted: the last reading before the edge is the one that a sample after it, or another
        # series, follows.
        last = np.ones(len(kept), dtype=np.bool_)
        last[:-1] = after[1:] | (kept.series[1:] != kept.series[:-1])
        rate = self._rules.rate[kept.series % len(self._rules.rule)]
        self._kept = kept.select(after | (last & rate))

    def forget(self, row: int) -> None:
        """Drop all samples of a server row."""
        self._kept = self._kept.select(self._row(self._kept.series) != row)

    def _row(self, series: IntArray) -> IntArray:
        return series // len(self._rules.rule)
