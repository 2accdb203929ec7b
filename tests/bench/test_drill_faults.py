"""The drill's bad updates are as bad as they were ordered, and artifacts like any other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.drill_faults import Order, loss_of, made
from forecast.artifact import pack, unpack
from forecast.errors import ArtifactError
from forecast.model import Model, build
from tests.train.windows_scene import model, spec, windows
from train.jobs import UpdateJob

JOB = UpdateJob("update-10050", slot=10_050, seed=3, parent=1)


def champion(of=None):
    return pack(
        of or model(),
        fingerprint="f" * 64,
        lineage={"slot": 9_000},
        metrics={},
        probe=windows(2),
        created_at="2026-01-01T00:00:00+00:00",
    )


def unpacked(artifact):
    return unpack(artifact, fingerprint=None, precision=None)


def two_roles():
    """A network that knows two roles, and windows half of which are of each."""
    window = replace(spec().window, roles=("", "cache", "web"))
    both = replace(spec(), window=window)
    given = windows()
    roles = tuple("cache" if at % 2 else "web" for at in range(len(given)))
    values = given.values.copy()
    values[1::2] *= 0.5
    return Model(both, build(both, seed=0)), replace(given, roles=roles, values=values)


def of_role(given, role):
    return given.select([at for at, name in enumerate(given.roles) if name == role])


@pytest.mark.parametrize("share", [0.01, 0.1])
def test_a_worse_update_loses_as_much_more_as_was_ordered(share):
    given = windows()
    challenger = made(Order("worse", share=share), JOB, champion(), given).artifact
    found = loss_of(unpacked(challenger), given) / loss_of(model(), given) - 1
    assert found == pytest.approx(share, rel=0.5)


def test_one_role_is_ruined_and_the_other_is_not():
    parent, given = two_roles()
    challenger = unpacked(made(Order("role", role="cache"), JOB, champion(parent), given).artifact)
    changes = {
        role: loss_of(challenger, of_role(given, role)) / loss_of(parent, of_role(given, role)) - 1
        for role in ("cache", "web")
    }
    assert changes["cache"] > 1
    assert changes["web"] < 0.05


def test_a_poisoned_update_fits_its_checksum_and_is_found_by_its_weights():
    artifact = made(Order("nan"), JOB, champion(), windows()).artifact
    with pytest.raises(ArtifactError, match="1 weights are not finite"):
        unpacked(artifact)


def test_the_same_again_is_the_parent_with_a_lineage_of_its_own():
    given = windows()
    artifact = made(Order("same"), JOB, champion(), given).artifact
    assert np.array_equal(unpacked(artifact).predict(given), model().predict(given))
    assert artifact.manifest["lineage"]["parent"] == 1
    assert artifact.manifest["lineage"]["update_id"] == JOB.update_id


def test_the_same_order_gives_the_same_bytes():
    orders = [made(Order("worse", share=0.05), JOB, champion(), windows()) for _ in range(2)]
    assert orders[0].artifact.weights == orders[1].artifact.weights
