"""The fast network in the whole loop decides and forecasts what the defining network does."""

from __future__ import annotations

import threading

import numpy as np
import torch

from actors.local import LocalFleet
from forecast.artifact import unpack
from forecast.definition import define
from forecast.fast.exact import FastTFT
from forecast.fast.serving import ServingTFT
from forecast.fast.weights import to_state
from forecast.model import Model, ModelSpec
from forecast.windows import RawWindows, transform
from tests.actors.scenario import blocks, small_config, small_replay
from tests.forecast.fast.fast_scene import oracle

REPLAY = small_replay()
SLOTS = 140


class _Defined:
    """Computes with pytorch-forecasting's own forward pass, on the fast network's weights."""

    def __init__(self) -> None:
        self.calls = 0
        self._turn = threading.Lock()
        """A call puts its weights into the one network; trainer and controller are two threads."""
        self._networks: dict[object, torch.nn.Module] = {}

    def forward(self, fast: FastTFT, *given: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        network = self._networks[fast.shape]

        class Bound:
            n_targets = fast.shape.targets

            def __call__(self, inputs):
                weights = to_state(fast.groups, dict(fast.weights.items()))
                return torch.func.functional_call(network, weights, inputs, tie_weights=False)

        with self._turn:
            network.train(fast.training)
            return oracle(Bound(), *given)

    def learn_of(self, spec: ModelSpec, fast: FastTFT) -> None:
        self._networks.setdefault(fast.shape, define(spec, seed=0))


async def played(folder) -> tuple[list[tuple[str, str]], Model, RawWindows, int | None]:
    """Decisions, champion, the windows of the last slot and the version that forecast it."""
    config = small_config(folder, REPLAY)
    sizes = {"hidden_size": 8, "hidden_continuous_size": 8, "dropout": 0.0}
    config = config.model_copy(update={"model": config.model.model_copy(update=sizes)})
    fleet = LocalFleet(config, now=lambda: 0.0)
    for request_id, block in blocks(REPLAY, slots=SLOTS):
        await fleet.append(request_id, block)
    updates = await fleet.registry.updates.remote(100, None)
    snapshot = await fleet.ledger.latest.remote()
    champion = await fleet.registry.load.remote(snapshot.version)
    await fleet.close()
    decisions = [(update.update_id, update.verdict) for update in updates]
    return decisions, unpack(champion, fingerprint=None), snapshot.raw, snapshot.version


async def test_five_updates_on_either_network_end_in_the_same_verdicts_and_forecasts(
    tmp_path, monkeypatch
):
    fast_decisions, fast, raw, fast_version = await played(tmp_path / "fast")
    assert isinstance(fast.engine, ServingTFT)
    found = fast.scaled(transform(raw, fast.spec.window))

    defined = _Defined()
    defined.learn_of(fast.spec, fast.network)
    monkeypatch.setattr(FastTFT, "forward", lambda fast, *given: defined.forward(fast, *given))
    monkeypatch.setattr(ServingTFT, "__call__", lambda serving, *given: serving.exact(*given))
    decisions, champion, _, version = await played(tmp_path / "defined")

    assert len(decisions) >= 6  # a base and five updates
    assert decisions == fast_decisions
    assert version == fast_version
    wanted = champion.scaled(transform(raw, champion.spec.window))
    assert defined.calls > 100
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
