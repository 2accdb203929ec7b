"""The config tree: what goes together and what does not."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from forecast.config import Config

PANEL = {"targets": ("cpu",), "metrics": ({"name": "cpu"},)}


def config(**online):
    return Config.model_validate({"state_dir": "s", "panel": PANEL, "online_learning": online})


def test_the_gates_defaults():
    online = config().online_learning
    assert (online.enable_validation, online.validation_threshold) == (True, 0.05)
    assert online.max_weight_move == 0.25


@pytest.mark.parametrize(
    "online",
    [{"validation_threshold": 0}, {"validation_threshold": 1}, {"max_weight_move": 0}],
)
def test_a_gate_that_lets_nothing_or_everything_pass_is_refused(online):
    with pytest.raises(ValidationError, match=next(iter(online))):
        config(**online)


def test_a_holdout_of_less_than_three_horizons_is_refused():
    assert config(gate_holdout_hours=3).online_learning.gate_holdout_hours == 3
    with pytest.raises(ValidationError, match="shorter than three times panel"):
        config(gate_holdout_hours=2)
