"""Which servers have a twin: a fixed share of each role."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from forecast.twin import FEWEST, twin_servers

fleets = st.lists(st.sampled_from(["web", "db", "cache", ""]), min_size=1, max_size=300)


def chosen(roles, share=0.05):
    names = tuple(f"server-{number:03d}" for number in range(len(roles)))
    return {names[place] for place in twin_servers(names, roles, share)}, names


@given(fleets)
def test_every_role_is_there_and_of_each_about_the_share(roles):
    found, names = chosen(roles)
    of = dict(zip(names, roles, strict=True))
    share = max(0.05, FEWEST / len(roles))
    for role in set(roles):
        count = sum(of[name] == role for name in found)
        assert 1 <= count <= min(1.0, share) * roles.count(role) + 1


def test_a_small_fleet_is_all_of_it_and_a_large_one_its_share():
    for count, few in ((4, 4), (12, 12), (100, 12), (1000, 50)):
        assert len(chosen(["web"] * count)[0]) == few


@given(fleets, st.integers(0, 299))
def test_who_goes_moves_nobody_out_and_few_in(roles, gone):
    found, names = chosen(roles)
    gone %= len(roles)
    left = [place for place in range(len(roles)) if place != gone]
    if len(left) < 400 and len(roles) > 12:
        rest = tuple(names[place] for place in left)
        again = {rest[at] for at in twin_servers(rest, [roles[at] for at in left], 0.05)}
        # A share that falls on 12 servers at least is a little more of a smaller fleet.
        assert len(again - found) <= len(set(roles)) + 1
        assert len(found - again - {names[gone]}) <= 1


def test_the_choice_is_up_to_the_names_alone():
    roles = ["web", "db"] * 60
    names = [f"server-{number:03d}" for number in range(120)]
    found = {names[place] for place in twin_servers(names, roles, 0.05)}
    turned = names[::-1]
    again = {turned[place] for place in twin_servers(turned, roles[::-1], 0.05)}
    assert found == again
