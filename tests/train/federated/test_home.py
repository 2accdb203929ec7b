"""A site's form of a global version as an artifact: what it says of itself, and that it serves."""

from __future__ import annotations

import numpy as np

from forecast.artifact import unpack
from tests.train.federated.site_scene import AS_OF, SCHEMA, fresh, site
from train.federated.home import artifact_of

ORIGIN = {"site": "north", "version": 3, "round": 7, "sites": ["a", "north"], "form": "personal"}


def test_it_is_a_version_of_this_schema_whose_lineage_names_rounds_and_sites():
    one = site()
    one.take(fresh(0, version=3))
    assert one.adapt(AS_OF, seed=1)
    windows = one.windows(AS_OF, count=8, seed=1)
    given = {"schema": SCHEMA, "slot": AS_OF, "since": AS_OF - 500, "seed": 1, "origin": ORIGIN}
    model = one.members()["personal"]
    made = artifact_of(model, windows, **given)
    assert made == artifact_of(model, windows, **given)
    lineage = made.manifest["lineage"]
    assert (lineage["kind"], lineage["parent"], lineage["slot"]) == ("federated", None, AS_OF)
    assert lineage["federated"] == ORIGIN
    assert lineage["trained_from_slot"] == AS_OF - 500
    assert lineage["trained_to_slot"] == int(windows.origin.max()) + windows.horizon < AS_OF
    loaded = unpack(made, fingerprint=SCHEMA.fingerprint(), precision=None)
    holdout = one.held_out(AS_OF)
    assert np.allclose(one.predict(loaded, holdout), one.predict(model, holdout), atol=1e-4)
    assert not np.allclose(
        one.predict(loaded, holdout), one.predict(one.members()["global"], holdout)
    )
