"""A config edit between two runs: what the buffer kept comes back under the new schema."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from forecast.errors import StateError
from forecast.schema import Metric
from tests.train.streams import DAY, SCHEMA, STEP_S, block_of, buffer_of, picture, steady, value

BEGIN = 1000
LAST = BEGIN + 9
CPU, SENT, PEAK = SCHEMA.metrics


def with_metrics(*metrics, targets=("cpu",)):
    return replace(SCHEMA, metrics=metrics, targets=targets)


@pytest.fixture(params=["log", "snapshot"])
def stored(request, tmp_path):
    """A folder with ten slots of two servers, as a log or as a snapshot; and the first buffer."""
    every = 1 << 20 if request.param == "log" else 1
    buffer = buffer_of(tmp_path, snapshot_every_bytes=every)
    for slot in range(BEGIN, LAST + 1):
        buffer.append(f"r{slot}", steady(["a", "b"], [slot], seed=slot))
    buffer.close()
    return tmp_path, buffer


def test_an_added_metric_is_a_column_of_gaps_that_fills(stored):
    folder, first = stored
    schema = with_metrics(Metric("disk"), CPU, SENT, PEAK)
    buffer = buffer_of(folder, schema=schema)
    assert np.isnan(value(buffer, "a", LAST, "disk"))
    for name in ("cpu", "sent", "peak"):
        assert value(buffer, "b", LAST, name) == value(first, "b", LAST, name)
    report = buffer.append("new", steady(["a", "b"], [LAST + 1], metrics=schema.names))
    assert report.accepted == 8
    assert not np.isnan(value(buffer, "a", LAST + 1, "disk"))
    assert not np.isnan(value(buffer, "a", LAST + 1, "sent"))  # a rate across the restart


def test_a_removed_metric_leaves_and_the_others_stay(stored):
    folder, first = stored
    buffer = buffer_of(folder, schema=with_metrics(PEAK, CPU))
    raw = buffer.fleet(LAST)
    assert raw.metrics == ("peak", "cpu")
    assert value(buffer, "a", LAST, "peak") == value(first, "a", LAST, "peak")
    assert len(buffer.fleet(LAST)) == 2
    again = picture(buffer_of(folder, schema=with_metrics(PEAK, CPU)))
    assert again == picture(buffer)


def test_a_metric_that_comes_back_before_its_log_went_has_its_history(tmp_path):
    first = buffer_of(tmp_path)
    first.append("1", steady(["a"], range(BEGIN, LAST + 1)))
    buffer_of(tmp_path, schema=with_metrics(CPU)).append(
        "2", steady(["a"], [LAST + 1], metrics=("cpu",))
    )
    again = buffer_of(tmp_path)
    assert value(again, "a", LAST, "peak") == value(first, "a", LAST, "peak")


def test_a_request_with_a_metric_that_was_never_known_comes_back_without_it(tmp_path):
    first = buffer_of(tmp_path)
    samples = [("a", BEGIN * STEP_S, "cpu", 0.5), ("a", BEGIN * STEP_S, "gone", 1.0)]
    report = first.append("1", block_of(samples, metrics=("cpu", "gone")))
    assert [reject.metric for reject in report.rejected] == ["gone"]
    again = buffer_of(tmp_path)
    assert picture(again) == picture(first)
    assert again.append("1", block_of([])) == report


def test_a_metric_renamed_by_an_alias_keeps_its_history_and_its_open_slots(stored):
    folder, first = stored
    renamed = replace(CPU, name="cpu_usage", aliases=("cpu",))
    schema = with_metrics(SENT, renamed, targets=("cpu_usage",))
    buffer = buffer_of(folder, schema=schema)
    assert value(buffer, "a", LAST, "cpu_usage") == value(first, "a", LAST, "cpu")
    late = block_of([("a", LAST * STEP_S + 60, "cpu_usage", 5.0)], metrics=schema.names)
    buffer.append("late", late)
    want = (value(first, "a", LAST, "cpu") + 5.0) / 2
    assert value(buffer, "a", LAST, "cpu_usage") == pytest.approx(want)
    assert len(buffer.draw(as_of=LAST, hours=9, count=9, seed=0, holdout_hours=0)) == 0
    raw = buffer.cut(["a"], np.array([LAST]), labels=True)
    assert not np.isnan(raw.values[0, : raw.context, 1]).any()


def test_where_a_metric_and_its_alias_were_both_stored_its_own_value_goes_first(stored):
    folder, first = stored
    merged = replace(PEAK, aliases=("cpu",), slot_rule="mean")
    buffer = buffer_of(folder, schema=with_metrics(merged, targets=("peak",)))
    slot = LAST - 5
    got, own = value(buffer, "a", slot, "peak"), value(first, "a", slot, "peak")
    # Read from the log, both are samples of one time, of which the larger counts.
    assert got in (own, max(own, value(first, "a", slot, "cpu")))


def test_another_unit_or_kind_is_another_metric(stored):
    folder, _ = stored
    schema = with_metrics(replace(CPU, unit="percent"), PEAK)
    buffer = buffer_of(folder, schema=schema)
    assert np.isnan(value(buffer, "a", LAST, "cpu"))
    assert not np.isnan(value(buffer, "a", LAST, "peak"))


@pytest.mark.parametrize("change", [{"step_seconds": 60}, {"panel": "disks"}])
def test_data_of_another_step_or_panel_are_refused_by_name(stored, change):
    folder, _ = stored
    key = next(iter(change))
    with pytest.raises(StateError, match=key):
        buffer_of(folder, schema=replace(SCHEMA, **change))


@pytest.mark.parametrize("days", [1, 5])
def test_a_history_of_another_length_keeps_what_fits(tmp_path, days):
    first = buffer_of(tmp_path, snapshot_every_bytes=1)
    slots = range(BEGIN, BEGIN + 2 * DAY, 7)
    first.append("1", steady(["a", "b"], slots))
    buffer = buffer_of(tmp_path, history_days=days)
    last = slots[-1]
    for slot in [slot for slot in slots if slot > last - days * DAY]:
        assert value(buffer, "b", slot, "cpu") == value(first, "b", slot, "cpu")
    assert buffer.status().clock_slot == last
    assert buffer.status().rows == buffer.new_rows_since(0, last)


def test_fewer_servers_allowed_later_drops_none_that_was_acknowledged(stored):
    folder, first = stored
    buffer = buffer_of(folder, max_servers=1)
    assert picture(buffer) == picture(first)
    report = buffer.append("more", steady(["a", "c"], [LAST + 1]))
    assert {reject.reason for reject in report.rejected} == {"too_many_servers"}
    assert report.accepted == 3


def test_a_grid_of_many_servers_comes_back_whole(tmp_path):
    names = [f"s{number:03d}" for number in range(70)]
    first = buffer_of(tmp_path, max_servers=100, snapshot_every_bytes=1, history_days=1)
    first.append("1", steady(names, [BEGIN, BEGIN + 1]))
    again = buffer_of(tmp_path, max_servers=100, history_days=1)
    assert again.servers() == first.servers()
    assert again.fleet(BEGIN + 1).values.tobytes() == first.fleet(BEGIN + 1).values.tobytes()
