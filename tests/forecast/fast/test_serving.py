from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings

from forecast.fast.exact import FastTFT
from forecast.fast.serving import ServingTFT
from tests.forecast.fast.fast_scene import Case, cases, inputs_of, network_of, oracle

CASE = Case()
BARE = Case(static_reals=0, categories=(), known=1, unknown=0, targets=1)


@example(CASE)
@example(BARE)
@example(replace(CASE, static_reals=0, categories=(6, 2)))
@example(replace(CASE, static_reals=1, categories=()))
@example(replace(CASE, hidden=4, per_real=4, heads=2, layers=2))
@settings(max_examples=12)
@given(case=cases())
def test_it_forecasts_what_the_network_forecasts(case):
    network = network_of(case, noise=0.1).eval()
    given = inputs_of(case)
    with torch.no_grad():
        wanted = oracle(network, *given)
    found = ServingTFT(FastTFT.of(network))(*given)
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= 1e-4 * max(1.0, float(wanted.abs().max()))


@pytest.fixture(scope="module")
def serving() -> ServingTFT:
    return ServingTFT(FastTFT.of(network_of(CASE).eval()))


@pytest.mark.parametrize("case", [CASE, BARE, replace(CASE, categories=())])
def test_curves_that_no_table_is_fine_enough_for_are_computed(case):
    network = FastTFT.of(network_of(case, noise=0.1).eval())
    given = inputs_of(case)
    serving = ServingTFT(network, tolerance=1e-12)
    assert 0 < serving.steep <= 2 * (case.known + case.unknown + case.targets) + case.static_reals
    with torch.inference_mode():
        torch.testing.assert_close(serving(*given), network(*given), rtol=1e-5, atol=1e-5)


def test_with_curves_computed_what_is_outside_still_takes_the_exact_way():
    serving = ServingTFT(FastTFT.of(network_of(CASE).eval()), tolerance=1e-12)
    encoder, decoder, categories = inputs_of(CASE)
    encoder[1, 2, CASE.static_reals] = math.nan
    encoder[2, 0, CASE.static_reals] = 99.0
    found = serving(encoder, decoder, categories)
    assert serving.steep > 0
    assert (serving.outside.values, serving.outside.windows) == (2, 2)
    with torch.inference_mode():
        wanted = serving.exact(encoder, decoder, categories)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_a_large_batch_is_its_parts(serving):
    given = inputs_of(replace(CASE, windows=2000))
    found = serving(*given)
    again = torch.cat(
        [serving(*(part[start : start + 300] for part in given)) for start in range(0, 2000, 300)]
    )
    torch.testing.assert_close(found, again, rtol=0.0, atol=1e-5)


def test_no_window_gives_no_forecast(serving):
    none = [part[:0] for part in inputs_of(CASE)]
    assert serving(*none).shape == (0, CASE.horizon, CASE.targets, CASE.levels)


@pytest.mark.parametrize("value", [31.5, -1e6, math.inf])
def test_a_value_outside_the_tables_takes_the_exact_way_and_is_counted(value):
    network = FastTFT.of(network_of(CASE).eval())
    serving = ServingTFT(network)
    encoder, decoder, categories = inputs_of(CASE)
    encoder[1, 2, CASE.static_reals] = value
    decoder[1, 0, CASE.static_reals + 1] = value
    found = serving(encoder, decoder, categories)
    assert (serving.outside.values, serving.outside.windows) == (2, 1)
    with torch.inference_mode():
        wanted = network(encoder, decoder, categories)
        torch.testing.assert_close(
            found[1],
            network(*(part[1:2] for part in (encoder, decoder, categories)))[0],
            rtol=0.0,
            atol=0.0,
            equal_nan=True,
        )
    rest = torch.tensor([0, 2, 3])
    torch.testing.assert_close(found[rest], wanted[rest], rtol=0.0, atol=1e-4)


def test_the_ends_of_the_tables_are_inside():
    serving = ServingTFT(FastTFT.of(network_of(CASE).eval()))
    encoder, decoder, categories = inputs_of(CASE)
    encoder[0, 0, CASE.static_reals] = 31.0
    encoder[0, 1, CASE.static_reals] = -31.0
    encoder[0, 2, CASE.static_reals] = -0.0
    found = serving(encoder, decoder, categories)
    assert serving.outside.values == 0
    with torch.inference_mode():
        wanted = serving.exact(encoder, decoder, categories)
    torch.testing.assert_close(found, wanted, rtol=0.0, atol=1e-4)


def test_a_value_that_is_no_number_gives_what_the_network_gives():
    serving = ServingTFT(FastTFT.of(network_of(CASE).eval()))
    encoder, decoder, categories = inputs_of(CASE)
    encoder[2, -1, CASE.static_reals] = math.nan
    found = serving(encoder, decoder, categories)
    assert found[2].isnan().all()
    assert found[[0, 1, 3]].isfinite().all()
    assert serving.outside.windows == 1


def test_it_keeps_the_weights_it_was_built_from():
    network = FastTFT.of(network_of(CASE).eval())
    serving, given = ServingTFT(network), inputs_of(CASE)
    before = serving(*given)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(1.0)
    assert torch.equal(serving(*given), before)


def test_a_finer_tolerance_makes_larger_and_better_tables():
    network = FastTFT.of(network_of(CASE).eval())
    rough, fine = ServingTFT(network, tolerance=1e-2), ServingTFT(network, tolerance=2e-5)
    assert rough.table_bytes < fine.table_bytes
    assert fine.table_error < rough.table_error
