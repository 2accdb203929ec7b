"""A site learns at home: what leaves it is the shared delta, and what stays is its own."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from forecast.errors import NothingNew, StateError
from forecast.model import Model, build
from tests.train.federated.site_scene import AS_OF, SHARED, Windows, fresh, site, untrained
from tests.train.windows_scene import spec
from train.federated.aggregator import Aggregator
from train.federated.frame import GlobalModel
from train.federated.partition import DEFAULT_RULES
from train.federated.settings import AggregatorSettings
from train.federated.update import Verdict


@cache
def trained() -> GlobalModel:
    """A global model after some updates of a site, which lower the loss."""
    one, vector = site(), fresh().vector
    for turn in range(8):
        one.take(GlobalModel(turn, vector.copy()))
        vector = vector + one.learn(AS_OF - 8 + turn, seed=turn)[1]
    return GlobalModel(8, vector)


def loss_of(one, model) -> float:
    """Mean absolute error of the median on the site's held-out windows."""
    raw = one.held_out(AS_OF)
    found = one.predict(model, raw)[..., 1]
    return float(np.nanmean(np.abs(found - raw.values[:, raw.context :])))


def test_an_update_is_a_delta_of_the_shared_parts_from_the_version_that_was_taken():
    one, start = site(), fresh(version=7)
    one.take(start)
    meta, delta = one.learn(AS_OF, seed=1)
    layout = one.frame.layout
    assert (meta.site, meta.sequence, meta.base_version) == ("a", AS_OF, 7)
    assert (meta.samples, meta.schema_hash) == (48, layout.schema_hash)
    assert delta.shape == (layout.size,)
    assert delta.dtype == np.float32
    assert np.isfinite(delta).all()
    assert delta.any()


def test_the_same_slot_again_gives_the_same_update_whatever_came_between():
    one = site()
    one.take(fresh())
    meta, delta = one.learn(AS_OF, seed=1)
    one.learn(AS_OF + 1, seed=2)
    again = one.learn(AS_OF, seed=1)
    assert again[0] == meta
    np.testing.assert_array_equal(again[1], delta)


def test_a_site_of_some_servers_asks_for_theirs_alone():
    source = Windows()
    one = site(source=source, servers=("vm-1", "vm-2"))
    one.take(fresh())
    one.learn(AS_OF, seed=1)
    assert source.asked == [{"as_of": AS_OF, "count": 48, "only": ("vm-1", "vm-2")}]


def test_a_round_may_lower_the_rate_and_the_delta_with_it():
    one = site()
    one.take(fresh())
    _, full = one.learn(AS_OF, seed=1)
    _, slow = one.learn(AS_OF, seed=1, rate=0.1)
    assert np.linalg.norm(slow) < 0.5 * np.linalg.norm(full)


def test_nothing_private_is_in_what_leaves_the_site():
    one = site(rules=DEFAULT_RULES)
    one.take(fresh(rules=DEFAULT_RULES))
    _, delta = one.learn(AS_OF, seed=1)
    state = untrained(0)
    shared = sum(piece.stop - piece.start for piece in one.frame.layout.pieces)
    hidden = sum(state[name].numel() for name in one.frame.layout.private_names)
    assert delta.size == shared
    assert shared + hidden == sum(each.numel() for each in state.values())
    wire = delta.tobytes()
    private = one._private["output_layer.0.weight"]
    assert private.any()
    assert private.tobytes() not in wire
    moved = private - state["output_layer.0.weight"].numpy()
    assert moved.any()  # it learned, and stayed
    assert moved.tobytes() not in wire


def test_sites_of_a_process_hold_one_global_vector():
    shared = fresh()
    many = [site(f"vm-{number}") for number in range(5)]
    for one in many:
        one.take(shared)
    assert all(one.base is shared and one.serving is shared for one in many)
    assert not shared.vector.flags.writeable


def test_the_correction_is_the_sites_own_and_lowers_its_loss():
    shared, one, other = trained(), site(), site("b", seed=5)
    one.take(shared)
    other.take(shared)
    kept = one.adapt(AS_OF, seed=3)
    members = one.members()
    assert kept
    assert members["personal"].adapter is not None
    assert members["global"].adapter is None
    assert loss_of(one, members["personal"]) < loss_of(one, members["global"])
    assert other.members()["personal"].adapter is None


def test_a_correction_that_is_worse_on_newer_windows_is_not_kept():
    class Turned(Windows):
        """What is held out goes another way than what is learned."""

        def holdout(self, **asked):
            raw = super().holdout(**asked)
            raw.values[:, raw.context :] = raw.values[:, raw.context :] * 0.2
            return raw

        def draw(self, **asked):
            raw = super().draw(**asked)
            raw.values[:, raw.context :] = raw.values[:, raw.context :] * 3
            return raw

    one = site(source=Turned())
    one.take(trained())
    assert not one.adapt(AS_OF, seed=3)
    assert one.members()["personal"].adapter is None


def test_a_correction_of_another_version_is_left_aside():
    one, shared = site(), trained()
    one.take(shared)
    one.adapt(AS_OF, seed=3)
    one.take(GlobalModel(9, shared.vector.copy()))
    assert one.members()["personal"].adapter is None


def test_the_local_model_is_a_member_where_there_is_one():
    own = Model(spec(), build(spec(), seed=9))
    one = site(local=own)
    one.take(fresh())
    assert list(one.members()) == ["global", "personal", "local"]
    assert list(one.members().values())[2] is own
    bare = site()
    bare.take(fresh())
    assert list(bare.members()) == ["global", "personal"]


def test_a_score_tells_a_better_candidate_from_a_worse_one():
    one, better = site(), trained()
    one.take(fresh())
    up = one.score(better, AS_OF, seed=1)
    assert (up.site, up.version, up.finite) == ("a", 8, True)
    assert up.change < 0
    assert up.samples > 0
    one.take(better)
    worse = one.score(fresh(version=9), AS_OF, seed=1)
    assert worse.change > 0


def test_a_candidate_with_nan_is_scored_as_not_finite_and_never_taken():
    one = site()
    one.take(fresh())
    broken = GlobalModel(3, np.full(one.frame.layout.size, np.nan, np.float32))
    assert not one.score(broken, AS_OF, seed=1).finite
    with pytest.raises(ValueError, match="version 3 is not finite"):
        one.take(broken)
    with pytest.raises(ValueError, match=r"version 4 is float32 \(2,\)"):
        one.take(GlobalModel(4, np.zeros(2, np.float32)))


def test_a_site_that_keeps_its_previous_global_still_learns_from_the_accepted_one():
    one, old, new = site(), fresh(), fresh(seed=1, version=1)
    one.take(old)
    one.take(new, keep_previous=True)
    assert one.serving is old
    assert one.base is new
    assert one.learn(AS_OF, seed=1)[0].base_version == 1


def test_a_new_site_answers_as_the_global_model_before_it_learned_anything():
    shared, newcomer = trained(), site("new", source=Windows(empty=True))
    newcomer.take(shared)
    reference = site()
    reference.take(shared)
    raw = reference.held_out(AS_OF)
    found = newcomer.predict(newcomer.members()["personal"], raw)
    expected = reference.predict(reference.members()["global"], raw)
    np.testing.assert_array_equal(found, expected)


def test_a_site_without_a_window_or_without_a_model_says_so():
    empty = site(source=Windows(empty=True))
    with pytest.raises(StateError, match="site a has no global model yet"):
        empty.learn(AS_OF, seed=1)
    empty.take(fresh())
    with pytest.raises(NothingNew, match="site a: no training windows at slot 11000"):
        empty.learn(AS_OF, seed=1)


def test_what_is_a_sites_own_does_not_move_the_whole_network():
    with pytest.raises(ValueError, match="moves in part"):
        site(own=SHARED)


def test_a_restored_site_goes_on_bitwise():
    one, shared = site(rules=DEFAULT_RULES), fresh(rules=DEFAULT_RULES)
    one.take(shared)
    one.learn(AS_OF, seed=1)
    one.adapt(AS_OF, seed=2)
    again = site(rules=DEFAULT_RULES)
    again.restore(one.pack())
    assert again.base is again.serving
    raw = one.held_out(AS_OF)
    for name, model in one.members().items():
        found = again.predict(again.members()[name], raw)
        np.testing.assert_array_equal(found, one.predict(model, raw))
    (meta, delta), (expected, wanted) = again.learn(AS_OF + 1, seed=3), one.learn(AS_OF + 1, seed=3)
    assert meta == expected
    np.testing.assert_array_equal(delta, wanted)


def test_the_state_of_another_site_is_refused_by_name():
    one = site("a")
    one.take(fresh())
    with pytest.raises(StateError, match=r"'a'.*need.*'b'"):
        site("b").restore(one.pack())


def test_the_proximal_penalty_holds_a_site_near_the_global_weights():
    norms = []
    for weight in (0.0, 100.0):
        near = SHARED.__class__(
            learning_rate=0.01,
            epochs=4,
            batch_size=16,
            gradient_clip=1.0,
            proximal_weight=weight,
        )
        one = site(shared=near)
        one.take(fresh())
        norms.append(float(np.linalg.norm(one.learn(AS_OF, seed=1)[1])))
    assert norms[1] < norms[0]


def test_a_round_through_the_aggregator_lowers_the_loss():
    sites = [site(name, seed) for seed, name in enumerate("abc")]
    layout = sites[0].frame.layout
    settings = AggregatorSettings(updates=3, quorum=2)
    centre = Aggregator(layout, fresh().vector.copy(), settings=settings)
    sites[0].take(fresh())
    before = loss_of(sites[0], sites[0].members()["global"])
    for turn in range(6):
        start = GlobalModel(centre.version, centre.shared())
        for one in sites:
            one.take(start)
            receipt = centre.offer(*one.learn(AS_OF + turn, seed=turn))
            assert receipt.verdict is Verdict.ACCEPTED
        centre.maybe_step(float(turn))
    end = GlobalModel(centre.version, centre.shared())
    assert end.version == 6
    sites[0].take(end)
    assert loss_of(sites[0], sites[0].members()["global"]) < before


def test_a_vector_whose_copies_of_a_tensor_differ_is_composed_all_the_same():
    one = site()
    layout, vector = one.frame.layout, fresh().vector.copy()
    name = "static_variable_selection.prescalers.static_scale_cpu_usage_ratio.weight"
    [copy] = [piece for piece in layout.pieces if piece.name == name]
    vector[copy.start : copy.stop] += 1
    one.take(GlobalModel(1, vector))
    raw = one.held_out(AS_OF)
    plain = site()
    plain.take(fresh(version=1))
    assert (
        one.predict(one.members()["global"], raw) == plain.predict(plain.members()["global"], raw)
    ).all()
