"""What a snapshot answers, series by series."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from forecast.errors import Unprocessable
from forecast.http import answers
from forecast.http.api import ForecastAnswer, SeriesForecast, json_body
from forecast.http.board import Board
from forecast.http.queries import SeriesKey, Threshold
from tests.forecast.http.http_scene import (
    LEVELS,
    NOW_S,
    SLOT,
    STEP,
    TARGETS,
    block,
    snapshot,
    windows,
    without_values,
)


def one(given, server="web-1", metric="cpu", now_s=NOW_S, model="champion", **asked):
    want = answers.wanted(given, **asked)
    stalled = answers.is_stalled(given, now_s)
    (piece,) = answers.from_snapshot(
        Board(given), [(server, metric)], want, stalled=stalled, model=model
    )
    return SeriesForecast.model_validate_json(piece)


def test_an_active_server_is_answered_by_the_champion_by_name_version_and_weight():
    series = one(snapshot())
    assert (series.status, series.fallback, series.unit) == ("ok", None, "ratio")
    assert [member.model_dump() for member in series.members] == [
        {"member": "champion", "version": 3, "weight": 1.0}
    ]
    assert series.quantiles == {"0.1": [0.2] * 4, "0.5": [0.3] * 4, "0.9": [0.4] * 4}


def test_every_step_has_the_begin_of_its_slot_as_time():
    series = one(snapshot(), horizon="15m")
    assert series.as_of == "2026-01-01T00:05:00Z"
    assert series.timestamps == [f"2026-01-01T00:{minute:02}:00Z" for minute in (5, 10, 15)]
    assert [len(path) for path in series.quantiles.values()] == [3, 3, 3]


def test_a_horizon_between_two_steps_reaches_to_the_later_one():
    assert len(one(snapshot(), horizon="301s").timestamps) == 2


@pytest.mark.parametrize("horizon", ["21m", "365000d"])
def test_a_horizon_beyond_the_model_is_refused_with_the_numbers(horizon):
    with pytest.raises(Unprocessable, match=f"{horizon} is too far: the model looks 1200 s ahead"):
        one(snapshot(), horizon=horizon)


def test_a_server_with_too_little_history_says_how_much_is_missing_and_who_answers_instead():
    series = one(snapshot(), "new-1")
    assert (series.status, series.fallback, series.missing_slots) == (
        "warming_up",
        "seasonal_naive",
        4,
    )
    assert series.members[0].member == "seasonal_naive"
    assert series.gap_slots == 4
    assert series.quantiles["0.5"] == [0.5] * 4


def test_before_the_first_version_everybody_is_answered_by_the_fallback():
    series = one(snapshot(version=None))
    assert (series.status, series.fallback) == ("fallback", "seasonal_naive")
    assert series.detail == "no trained version yet"


def test_a_silent_server_is_stale_and_says_since_when():
    series = one(snapshot(), "old-1")
    assert (series.status, series.fallback) == ("stale", "seasonal_naive")
    assert series.detail == "silent since 2025-12-31T23:15:00Z"


def test_a_stream_that_stands_still_makes_every_answer_stale():
    assert one(snapshot(), now_s=NOW_S - 12 + 3 * STEP).status == "ok"
    late = one(snapshot(), now_s=NOW_S - 11 + 3 * STEP)
    assert (late.status, late.fallback) == ("stale", None)


def test_the_age_is_wall_clock_time_since_the_snapshot_was_published():
    given = snapshot()
    body = answers.envelope(given, [], answers.wanted(given))
    answer = ForecastAnswer.model_validate_json(body.aged(answers.age_s(given, NOW_S)))
    assert (answer.age_seconds, answer.revision, answer.version) == (12.0, SLOT, 3)


def test_copy_last_answers_where_yesterday_is_unknown_too():
    given = snapshot()
    gone = block("seasonal_naive", 0.4)
    gone = replace(gone, values=np.full_like(gone.values, np.nan))
    blocks = (*(one for one in given.blocks if one.member != "seasonal_naive"), gone)
    series = one(replace(given, blocks=blocks), "new-1")
    assert (series.fallback, series.quantiles["0.5"]) == ("copy_last", [0.7] * 4)


def test_a_series_of_which_nothing_is_known_has_no_quantiles_and_no_members():
    series = one(without_values(snapshot(), "new-1"), "new-1")
    assert (series.status, series.quantiles, series.members) == ("warming_up", {}, [])
    assert (series.fallback, series.timestamps) == (None, [])


@pytest.mark.parametrize(
    ("server", "metric", "said"),
    [("nobody", "cpu", "no server 'nobody'"), ("web-1", "load", "forecast are cpu, disk")],
)
def test_a_series_that_does_not_exist_is_unknown_and_fails_nothing(server, metric, said):
    series = one(snapshot(), server, metric)
    assert (series.status, series.quantiles) == ("unknown", {})
    assert said in series.detail


def test_a_baseline_that_was_asked_for_is_no_fallback():
    series = one(snapshot(), model="copy_last")
    assert (series.status, series.fallback, series.members[0].member) == ("ok", None, "copy_last")


def test_a_champion_that_gave_no_number_is_replaced_and_the_answer_says_so():
    given = snapshot()
    broken = given.blocks[0].values.copy()
    broken[0, 2, 0, 1] = np.nan
    blocks = (replace(given.blocks[0], values=broken), *given.blocks[1:])
    series = one(replace(given, blocks=blocks))
    assert (series.status, series.fallback, series.detail) == (
        "fallback",
        "seasonal_naive",
        "not issued",
    )
    assert one(replace(given, blocks=blocks), metric="disk").status == "ok"


def test_crossing_quantiles_are_put_in_order():
    given = snapshot()
    crossed = given.blocks[0].values[..., ::-1].copy()
    series = one(replace(given, blocks=(replace(given.blocks[0], values=crossed),)))
    assert series.quantiles["0.1"] == [0.2] * 4
    assert series.quantiles["0.9"] == [0.4] * 4


def test_other_quantiles_are_interpolated_and_those_beyond_the_model_refused():
    assert one(snapshot(), levels=(0.3,)).quantiles == {"0.3": [0.25] * 4}
    with pytest.raises(Unprocessable, match=r"0\.1 and 0\.9, got 0\.05 to 0\.5"):
        one(snapshot(), levels=(0.05, 0.5))


def test_a_limit_is_answered_per_step_and_with_a_lower_bound_for_any():
    given = snapshot()
    rising = given.blocks[0].values + np.arange(4, dtype=np.float32)[:, None, None] * 0.1
    given = replace(given, blocks=(replace(given.blocks[0], values=rising), *given.blocks[1:]))
    limits = (
        Threshold(above=0.5),
        Threshold(metric="cpu", below=0.3),
        Threshold(metric="disk", above=1),
    )
    breaches = one(given, thresholds=limits).breaches
    assert [breach.above for breach in breaches] == [0.5, None]
    assert breaches[0].probability == [0.0, 0.1, 0.5, 0.9]
    assert breaches[0].any_step_at_least == 0.9
    assert breaches[1].probability == [0.5, 0.1, 0.0, 0.0]


def test_the_whole_fleet_is_every_target_of_every_server():
    assert len(answers.series_of(snapshot())) == 4 * len(TARGETS)
    assert answers.series_of(snapshot(), ["web-1", "web-1"], ["cpu"]) == [("web-1", "cpu")]


def test_a_key_without_a_metric_is_every_target_and_each_series_comes_once():
    keys = [
        SeriesKey(server="web-1", metric="disk"),
        SeriesKey(server="web-1"),
        SeriesKey(server="x"),
    ]
    assert answers.series_asked(snapshot(), keys) == [
        ("web-1", "disk"),
        ("web-1", "cpu"),
        ("x", None),
    ]


def test_servers_are_found_by_name_when_a_block_orders_them_otherwise():
    given = snapshot()
    first = given.blocks[0]
    order = [3, 2, 1, 0]
    values = first.values + np.arange(4, dtype=np.float32)[:, None, None, None]
    mixed = replace(first, servers=tuple(first.servers[i] for i in order), values=values[order])
    assert one(replace(given, blocks=(mixed,)), "web-2").quantiles["0.5"] == [1.3] * 4


def test_a_window_is_judged_by_its_own_values():
    given, raw = snapshot(), windows(("a", "b", "c", "d"), SLOT - 100)
    values = raw.values.copy()
    values[1, :4, 0], values[2, 1:, 0], values[3, :, 0] = np.nan, np.nan, np.nan
    raw = replace(raw, values=values)
    levels_NHTQ = np.broadcast_to(np.array(LEVELS, np.float32), (4, 4, 2, 3)).astype(np.float32)
    made = replace(block("champion", 0.1, 3), servers=raw.servers, values=levels_NHTQ)
    series = [(name, "cpu") for name in "abcde"]
    pieces = answers.from_windows(given, raw, made, series, answers.wanted(given))
    found = [SeriesForecast.model_validate_json(piece) for piece in pieces]
    assert [(one.status, one.missing_slots, one.gap_slots) for one in found] == [
        ("ok", 0, 0),
        ("warming_up", 4, 4),
        ("stale", 0, 5),
        ("warming_up", 6, 6),
        ("unknown", None, None),
    ]
    assert [bool(one.quantiles) for one in found] == [True, True, True, False, False]
    assert found[0].as_of == "2025-12-31T15:45:00Z"


def test_numbers_that_are_not_finite_become_null():
    body = json_body({"a": float("nan"), "b": [np.float32("inf"), np.int64(3)], "c": {1}})
    assert json.loads(body) == {"a": None, "b": [None, 3], "c": [1]}
