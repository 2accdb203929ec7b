"""What windows hold, and that they hold nothing from after the slot asked for."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.errors import UnknownServer
from forecast.schema import Metric
from tests.bits import bits
from tests.train.streams import DAY, SCHEMA, STEP_S, block_of, buffer_of, steady
from train.grid import Grid
from train.spread import Spread

L, H = 6, 3
BEGIN = 1008  # a full hour
END = BEGIN + 2 * DAY - 1


def filled(servers=("a", "b"), slots=range(BEGIN, END + 1), **changes):
    buffer = buffer_of(**changes)
    buffer.append("all", steady(servers, slots))
    return buffer


def test_a_window_is_the_slots_around_its_origin_and_the_same_a_day_and_a_week_before():
    buffer = buffer_of(history_days=8)
    slots = range(BEGIN, BEGIN + 8 * DAY)
    points = [("a", slot * STEP_S, "cpu", float(slot)) for slot in slots]
    buffer.append("all", block_of(points))
    origin = BEGIN + 7 * DAY + 50
    raw = buffer.cut(["a"], np.array([origin]), labels=True)
    want = np.arange(origin - L + 1, origin + H + 1)
    np.testing.assert_array_equal(raw.values[0, :, 0], want)
    np.testing.assert_array_equal(raw.daily[0, :, 0], want - DAY)
    np.testing.assert_array_equal(raw.weekly[0, :, 0], want - 7 * DAY)
    assert np.isnan(raw.values[0, :, 1:]).all()
    assert (raw.metrics, raw.context, raw.horizon, raw.step_seconds) == (SCHEMA.names, L, H, 300)


def test_without_labels_the_horizon_is_unknown():
    raw = filled().cut(["a"], np.array([END - 50]), labels=False)
    assert np.isnan(raw.values[:, L:]).all()
    assert not np.isnan(raw.values[:, :L, 0]).any()


def test_windows_of_some_servers_are_those_a_buffer_of_them_alone_would_give():
    both, alone = filled(servers=("a", "b", "c")), filled(servers=("a", "c"))
    query = {"as_of": END, "hours": 24, "count": 50, "seed": 3, "holdout_hours": 5}
    asked = {"as_of": END, "hours": 5, "every": H}
    for some, all_of_them in (
        (both.draw(**query, only=("c", "a")), alone.draw(**query)),
        (both.holdout(**asked, only=("c", "a")), alone.holdout(**asked)),
    ):
        assert some.servers == all_of_them.servers
        np.testing.assert_array_equal(some.origin, all_of_them.origin)
        again = both.cut(some.servers, some.origin, labels=True)
        np.testing.assert_array_equal(some.values, again.values)
    assert len(both.draw(**query, only=())) == 0
    assert len(both.draw(**query, only=("ghost",))) == 0


def test_a_lag_shorter_than_the_horizon_is_not_read_beyond_the_origin():
    buffer = buffer_of(horizon=DAY + 5)
    buffer.append("all", steady(["a"], range(BEGIN, END + 1)))
    raw = buffer.cut(["a"], np.array([BEGIN + 300]), labels=False)
    known = ~np.isnan(raw.daily[0, :, 0])
    assert known[L : L + DAY].all()
    assert not known[L + DAY :].any()


def test_a_window_of_an_unknown_server_is_refused_by_name():
    with pytest.raises(UnknownServer, match="'ghost'"):
        filled().cut(["ghost"], np.array([END]), labels=False)


def test_the_fleet_comes_by_name_with_the_slot_as_origin():
    buffer = filled(servers=("b", "c", "a"))
    raw = buffer.fleet(END - 1)
    assert raw.servers == ("a", "b", "c")
    assert raw.origin.tolist() == [END - 1] * 3
    assert buffer.fleet(BEGIN - 1).servers == ()
    assert buffer_of().fleet(5).servers == ()


def test_drawn_labels_end_a_horizon_before_the_holdout_and_origins_lie_in_the_window():
    raw = filled().draw(as_of=END, hours=4, count=10_000, seed=3, holdout_hours=5)
    last = END - 5 * 12 - 2 * H
    assert raw.origin.max() == last
    assert raw.origin.min() == last - 4 * 12 + 1
    assert len(raw) == 2 * 4 * 12  # every window once
    assert len({*zip(raw.servers, raw.origin.tolist(), strict=True)}) == len(raw)
    assert not np.isnan(raw.values[..., 0]).any()


def test_a_draw_is_decided_by_its_seed():
    buffer = filled()
    query = {"as_of": END, "hours": 30, "count": 20, "holdout_hours": 2}
    one, two = buffer.draw(seed=1, **query), buffer.draw(seed=1, **query)
    assert bits(one) == bits(two)
    assert bits(one) != bits(buffer.draw(seed=2, **query))
    assert len(one) == 20


def test_held_out_labels_lie_in_the_last_hours_and_never_meet_those_drawn():
    buffer = filled()
    held = buffer.holdout(as_of=END, hours=5, every=H)
    assert held.origin.max() == END - H
    assert held.origin.min() >= END - 5 * 12
    assert {*np.diff(np.unique(held.origin)).tolist()} == {H}
    drawn = buffer.draw(as_of=END, hours=24, count=999, seed=0, holdout_hours=5)
    assert drawn.origin.max() + H + H <= held.origin.min()
    assert sorted({*held.servers}) == ["a", "b"]


def test_nothing_to_draw_or_to_hold_out_is_no_windows():
    for buffer in (buffer_of(), filled(slots=range(BEGIN, BEGIN + 8))):
        assert len(buffer.draw(as_of=END, hours=4, count=9, seed=1, holdout_hours=1)) == 0
        assert len(buffer.holdout(as_of=END, hours=4, every=3)) == 0


def eligible(buffer, as_of):
    raw = buffer.draw(as_of=as_of, hours=48, count=9999, seed=0, holdout_hours=0)
    return sorted(raw.origin.tolist())


def test_a_context_that_begins_before_the_servers_life_is_not_drawn():
    buffer = filled(("a",), range(BEGIN, BEGIN + 30))
    assert eligible(buffer, BEGIN + 29)[0] == BEGIN + L - 1


def test_windows_with_less_than_half_of_the_labels_are_not_drawn():
    hole = range(BEGIN + 20, BEGIN + 22)
    buffer = filled(("a",), [s for s in range(BEGIN, BEGIN + 40) if s not in hole])
    drawn = eligible(buffer, BEGIN + 39)
    # Labels of origin o are o+1 .. o+3: two of them in the hole are too many.
    missing = [o for o in range(BEGIN + 15, BEGIN + 25) if o not in drawn]
    assert missing == [BEGIN + 18, BEGIN + 19]


def test_windows_whose_last_three_slots_show_no_target_are_not_drawn():
    hole = range(BEGIN + 20, BEGIN + 24)
    buffer = filled(("a",), [s for s in range(BEGIN, BEGIN + 40) if s not in hole])
    drawn = eligible(buffer, BEGIN + 39)
    assert BEGIN + 22 not in drawn
    assert BEGIN + 23 not in drawn
    assert BEGIN + 24 in drawn


def test_a_covariate_is_no_label():
    buffer = buffer_of()
    buffer.append("all", steady(["a"], range(BEGIN, BEGIN + 40), metrics=("sent",)))
    assert eligible(buffer, BEGIN + 39) == []


def test_actuals_are_the_targets_of_the_servers_that_were_observed():
    buffer = filled(("a", "b"), range(BEGIN, BEGIN + 10))
    buffer.append("more", block_of([("b", (BEGIN + 10) * STEP_S, "peak", 4.0)]))
    buffer.append("none", block_of([("a", (BEGIN + 10) * STEP_S, "sent", 1e6)]))
    names, values = buffer.actuals(BEGIN + 10)
    assert names == ("b",)
    np.testing.assert_array_equal(values, [[np.nan, 4.0]])
    names, values = buffer.actuals(BEGIN + 11)
    assert (names, values.shape) == ((), (0, 2))
    assert buffer.actuals(BEGIN + 9)[0] == ("a", "b")


def test_new_rows_are_counted_between_two_slots():
    buffer = filled(("a", "b"), range(BEGIN, BEGIN + 10))
    assert buffer.new_rows_since(BEGIN + 3, BEGIN + 7) == 8
    assert buffer.new_rows_since(BEGIN + 9, BEGIN + 30) == 0
    assert buffer.status().rows == 20


def test_residual_tables_come_from_the_history_up_to_the_slot():
    buffer = buffer_of(history_days=4)
    # Cpu rises by one each slot, so copy-last is wrong by the step and seasonal by a day.
    points = [("a", slot * STEP_S, "cpu", float(slot)) for slot in range(BEGIN, BEGIN + 3 * DAY)]
    buffer.append("all", block_of(points))
    tables = buffer.residuals(as_of=BEGIN + 3 * DAY - 1, hours=24, levels=(0.1, 0.5, 0.9))
    assert (tables.servers, tables.targets) == (("a",), ("cpu", "peak"))
    np.testing.assert_allclose(tables.copy_last[0, :, 0, 1], [1.0, 2.0, 3.0])
    np.testing.assert_allclose(tables.seasonal[0, :, 0, 1], [DAY] * 3)


def test_residual_tables_of_nobody_are_empty():
    tables = buffer_of().residuals(as_of=5, hours=24, levels=(0.5,))
    assert tables.servers == ()


LATER = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "new"]),
        st.integers(1, DAY - 1),
        st.sampled_from(SCHEMA.names),
        st.floats(0, 9),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=30)
@given(LATER, st.integers(0, 40))
def test_what_is_read_as_of_a_slot_is_not_changed_by_anything_later(points, before):
    as_of = END - before
    known, told = filled(slots=range(BEGIN, as_of + 1)), filled(slots=range(BEGIN, as_of + 1))
    told.append("later", steady(["a", "b"], range(as_of + 1, END + 1), seed=5))
    later = [(name, (as_of + ahead) * STEP_S, metric, x) for name, ahead, metric, x in points]
    told.append("last", block_of(later))
    for read in READS.values():
        assert read(known, as_of) == read(told, as_of)


READS = {
    "fleet": lambda buffer, slot: bits(buffer.fleet(slot)),
    "servers": lambda buffer, slot: buffer.servers(slot),
    "draw": lambda buffer, slot: bits(
        buffer.draw(as_of=slot, hours=48, count=40, seed=1, holdout_hours=1)
    ),
    "holdout": lambda buffer, slot: bits(buffer.holdout(as_of=slot, hours=6, every=3)),
    "residuals": lambda buffer, slot: bits(buffer.residuals(as_of=slot, hours=12, levels=(0.5,))),
    "cut": lambda buffer, slot: bits(
        buffer.cut(["a", "b"], np.array([slot, slot - 7]), labels=False)
    ),
    "new rows": lambda buffer, slot: buffer.new_rows_since(slot - 20, slot),
}


def test_labels_are_the_one_thing_read_after_an_origin():
    short, longer = filled(slots=range(BEGIN, END - 1)), filled(slots=range(BEGIN, END + 1))
    origin = np.array([END - 2])
    a = bits(short.cut(["a"], origin, labels=True))
    b = bits(longer.cut(["a"], origin, labels=True))
    assert {name for name in a if a[name] != b[name]} == {"values"}


def spread_of(buffer, slot, server="a"):
    return buffer.cut([server], np.array([slot]), labels=False).spread[0]


def test_the_spread_is_the_deviation_in_transformed_space_up_to_the_last_full_hour():
    schema = type(SCHEMA)(
        "servers", 300, (Metric("cpu"), Metric("wait", transform="log1p")), ("cpu", "wait")
    )
    buffer = buffer_of(schema=schema)
    rng = np.random.default_rng(0)
    values = rng.random((40, 2)) * 100
    points = [
        ("a", (BEGIN + at) * STEP_S, name, float(values[at, column]))
        for at in range(40)
        for column, name in enumerate(("cpu", "wait"))
    ]
    buffer.append("all", block_of(points, metrics=schema.names))
    for slot, full in ((BEGIN + 23, 24), (BEGIN + 34, 24), (BEGIN + 35, 36)):
        seen = values[:full].astype(np.float32).astype(np.float64)
        want = [seen[:, 0].std(), np.log1p(seen[:, 1]).std()]
        np.testing.assert_allclose(spread_of(buffer, slot), want, rtol=1e-6)


def test_the_spread_is_unknown_before_an_hour_of_values():
    buffer = filled(("a",), range(BEGIN, BEGIN + 11))
    assert np.isnan(spread_of(buffer, BEGIN + 30)).all()
    buffer.append("more", steady(["a"], [BEGIN + 11]))
    assert not math.isnan(spread_of(buffer, BEGIN + 30)[0])


def test_a_draw_and_a_holdout_share_one_spread_from_before_what_is_held_out():
    buffer, per_hour = filled(), 3600 // STEP_S
    drawn = buffer.draw(as_of=END - 5, hours=24, count=50, seed=1, holdout_hours=2)
    last = END - 5 - 2 * per_hour - 2 * buffer.fleet(END).horizon
    of_a = drawn.spread[[name == "a" for name in drawn.servers]]
    assert (of_a == spread_of(buffer, last)).all()
    held = buffer.holdout(as_of=END - 5, hours=2, every=1)
    of_a = held.spread[[name == "a" for name in held.servers]]
    assert (of_a == spread_of(buffer, END - 5 - 2 * per_hour)).all()


WRITES = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 120), st.floats(0, 9, width=32)), max_size=15
)


@given(WRITES, WRITES, st.lists(st.integers(0, 130), min_size=1, max_size=4))
def test_a_remembered_spread_is_the_one_that_would_be_computed_now(first, second, slots):
    grid = Grid(ring=60, metrics=1)
    grid.ensure_rows(3, most=3)
    metrics, rows = (Metric("cpu"),), np.arange(3)

    def fresh():
        return Spread(grid, metrics, step_seconds=1200, history=48)

    remembering = fresh()
    for writes in (first, second):
        for row, slot, number in writes:
            cell = [np.array([each]) for each in (row, slot, 0, number)]
            grid.write(*cell, only_gaps=False)
            remembering.changed(row, slot, slot)
        for slot in slots:
            got, want = remembering.of(rows, slot), fresh().of(rows, slot)
            assert got.tobytes() == want.tobytes()


def test_hours_asked_for_long_ago_are_forgotten_and_computed_again():
    buffer = filled()
    first = spread_of(buffer, BEGIN + 40)
    for slot in range(BEGIN + 48, BEGIN + 48 + 60 * 12, 12):
        spread_of(buffer, slot)
    assert spread_of(buffer, BEGIN + 40).tobytes() == first.tobytes()
