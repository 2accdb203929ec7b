"""What is remembered of sites: a bounded number of verdicts, strikes, and quarantines."""

from __future__ import annotations

from train.federated.sites import KEPT, Sites
from train.federated.update import Verdict


def test_an_update_is_known_by_its_number_whatever_the_order():
    sites = Sites(9)
    for sequence in (5, 3, 9):
        sites.accept("a", sequence)
    assert [sites.verdict("a", n) for n in (3, 5, 9)] == [Verdict.ACCEPTED] * 3
    assert [sites.verdict("a", n) for n in (0, 4, 10)] == [None] * 3
    assert sites.verdict("b", 3) is None


def test_what_is_forgotten_is_never_taken_for_new():
    sites = Sites(9)
    for sequence in range(0, 2 * KEPT + 2, 2):
        sites.accept("a", sequence)
    assert sites.verdict("a", 0) is Verdict.STALE
    assert sites.verdict("a", 1) is None
    assert sites.verdict("a", 2) is Verdict.ACCEPTED


def test_a_strike_costs_one_round_then_two_then_four_and_a_good_update_takes_one_away():
    sites = Sites(9)
    rounds = []
    for sequence in range(3):
        sites.strike("a", sequence, Verdict.OUTLIER, 10)
        rounds.append(sites.until("a") - 11)
    sites.accept("a", 3)
    sites.strike("a", 4, Verdict.OUTLIER, 10)
    rounds.append(sites.until("a") - 11)
    assert rounds == [1, 2, 4, 4]
    assert sites.quarantined(14) == ("a",)
    assert sites.quarantined(15) == ()
    assert sites.verdict("a", 2) is Verdict.OUTLIER


def test_a_quarantine_has_an_end():
    sites = Sites(9)
    for sequence in range(60):
        sites.strike("a", sequence, Verdict.OUTLIER, 0)
    assert sites.until("a") == 1 + 1024


def test_accounts_are_bounded_and_come_back_from_json():
    sites = Sites(2)
    sites.accept("a", 1)
    sites.strike("b", None, Verdict.MALFORMED, 0)
    assert sites.room("a")
    assert not sites.room("c")
    back = Sites.from_json(sites.to_json(), 2)
    assert back.to_json() == sites.to_json()
    assert back.verdict("a", 1) is Verdict.ACCEPTED
    assert back.until("b") == 2


def test_a_site_that_is_silent_for_long_is_forgotten_but_in_quarantine_or_while_it_could_count():
    sites = Sites(9)
    sites.accept("silent", 1, base=0)
    sites.accept("speaks", 1, base=0)
    sites.accept("fresh", 1, base=4)
    for sequence in range(5):
        sites.strike("bad", sequence, Verdict.OUTLIER, 0)  # heard again in round 17
    there = {}
    for round in range(20):
        back = Sites.from_json(sites.to_json(), 9)
        for each in (sites, back):
            each.close(round, silent=3, base=lambda base: base == 4)
        assert back.to_json() == sites.to_json()
        sites.accept("speaks", round + 2, base=0)
        there[round] = sorted(sites.to_json())
    assert there[2] == ["bad", "fresh", "silent", "speaks"]
    assert there[3] == ["bad", "fresh", "speaks"]
    assert there[16] == ["bad", "fresh", "speaks"]
    assert there[17] == ["fresh", "speaks"]  # an update of it could still count twice
    assert there[19] == ["fresh", "speaks"]


def test_accounts_of_before_rounds_were_counted_load_and_are_counted_from_now_on():
    sites = Sites(9)
    sites.accept("a", 1)
    old = {site: {k: v for k, v in told.items() if k not in ("spoke", "base")}
           for site, told in sites.to_json().items()}  # fmt: skip
    back = Sites.from_json(old, 9)
    back.close(500, silent=3, base=lambda _: False)
    assert back.to_json()["a"]["spoke"] == 500
