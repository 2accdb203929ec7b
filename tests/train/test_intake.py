"""Event time, lifecycle and refusals, seen through the buffer that they belong to."""

from __future__ import annotations

import math

import numpy as np
import pytest

from forecast.schema import ServerInfo
from tests.train.streams import DAY, STEP_S, block_of, buffer_of, steady, value

BEGIN = 1000


def feed(buffer, servers, slots, *, name="feed"):
    """One request for each slot, as a live fleet sends them; the last report."""
    for slot in slots:
        report = buffer.append(f"{name}-{slot}", steady(servers, [slot], seed=slot))
    return report


def states(buffer, slot=None):
    return {server.name: server.state for server in buffer.servers(slot)}


def fleet_of(count):
    return [f"web-{number}" for number in range(count)]


def test_one_server_eight_days_ahead_moves_neither_the_clock_nor_the_others_windows():
    buffer = buffer_of()
    feed(buffer, fleet_of(5), range(BEGIN, BEGIN + 20))
    before = buffer.fleet(BEGIN + 19).values.tobytes()
    ahead = BEGIN + 8 * DAY
    report = buffer.append("ahead", steady(["web-4"], [ahead]))
    assert (report.accepted, report.clock_slot) == (3, BEGIN + 19)
    assert buffer.fleet(BEGIN + 19).values.tobytes() == before
    assert states(buffer)["web-4"] == "active"
    feed(buffer, fleet_of(5), [BEGIN + 20], name="after")
    assert buffer.status().clock_slot == BEGIN + 20


def test_a_server_two_hours_behind_is_stale_its_samples_late_and_kept():
    buffer = buffer_of()
    feed(buffer, fleet_of(5), range(BEGIN, BEGIN + 30))
    for slot in range(BEGIN, BEGIN + 6):
        report = buffer.append(f"slow-{slot}", steady(["slow"], [slot], seed=1))
        assert (report.accepted, report.late, report.repeated) == (3, 3, 0)
        assert report.clock_slot == BEGIN + 29
    assert states(buffer)["slow"] == "stale"
    assert buffer.status().late == 18
    assert not math.isnan(value(buffer, "slow", BEGIN + 3, "cpu"))
    # It is folded as the others were: its rate goes across the requests.
    assert not math.isnan(value(buffer, "slow", BEGIN + 3, "sent"))


def test_a_late_sample_of_an_open_window_changes_its_slot():
    buffer = buffer_of()
    feed(buffer, ["web"], range(BEGIN, BEGIN + 10))
    slot = BEGIN + 4
    first = value(buffer, "web", slot, "cpu")
    late = block_of([("web", slot * STEP_S + 60, "cpu", first + 2.0)])
    report = buffer.append("late", late)
    assert (report.late, report.repeated) == (1, 0)
    assert value(buffer, "web", slot, "cpu") == pytest.approx(first + 1.0)


def test_a_backfill_of_old_slots_fills_gaps_only_and_moves_no_clock():
    buffer = buffer_of()
    feed(buffer, ["web"], range(BEGIN, BEGIN + 60, 2))
    known = value(buffer, "web", BEGIN, "cpu")
    old = [(BEGIN, 9.0), (BEGIN + 1, 7.0)]
    again = block_of([("web", slot * STEP_S + 1, "cpu", number) for slot, number in old])
    report = buffer.append("backfill", again)
    assert (report.accepted, report.late, report.repeated) == (2, 2, 1)
    assert report.clock_slot == BEGIN + 58
    assert value(buffer, "web", BEGIN, "cpu") == known
    assert value(buffer, "web", BEGIN + 1, "cpu") == 7.0


def test_samples_of_an_old_slot_that_come_together_are_folded_together():
    buffer = buffer_of()
    feed(buffer, ["web"], range(BEGIN, BEGIN + 60, 2))
    at = (BEGIN + 1) * STEP_S
    buffer.append("backfill", block_of([("web", at, "cpu", 1.0), ("web", at + 60, "cpu", 3.0)]))
    assert value(buffer, "web", BEGIN + 1, "cpu") == 2.0


def test_a_backfill_before_the_first_slot_lengthens_a_life():
    buffer = buffer_of()
    feed(buffer, ["web"], [BEGIN])
    assert buffer.servers()[0].missing_slots == 5
    feed(buffer, ["web"], range(BEGIN - 10, BEGIN), name="backfill")
    assert (buffer.servers()[0].first_slot, buffer.servers()[0].state) == (BEGIN - 10, "active")


def test_a_server_warms_up_is_active_goes_stale_and_retires():
    buffer = buffer_of()
    feed(buffer, ["a", "b"], range(BEGIN, BEGIN + 5))
    assert states(buffer) == {"a": "warming_up", "b": "warming_up"}
    assert [server.missing_slots for server in buffer.servers()] == [1, 1]
    feed(buffer, ["a", "b"], [BEGIN + 5])
    assert states(buffer) == {"a": "active", "b": "active"}
    last = BEGIN + 5
    feed(buffer, ["a"], range(last + 1, last + DAY + 2))
    assert states(buffer, last + 3)["b"] == "active"
    assert states(buffer, last + 4)["b"] == "stale"
    assert states(buffer, last + DAY)["b"] == "stale"
    assert states(buffer, last + DAY + 1)["b"] == "retired"
    assert buffer.fleet(last + DAY).servers == ("a", "b")
    assert buffer.fleet(last + DAY + 1).servers == ("a",)
    assert buffer.status().servers == 1


def test_a_new_life_under_an_old_name_inherits_nothing():
    buffer = buffer_of()
    feed(buffer, ["a", "b"], range(BEGIN, BEGIN + 10))
    back = BEGIN + 10 + DAY + 5
    feed(buffer, ["a"], range(BEGIN + 10, back))
    assert states(buffer)["b"] == "retired"
    report = feed(buffer, ["a", "b"], [back], name="again")
    assert report.rejected == ()
    new = {server.name: server for server in buffer.servers()}["b"]
    assert (new.state, new.first_slot, new.missing_slots) == ("warming_up", back, 5)
    assert math.isnan(value(buffer, "b", BEGIN + 9, "cpu"))
    assert not math.isnan(value(buffer, "a", BEGIN + 9, "cpu"))
    assert states(buffer, BEGIN + 9) == {"a": "active"}


def test_what_belongs_to_an_earlier_life_is_refused():
    buffer = buffer_of()
    feed(buffer, ["a", "b"], range(BEGIN, BEGIN + 10))
    back = BEGIN + 10 + DAY + 5
    feed(buffer, ["a"], range(BEGIN + 10, back))
    feed(buffer, ["a", "b"], [back], name="again")
    report = buffer.append("old", steady(["b"], [BEGIN + 5, back - 1]))
    assert report.accepted == 3
    assert {reject.reason for reject in report.rejected} == {"too_old"}
    assert "earlier life of server 'b'" in report.rejected[0].detail
    assert {server.name: server for server in buffer.servers()}["b"].first_slot == back - 1


def test_a_server_that_sends_what_it_had_missed_to_send_goes_on_with_its_life():
    buffer = buffer_of()
    feed(buffer, ["a", "b"], range(BEGIN, BEGIN + 10))
    back = BEGIN + 10 + DAY + 5
    feed(buffer, ["a"], range(BEGIN + 10, back))
    assert states(buffer)["b"] == "retired"
    buffer.append("caught up", steady(["b"], range(BEGIN + 10, back)))
    assert states(buffer)["b"] == "active"
    assert not math.isnan(value(buffer, "b", BEGIN + 9, "cpu"))


def test_an_outage_of_the_whole_collection_ends_no_life():
    buffer = buffer_of()
    feed(buffer, fleet_of(6), range(BEGIN, BEGIN + 10))
    back = BEGIN + 10 + DAY + 100
    for name in fleet_of(6):  # each sends by itself, so the clock jumps before the last has spoken
        buffer.append(f"back-{name}", steady([name], [back]))
    assert buffer.status().clock_slot == back
    assert {server.first_slot for server in buffer.servers()} == {BEGIN}
    assert set(states(buffer).values()) == {"active"}


def test_half_of_the_fleet_dying_neither_stops_the_clock_nor_hides_the_dead():
    buffer = buffer_of()
    feed(buffer, fleet_of(8), range(BEGIN, BEGIN + 10))
    feed(buffer, fleet_of(4), range(BEGIN + 10, BEGIN + 20), name="alive")
    assert buffer.status().clock_slot == BEGIN + 19
    assert [states(buffer)[name] for name in fleet_of(8)] == ["active"] * 4 + ["stale"] * 4
    assert len(buffer.fleet(BEGIN + 19)) == 8


def test_more_servers_than_fit_are_refused_by_name_and_the_rest_is_kept():
    buffer = buffer_of(max_servers=2)
    report = buffer.append("one", steady(["a", "b", "c"], [BEGIN]))
    assert report.accepted == 6
    assert [reject.reason for reject in report.rejected] == ["too_many_servers"] * 3
    assert "'c'" in report.rejected[0].detail
    assert states(buffer) == {"a": "warming_up", "b": "warming_up"}


def test_a_retired_servers_row_is_given_to_a_new_one():
    buffer = buffer_of(max_servers=2)
    feed(buffer, ["a", "b"], range(BEGIN, BEGIN + 10))
    feed(buffer, ["a"], range(BEGIN + 10, BEGIN + 20 + DAY))
    now = BEGIN + 20 + DAY
    report = buffer.append("new", steady(["a", "c"], [now]))
    assert report.rejected == ()
    assert states(buffer) == {"a": "active", "c": "warming_up"}
    raw = buffer.cut(["c"], np.array([BEGIN + 9]), labels=True)
    assert np.isnan(raw.values).all()
    assert np.isnan(value(buffer, "c", now, "sent"))  # not from b's last reading


def test_a_server_that_left_the_history_is_forgotten():
    buffer = buffer_of()
    feed(buffer, ["a", "b"], range(BEGIN, BEGIN + 2))
    feed(buffer, ["a"], range(BEGIN + 2, BEGIN + 2 + 2 * DAY), name="alone")
    assert states(buffer) == {"a": "active"}


def test_what_lies_before_the_history_is_too_old_and_names_its_row():
    buffer = buffer_of()
    feed(buffer, ["a"], [BEGIN])
    block = steady(["a"], [BEGIN - 2 * DAY, BEGIN - 2 * DAY + 1])
    rows = np.repeat(np.array([7, 9], np.int32), 3)
    with_rows = type(block)(
        **{field: getattr(block, field) for field in block.__slots__ if field != "row_index"},
        row_index=rows,
    )
    report = buffer.append("old", with_rows)
    assert report.accepted == 3
    assert [(reject.index, reject.reason, reject.metric) for reject in report.rejected] == [
        (7, "too_old", None)
    ]


def test_samples_of_a_metric_that_another_config_knew_are_refused():
    report = buffer_of().append(
        "old", block_of([("a", 300, "cpu", 0.5), ("a", 300, "gone", 1.0)], metrics=("cpu", "gone"))
    )
    assert report.accepted == 1
    assert [(reject.reason, reject.metric) for reject in report.rejected] == [
        ("unknown_metric", "gone")
    ]


def test_what_a_server_says_of_itself_is_kept_until_it_says_otherwise():
    buffer = buffer_of()
    info = {"a": ServerInfo("web", "Europe/Berlin")}
    buffer.append("1", block_of([("a", 300, "cpu", 0.5), ("b", 300, "cpu", 0.5)], infos=info))
    buffer.append("2", block_of([("a", 600, "cpu", 0.5)]))
    raw = buffer.fleet(2)
    assert (raw.roles, raw.timezones) == (("web", ""), ("Europe/Berlin", "UTC"))
    buffer.append("3", block_of([("a", 900, "cpu", 0.5)], infos={"a": ServerInfo("db")}))
    assert buffer.fleet(3).roles == ("db", "")


def test_a_counter_reset_leaves_one_gap_and_no_negative_rate():
    buffer = buffer_of()
    readings = [100.0, 400.0, 50.0, 350.0]
    samples = [("a", (10 + at) * STEP_S, "sent", number) for at, number in enumerate(readings)]
    for at, sample in enumerate(samples):
        buffer.append(f"r{at}", block_of([sample]))
    rates = [value(buffer, "a", 10 + at, "sent") for at in range(4)]
    np.testing.assert_array_equal(rates, [np.nan, 1.0, np.nan, 1.0])
