"""Each server's mix: the member that was better to it lately counts for more."""

from __future__ import annotations

import numpy as np
import pytest

from forecast.errors import StateError
from train.federated.mixture import Mixture

LEVELS = (0.1, 0.5, 0.9)
HORIZON = 2


def mixture(members=("global", "local")) -> Mixture:
    return Mixture(members, horizon=HORIZON, targets=1, levels=LEVELS)


def around(*middles: float) -> np.ndarray:
    """Quantiles [S, H, 1, Q] about a value for each server."""
    width = np.array((-1, 0, 1), np.float32)
    values = np.array(middles, np.float32)[:, None, None, None] + width
    return np.broadcast_to(values, (len(middles), HORIZON, 1, 3)).copy()


def play(one: Mixture, slots: int, *, servers=("a", "b"), first=100) -> None:
    """`a` is as `global` says, at 10; `b` is as `local` says, at 20."""
    for slot in range(first, first + slots):
        one.issue(slot, servers, {"global": around(10, 10), "local": around(20, 20)})
        one.came(slot + 1, servers, np.array([[10.0], [20.0]]))


def test_at_first_all_members_count_alike():
    mixed = mixture().issue(5, ("a",), {"global": around(10), "local": around(20)})
    np.testing.assert_allclose(mixed[..., 1], 15)


def test_each_server_comes_to_trust_the_member_that_is_right_about_it():
    one = mixture()
    play(one, 300)
    shares = one.shares(("a", "b"))
    assert shares["global"][0] > 0.8
    assert shares["local"][1] > 0.8
    np.testing.assert_allclose(shares["global"] + shares["local"], 1, rtol=1e-5)


def test_what_has_not_come_yet_changes_nothing():
    late, never = mixture(), mixture()
    for one in (late, never):
        play(one, 20)
    late.issue(500, ("a", "b"), {"global": around(10, 10), "local": around(20, 20)})
    given = {"global": around(1, 2), "local": around(3, 4)}
    np.testing.assert_array_equal(
        late.issue(501, ("a", "b"), given), never.issue(501, ("a", "b"), given)
    )


def test_a_server_that_is_new_begins_with_what_the_site_knows():
    one = mixture()
    for slot in range(100, 400):
        one.issue(slot, ("a",), {"global": around(10), "local": around(20)})
        one.came(slot + 1, ("a",), np.array([[10.0]]))
    assert one.shares(("new",))["global"][0] > 0.5


def test_a_member_that_is_nan_for_a_series_has_no_say():
    broken = around(10, 10)
    broken[1] = np.nan
    mixed = mixture().issue(5, ("a", "b"), {"global": broken, "local": around(20, 20)})
    np.testing.assert_allclose(mixed[1, ..., 1], 20)
    np.testing.assert_allclose(mixed[0, ..., 1], 15)


def test_a_gap_teaches_nothing():
    one, other = mixture(), mixture()
    for each in (one, other):
        each.issue(5, ("a",), {"global": around(10), "local": around(20)})
    one.came(6, ("a",), np.array([[np.nan]]))
    assert one.shares(("a",))["global"].item() == other.shares(("a",))["global"].item()


def test_other_members_than_the_mixtures_are_refused():
    with pytest.raises(ValueError, match="forecasts of"):
        mixture().issue(5, ("a",), {"global": around(10)})
    with pytest.raises(ValueError, match="named once"):
        mixture(("global", "global"))


def test_a_stored_mixture_goes_on_bitwise_with_what_still_waits():
    one = mixture()
    play(one, 30)
    again = mixture().restored(one.pack())
    for each in (one, again):
        each.came(131, ("a", "b"), np.array([[10.0], [20.0]]))
        play(each, 5, first=131)
    given = {"global": around(1, 2), "local": around(3, 4)}
    np.testing.assert_array_equal(
        one.issue(600, ("a", "b"), given), again.issue(600, ("a", "b"), given)
    )


def test_a_stored_mixture_of_other_members_is_refused():
    with pytest.raises(StateError, match="a mixture of"):
        mixture(("global", "personal")).restored(mixture().pack())
