from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings

from forecast.fast.exact import FastTFT
from forecast.fast.pieces import boost, kept
from forecast.fast.shape import Shape
from tests.forecast.fast.fast_scene import Case, cases, inputs_of, network_of, oracle

CASE = Case()
BARE = Case(static_reals=0, categories=(), known=1, unknown=0, targets=1)
EQUAL_SIZES = Case(hidden=4, per_real=4, categories=(6, 2), static_reals=0)
EMPTY = torch.zeros(0)


@example(CASE)
@example(BARE)
@example(EQUAL_SIZES)
@settings(max_examples=25)
@given(case=cases())
def test_it_is_the_same_function_to_1e5(case):
    network = network_of(case).eval()
    given = inputs_of(case)
    with torch.no_grad():
        wanted = oracle(network, *given)
        found = FastTFT.of(network)(*given)
    assert found.shape == wanted.shape == (case.windows, case.horizon, case.targets, case.levels)
    assert (found - wanted).abs().max() <= 1e-5 * max(1.0, float(wanted.abs().max()))


@example(CASE)
@example(BARE)
@example(EQUAL_SIZES)
@settings(max_examples=25)
@given(case=cases())
def test_every_weight_has_the_same_gradient(case):
    """In float64 tensor by tensor, so that what rounding hides is compared too."""
    network = network_of(case).double().train()
    fast = FastTFT.of(network).double()
    encoder, decoder, categories = inputs_of(case)
    given = (encoder.double(), decoder.double(), categories)
    toward = torch.randn(case.windows, case.horizon, case.targets, case.levels).double()
    (oracle(network, *given) * toward).sum().backward()
    (fast(*given) * toward).sum().backward()
    found = fast.gradients()
    wanted = {name: weight.grad for name, weight in network.named_parameters()}
    most = max(float(grad.norm()) for grad in wanted.values() if grad is not None)
    for name, grad in wanted.items():
        if grad is None:  # a real embedding that nothing reads
            assert name not in found or not found[name].any()
            continue
        assert (found[name] - grad).norm() <= 1e-7 * float(grad.norm()) + 1e-10 * most, name


@settings(max_examples=10)
@given(case=cases())
def test_gradients_in_float32_agree_to_1e4(case):
    network = network_of(case).train()
    fast = FastTFT.of(network)
    given = inputs_of(case)
    toward = torch.randn(case.windows, case.horizon, case.targets, case.levels)
    (oracle(network, *given) * toward).sum().backward()
    (fast(*given) * toward).sum().backward()
    found = fast.gradients()
    pairs = [
        (found[name].flatten(), weight.grad.flatten())
        for name, weight in network.named_parameters()
        if weight.grad is not None
    ]
    mine, theirs = (torch.cat(side) for side in zip(*pairs, strict=True))
    assert (mine - theirs).norm() <= 1e-4 * theirs.norm()


@example(CASE)
@example(BARE)
@settings(max_examples=15)
@given(case=cases())
def test_weights_go_in_and_out_bit_by_bit(case):
    network = network_of(case)
    before = network.state_dict()
    state = FastTFT.of(network).state_dict()
    assert set(state) == set(before)
    assert all(torch.equal(state[name], value) for name, value in before.items())
    network_of(case, seed=5).load_state_dict(state)


def test_more_rows_than_one_piece_of_work_change_nothing():
    case = replace(CASE, windows=700, context=20)
    network = network_of(case)
    fast, given = FastTFT.of(network.train()), inputs_of(case)
    (oracle(network, *given).square().mean()).backward()
    (fast(*given).square().mean()).backward()
    found = fast.gradients()["encoder_variable_selection.single_variable_grns.known_0.fc1.weight"]
    wanted = network.encoder_variable_selection.single_variable_grns["known_0"].fc1.weight.grad
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)


def test_a_step_of_an_optimiser_goes_where_it_goes_there():
    network = network_of(CASE).train()
    fast, given = FastTFT.of(network), inputs_of(CASE)
    for module, call in ((network, oracle), (fast, lambda one, *rest: one(*rest))):
        optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
        call(module, *given).square().mean().backward()
        optimiser.step()
    moved = fast.state_dict()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(moved[name], value, rtol=1e-4, atol=1e-6)


def test_dropout_has_the_same_mean_and_spread():
    """Of every output over many passes; places and shares being the same, so are these."""
    case = replace(CASE, dropout=0.3, windows=1, heads=2, layers=2, horizon=2)
    network = network_of(case).train()
    given = inputs_of(case)
    many = [part.expand(4000, *part.shape[1:]) for part in given]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        theirs = oracle(network, *many).flatten(1)
        mine = FastTFT.of(network)(*many).flatten(1)
    noise = theirs.std(0) / 4000**0.5
    assert ((mine.mean(0) - theirs.mean(0)).abs() < 6 * noise).all()
    torch.testing.assert_close(mine.std(0), theirs.std(0), rtol=0.1, atol=0.0)


def test_dropout_is_repeatable_and_off_in_evaluation():
    case = replace(CASE, dropout=0.3)
    fast, given = FastTFT.of(network_of(case).train()), inputs_of(case)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = fast(*given)
        torch.manual_seed(1)
        assert torch.equal(fast(*given), first)
        assert not torch.equal(fast(*given), first)
        fast.eval()
        assert torch.equal(fast(*given), fast(*given))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_a_dropout_keeps_its_share_and_the_mean(share):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mask = kept((1000, 401), share, torch.device("cpu"))
    assert abs(float(mask.float().mean()) - (1 - share)) < 0.003
    assert boost(share) * (1 - share) == pytest.approx(1.0, abs=1e-3)


def test_a_copy_keeps_weights_of_its_own():
    fast, given = FastTFT.of(network_of(CASE).eval()), inputs_of(CASE)
    with torch.no_grad():
        before = fast(*given)
        other = copy.deepcopy(fast)
        for weight in other.parameters():
            weight.add_(1.0)
        assert torch.equal(fast(*given), before)
        other.load_state_dict(fast.state_dict())
        assert torch.equal(other(*given), before)


def test_weights_that_do_not_fit_are_named():
    fast, state = FastTFT.of(network_of(CASE)), network_of(CASE).state_dict()
    name = "lstm_encoder.weight_ih_l0"
    with pytest.raises(ValueError, match=r"1 weights are missing or spare, first 'lstm_encoder"):
        fast.load_state_dict({key: value for key, value in state.items() if key != name})
    with pytest.raises(ValueError, match=rf"{name} is \(0,\)"):
        fast.load_state_dict({**state, name: EMPTY})
    shared = "post_lstm_gate_decoder.fc.bias"
    with pytest.raises(ValueError, match="which it shares"):
        fast.load_state_dict({**state, shared: state[shared] + 1})


def test_a_network_it_does_not_compute_is_refused():
    network = network_of(CASE)
    network.hparams["causal_attention"] = False
    with pytest.raises(ValueError, match="causal"):
        Shape.of(network)
    network = network_of(CASE)
    network.hparams["share_single_variable_networks"] = True
    with pytest.raises(ValueError, match="share_single_variable_networks"):
        FastTFT.of(network)


def test_inputs_of_different_numbers_of_windows_are_refused():
    encoder, decoder, categories = inputs_of(CASE)
    with pytest.raises(ValueError, match="number of windows"):
        FastTFT.of(network_of(CASE))(encoder, decoder[:1], categories)


def test_no_window_gives_no_forecast():
    none = [part[:0] for part in inputs_of(CASE)]
    found = FastTFT.of(network_of(CASE))(*none)
    assert found.shape == (0, CASE.horizon, CASE.targets, CASE.levels)


def test_half_precision_changes_little_and_its_gradients_are_in_full():
    fast = FastTFT.of(network_of(replace(CASE, layers=2, heads=2, windows=32)))
    given = inputs_of(replace(CASE, windows=32))
    found, gradients = [], []
    for halved in (False, True):
        fast.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=halved):
            out = fast(*given)
        out.float().square().sum().backward()
        found.append(out.detach().float())
        gradients.append(torch.cat([weight.grad.flatten() for weight in fast.parameters()]))
    assert 0 < (found[1] - found[0]).abs().max() <= 0.03 * found[0].abs().max()
    assert gradients[1].dtype == torch.float32
    assert (gradients[1] - gradients[0]).norm() <= 0.03 * gradients[0].norm()
