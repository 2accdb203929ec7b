"""Codes of deltas: how far off, how small, and what is lost comes later."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from train.federated.compression import Encoded, ErrorFeedback, decode, encode

FINITE = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=30)


def random(size: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=size) * 1e-4).astype(np.float32)


@given(FINITE)
def test_bf16_is_torch_s(values):
    delta = np.array(values, np.float32)
    found = decode(encode(delta, "bf16"), len(delta))
    wanted = torch.from_numpy(delta).to(torch.bfloat16).to(torch.float32).numpy()
    finite = np.isfinite(wanted)  # torch rounds the very largest to infinity, we cut them
    assert (found[finite] == wanted[finite]).all()
    assert np.isfinite(found).all()


@given(FINITE)
def test_int8_is_off_by_half_a_step_of_its_block_at_most(values):
    delta = np.array(values, np.float32)
    found = decode(encode(delta, "int8"), len(delta)).astype(np.float64)
    step = np.abs(delta.astype(np.float64)).max(initial=0) / 127
    assert np.abs(found - delta).max(initial=0) <= step * 0.5001 + 1e-42


@pytest.mark.parametrize(
    ("codec", "share", "error"),
    [("float32", 1.0, 0.0), ("bf16", 0.5, 2**-9), ("int8", 0.251, 0.012)],
)
@pytest.mark.parametrize("size", [5000, 1024 * 8])
def test_a_code_says_what_it_saves_and_costs(codec, share, error, size):
    made, cost = ErrorFeedback(codec).encode(random(size))
    assert cost.share == pytest.approx(share, abs=0.002)
    assert cost.error <= error
    assert cost.difference == pytest.approx(cost.error)  # nothing was lost before
    assert decode(made, size).dtype == np.float32


@pytest.mark.parametrize("codec", ["bf16", "int8"])
def test_with_error_feedback_nothing_is_lost_but_later(codec):
    delta, feedback = random(300), ErrorFeedback(codec)
    delta[0] = 1.0
    sent, plain = np.zeros(300), np.zeros(300)
    for _ in range(200):
        sent += decode(feedback.encode(delta)[0], 300)
        plain += decode(encode(delta, codec), 300)
    assert np.abs(sent - 200 * delta.astype(float)).max() < 0.01
    if codec == "int8":
        assert np.abs(plain[1:]).max() == 0
        assert np.abs(sent[1:]).max() > 0


def test_what_was_lost_survives_a_restart():
    one = ErrorFeedback("int8")
    one.encode(random(10))
    again = ErrorFeedback("int8", one.residual)
    first, second = one.encode(random(10, 1))[0], again.encode(random(10, 1))[0]
    assert first.arrays["values"].tobytes() == second.arrays["values"].tobytes()


def test_a_delta_that_is_not_finite_is_not_encoded():
    with pytest.raises(ValueError, match="1 of 3 are not finite"):
        encode(np.array([0, np.nan, 1], np.float32), "bf16")


@pytest.mark.parametrize(
    ("encoded", "match"),
    [
        (Encoded("int4", {"values": np.zeros(3)}), "codec 'int4'"),
        (Encoded("int8", {"values": np.zeros(3, np.int8)}), "codec 'int8' with"),
        (Encoded("bf16", {"values": np.zeros(2, np.uint16)}), r"uint16 \(2,\), need uint16 \(3,\)"),
        (Encoded("float32", {"values": np.zeros(3)}), "float64"),
        (
            Encoded("int8", {"values": np.zeros(3, np.int8), "scales": np.zeros(2, np.float32)}),
            r"scales float32 \(2,\), need float32 \(1,\)",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused(encoded, match):
    with pytest.raises(ValueError, match=match):
        decode(encoded, 3)


def test_what_a_code_from_outside_holds_may_be_infinite_and_comes_out_so():
    scales = np.array([np.inf], np.float32)
    made = Encoded("int8", {"values": np.ones(3, np.int8), "scales": scales})
    assert not np.isfinite(decode(made, 3)).any()


def test_the_difference_is_of_what_was_sent_and_what_was_lost_before_is_in_it():
    feedback, first = ErrorFeedback("int8"), np.array([127, 0.4], np.float32)
    _, cost = feedback.encode(first)  # 127 and 0 travel
    assert cost.difference == pytest.approx(0.4 / 127, rel=1e-3)
    assert feedback.residual.tolist() == pytest.approx([0, 0.4], abs=1e-4)
    _, cost = feedback.encode(first)  # 127 and 1 travel, for a delta of 0.4 and a wish of 0.8
    assert cost.difference == pytest.approx(0.6 / 127, rel=1e-3)
    assert cost.error == pytest.approx(0.2 / 127, rel=1e-3)


def test_the_cost_of_nothing_and_of_the_largest_numbers_is_a_number():
    assert ErrorFeedback("int8").encode(np.zeros(3, np.float32))[1].difference == 0
    large = np.full(3, 1e38, np.float32)
    assert ErrorFeedback("bf16").encode(large)[1].difference < 2**-8
