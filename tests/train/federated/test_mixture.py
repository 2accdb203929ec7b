"""Each server's mix: the member that was better to it lately counts for more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from forecast.errors import StateError
from forecast.packing import pack, unpack
from forecast.windows import RawWindows
from tests.train import windows_scene
from tests.train.windows_scene import TARGETS, windows
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


def test_a_stored_mixture_without_a_format_loads_and_one_of_a_later_format_does_not():
    one = mixture()
    play(one, 30)
    header, arrays = unpack("mixture", one.pack())
    assert header.pop("format") == 1
    again = mixture().restored(pack("mixture", header, arrays))
    np.testing.assert_array_equal(again.shares(("a",))["global"], one.shares(("a",))["global"])
    with pytest.raises(StateError, match="a stored mixture of format 9, need 1"):
        mixture().restored(pack("mixture", {**header, "format": 9}, arrays))


@pytest.mark.parametrize("apart", [1, windows_scene.HORIZON, 2 * windows_scene.HORIZON])
def test_what_is_issued_for_windows_knows_no_label_after_its_origin(apart):
    horizon, count = windows_scene.HORIZON, 12
    every = windows(count * apart).select(np.arange(0, count * apart, apart))
    shape = (count, horizon, len(TARGETS), len(LEVELS))
    rng = np.random.default_rng(1)
    given = {name: rng.normal(size=shape).astype(np.float32) for name in ("one", "two")}

    def issued(factor: float, upto: int) -> np.ndarray:
        """Labels after the origin of window `upto` are another way."""
        raw = every.select(np.arange(count))
        slots = raw.origin[:, None] + np.arange(1, horizon + 1)
        later = slots > raw.origin[upto]
        raw.values[:, windows_scene.CONTEXT :][later] *= factor
        one = Mixture(("one", "two"), horizon=horizon, targets=2, levels=LEVELS)
        return one.played(raw, given, TARGETS)

    before, after = issued(1, 6), issued(50, 6)
    np.testing.assert_array_equal(before[:7], after[:7])
    assert not np.array_equal(before[7:], after[7:])
    assert np.isfinite(before).all()


def test_windows_that_are_played_teach_each_server_what_is_better_for_it():
    count, horizon = 40, windows_scene.HORIZON
    one_server = windows(count * horizon).select(np.arange(0, count * horizon, horizon))
    raw = RawWindows.concat([replace(one_server, servers=(name,) * count) for name in ("a", "b")])
    right = np.repeat(raw.values[:, windows_scene.CONTEXT :, :, None], len(LEVELS), axis=-1)
    wrong, of_a = right * 1.5, np.arange(2 * count)[:, None, None, None] < count
    given = {"one": np.where(of_a, right, wrong), "two": np.where(of_a, wrong, right)}
    mixture = Mixture(("one", "two"), horizon=horizon, targets=2, levels=LEVELS)
    mixture.played(raw, given, TARGETS)
    shares = mixture.shares(("a", "b"))["one"]
    assert shares[0] > 0.8 > 0.2 > shares[1]
