"""An aggregator that was stored and read back goes on bitwise as if nothing had happened."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecast.errors import StateError
from forecast.packing import pack, unpack
from tests.train.federated.scene import ALL_GLOBAL, aggregator, delta, meta
from train.federated.aggregator import Aggregator
from train.federated.settings import AggregatorSettings
from train.federated.state import load, pack_partial, pieces_of, save, unpack_partial
from train.federated.update import Verdict

SETTINGS = st.fixed_dictionaries(
    {
        "rule": st.sampled_from(["mean", "median", "trimmed_mean"]),
        "optimizer": st.sampled_from(["plain", "momentum", "adam", "yogi"]),
        "gated": st.booleans(),
    }
)


def stored(one: Aggregator) -> dict[str, bytes]:
    """The whole state as bytes by name."""
    saved = save(one)
    assert set(saved.pieces) == pieces_of(saved.head)
    return {"head": saved.head, **{name: make() for name, make in saved.pieces.items()}}


def again(one: Aggregator) -> Aggregator:
    """A fresh aggregator that was given the state of this one."""
    made, files = restarted(one), stored(one)
    assert load(made, files["head"], files.__getitem__) == 0
    return made


def restarted(one: Aggregator) -> Aggregator:
    """One with the same settings, from nothing."""
    given = {name: getattr(one.settings, name) for name in one.settings.__slots__}
    return aggregator(start=np.zeros(6, np.float32), **given)


def lived(rounds: int, seed: int, resume: bool, **given) -> Aggregator:
    """Rounds of good, bad, late and repeated updates; `resume`: stored and read after each call."""
    one = aggregator(updates=6, quorum=2, **given)
    random = np.random.default_rng(seed)

    def go_on() -> None:
        nonlocal one
        if resume:
            one = again(one)

    for round in range(rounds):
        for place in range(7):
            values = random.normal(size=6).astype(np.float32) * (np.nan if place == 6 else 1)
            base = max(0, one.version - int(random.integers(2)))
            told = meta(
                f"s{place}", round, base_version=base, samples=place + 1, role="wd"[place % 2]
            )
            one.offer(told, values)
            go_on()
            one.offer(told, values)
        one.maybe_step(60.0 * round)
        go_on()
        if one.history.pending:
            one.accept_step() if random.random() < 0.5 else one.reject_step()
            go_on()
    return one


@given(SETTINGS, st.integers(0, 99))
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(settings, seed):
    plain, resumed = lived(3, seed, False, **settings), lived(3, seed, True, **settings)
    assert stored(plain) == stored(resumed)
    assert plain.shared("w").tobytes() == resumed.shared("w").tobytes()


def test_moments_and_the_step_count_come_back():
    one = lived(4, 1, False, optimizer="adam")
    back = again(one)
    mine, theirs = one.pools["global"].moments, back.pools["global"].moments
    assert (mine.steps, mine.scale) == (theirs.steps, theirs.scale)
    assert mine.steps > 1
    assert mine.first is not None
    assert theirs.first is not None
    assert mine.first.tobytes() == theirs.first.tobytes()


def test_a_step_that_waits_still_waits():
    one = aggregator(updates=1, gated=True)
    one.offer(meta("a"), delta(1))
    one.maybe_step(0.0)
    back = again(one)
    found, kept = back.candidate(), one.candidate()
    assert found is not None
    assert kept is not None
    assert found[0] == kept[0]
    assert (found[1] == kept[1]).all()
    back.reject_step()
    assert back.shared().tobytes() == one.shared().tobytes()


def test_a_duplicate_is_known_after_a_restart_and_a_quarantine_goes_on():
    one = aggregator(updates=9)
    one.offer(meta("a"), delta(1))
    one.offer(meta("bad"), delta(np.nan))
    back = again(one)
    assert back.offer(meta("a"), delta(1)).verdict is Verdict.DUPLICATE
    assert back.offer(meta("bad", 1), delta(1)).verdict is Verdict.QUARANTINED


@pytest.mark.parametrize("rule", ["mean", "median"])
def test_a_partial_goes_over_the_wire_and_through_a_restart(rule):
    leaf = aggregator(updates=9, rule=rule)
    leaf.offer(meta("a", role="web"), delta(1, 2))
    leaf.offer(meta("b"), delta(5))
    partial = leaf.partial()
    assert partial is not None
    back = again(leaf)
    assert back.outgoing is not None
    assert pack_partial(back.outgoing) == pack_partial(partial)
    roots = [aggregator(updates=2, rule=rule) for _ in range(2)]
    roots[0].merge(partial)
    roots[1].merge(unpack_partial(pack_partial(partial), leaf.settings))
    for root in roots:
        assert root.maybe_step(0.0) is not None
    assert roots[0].shared("web").tobytes() == roots[1].shared("web").tobytes()


def test_with_another_rule_the_open_round_is_dropped_and_told():
    one = aggregator(updates=9, rule="mean")
    one.offer(meta("a"), delta(1))
    files, other = stored(one), aggregator(updates=1, rule="median")
    assert load(other, files["head"], files.__getitem__) == 1
    assert other.maybe_step(0.0) is None
    other.offer(meta("b"), delta(1))
    assert other.maybe_step(0.0) is not None


def test_another_layout_format_or_kind_is_refused_by_name():
    files = stored(aggregator())
    other = Aggregator(ALL_GLOBAL, delta(0), settings=AggregatorSettings())
    with pytest.raises(StateError, match="state of an aggregator: schema"):
        load(other, files["head"], files.__getitem__)
    header, arrays = unpack("aggregator", files["head"])
    newer = pack("aggregator", {**header, "format": 2}, arrays)
    with pytest.raises(StateError, match="format 2, need 1"):
        load(aggregator(), newer, files.__getitem__)
    with pytest.raises(StateError, match="holds a aggregator"):
        unpack_partial(files["head"], AggregatorSettings())
    partial = aggregator(updates=9)
    partial.offer(meta("a"), delta(1))
    made = partial.partial()
    assert made is not None
    header, arrays = unpack("partial", pack_partial(made))
    with pytest.raises(StateError, match="a partial: format 9, need 1"):
        unpack_partial(pack("partial", {**header, "format": 9}, arrays), AggregatorSettings())
