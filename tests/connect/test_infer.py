from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from connect.infer import infer_metric

RATES = np.exp(np.random.default_rng(1).normal(3, 2, 500))
LEVELS = np.random.default_rng(2).normal(20, 4, 500)


@pytest.mark.parametrize(
    ("name", "values", "unit", "bounds", "transform"),
    [
        ("cpu_usage_ratio", np.array([0.0, 0.5, 1.0]), "ratio", (0.0, 1.0), "identity"),
        ("cpu_usage_ratio", np.array([0.0, 0.5, 1.2]), "ratio", (0.0, None), "identity"),
        ("disk_used_percent", np.array([3.0, 97.0]), "percent", (0.0, 100.0), "identity"),
        ("disk_write_kb_per_s", RATES, "kB/s", (0.0, None), "log1p"),
        ("network_receive_bytes_per_s", RATES, "bytes/s", (0.0, None), "log1p"),
        ("queue_length", RATES, "", (0.0, None), "log1p"),
        ("errors_per_s", RATES / RATES.max(), "1/s", (0.0, None), "identity"),
        ("inlet_celsius", LEVELS, "celsius", (None, None), "identity"),
        ("change_per_s", LEVELS - 20, "1/s", (None, None), "identity"),
        ("OT", LEVELS, "", (None, None), "identity"),
    ],
)
def test_a_name_and_its_numbers_declare_a_metric(
    name: str,
    values: np.ndarray,
    unit: str,
    bounds: tuple[float | None, float | None],
    transform: str,
) -> None:
    metric = infer_metric(name, values)
    assert (metric.unit, metric.transform) == (unit, transform)
    assert (metric.lower, metric.upper) == bounds


def test_the_largest_number_seen_is_no_bound() -> None:
    assert infer_metric("metric_00", np.array([0.0, 0.3, 1.0])).upper is None


def test_what_is_called_a_total_is_a_counter() -> None:
    metric = infer_metric("requests_total", np.arange(100.0))
    assert (metric.kind, metric.slot_rule) == ("counter", "rate")


def test_the_resolution_is_about_a_hundredth_of_what_is_usual() -> None:
    assert infer_metric("cpu_usage_ratio", np.array([0.1, 0.2])).resolution == 0.001
    assert infer_metric("OT", LEVELS).resolution == pytest.approx(0.1)
    assert infer_metric("OT", LEVELS * 1000).resolution == pytest.approx(100)
    assert infer_metric("flat", np.full(10, 4.0)).resolution == 0.001


@given(
    values=st_numpy.arrays(
        np.float64, st.integers(1, 30), elements=st.floats(-1e12, 1e12, allow_nan=False)
    ),
    name=st.sampled_from(["a_ratio", "b_percent", "c_kb_per_s", "d", "e_celsius", "f_total"]),
)
def test_a_declaration_never_refuses_a_number_it_was_made_from(
    values: np.ndarray, name: str
) -> None:
    metric = infer_metric(name, values)
    if metric.kind == "gauge":
        assert metric.lower is None or values.min() >= metric.lower
        assert metric.upper is None or values.max() <= metric.upper
    assert metric.resolution > 0
