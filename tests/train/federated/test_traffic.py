"""What was sent is counted beside what it would have been."""

from __future__ import annotations

import numpy as np
import pytest

from forecast.tensors import dump
from train.federated.compression import Cost, encode
from train.federated.traffic import Traffic

DELTA = np.linspace(-1, 1, 4000, dtype=np.float32)


def update(codec: str) -> bytes:
    return dump({"site": "a", "codec": codec}, encode(DELTA, codec).arrays)


def cost(difference: float) -> Cost:
    return Cost(share=0.5, error=0.0, difference=difference)


@pytest.mark.parametrize(("codec", "share"), [("float32", 1.0), ("bf16", 0.5), ("int8", 0.25)])
def test_the_bytes_of_float32_are_those_of_the_same_update_without_a_code(codec, share):
    one = Traffic().sent(update(codec)).sent(update(codec))
    assert one.codec == codec
    assert one.bytes_sent == 2 * len(update(codec))
    assert one.bytes_float32 == 2 * len(update("float32"))
    assert one.bytes_sent / one.bytes_float32 == pytest.approx(share, abs=0.02)


def test_the_relative_error_is_a_mean_over_updates_and_null_before_any():
    assert Traffic().told() == {
        "codec": None, "bytes_sent": 0, "bytes_float32": 0, "relative_error": None,
    }  # fmt: skip
    one = Traffic().encoded(cost(0.01)).encoded(cost(0.03))
    assert one.told()["relative_error"] == pytest.approx(0.02)


def test_sites_together_are_their_sums_and_a_mean_over_all_updates():
    first = Traffic().encoded(cost(0.01)).sent(update("int8"))
    second = first.encoded(cost(0.04)).sent(update("int8"))
    both = Traffic.together([first, second, Traffic()])
    assert both.codec == "int8"
    assert both.bytes_sent == 3 * len(update("int8"))
    assert both.told()["relative_error"] == pytest.approx(0.02)  # of 0.01, 0.01 and 0.04
    assert Traffic.together([]) == Traffic()


def test_it_comes_back_from_its_json():
    one = Traffic().encoded(cost(0.01)).sent(update("bf16"))
    assert Traffic.from_json(one.to_json()) == one
