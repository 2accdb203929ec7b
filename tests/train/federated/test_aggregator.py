"""Offers in, rounds, and one global model out; known defects of other systems are tests here."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.train.federated.scene import ALL_GLOBAL, LAYOUT, PLAIN, aggregator, delta, meta, offer
from train.federated.aggregator import Aggregator
from train.federated.settings import AggregatorSettings
from train.federated.state import save
from train.federated.update import Verdict

HUGE = st.floats(-1e3, 1e3, width=32)
UPDATES = st.lists(
    st.tuples(st.integers(1, 50), st.lists(HUGE, min_size=6, max_size=6), st.sampled_from("wd")),
    min_size=1,
    max_size=8,
)


def run(updates, *, order=None, layout=LAYOUT, **given) -> Aggregator:
    """One round of these updates (samples, delta, role), each of a site of its own."""
    one = aggregator(
        layout=layout, start=np.zeros(6, np.float32), updates=len(updates), **{**PLAIN, **given}
    )
    for place in order or range(len(updates)):
        samples, values, role = updates[place]
        receipt = offer(one, f"s{place}", np.array(values, np.float32), samples=samples, role=role)
        assert receipt.counted, receipt
    assert one.maybe_step(0.0) is not None
    return one


def ulps(one: np.ndarray, other: np.ndarray) -> float:
    """The largest distance in units of float32's last place."""
    return float((np.abs(one - other) / np.spacing(np.maximum(np.abs(one), np.abs(other)))).max())


def test_a_round_adds_the_mean_weighed_by_samples_to_the_global_part():
    one = aggregator(**PLAIN)
    offer(one, "a", delta(1), samples=1, role="web")
    assert one.maybe_step(0.0) is None
    offer(one, "b", delta(5), samples=3, role="web")
    report = one.maybe_step(1.0)
    assert report is not None
    assert (report.outcome, report.version, report.sites) == ("stepped", 1, ("a", "b"))
    assert (report.updates, report.samples, report.round) == (2, 4, 0)
    assert one.shared("web").tolist() == [4, 5, 6, 7, 14, 24]


def test_a_role_part_is_merged_with_that_role_alone():
    one = aggregator(**PLAIN)
    offer(one, "a", delta(1), samples=1, role="web")
    offer(one, "b", delta(5), samples=3, role="db")
    one.maybe_step(0.0)
    assert one.shared("web").tolist() == [4, 5, 6, 7, 11, 21]
    assert one.shared("db").tolist() == [4, 5, 6, 7, 15, 25]
    assert one.shared("mail").tolist() == [4, 5, 6, 7, 10, 20]


@given(UPDATES)
def test_all_global_is_the_federated_average_of_float64(updates):
    moved = run(updates, layout=ALL_GLOBAL).shared()
    weights = [samples for samples, _, _ in updates]
    values = np.array([values for _, values, _ in updates], np.float32).astype(np.float64)
    wanted = np.average(values, axis=0, weights=weights).astype(np.float32)
    scale = np.abs(values).max(initial=0)
    assert np.abs(moved - wanted).max() <= np.spacing(np.float32(max(scale, 1e-30)))


@given(UPDATES, st.randoms(use_true_random=False))
def test_the_order_of_arrival_changes_at_most_the_last_bit(updates, random):
    order = list(range(len(updates)))
    random.shuffle(order)
    one, other = run(updates), run(updates, order=order)
    assert all(ulps(one.shared(role), other.shared(role)) <= 1 for role in "wd")


@given(UPDATES, st.integers(1, 3), st.sampled_from(["mean", "median"]))
def test_a_tree_gives_what_one_aggregator_gives(updates, leaves, rule):
    flat = run(updates, rule=rule)
    root = aggregator(start=np.zeros(6, np.float32), updates=len(updates), rule=rule, **PLAIN)
    made = []
    for place in range(leaves):
        leaf = Aggregator(
            LAYOUT,
            np.zeros(6, np.float32),
            settings=AggregatorSettings(rule=rule, **PLAIN),
            node=f"leaf-{place}",
        )
        for row, (samples, values, role) in list(enumerate(updates))[place::leaves]:
            told = {"samples": samples, "role": role}
            offer(leaf, f"s{row}", np.array(values, np.float32), **told)
        made.append(leaf)
    middle = Aggregator(
        LAYOUT, np.zeros(6, np.float32), settings=AggregatorSettings(rule=rule, **PLAIN), node="m"
    )
    for leaf in made[1:]:
        if (partial := leaf.partial()) is not None:
            middle.merge(partial)
    for node in (middle, made[0]):
        if (partial := node.partial()) is not None:
            assert root.merge(partial).verdict is Verdict.ACCEPTED
            assert root.merge(partial).verdict is Verdict.DUPLICATE
    report = root.maybe_step(0.0)
    assert report is not None
    assert report.updates == len(updates)
    assert report.sites == tuple(sorted(f"s{row}" for row in range(len(updates))))
    assert all(ulps(flat.shared(role), root.shared(role)) <= 1 for role in "wd")


@given(st.integers(1, 50), st.integers(1, 50), st.lists(HUGE, min_size=6, max_size=6))
def test_splitting_a_site_s_samples_in_two_changes_nothing(first, second, values):
    other = (3, [1.0] * 6, "w")
    whole = run([(first + second, values, "w"), other])
    split = run([(first, values, "w"), (second, values, "w"), other])
    assert ulps(whole.shared("w"), split.shared("w")) <= 1


@given(st.sampled_from(["mean", "median", "trimmed_mean"]), st.integers(5, 9))
def test_deltas_of_nothing_change_no_bit(rule, count):
    start = np.random.default_rng(count).normal(size=6).astype(np.float32)
    one = aggregator(start=start, updates=count, rule=rule)
    for place in range(count):
        assert offer(one, f"s{place}", delta(0)).verdict is Verdict.ACCEPTED
    assert one.maybe_step(0.0) is not None
    assert (one.shared() == start).all()


@given(st.sampled_from(["mean", "median", "trimmed_mean"]), st.lists(HUGE, min_size=6, max_size=6))
def test_equal_deltas_give_that_delta(rule, values):
    one = run([(place + 1, values, "w") for place in range(6)], rule=rule)
    wanted = np.array(values, np.float32)
    assert ulps(one.shared("w"), wanted) <= 1


def test_a_duplicate_changes_nothing_and_says_so():
    one, other = aggregator(updates=3), aggregator(updates=3)
    for each in (one, other):
        assert each.offer(meta("a"), delta(1)).verdict is Verdict.ACCEPTED
    again = one.offer(meta("a"), delta(7))
    assert (again.verdict, again.counted) == (Verdict.DUPLICATE, True)
    for each in (one, other):
        offer(each, "b", delta(1))
        offer(each, "c", delta(2))
        each.maybe_step(0.0)
    assert one.shared().tobytes() == other.shared().tobytes()


def test_after_its_round_an_update_is_still_a_duplicate():
    one = aggregator(updates=1)
    first = meta("a", 5)
    one.offer(first, delta(1))
    one.maybe_step(0.0)
    assert one.offer(first, delta(1)).verdict is Verdict.DUPLICATE


def test_a_stale_update_counts_less_and_is_divided_by_its_samples():
    one = aggregator(updates=1, **PLAIN)
    offer(one, "a", delta(0))
    one.maybe_step(0.0)
    late = one.offer(meta("b", base_version=0, samples=7), delta(1))
    assert (late.verdict, late.staleness) == (Verdict.ACCEPTED, 1)
    before = one.shared()
    one.maybe_step(1.0)
    assert (one.shared() - before)[:4] == pytest.approx([2**-0.5] * 4, rel=1e-6)


@given(st.integers(0, 4), st.floats(0, 2))
def test_what_is_more_stale_never_counts_more(staleness, power):
    moved = []
    for behind in (staleness, staleness + 1):
        one = aggregator(updates=1, staleness_power=power, most_staleness=6, **PLAIN)
        for round in range(behind):
            offer(one, f"before-{round}", delta(0))
            one.maybe_step(0.0)
        before = one.shared()
        one.offer(meta("late", base_version=0), delta(1))
        one.maybe_step(0.0)
        moved.append(float((one.shared() - before)[0]))
    assert 0 < moved[1] <= moved[0] <= 1


def test_what_is_too_stale_or_from_no_accepted_version_is_refused():
    one = aggregator(updates=1, most_staleness=1)
    for _ in range(2):
        offer(one, "a", delta(1))
        one.maybe_step(0.0)
    for version in (0, 3):
        receipt = one.offer(meta("b", base_version=version), delta(1))
        assert receipt.verdict is Verdict.STALE
        assert f"version {version} is none of the accepted [1, 2]" in receipt.reason
    assert receipt.version == 2


def test_without_a_quorum_a_round_is_held_and_goes_on():
    one = aggregator(updates=5, quorum=2)
    offer(one, "a", delta(1))
    assert one.maybe_step(0.0) is None
    held = one.maybe_step(60.0)
    assert held is not None
    assert (held.outcome, held.reason, held.version) == ("held", "1 of 2 sites", 0)
    assert one.maybe_step(61.0) is None
    offer(one, "b", delta(1))
    stepped = one.maybe_step(120.0)
    assert stepped is not None
    assert (stepped.outcome, stepped.updates, stepped.sites) == ("stepped", 2, ("a", "b"))


def test_one_site_alone_is_no_quorum_however_much_it_sends():
    one = aggregator(updates=2, quorum=2)
    for sequence in range(3):
        one.offer(meta("a", sequence), delta(1))
    assert one.maybe_step(0.0) is None


def test_a_site_cannot_fill_a_round():
    one = aggregator(updates=9, per_site=2)
    verdicts = [one.offer(meta("a", n), delta(1)).verdict for n in range(3)]
    assert verdicts == [Verdict.ACCEPTED, Verdict.ACCEPTED, Verdict.LIMITED]
    offer(one, "b", delta(1))
    one.maybe_step(0.0)
    one.maybe_step(60.0)
    assert one.offer(meta("a", 2, base_version=1), delta(1)).verdict is Verdict.ACCEPTED


def test_a_straggler_is_stale_and_not_lost():
    one = aggregator(updates=5, quorum=2)
    offer(one, "a", delta(1))
    offer(one, "b", delta(1))
    one.maybe_step(0.0)
    assert one.maybe_step(60.0) is not None
    receipt = one.offer(meta("c", base_version=0), delta(1))
    assert (receipt.verdict, receipt.staleness, receipt.round) == (Verdict.ACCEPTED, 1, 1)


def test_a_rejected_step_leaves_weights_and_moments_as_they_were():
    for optimizer in ("momentum", "adam", "yogi"):
        one = aggregator(updates=1, optimizer=optimizer, gated=True)
        offer(one, "a", delta(1, 2))
        one.maybe_step(0.0)
        one.accept_step()
        kept, moments = one.shared(), one.pools["global"].moments
        offer(one, "a", delta(-3, 5))
        one.maybe_step(0.0)
        found = one.candidate()
        assert found is not None
        assert found[0] == 2
        assert not (found[1] == kept).all()
        one.reject_step()
        assert (one.shared() == kept).all()
        assert one.pools["global"].moments is moments
        assert one.version == 1


def test_a_number_that_was_rejected_is_not_used_again_and_calls_can_be_repeated():
    one = aggregator(updates=1, gated=True)
    offer(one, "a", delta(1))
    one.maybe_step(0.0)
    one.reject_step(1)
    one.reject_step(1)
    with pytest.raises(ValueError, match="version 1 does not wait for a verdict"):
        one.accept_step(1)
    offer(one, "a", delta(1))
    report = one.maybe_step(0.0)
    assert report is not None
    assert (report.version, report.base_version) == (2, 0)
    one.accept_step(2)
    one.accept_step(2)
    assert one.version == 2
    with pytest.raises(ValueError, match="version 2 does not wait"):
        one.reject_step(2)
    with pytest.raises(ValueError, match="a step does not wait"):
        one.accept_step()


def test_while_a_step_waits_updates_are_collected_for_the_next():
    one = aggregator(updates=1, gated=True, **PLAIN)
    offer(one, "a", delta(1))
    one.maybe_step(0.0)
    offer(one, "b", delta(2))
    assert one.maybe_step(1.0) is None
    one.reject_step()
    report = one.maybe_step(2.0)
    assert report is not None
    assert report.sites == ("b",)
    found = one.candidate()
    assert found is not None
    assert (found[1] - one.shared()).tolist() == [2, 2, 2, 2, 2, 2]


def test_a_candidate_s_number_is_no_base_before_it_is_accepted():
    one = aggregator(updates=1, gated=True)
    offer(one, "a", delta(1))
    one.maybe_step(0.0)
    assert one.offer(meta("b", base_version=1), delta(1)).verdict is Verdict.STALE


def test_a_trimmed_mean_waits_for_five_sites():
    one = aggregator(updates=4, rule="trimmed_mean")
    for site in "abcd":
        offer(one, site, delta(1))
    assert one.maybe_step(0.0) is None
    held = one.maybe_step(60.0)
    assert held is not None
    assert held.reason == "4 sites are too few to trim 0.2 at each end"
    offer(one, "e", delta(1))
    report = one.maybe_step(120.0)
    assert report is not None
    assert report.outcome == "stepped"


def test_a_share_that_would_leave_nobody_waits_for_more_sites_and_never_raises():
    one = aggregator(updates=6, rule="trimmed_mean", trim=0.45)
    for site in "abcdef":
        offer(one, site, delta(1))
    one.maybe_step(0.0)
    held = one.maybe_step(60.0)
    assert held is not None
    assert held.reason == "6 sites are too few to trim 0.45 at each end"


def test_a_role_with_too_few_to_trim_waits_and_the_others_do_not():
    one = aggregator(updates=6, rule="trimmed_mean", **PLAIN)
    for site in "abcde":
        offer(one, site, delta(1), role="web")
    offer(one, "f", delta(1), role="db")
    report = one.maybe_step(0.0)
    assert report is not None
    assert report.reason == "role/db: 1 sites are too few to trim 0.2 at each end"
    assert one.shared("web").tolist() == [1, 2, 3, 4, 11, 21]
    assert one.shared("db").tolist() == [1, 2, 3, 4, 10, 20]


def test_a_step_is_never_longer_than_twice_the_median_delta():
    one = aggregator(updates=5)
    for site in "abcd":
        offer(one, site, delta(0.01))
    offer(one, "bad", delta(1e6))
    report = one.maybe_step(0.0)
    assert report is not None
    assert report.capped
    assert report.step_norm < 4.2 * 0.01 * 6**0.5
    assert report.median_norm == pytest.approx(0.01 * 6**0.5, rel=0.05)


def test_roles_are_bounded():
    one = aggregator(updates=9, most_roles=2)
    verdicts = [offer(one, role, delta(1), role=role).verdict for role in ("a", "b", "c")]
    assert verdicts == [Verdict.ACCEPTED, Verdict.LIMITED, Verdict.LIMITED]
    assert one.roles == ("", "a")


def test_one_bad_update_never_stops_a_round():
    good, poisoned = aggregator(updates=2), aggregator(updates=2)
    nan, missing = delta(np.nan), delta(1)[:3]
    for site, bad in (("x", nan), ("y", missing), ("z", delta(np.inf)), ("v", delta(1e30))):
        assert not offer(poisoned, site, bad).counted
    for one in (good, poisoned):
        offer(one, "a", delta(1))
        offer(one, "b", delta(2))
        report = one.maybe_step(0.0)
        assert report is not None
        assert report.outcome == "stepped"
    assert good.shared().tobytes() == poisoned.shared().tobytes()
    assert report.verdicts == {"accepted": 2, "malformed": 1, "non_finite": 3}


def test_the_given_arrays_are_neither_kept_nor_written_to():
    one, values = aggregator(updates=2, rule="median"), delta(1)
    values.flags.writeable = False
    offer(one, "a", values)
    values.flags.writeable = True
    values[:] = 100
    offer(one, "b", delta(1))
    one.maybe_step(0.0)
    assert one.shared().tolist() == [1, 2, 3, 4, 11, 21]


@pytest.mark.parametrize("rule", ["median", "trimmed_mean"])
@settings(deadline=None)
@given(
    honest=st.lists(st.floats(-10, 10, width=32), min_size=7, max_size=12),
    bad=st.lists(st.floats(-1e6, 1e6, width=32), max_size=2),
)
def test_order_statistics_stay_within_the_honest_range(rule, honest, bad):
    one = aggregator(start=np.zeros(6, np.float32), rule=rule, updates=99, **PLAIN)
    for place, value in enumerate([*honest, *bad]):
        offer(one, f"s{place}", delta(value))
    one.maybe_step(0.0)
    assert one.maybe_step(60.0) is not None
    moved = one.shared()[:4]
    assert min(honest) - 1e-5 <= moved.min()
    assert moved.max() <= max(honest) + 1e-5


def test_a_leaf_hands_on_the_same_partial_until_it_arrived():
    leaf, root = aggregator(), aggregator(updates=3)
    leaf.node = "leaf"
    assert leaf.partial() is None
    offer(leaf, "a", delta(1))
    first = leaf.partial()
    assert first is not None
    offer(leaf, "b", delta(2), sequence=9)
    assert leaf.partial() is first
    root.merge(first)
    leaf.confirm(first.sequence)
    second = leaf.partial()
    assert second is not None
    assert (second.sequence, tuple(second.counts.sites)) == (1, ("b",))
    assert root.merge(second).verdict is Verdict.ACCEPTED
    leaf.confirm(first.sequence)
    assert leaf.partial() is second


def test_a_leaf_goes_on_from_what_its_root_accepted():
    leaf = aggregator()
    shared = {"": delta(1), "web": delta(9, 2)}
    leaf.adopt(7, shared)
    assert leaf.version == 7
    assert leaf.shared("web").tolist() == [1, 1, 1, 1, 2, 2]
    assert offer(leaf, "a", delta(1)).verdict is Verdict.ACCEPTED
    with pytest.raises(ValueError, match="version 7 is not after 7"):
        leaf.adopt(7, shared)
    with pytest.raises(ValueError, match=r"need vectors \[6\]"):
        leaf.adopt(8, {"web": delta(1)})


def test_a_partial_of_another_layout_or_an_unknown_version_is_refused():
    leaf, root = aggregator(), aggregator()
    leaf.adopt(3, {"": delta(0)})
    offer(leaf, "a", delta(1))
    partial = leaf.partial()
    assert partial is not None
    assert root.merge(partial).verdict is Verdict.STALE
    other = Aggregator(ALL_GLOBAL, delta(0), settings=AggregatorSettings())
    assert other.merge(partial).verdict is Verdict.MALFORMED


def test_a_start_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"start is float32 \(3,\), need float32 6"):
        aggregator(start=np.zeros(3, np.float32))


def test_a_partial_with_more_roles_than_there_is_room_for_changes_nothing():
    leaf, root = aggregator(updates=9), aggregator(updates=9, most_roles=2)
    for role in ("web", "db"):
        offer(leaf, role, delta(1), role=role)
    partial = leaf.partial()
    before = save(root).head
    for _ in range(2):
        receipt = root.merge(partial)
        assert (receipt.verdict, "2 more came" in receipt.reason) == (Verdict.LIMITED, True)
    assert save(root).head == before
    assert aggregator(updates=9, most_roles=3).merge(partial).counted


def test_a_node_that_merges_only_hands_on_the_version_it_is_at():
    leaf, middle, root = (aggregator(updates=9, most_staleness=1) for _ in range(3))
    for node in (leaf, middle, root):
        for version in (1, 2, 3):
            node.adopt(version, {"": np.zeros(6, np.float32)})
    offer(leaf, "a", delta(1))
    assert middle.merge(leaf.partial()).counted
    handed = middle.partial()
    assert handed.base_version == 3
    assert root.merge(handed).staleness == 0


def test_a_partial_is_as_old_as_its_first_update():
    leaf, root = aggregator(), aggregator(updates=1, **PLAIN)
    offer(leaf, "a", delta(1))
    offer(root, "b", delta(0))
    root.maybe_step(0.0)
    leaf.adopt(1, {"": root.shared()})
    offer(leaf, "c", delta(1))
    partial = leaf.partial()
    assert partial is not None
    assert partial.base_version == 0
    assert root.merge(partial).staleness == 1


def test_staleness_does_not_add_up_over_arrivals():
    one = aggregator(updates=1, **PLAIN)
    offer(one, "a", delta(0))
    one.maybe_step(0.0)
    moved = []
    for number in range(6):
        before = one.shared()
        one.offer(meta("late", number, base_version=one.version - 1), delta(1))
        one.maybe_step(0.0)
        moved.append(float((one.shared() - before)[0]))
    assert moved == pytest.approx([2**-0.5] * 6, rel=1e-5)
