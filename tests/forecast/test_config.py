"""The config tree: what goes together and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from forecast.config import Config
from forecast.config_files import load

CONFIGS = Path(__file__).parents[2] / "configs"
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


def test_periodic_retrains_come_daily_unless_said():
    assert config().online_learning.retrain_hours == 0
    assert config(strategy="periodic").online_learning.retrain_hours == 24
    assert config(strategy="periodic", retrain_interval_hours=6).online_learning.retrain_hours == 6
    with pytest.raises(ValidationError, match="lookback_days is longer"):
        config(strategy="periodic", lookback_days=40)


@pytest.mark.parametrize("text", ["at night", "22:00-6", "22:00-06:00 Nowhere"])
def test_an_update_window_that_is_none_is_refused(text):
    assert config(update_window="learned").online_learning.update_window == "learned"
    with pytest.raises(ValidationError, match="update_window"):
        config(update_window=text)


PRESETS = {
    "conservative": {
        "strategy": "sliding_window",
        "update_frequency_minutes": 360,
        "sliding_window_hours": 336,
        "windows_per_update": 256,
        "moving": "full",
        "online_learning_rate": 5e-4,
        "online_epochs": 3,
        "validation_threshold": 0.03,
    },
    "aggressive": {
        "strategy": "replay",
        "update_frequency_minutes": 60,
        "sliding_window_hours": 168,
        "windows_per_update": 256,
        "moving": "full",
        "replay_buffer_size": 100_000,
        "online_learning_rate": 1e-3,
        "online_epochs": 5,
    },
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_layer_over_any_config(name):
    layers = [CONFIGS / "laptop.toml", CONFIGS / f"{name}.toml"]
    data = {"state_dir": "s", "panel": PANEL}
    online = load(layers, data=data).config.online_learning
    assert {key: getattr(online, key) for key in PRESETS[name]} == PRESETS[name]
    assert online.enabled
    assert online.gate_holdout_hours == 12  # the laptop's, of which the preset says nothing
