"""Checkpoints: one safetensors file, back as it was, damage refused."""

from __future__ import annotations

import pytest
import torch

from forecast.errors import StateError
from train.checkpoint import Checkpoint, Progress


def checkpoint() -> Checkpoint:
    return Checkpoint(
        progress=Progress(
            of="job",
            step=4,
            best_step=2,
            looks=(0.1, 0.30000000000000004),
            train_loss=0.2,
            waited=1,
            best_loss=0.1,
            ended=False,
            learning_rate=1e-3,
            betas=(0.85, 0.999),
            passes=2,
        ),
        network={"a/b.weight": torch.arange(6.0).reshape(2, 3).t()},
        best={"a/b.weight": torch.zeros(3, 2)},
        moments={"0.step": torch.tensor(4.0), "0.exp_avg": torch.ones(3, 2)},
        rest=torch.tensor([3, 1, 2]),
        generator=torch.get_rng_state(),
    )


def test_it_comes_back_bit_by_bit():
    before = checkpoint()
    after = Checkpoint.from_bytes(before.to_bytes())
    assert after.progress == before.progress
    for part in ("network", "best", "moments"):
        left, right = getattr(before, part), getattr(after, part)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)
    assert torch.equal(after.rest, before.rest)
    assert torch.equal(after.generator, before.generator)


@pytest.mark.parametrize(
    "harm", [lambda d: d[:40], lambda d: b"", lambda d: d[:-3], lambda d: b"x" * 99]
)
def test_a_damaged_one_is_refused(harm):
    with pytest.raises(StateError, match="checkpoint: damaged"):
        Checkpoint.from_bytes(harm(checkpoint().to_bytes()))


def test_an_unknown_format_is_refused():
    data = checkpoint().to_bytes().replace(rb"\"format\": 2", rb"\"format\": 9")
    with pytest.raises(StateError, match="format 9 is unknown"):
        Checkpoint.from_bytes(data)
