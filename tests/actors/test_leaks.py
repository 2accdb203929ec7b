"""No forecast and no update knows what comes later, and a planted leak does not go unseen."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from actors.backtest import play, tally_of
from actors.buffer import BufferActor
from bench.online_base import base_model
from bench.online_rows import FreshBuffer, LeakyBuffer
from tests.actors.leak_scene import Shifted, scrambled, watched
from tests.actors.scenario import small_config, small_replay

REPLAY = small_replay()
START = REPLAY.start_slot
SLOTS = 40
EARLY = partial(FreshBuffer, reach=1)
"""The planted leak: what is trained on reads one label too far."""


def config_of(folder, *, horizon=1800, **learning):
    """Updates every hour that learn from all windows of the last hour, the newest among them."""
    hasty = {
        "update_frequency_minutes": 60,
        "sliding_window_hours": 1,
        "online_epochs": 1,
        "gate_holdout_hours": 2,
        "enable_validation": False,
    }
    config = small_config(folder, REPLAY, **{**hasty, **learning})
    panel = config.panel.model_copy(update={"horizon": horizon})
    return config.model_copy(update={"panel": panel})


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return base_model(config_of(tmp_path_factory.mktemp("base")), REPLAY)


@pytest.fixture(scope="module")
def short_base(tmp_path_factory):
    return base_model(config_of(tmp_path_factory.mktemp("short"), horizon=300), REPLAY)


async def _ahead(config, base, *, buffer=BufferActor, replay=REPLAY, delay=0):
    """A run whose buffer holds all of the stream from the first step on: it could be read."""
    return await watched(
        config, replay, base, slots=SLOTS, buffer=buffer, delay=delay, chunk_slots=SLOTS
    )


async def test_scrambling_the_future_changes_no_forecast_issued_before(tmp_path, base):
    config = config_of(tmp_path)
    issued, _, told = await _ahead(config, base)
    assert told["promoted"] == 4  # the base and three updates
    for after in (START + 11, START + 23, START + 30):
        replay = scrambled(REPLAY, after)
        other, _, _ = await _ahead(config, base, replay=replay)
        assert len(issued.until(after)) >= 3 * 11
        assert issued.until(after) == other.until(after)
        assert issued.forecasts != other.forecasts


async def test_scrambling_the_future_changes_nothing_before_with_a_rollout_on_its_way(
    tmp_path, base
):
    config = config_of(tmp_path)
    asked = {"enabled": True, "shadow": 1800, "canary": 300, "canary_share": 0.5}
    config = config.model_copy(update={"rollout": config.rollout.model_copy(update=asked)})
    issued, _, told = await _ahead(config, base)
    assert told["promoted"] == 3  # the base, and by way of shadow and canary two updates
    assert any(member == "challenger_calibrated" for _, member in issued.forecasts)
    for after in (START + 18, START + 24):
        other, _, _ = await _ahead(config, base, replay=scrambled(REPLAY, after))
        assert issued.until(after) == other.until(after)
        assert issued.forecasts != other.forecasts


async def test_a_planted_leak_is_found_by_scrambling_the_future(tmp_path, base):
    # An update first serves a slot after it was asked for, which knows that slot's label anyway.
    early, config = partial(FreshBuffer, reach=2), config_of(tmp_path)
    issued, seen, _ = await _ahead(config, base, buffer=early)
    serves = seen[0][1] + 1
    other, _, _ = await _ahead(config, base, buffer=early, replay=scrambled(REPLAY, serves))
    assert issued.until(serves - 1) == other.until(serves - 1)
    assert issued.until(serves) != other.until(serves)


@pytest.mark.parametrize("delay", [0, 12])
async def test_no_update_and_no_verdict_sees_a_label_too_early(tmp_path, base, delay):
    _, seen, _ = await _ahead(config_of(tmp_path, enable_validation=True), base, delay=delay)
    assert [what for what, _, _ in seen] == 3 * ["update", "judge"]
    assert _too_early(seen, delay) == []
    assert {newest - slot for what, slot, newest in seen if what == "judge"} == {-delay}


async def test_with_replay_no_update_sees_a_label_of_its_holdout(tmp_path, base):
    config = config_of(tmp_path, strategy="replay", replay_sample_ratio=0.5)
    _, seen, _ = await _ahead(config, base, delay=12)
    assert [what for what, _, _ in seen] == 3 * ["update", "judge"]
    # The labels' delay, two hours held out, and the horizon before them.
    assert {newest - slot for what, slot, newest in seen if what == "update"} == {-12 - 24 - 6}


async def test_a_first_model_sees_no_label_too_early(tmp_path):
    config = small_config(tmp_path, REPLAY)
    _, seen, _ = await watched(config, REPLAY, None, slots=6, delay=12, chunk_slots=6)
    assert [what for what, _, _ in seen] == ["base", "judge"]
    assert _too_early(seen, 12) == []


async def test_a_planted_leak_is_found_by_the_clock_of_labels(tmp_path, base):
    _, seen, _ = await _ahead(config_of(tmp_path), base, buffer=EARLY)
    early = _too_early(seen)
    assert [what for what, _, _ in early] == 3 * ["update"]
    assert {newest - slot for _, slot, newest in early} == {1}


def _too_early(seen, delay=0):
    """What was handed a label that was not known yet."""
    return [(what, slot, newest) for what, slot, newest in seen if newest > slot - delay]


async def test_with_a_horizon_of_one_slot_leaky_training_is_honest(tmp_path, short_base):
    run = partial(watched, config_of(tmp_path, horizon=300), REPLAY, short_base, slots=SLOTS)
    honest, _, _ = await run(buffer=FreshBuffer)
    same, seen, _ = await run(buffer=partial(LeakyBuffer, replay=REPLAY))
    assert same.forecasts == honest.forecasts
    assert _too_early(seen) == []
    early, seen, _ = await run(buffer=partial(LeakyBuffer, replay=REPLAY, reach=1))
    assert early.forecasts != honest.forecasts  # so a planted leak is found here too
    assert _too_early(seen)


async def test_with_a_longer_horizon_leaky_training_sees_labels_of_the_future(tmp_path, base):
    leaky = partial(LeakyBuffer, replay=REPLAY)
    _, seen, _ = await watched(config_of(tmp_path), REPLAY, base, slots=16, buffer=leaky)
    assert [(what, newest - slot) for what, slot, newest in _too_early(seen)] == [("update", 5)]


async def test_how_many_slots_come_at_a_time_changes_no_forecast(tmp_path, base):
    config = config_of(tmp_path)
    many, _, _ = await _ahead(config, base)
    one, _, _ = await watched(config, REPLAY, base, slots=SLOTS)
    assert one.forecasts == many.forecasts


async def test_a_later_update_is_never_better(tmp_path, base):
    drifting = replace(REPLAY, source=Shifted(REPLAY.source, START + 6, share=0.4))
    losses = []
    for latency in (1, 13, 37):
        config = config_of(tmp_path, update_latency_slots=latency)
        tally = tally_of(config, drifting)
        days = 60 * config.panel.step / 86400
        await play(config, drifting, [tally], stream_days=days, base=base, buffer=FreshBuffer)
        losses.append(tally.report()["members"]["champion"]["wql"])
    assert losses == sorted(losses)
    assert losses[0] < losses[-1]
