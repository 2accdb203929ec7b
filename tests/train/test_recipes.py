"""What an update moves, how fast, and what holds it back: each setting shows in the challenger."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from forecast.model import Model, build, pinball
from forecast.windows import transform
from tests.train.windows_scene import model, spec, windows, without_labels
from train.checkpoint import UpdateCheckpoint
from train.learner import Learner
from train.passes import Saving
from train.recipes import Recipe

PARTS = ("full", "last_layers", "adapter")
LAST = ("pre_output_gate_norm.", "output_layer.")
HELD = {"ewc_weight": 3.0, "distillation_weight": 0.5}


def learner(**changes) -> Learner:
    settings = {
        "learning_rate": 0.02,
        "epochs": 2,
        "batch_size": 16,
        "gradient_clip": 1.0,
        "threads": 1,
    }
    return Learner.of({**settings, **changes})


def sober(seed: int = 0) -> Model:
    """A model whose network drops nothing."""
    calm = replace(spec(), dropout=0.0)
    return Model(calm, build(calm, seed=seed))


def distance(one: Model, other: Model) -> float:
    """Between all weights, an adapter's included; a missing one is 0."""
    left, right = one.weights(), other.weights()
    names = left.keys() | right.keys()
    return sum(
        float((left.get(name, torch.zeros(())) - right.get(name, torch.zeros(()))).square().sum())
        for name in names
    )


def bits(some: Model) -> dict[str, bytes]:
    return {name: each.numpy().tobytes() for name, each in some.weights().items()}


@pytest.mark.parametrize("part", PARTS)
def test_each_part_learns_and_moves_nothing_else(part):
    champion, raw = model(), windows()
    made = learner(moving=part, epochs=4).update(champion, raw, seed=1)
    report = made.report
    assert report.loss_after < 0.97 * report.loss_before
    assert report.moving == part
    before, after = champion.weights(), made.model.weights()
    moved = {n for n in after if n not in before or not torch.equal(before[n], after[n])}
    wanted = {
        "full": set(after),
        "last_layers": {name for name in after if name.startswith(LAST)},
        "adapter": {"adapter.weight"},
    }[part]
    assert moved <= wanted
    assert len(moved) > 0.5 * len(wanted)
    if part != "full":
        assert report.moved_weights == sum(after[name].numel() for name in wanted)
    assert (part == "adapter") == (made.model.adapter is not None)


@pytest.mark.parametrize("part", PARTS)
def test_what_an_adapter_learned_stays_when_another_part_moves(part):
    first = learner(moving="adapter").update(model(), windows(), seed=1).model
    kept = first.adapter.weight.detach().clone()
    made = learner(moving=part).update(first, windows(seed=5), seed=2)
    assert torch.equal(first.adapter.weight, kept)
    assert torch.equal(made.model.adapter.weight, kept) == (part == "last_layers")
    assert made.report.loss_after < made.report.loss_before


@pytest.mark.parametrize("part", PARTS)
def test_small_batches_add_up_to_the_large_one(part):
    # Springs are measured on batches of this size, so they would differ.
    settings = {"moving": part, "distillation_weight": 0.5, "gradient_clip": 100.0, "epochs": 1}
    whole = learner(**settings).update(sober(), windows(24), seed=1)
    parts = learner(**settings, micro_batch_size=6).update(sober(), windows(24), seed=1)
    assert parts.report.steps == whole.report.steps
    assert 0 < distance(whole.model, parts.model) < 1e-6 * distance(whole.model, sober())
    assert parts.report.losses == pytest.approx(whole.report.losses, rel=1e-4)


@pytest.mark.parametrize("part", PARTS)
def test_springs_hold_the_weights_and_a_teacher_the_forecasts(part):
    champion, raw = model(), windows()
    found = transform(raw, spec().window)
    free = learner(moving=part, epochs=4).update(champion, raw, seed=1)
    held = learner(moving=part, epochs=4, ewc_weight=300.0).update(champion, raw, seed=1)
    taught = learner(moving=part, epochs=4, distillation_weight=3.0).update(champion, raw, seed=1)
    assert distance(held.model, champion) < 0.8 * distance(free.model, champion)
    apart = [
        np.square(some.model.scaled(found) - champion.scaled(found)).mean()
        for some in (taught, free)
    ]
    assert apart[0] < 0.8 * apart[1]
    assert set(free.report.losses) == {"pinball"}
    assert set(held.report.losses) == {"pinball", "ewc"}
    assert set(taught.report.losses) == {"pinball", "distillation"}


def test_penalties_come_from_the_windows_of_the_past_alone():
    raw, champion = windows(), model()
    past = np.arange(48) < 24
    for settings in ({"ewc_weight": 300.0}, {"distillation_weight": 3.0}):
        of = learner(moving="adapter", **settings)
        everything = of.update(champion, raw, seed=1)
        half = of.update(champion, raw, seed=1, replayed=past)
        nothing = of.update(champion, raw, seed=1, replayed=~past & past)
        free = learner(moving="adapter").update(champion, raw, seed=1)
        assert bits(half.model) != bits(everything.model)
        assert bits(nothing.model) == bits(free.model)


def test_after_a_drift_the_rate_changes_and_the_old_model_teaches_no_more():
    champion, raw = model(), windows()
    quick = learner(moving="adapter", drift_rate_factor=3.0, distillation_weight=3.0)
    usual = quick.update(champion, raw, seed=1)
    after = quick.update(champion, raw, seed=1, drifted=True)
    assert (usual.report.learning_rate, usual.report.drifted) == (0.02, False)
    assert after.report.learning_rate == pytest.approx(0.06)
    assert after.report.drifted
    assert set(after.report.losses) == {"pinball"}
    assert distance(after.model, champion) > 2 * distance(usual.model, champion)
    slow = learner(moving="adapter", drift_rate_factor=0.25)
    plain, damped = (slow.update(champion, raw, seed=1, drifted=d).model for d in (False, True))
    assert distance(damped, champion) < 0.25 * distance(plain, champion)


def test_a_rate_that_falls_and_starts_again_moves_less():
    champion, raw = model(), windows()
    constant = learner(moving="adapter").update(champion, raw, seed=1)
    falling = learner(moving="adapter", warm_restart_steps=3).update(champion, raw, seed=1)
    assert falling.report.lowest_learning_rate == pytest.approx(0.02 * 0.25)
    assert constant.report.lowest_learning_rate == 0.02
    assert distance(falling.model, champion) < distance(constant.model, champion)


@pytest.mark.parametrize(("part", "at"), [("full", 1), ("last_layers", 2), ("adapter", 3)])
def test_a_resumed_update_is_bitwise_the_uninterrupted_one(part, at):
    settings = {**HELD, "moving": part, "warm_restart_steps": 3, "micro_batch_size": 9}
    of, raw, champion = learner(**settings), windows(24), model()
    kept: list[bytes] = []
    saving = Saving(keep=lambda checkpoint: kept.append(checkpoint.to_bytes()))
    whole = of.update(champion, raw, seed=4, saving=saving)
    assert len(kept) == whole.report.steps == 4
    seen: list[int] = []
    again = Saving(
        keep=lambda checkpoint: seen.append(checkpoint.step),
        resume=UpdateCheckpoint.from_bytes(kept[at - 1]),
    )
    resumed = of.update(champion, raw, seed=4, saving=again)
    assert seen == list(range(at + 1, 5))
    assert bits(resumed.model) == bits(whole.model)
    assert resumed.report == whole.report


def test_the_checkpoint_of_another_update_is_left_alone():
    kept: list[UpdateCheckpoint] = []
    champion, raw, of = model(), windows(24), learner(moving="adapter")
    of.update(champion, raw, seed=4, saving=Saving(every=3, keep=kept.append))
    assert [checkpoint.step for checkpoint in kept] == [3]
    begun = Saving(resume=kept[0])
    for other, start, given in [
        (learner(moving="adapter", ewc_weight=1.0), champion, raw),
        (of, model(seed=1), raw),
        (of, champion, windows(24, seed=1)),
    ]:
        alone = other.update(start, given, seed=4)
        assert bits(other.update(start, given, seed=4, saving=begun).model) == bits(alone.model)


def test_what_the_champion_lost_on_each_window_comes_with_the_update():
    champion = model()
    raw = windows()
    values = raw.values.copy()
    values[3, -1, 0] = np.nan
    values[5] = without_labels(raw).values[5]
    raw = replace(raw, values=values)
    made = learner(moving="adapter").update(champion, raw, seed=1)
    found = transform(raw, spec().window)
    scaled, target = champion.scaled(found), torch.from_numpy(found.target)
    wanted = [
        float(pinball(torch.from_numpy(scaled[[n]]), target[[n]], spec().quantiles))
        for n in range(48)
    ]
    assert made.window_losses.dtype == np.float32
    assert np.isnan(made.window_losses[5])
    wanted[5] = np.nan
    np.testing.assert_allclose(made.window_losses, wanted, rtol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"micro_batch_size": -1},
        {"warm_restart_steps": -1},
        {"ewc_weight": -0.1},
        {"drift_rate_factor": 0.0},
        {"ewc_decay": 0.0},
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Recipe(learning_rate=0.1, epochs=1, batch_size=8, gradient_clip=1.0, **wrong)
