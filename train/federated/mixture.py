"""Personal forecasts: each server's mix of what its site knows, by recent loss.

A site has more than one answer: the global model, the same with the site's own correction, a model
of its own. Which is best differs from server to server and from week to week, so all of them
forecast, and each server weighs them by what they were worth to it: `forecast.ensemble`'s online
aggregation, at home. Neither losses nor weights leave the site.

Legend: K members, N windows, S servers, H horizon, T targets, Q levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from forecast.ensemble import Float32Array, Weights, combine
from forecast.errors import StateError
from forecast.packing import pack, unpack
from forecast.places import aligned

if TYPE_CHECKING:
    from forecast.windows import RawWindows

_KIND = "mixture"
_FORMAT = 1
"""Bytes without a number are of format 1 too: they hold the same."""


@dataclass(frozen=True, slots=True)
class _Issued:
    """What was forecast at one origin and still waits for some of its slots."""

    servers: tuple[str, ...]
    members: Float32Array
    """[K, S, H, T, Q]"""
    mixed: Float32Array
    """[S, H, T, Q]"""


class Mixture:
    """The mix of one site's members, slot by slot. What it knows at a slot came by that slot.

    Before anything has matured all members count alike.

    >>> mixture = Mixture(("global", "local"), horizon=1, targets=1, levels=(0.1, 0.5, 0.9))
    >>> one = np.array([1.0, 2.0, 3.0], np.float32).reshape(1, 1, 1, 3)
    >>> mixed = mixture.issue(100, ("vm-1",), {"global": one, "local": one + 2})
    >>> mixed.ravel().tolist()
    [2.0, 3.0, 4.0]
    >>> mixture.came(101, ("vm-1",), np.array([[4.0]]))
    >>> mixture.shares(("vm-1",))["local"].item() > 0.5
    True
    """

    def __init__(
        self, members: Sequence[str], *, horizon: int, targets: int, levels: Sequence[float]
    ) -> None:
        """`members` are the names that forecasts come under, in a fixed order."""
        if not members or len(set(members)) < len(members):
            raise ValueError(f"members are named once each, and at least one, got {list(members)}")
        self._members = tuple(members)
        self._horizon, self._targets, self._levels = horizon, targets, tuple(levels)
        self._weights = Weights.fresh(horizon, targets, levels)
        self._open: dict[int, _Issued] = {}

    def issue(
        self, slot: int, servers: Sequence[str], forecasts: Mapping[str, Float32Array]
    ) -> Float32Array:
        """The mix [S, H, T, Q] of each member's quantiles [S, H, T, Q] made at `slot`.

        It is kept until its slots came. A member that is NaN for a series has no say in it. Raises
        ValueError when the members are others than those of the mixture.
        """
        if set(forecasts) != set(self._members):
            raise ValueError(f"forecasts of {sorted(forecasts)}, need {sorted(self._members)}")
        stacked = np.stack([forecasts[name] for name in self._members]).astype(np.float32)
        known = self._weights
        share = known.of(self._members, servers)
        mixed = combine(share, stacked, known.groups, known.parts)
        self._open[slot] = _Issued(tuple(servers), stacked, mixed)
        return mixed

    def came(self, slot: int, servers: Sequence[str], actuals_ST: NDArray[np.floating]) -> None:
        """Learn from what came in a slot; NaN where nothing did. Slots come in rising order."""
        matured = {
            ahead: self._open[slot - ahead]
            for ahead in range(1, self._horizon + 1)
            if slot - ahead in self._open
        }
        if matured:
            rows = tuple(dict.fromkeys(name for one in matured.values() for name in one.servers))
            actuals = aligned(np.asarray(actuals_ST, np.float32), tuple(servers), rows)
            pairs = {ahead: _step(one, ahead, rows) for ahead, one in matured.items()}
            self._weights = self._weights.learned(self._members, rows, pairs, actuals, self._levels)
        for origin in [origin for origin in self._open if origin + self._horizon <= slot]:
            del self._open[origin]

    def played(
        self, raw: RawWindows, forecasts: Mapping[str, Float32Array], targets: Sequence[str]
    ) -> Float32Array:
        """What it issues for labelled windows [N, H, T, Q], given each member's quantiles of them.

        Slot by slot: first what came in the slot, then what is issued at it. So nothing is known of
        a label after the origin; all labels came when this returns. Raises ValueError as `issue`.
        """
        labels_NHT = raw.values[:, raw.context :][:, :, [raw.metrics.index(one) for one in targets]]
        issued = np.full((*labels_NHT.shape, len(self._levels)), np.nan, np.float32)
        ahead = np.arange(raw.horizon + 1)
        for slot in np.unique(raw.origin[:, None] + ahead).tolist():
            came = np.flatnonzero((raw.origin < slot) & (slot <= raw.origin + raw.horizon))
            if len(came):
                steps = slot - raw.origin[came] - 1
                self.came(slot, [raw.servers[row] for row in came], labels_NHT[came, steps])
            rows = np.flatnonzero(raw.origin == slot)
            if len(rows):
                given = {name: forecast[rows] for name, forecast in forecasts.items()}
                issued[rows] = self.issue(slot, [raw.servers[row] for row in rows], given)
        return issued

    def shares(self, servers: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """Each member's share [S], a mean over targets, steps and parts of the distribution."""
        found = self._weights.of(self._members, servers).mean(axis=(2, 3, 4), dtype=np.float64)
        return dict(zip(self._members, found.T, strict=True))

    def pack(self) -> bytes:
        """What is known, as bytes for the site's own disk: weights, and what still waits."""
        arrays: dict[str, NDArray[np.uint8] | Float32Array] = {
            "weights": np.frombuffer(self._weights.pack(), np.uint8)
        }
        for slot, one in self._open.items():
            arrays |= {f"{slot}.members": one.members, f"{slot}.mixed": one.mixed}
        header = {
            "format": _FORMAT,
            "members": list(self._members),
            "open": {str(slot): list(one.servers) for slot, one in self._open.items()},
        }
        return pack(_KIND, header, arrays)

    def restored(self, data: bytes) -> Self:
        """What `pack` wrote; raises StateError when it is damaged, unknown or of other members."""
        header, arrays = unpack(_KIND, data)
        if (number := header.get("format", 1)) != _FORMAT:
            raise StateError(f"a stored mixture of format {number}, need {_FORMAT}")
        if tuple(header["members"]) != self._members:
            raise StateError(f"a mixture of {header['members']}, need {list(self._members)}")
        made = type(self)(
            self._members, horizon=self._horizon, targets=self._targets, levels=self._levels
        )
        made._weights = Weights.unpack(arrays["weights"].tobytes())
        made._open = {
            int(slot): _Issued(tuple(servers), arrays[f"{slot}.members"], arrays[f"{slot}.mixed"])
            for slot, servers in header["open"].items()
        }
        return made


def mixed(
    known: RawWindows,
    before: Mapping[str, Float32Array],
    asked: RawWindows,
    after: Mapping[str, Float32Array],
    *,
    targets: Sequence[str],
    levels: Sequence[float],
) -> Float32Array:
    """Each server's mix [N, H, T, Q] of what models say of the asked windows, origin by origin.

    It first learns from what the same models said of earlier windows; then from what came of the
    asked ones, as it comes.
    """
    mixture = Mixture(tuple(after), horizon=asked.horizon, targets=len(targets), levels=levels)
    if len(known):
        mixture.played(known, before, targets)
    return mixture.played(asked, after, targets)


def _step(one: _Issued, ahead: int, servers: tuple[str, ...]) -> tuple[Float32Array, Float32Array]:
    """What was forecast `ahead` slots ahead: by each member [K, S, T, Q], and mixed [S, T, Q]."""
    members = [aligned(each[:, ahead - 1], one.servers, servers) for each in one.members]
    return np.stack(members), aligned(one.mixed[:, ahead - 1], one.servers, servers)
