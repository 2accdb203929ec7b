"""The answer for many servers: sent part by part, and the same as if it were sent at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from forecast.errors import ArtifactError
from forecast.http.parts import MOST_SERVERS
from forecast.record import ForecastBlock, ServerStatus
from tests.forecast.http.http_scene import (
    CONTEXT,
    LEVELS,
    SLOT,
    TARGETS,
    FakeService,
    ask,
    problem_of,
    quantiles,
    snapshot,
    windows,
)

NAMES = tuple(f"web-{number:04d}" for number in range(2 * MOST_SERVERS + 5))


def wide():
    """A snapshot of three parts' servers, all of them active, with a champion and a baseline."""
    servers = tuple(ServerStatus(name, "web", "UTC", "active", 0, SLOT, 0) for name in NAMES)
    values = {"champion": 0.2, "copy_last": 0.6, "seasonal_naive": 0.4}
    blocks = tuple(
        ForecastBlock(
            SLOT, member, 3 if member == "champion" else None, NAMES, TARGETS, LEVELS,
            quantiles(len(NAMES), low),
        )
        for member, low in values.items()
    )  # fmt: skip
    raw = windows(NAMES)
    raw.values[:, :CONTEXT] = 0.25
    return replace(
        snapshot(), servers=servers, served=("champion",) * len(NAMES), blocks=blocks, raw=raw
    )


class Wide(FakeService):
    """Fails, or answers by another version, from some part on."""

    def __init__(self, *, fails_at: int | None = None, swaps_at: int | None = None) -> None:
        super().__init__(wide())
        self.fails_at, self.swaps_at = fails_at, swaps_at

    async def compute(self, raw, version):
        first = NAMES.index(raw.servers[0]) // MOST_SERVERS
        if self.fails_at is not None and first >= self.fails_at:
            raise ArtifactError("weights damaged")
        if self.swaps_at is not None and version is None:
            self.champion = 2 if first >= self.swaps_at else 3
        return await super().compute(raw, version)


async def test_a_fleet_s_answer_is_sent_in_parts_and_is_whole():
    response = await ask(Wide())
    assert "content-length" not in response.headers
    answer = response.json()
    assert [one["server"] for one in answer["series"][::2]] == list(NAMES)
    assert {one["quantiles"]["0.1"][0] for one in answer["series"][::2]} == {0.03}
    assert answer["warnings"] == []
    assert answer["age_seconds"] == 12.0


async def test_all_parts_are_by_the_version_of_the_first():
    service = Wide(swaps_at=1)
    answer = (await ask(service)).json()
    assert {one["members"][0]["version"] for one in answer["series"]} == {3}
    assert {one["quantiles"]["0.1"][0] for one in answer["series"][::2]} == {0.03}


async def test_a_part_that_fails_late_is_of_record_and_a_warning_says_so():
    answer = (await ask(Wide(fails_at=2))).json()
    lows = [one["quantiles"]["0.1"][0] for one in answer["series"][::2]]
    assert lows == [0.03] * (2 * MOST_SERVERS) + [0.2] * 5
    (warning,) = answer["warnings"]
    assert "weights damaged" in warning
    assert "forecast of record" in warning


async def test_what_fails_at_once_is_a_problem():
    response = await ask(Wide(fails_at=0), model="3")
    assert "weights damaged" in problem_of(response, 409, "conflict")


async def test_a_named_version_that_fails_late_ends_the_answer_short():
    with pytest.raises(RuntimeError, match="response already started"):
        await ask(Wide(fails_at=1), model="3")


async def test_series_asked_for_in_any_order_come_in_that_order():
    mixed = [NAMES[-1], NAMES[0], NAMES[-2], NAMES[1], *NAMES[2:-2]]
    response = await ask(Wide(), series=[{"server": name, "metric": "cpu"} for name in mixed])
    answer = response.json()
    assert [one["server"] for one in answer["series"]] == mixed
    assert np.allclose([one["quantiles"]["0.1"] for one in answer["series"]], 0.03)
