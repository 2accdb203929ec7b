"""A tally over members that come and go."""

from __future__ import annotations

import json

import numpy as np
import pytest

from forecast.record import ForecastBlock
from forecast.tally import Tally

LEVELS = (0.1, 0.5, 0.9)


def block(slot, member, error):
    values = np.float32([9, 10, 11]) + np.full((1, 2, 1, 1), error, np.float32)
    return ForecastBlock(slot, member, None, ("a",), ("cpu",), LEVELS, values)


def test_a_member_that_came_late_is_compared_with_the_champion_of_its_time():
    tally = Tally(targets=("cpu",), levels=LEVELS, horizon=2, day_slots=6)
    for slot in range(12):
        tally.scored(slot, ("a",), np.array([[10.0]], np.float32))
        late = [block(slot, "previous_1", 1.0)] if slot >= 8 else []
        tally.issued([block(slot, "champion", 4.0 if slot < 8 else 0.5), *late])
    told = tally.report()["members"]
    assert "beside_champion" not in told["champion"]
    pair = told["previous_1"]["beside_champion"]
    # Issued at 8, 9, 10: three cells one step ahead, two cells two ahead.
    assert pair["n"] == told["previous_1"]["n"] == 5
    assert told["champion"]["n"] == 11 + 10
    assert pair["wql"] == told["previous_1"]["wql"]
    assert pair["champion_wql"] < pair["wql"] < told["champion"]["wql"]
    # Losses at errors of 1 and 0.5 around 10, by hand.
    assert pair["wql"] == pytest.approx(2 * (0.0 + 0.5 + 0.2) / 3 / 10)
    assert tally.by_day("previous_1")[0].sum() == 0
    json.dumps(tally.report())
