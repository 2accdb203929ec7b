from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecast.schema import Metric, Schema, ServerInfo, validate_rows

NOW_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
SKEW_MS = 600_000

SCHEMA = Schema(
    panel="servers",
    step_seconds=300,
    metrics=(
        Metric("cpu", unit="ratio", lower=0.0, upper=1.0, aliases=("cpu_usage",)),
        Metric("load"),
        Metric("sent", unit="bytes", kind="counter"),
    ),
    targets=("cpu", "load"),
)


def row(**changes):
    return {"timestamp": "2026-01-01T00:00:00Z", "server": "web-01", "metrics": {}, **changes}


def validate(*rows, schema=SCHEMA):
    return validate_rows(rows, schema, now_ms=NOW_MS, max_clock_skew_ms=SKEW_MS)


def refusals(*rows, schema=SCHEMA):
    _, rejects = validate(*rows, schema=schema)
    return [(reject.index, reject.reason, reject.metric) for reject in rejects]


def test_a_good_row_becomes_one_sample_for_each_of_its_values():
    block, rejects = validate(
        row(metrics={"cpu": 0.25, "load": 3}, role="web", timezone="Europe/Berlin")
    )
    assert rejects == ()
    assert block.servers == ("web-01",)
    assert block.infos == (ServerInfo("web", "Europe/Berlin"),)
    assert block.metrics == ("cpu", "load", "sent")
    assert block.metric_index.tolist() == [0, 1]
    assert block.time_ms.tolist() == [NOW_MS, NOW_MS]
    assert block.value.tolist() == [0.25, 3.0]
    assert block.row_index is not None
    assert block.row_index.tolist() == [0, 0]


def test_the_columns_have_the_types_that_the_log_and_the_grid_expect():
    block, _ = validate(row(metrics={"cpu": 0.25}))
    kinds = (block.server_index.dtype, block.metric_index.dtype, block.time_ms.dtype)
    assert kinds == (np.int32, np.int16, np.int64)
    assert block.value.dtype == np.float64


def test_bad_rows_are_refused_with_index_and_reason_and_the_rest_is_kept():
    rows = [
        row(metrics={"cpu": 0.1}),
        "not a row",
        row(timestamp="yesterday", metrics={"cpu": 0.1}),
        row(timestamp=NOW_MS, metrics={"cpu": 0.1}),  # milliseconds
        row(timestamp="2026-01-01T00:10:01Z", metrics={"cpu": 0.1}),
        row(server="", metrics={"cpu": 0.1}),
        row(metrics=[0.1]),
        row(timezone="Mars/Olympus", metrics={"cpu": 0.1}),
        row(metrics={"cpu": 0.9}),
    ]
    block, rejects = validate(*rows)
    assert block.value.tolist() == [0.1, 0.9]
    assert [(reject.index, reject.reason) for reject in rejects] == [
        (1, "malformed"),
        (2, "malformed"),
        (3, "malformed"),
        (4, "future"),
        (5, "malformed"),
        (6, "malformed"),
        (7, "malformed"),
    ]
    assert all(reject.detail for reject in rejects)


def test_a_bad_value_is_refused_alone_and_names_its_metric():
    values = {"cpu": 1.5, "load": math.nan, "memory": 3, "sent": 7}
    assert refusals(row(metrics={"cpu": 0.5}), row(metrics=values)) == [
        (1, "unknown_metric", "memory"),
        (1, "out_of_bounds", "cpu"),
        (1, "not_finite", "load"),
    ]
    block, _ = validate(row(metrics=values))
    assert block.value.tolist() == [7.0]


@pytest.mark.parametrize("value", ["0.5", True, [0.5], {}])
def test_what_is_not_a_number_is_malformed(value):
    assert refusals(row(metrics={"cpu": value})) == [(0, "malformed", "cpu")]


@pytest.mark.parametrize("value", [math.inf, -math.inf, 10**400])
def test_what_no_float_can_hold_is_not_finite(value):
    assert refusals(row(metrics={"load": value})) == [(0, "not_finite", "load")]


def test_what_a_slot_cannot_hold_is_out_of_bounds():
    assert refusals(row(metrics={"load": 1e39})) == [(0, "out_of_bounds", "load")]


def test_a_null_is_a_gap_and_not_an_error():
    block, rejects = validate(row(metrics={"cpu": None, "load": 1.0}))
    assert rejects == ()
    assert block.value.tolist() == [1.0]


def test_a_servers_name_without_a_kept_value_is_not_in_the_block():
    block, _ = validate(row(server="ghost", metrics={"cpu": 7.0}), row(metrics={"cpu": 0.5}))
    assert block.servers == ("web-01",)
    assert block.server_index.tolist() == [0]


def test_a_counters_readings_have_no_upper_bound_but_are_not_negative():
    schema = Schema("p", 300, (Metric("sent", kind="counter", upper=10.0),), ("sent",))
    block, rejects = validate(
        row(metrics={"sent": 1e15}), row(metrics={"sent": -1.0}), schema=schema
    )
    assert block.value.tolist() == [1e15]
    assert [reject.reason for reject in rejects] == ["out_of_bounds"]


@pytest.mark.parametrize(
    ("timestamp", "time_ms"),
    [
        ("2026-01-01T00:00:00Z", NOW_MS),
        ("2026-01-01T01:00:00+01:00", NOW_MS),
        ("2026-01-01T00:00:00", NOW_MS),
        ("2025-12-31T23:59:59.250Z", NOW_MS - 750),
        (NOW_MS / 1000, NOW_MS),
        (NOW_MS // 1000, NOW_MS),
    ],
)
def test_a_time_is_iso_8601_or_epoch_seconds(timestamp, time_ms):
    block, _ = validate(row(timestamp=timestamp, metrics={"cpu": 0.5}))
    assert block.time_ms.tolist() == [time_ms]


def test_a_clock_may_be_ahead_by_the_allowed_skew_and_no_more():
    ahead = (NOW_MS + SKEW_MS) / 1000
    assert refusals(row(timestamp=ahead, metrics={"cpu": 0.5})) == []
    assert refusals(row(timestamp=ahead + 0.001, metrics={"cpu": 0.5})) == [(0, "future", None)]


@pytest.mark.parametrize("timestamp", [None, True, math.nan, math.inf, -1, 10**400, [], "9" * 99])
def test_no_timestamp_can_stop_the_reading(timestamp):
    reasons = refusals(row(timestamp=timestamp, metrics={"cpu": 0.5}))
    assert reasons == [(0, "malformed", None)]


def test_a_metric_is_accepted_under_its_alias():
    block, rejects = validate(row(metrics={"cpu_usage": 0.5}))
    assert rejects == ()
    assert [block.metrics[at] for at in block.metric_index] == ["cpu"]


def test_several_labels_name_a_server_together():
    schema = Schema("p", 300, (Metric("used"),), ("used",), server_labels=("host", "mount"))
    good = row(labels={"host": "web-01", "mount": "/var", "rack": "7"}, metrics={"used": 1.0})
    block, rejects = validate(good, schema=schema)
    assert (block.servers, rejects) == (("web-01//var",), ())
    incomplete = row(labels={"host": "web-01"}, metrics={"used": 1.0})
    ambiguous = row(labels={"host": "a/b", "mount": "c"}, metrics={"used": 1.0})
    reasons = refusals(incomplete, ambiguous, row(metrics={"used": 1.0}), schema=schema)
    assert [reason for _, reason, _ in reasons] == ["malformed"] * 3


@pytest.mark.parametrize("name", [None, 7, " ", "a\nb", "\ud800", "x" * 513])
def test_a_name_that_could_not_be_shown_is_refused(name):
    assert refusals(row(server=name, metrics={"cpu": 0.5})) == [(0, "malformed", None)]


def test_what_the_latest_row_says_of_a_server_holds():
    newer = row(role="db", timezone="UTC", metrics={"cpu": 0.5})
    older = row(timestamp="2025-12-31T00:00:00Z", role="web", metrics={"cpu": 0.5})
    silent = row(metrics={"cpu": 0.5})
    for order in ([newer, older, silent], [silent, older, newer]):
        block, _ = validate(*order)
        assert block.infos == (ServerInfo("db", "UTC"),)
    block, _ = validate(silent)
    assert block.infos == (None,)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
FIELDS = st.sampled_from(["timestamp", "server", "labels", "role", "timezone", "metrics"])


@given(st.lists(ANY_JSON | st.dictionaries(FIELDS, ANY_JSON), max_size=5))
def test_no_row_whatsoever_raises_and_rejects_come_in_row_order(rows):
    block, rejects = validate_rows(rows, SCHEMA, now_ms=NOW_MS, max_clock_skew_ms=0)
    assert len(block) == 0 or np.isfinite(block.value).all()
    indices = [reject.index for reject in rejects]
    assert indices == sorted(indices)
    json.dumps([[reject.detail, reject.metric] for reject in rejects]).encode()


def test_a_metric_survives_json():
    metric = SCHEMA.metrics[0]
    assert Metric.from_json(json.loads(json.dumps(metric.to_json()))) == metric


def test_a_stored_metric_with_an_unknown_key_is_refused():
    with pytest.raises(ValueError, match="colour"):
        Metric.from_json({"name": "cpu", "colour": "red"})


def test_a_counter_fills_its_slots_by_rate_and_neither_it_nor_a_log_goes_below_zero():
    counter, heavy = Metric("sent", kind="counter"), Metric("wait", transform="log1p")
    assert (counter.slot_rule, counter.lower, heavy.lower) == ("rate", 0.0, 0.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"kind": "counter", "slot_rule": "last"},
        {"lower": 1.0, "upper": 1.0},
        {"resolution": 0.0},
        {"transform": "log1p", "lower": -1.0},
    ],
)
def test_a_metric_that_contradicts_itself_is_refused(wrong):
    with pytest.raises(ValueError, match="metric"):
        Metric(**{"name": "cpu", **wrong})


@pytest.mark.parametrize(
    "wrong",
    [
        {"metrics": (Metric("cpu"), Metric("cpu"))},
        {"metrics": (Metric("cpu"), Metric("load", aliases=("cpu",)))},
        {"targets": ("memory",)},
        {"targets": ()},
        {"step_seconds": 0},
        {"server_labels": ()},
    ],
)
def test_a_schema_that_contradicts_itself_is_refused(wrong):
    good = {"panel": "p", "step_seconds": 300, "metrics": (Metric("cpu"),), "targets": ("cpu",)}
    with pytest.raises(ValueError):  # noqa: PT011
        Schema(**{**good, **wrong})


def test_only_what_needs_a_new_base_model_changes_the_fingerprint():
    def fingerprint(**changes):
        fields = {
            "panel": "servers",
            "step_seconds": 300,
            "metrics": (Metric("cpu", unit="ratio"), Metric("load")),
            "targets": ("cpu",),
        }
        return Schema(**{**fields, **changes}).fingerprint()

    before = fingerprint()
    cpu, load = Metric("cpu", unit="ratio"), Metric("load")
    bounded = Metric("cpu", unit="ratio", aliases=("old",), upper=1.0, resolution=0.5)
    assert fingerprint(metrics=(cpu,)) == before
    assert fingerprint(metrics=(load, bounded, Metric("more"))) == before
    assert fingerprint(panel="other") != before
    assert fingerprint(step_seconds=60) != before
    assert fingerprint(targets=("cpu", "load")) != before
    assert fingerprint(metrics=(Metric("cpu", unit="percent"), load)) != before
    assert fingerprint(metrics=(Metric("cpu", unit="ratio", kind="counter"), load)) != before
