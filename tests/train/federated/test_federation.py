"""A federation at its centre: rounds and candidates turn when somebody asks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecast.errors import StateError
from tests.train.federated.scene import LAYOUT, PLAIN, aggregator, delta, meta
from train.federated.book import RoundBook
from train.federated.federation import Federation, FederationRules
from train.federated.verdict import SiteScore, VerdictRules

RULES = FederationRules(verdict=VerdictRules(quorum=1), score_deadline_s=30.0, decay_rounds=10)


def federation(**settings) -> Federation:
    one = aggregator(gated=True, **PLAIN, **settings)
    return Federation(one, RULES, RoundBook(5), now_s=0.0)


def send(one: Federation, site: str, sequence: int, *values: float):
    header = {**meta(site, sequence, base_version=one.aggregator.version).to_json()}
    return one.offer({**header, "codec": "float32"}, {"values": delta(*values)})


def score(site: str, version: int, change: float = -0.1) -> SiteScore:
    told = {"samples": 9, "lower": -1.0, "upper": 1.0, "blocks": 4}
    return SiteScore(site=site, version=version, change=change, **told)


def test_a_round_ends_when_it_is_full_and_its_candidate_when_all_have_scored():
    one = federation()
    assert send(one, "a", 0, 1.0).counted
    assert not one.turn(0.0)
    send(one, "b", 0, 3.0)
    assert one.turn(0.0)
    assert one.current("a")["candidate"] == 1
    assert (one.model(1) == one.model(0) + 2).all()
    assert one.model(2) is None
    one.score(score("a", 1))
    assert not one.turn(29.0)
    assert one.score(score("b", 1))
    assert not one.score(score("b", 1, 0.5))
    assert one.turn(29.0)
    assert (one.aggregator.version, one.current("a")["candidate"]) == (1, None)


def test_a_version_and_its_candidate_are_told_with_digests_that_are_their_vectors():
    one, other = federation(), federation()
    fresh = one.current("a")
    assert fresh["digest"] == other.current("a")["digest"]
    assert fresh["candidate_digest"] is None
    for each, value in ((one, 1.0), (other, 2.0)):
        send(each, "a", 0, value)
        send(each, "b", 0, value)
        each.turn(0.0)
    told, else_told = one.current("a"), other.current("a")
    assert told["digest"] == fresh["digest"]
    assert told["candidate_digest"] != else_told["candidate_digest"]
    for site in "ab":
        one.score(score(site, 1))
    one.turn(0.0)
    assert one.current("a")["digest"] == told["candidate_digest"]


def test_without_all_scores_the_deadline_decides():
    one = federation()
    send(one, "a", 0, 1.0)
    send(one, "b", 0, 3.0)
    one.turn(100.0)
    one.score(score("a", 1, 0.1))
    assert not one.turn(129.0)
    assert one.turn(130.0)
    found = one.book.of_version(1)
    assert (found["decision"]["accept"], found["decision"]["sites"]) == (False, 1)


def test_who_is_not_of_the_federation_scores_nothing():
    one = Federation(
        aggregator(gated=True, sites=("a", "b"), **PLAIN), RULES, RoundBook(5), now_s=0.0
    )
    for site in "ab":
        send(one, site, 0, 1.0)
    one.turn(0.0)
    for n in range(100):
        liar = replace(score(f"a.{n}", 1), samples=0, finite=False)
        assert not one.score(liar)
        assert one.current(liar.site)["scored"]  # there is nothing it should do
    assert not one.book.pending.scores
    assert not one.current("a")["scored"]
    for site in "ab":
        assert one.score(score(site, 1))
    one.turn(0.0)
    assert one.aggregator.version == 1


def test_without_named_sites_one_scores_whose_update_was_good():
    one = federation()
    for sequence, sites in enumerate(("ab", "bc")):
        for site in sites:
            send(one, site, sequence, 1.0)
        one.turn(0.0)
        if not sequence:
            for site in "ab":
                assert one.score(score(site, 1))
            one.turn(0.0)
    broken = delta(1.0)
    broken[0] = float("nan")
    one.offer({**meta("bad", 0, base_version=1).to_json()}, {"values": broken})
    assert [one.score(score(site, 2)) for site in ("a", "b", "c", "bad", "nobody")] == [
        True, True, True, False, False,
    ]  # fmt: skip


def test_a_site_for_which_it_is_worse_keeps_what_it_has():
    one = federation()
    for at, site in enumerate("ab"):
        send(one, site, 0, float(at))
    one.turn(0.0)
    one.score(score("a", 1, -0.05))
    one.score(score("b", 1, 0.03))
    one.turn(0.0)
    assert [one.current(site)["keep_previous"] for site in "ab"] == [False, True]


@given(version=st.integers(0, 40))
def test_the_rate_falls_to_a_tenth_and_stays(version):
    one = federation()
    assert 0.1 <= one.rate(version) <= 1.0
    assert one.rate(version + 1) <= one.rate(version)
    assert one.rate(10) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"codec": "zip"}, "codec 'zip'"), ({"site": None}, "site"), ({"more": 1}, "unknown field")],
)
def test_what_a_header_lacks_or_has_too_much_is_malformed(change, reason):
    one = federation()
    receipt = one.offer({**meta().to_json(), "codec": "float32", **change}, {"values": delta(1.0)})
    assert (receipt.verdict.value, reason in receipt.reason) == ("malformed", True)


def test_the_book_goes_on_from_its_bytes_and_keeps_the_newest_rounds():
    one = federation()
    for turn in range(7):
        for site in "ab":
            send(one, site, turn, 1.0)
        one.turn(0.0)
        one.score(score("a", turn + 1))
        if turn < 6:
            one.score(score("b", turn + 1))
            one.turn(0.0)
    again = RoundBook.from_json(one.book.to_json(), keep=5)
    assert again.to_json() == one.book.to_json()
    assert [each["version"] for each in again.rounds] == [3, 4, 5, 6, 7]
    assert (again.pending.version, list(again.pending.scores)) == (7, ["a"])
    with pytest.raises(StateError, match="format 2, need 1"):
        RoundBook.from_json({"format": 2}, keep=5)


def test_a_step_that_only_the_book_knows_is_made_again_and_counted_once():
    one = federation()
    for site in "ab":
        send(one, site, 0, 1.0)
    one.turn(0.0)
    book = RoundBook.from_json(one.book.to_json(), keep=5)
    before = federation()
    for site in "ab":
        send(before, site, 0, 1.0)
    again = Federation(before.aggregator, RULES, book, now_s=0.0)
    assert book.pending is None
    again.turn(0.0)
    assert (again.current("a")["candidate"], dict(book.outcomes)) == (1, {"stepped": 1})


def test_a_decision_that_only_the_book_knows_is_carried_out():
    one, other = federation(), federation()
    for each in (one, other):
        for site in "ab":
            send(each, site, 0, 1.0)
        each.turn(0.0)
    for site in "ab":
        one.score(score(site, 1))
    one.turn(0.0)
    assert LAYOUT.size == one.model(1).size
    again = Federation(other.aggregator, RULES, one.book, now_s=0.0)
    assert again.aggregator.version == 1


def test_numbers_have_few_labels():
    one = federation()
    for site in "ab":
        send(one, site, 0, 1.0)
        send(one, site, 0, 1.0)
    one.turn(0.0)
    told = one.numbers()
    assert told["verdicts"] == {"accepted": 2, "duplicate": 2}
    assert (told["participants"], told["rounds"]) == (2, {"stepped": 1})
