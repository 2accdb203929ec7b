"""Sites of a process hold one vector of each version, and never one of another history."""

from __future__ import annotations

import gc

import numpy as np

from actors.site_models import SiteModels
from train.federated.frame import GlobalModel


def vector(value: float) -> np.ndarray:
    return np.full(4, value, np.float32)


def refused():
    raise AssertionError("fetched again")


def test_a_version_is_fetched_once_while_it_is_in_use_or_the_last_one():
    models = SiteModels()
    held = models.get(1, "a", lambda: vector(1))
    candidate = models.get(2, "b", lambda: vector(2))
    assert models.get(1, "a", refused) is held
    assert models.get(2, "b", refused) is candidate
    del candidate
    gc.collect()
    assert models.get(2, "b", refused).vector[0] == 2
    models.get(3, "c", lambda: vector(3))
    gc.collect()
    assert models.get(2, "b", lambda: vector(7)).vector[0] == 7  # nobody held on to it
    assert models.get(1, "a", refused) is held


def test_a_number_that_is_given_again_names_another_vector():
    models = SiteModels()
    before = models.get(5, "a", lambda: vector(1))
    after = models.get(5, "b", lambda: vector(2))
    assert (before.vector[0], after.vector[0]) == (1, 2)


def test_an_aggregator_that_tells_no_digest_and_goes_back_is_fetched_from_anew_once():
    models = SiteModels()
    models.told(5)
    old = models.get(2, "", lambda: vector(1))
    models.told(2)
    new = models.get(2, "", lambda: vector(2))
    models.told(2)
    assert models.get(2, "", refused) is new is not old


def test_what_sites_had_on_disk_is_one_vector_where_its_bytes_are():
    models = SiteModels()
    one = models.same(GlobalModel(3, vector(np.nan)), "a")
    assert models.same(GlobalModel(3, vector(np.nan)), "a") is one
    assert models.same(GlobalModel(3, vector(1)), "") is not one
    assert models.same(GlobalModel(4, vector(np.nan)), "") is not one
    assert models.get(3, "a", refused) is one
