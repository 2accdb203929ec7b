"""The fleet as a site on a stand-in of its buffer, over HTTP to a real aggregator."""

from __future__ import annotations

from types import SimpleNamespace

import httpx
import pytest

from actors.home_site import HomeSite
from forecast.errors import StateError
from forecast.packing import pack, unpack
from tests.actors.federation_scene import FRAME, actor, centre, http
from tests.forecast.crash_disk import QuickDisk
from tests.train.federated.site_scene import AS_OF, OWN, SHARED, Windows
from train.federated.frame import SiteSettings

EVERY, NEEDS = 24, 1000
SETTINGS = SiteSettings(hours=24, windows=48, holdout_hours=2, own_windows=64)
RECIPES = {"start": {}, "shared": SHARED, "own": OWN, "settings": SETTINGS}


class Buffer(Windows):
    """Windows of one rhythm, in a buffer whose data goes on."""

    def __init__(self, closed=AS_OF, servers=("web-01", "db-01")):
        super().__init__()
        self.closed, self.names = closed, servers

    def status(self):
        return SimpleNamespace(first_slot=AS_OF - NEEDS, closed_slot=self.closed)

    def servers(self):
        return self.names


def home(folder, asked, source, *, per_server=False, every=EVERY, disk=None) -> HomeSite:
    """Whose state is in the folder."""
    return HomeSite(
        name="north",
        per_server=per_server,
        every=every,
        needs=NEEDS,
        frame=FRAME,
        recipes=RECIPES,
        seed=7,
        source=source,
        centre=asked,
        folder=folder / "home",
        disk=disk or QuickDisk(),
    )


def until_still(one: HomeSite, *, most: int = 30) -> int:
    """Turn until nothing moves; how often."""
    for turns in range(most):
        if not one.turn():
            return turns
    raise AssertionError(one.told)


@pytest.fixture
def alone(tmp_path):
    """An aggregator that steps at each update, and asks nobody."""
    return actor(tmp_path, updates=1, quorum=1, gated=False)


def test_it_waits_for_enough_history_and_then_learns_each_time_a_slot_of_its_own_is_closed(
    tmp_path, alone
):
    source = Buffer(closed=AS_OF - 1)
    one = home(tmp_path, centre(http(alone)), source)
    assert not one.turn()
    assert one.told["waits_for"] == f"slot {AS_OF}: enough history"
    source.closed = AS_OF
    until_still(one)
    assert (one.told["updates"], one.told["version"], one.told["slot"]) == (1, 1, AS_OF)
    assert one.told["waits_for"] == f"slot {AS_OF + EVERY}"
    source.closed = AS_OF + EVERY - 1
    assert until_still(one) == 0
    source.closed = AS_OF + EVERY
    until_still(one)
    assert (one.told["updates"], one.told["version"]) == (2, 2)


def test_what_answers_is_offered_as_the_sites_own_form_with_round_and_sites(tmp_path, alone):
    one = home(tmp_path, centre(http(alone)), Buffer())
    until_still(one)
    assert one.offers.offer(None) == {"version": 1, "slot": AS_OF}
    lineage = one.offers.offered(1).manifest["lineage"]
    assert lineage["federated"] == {
        "site": "north", "version": 1, "round": 0, "sites": ["north"], "form": "personal",
    }  # fmt: skip
    # Of what the fleet's gate holds out it has learned nothing.
    assert lineage["trained_to_slot"] < AS_OF - SETTINGS.holdout_hours * 12
    assert lineage["trained_from_slot"] < AS_OF - SETTINGS.hours * 12


def test_fresh_weights_are_offered_to_nobody(tmp_path):
    one = home(tmp_path, centre(http(actor(tmp_path))), Buffer())
    until_still(one)
    assert (one.told["version"], one.told["offered"]) == (0, None)
    assert one.told["waits_for"] == "the end of round 0"


def test_a_site_killed_between_taking_a_version_and_offering_it_offers_it_after_all(
    tmp_path, alone, monkeypatch
):
    asked, source = centre(http(alone)), Buffer()
    one = home(tmp_path, asked, source)
    monkeypatch.setattr(one, "_make_offer", lambda: False)
    until_still(one)
    again = home(tmp_path, asked, source)
    assert again.told["offered"] is None
    until_still(again)
    assert again.told["offered"] == 1
    assert (again.told["updates"], again.told["slot"]) == (1, AS_OF)
    assert again.offers.offer(None) == {"version": 1, "slot": AS_OF}


def test_one_site_a_server_offers_the_global_version_and_follows_the_fleet(tmp_path, caplog):
    one = actor(tmp_path, updates=2, quorum=2, gated=False)
    source = Buffer(servers=("web-01", "db-01", "../else"))
    made = home(tmp_path, centre(http(one)), source, per_server=True)
    until_still(made)
    assert (made.told["sites"], made.told["updates"], made.told["version"]) == (2, 2, 1)
    assert caplog.text.count("'north.../else' is no name of one") == 1
    assert made.offers.offer(None)["version"] == 1
    told = made.offers.offered(1).manifest
    assert told["adapter"] is None
    assert told["lineage"]["federated"]["sites"] == ["north.db-01", "north.web-01"]
    source.names = ("db-01", "db-02")
    until_still(made)
    assert sorted(made._works) == ["north.db-01", "north.db-02"]


def test_a_fleet_of_another_schema_is_told_so_and_goes_on_asking(tmp_path, alone, caplog):
    one = home(tmp_path, centre(http(alone)), Buffer())
    until_still(one)
    own = alone._aggregator.schema_hash
    alone._aggregator.schema_hash = "0" * 64
    assert not one.turn()
    assert not one.turn()
    assert "the same metrics, roles and [model] are needed" in one.told["failure"]
    assert caplog.text.count("site north: the aggregator's schema is") == 1
    alone._aggregator.schema_hash = own
    one.turn()
    assert one.told["failure"] is None


def test_a_state_of_another_schema_is_told_with_the_way_to_begin_anew(tmp_path, alone):
    one = home(tmp_path, centre(http(alone)), Buffer())
    until_still(one)
    path = tmp_path / "home" / "north.state"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    again = home(tmp_path, centre(http(alone)), Buffer())
    assert not again.turn()
    assert "to begin anew, remove it" in again.told["failure"]


@pytest.mark.parametrize("told", [True, False])
def test_with_another_period_it_claims_to_know_nothing_that_is_not_closed(tmp_path, alone, told):
    source = Buffer()
    until_still(home(tmp_path, centre(http(alone)), source))
    if not told:  # as a state of before: it does not say what was known
        path = tmp_path / "home" / "north.state"
        header, arrays = unpack("site-at-work", path.read_bytes())
        assert header.pop("known") == AS_OF
        path.write_bytes(pack("site-at-work", {**header, "slot": AS_OF + EVERY}, arrays))
    source.closed = AS_OF + 2
    again = home(tmp_path, centre(http(alone)), source, every=12)
    until_still(again)
    known = AS_OF if told else AS_OF + 2
    assert (again.told["slot"], again.told["waits_for"]) == (known, f"slot {AS_OF + EVERY}")


def test_after_a_restart_the_sites_of_all_servers_hold_one_vector(tmp_path):
    one = actor(tmp_path, updates=2, quorum=2, gated=False)
    asked = centre(http(one))
    until_still(home(tmp_path, asked, Buffer(), per_server=True))
    again = home(tmp_path, asked, Buffer(), per_server=True)
    until_still(again)
    first, second = again._works.values()
    assert first.site.base.version == 1
    assert first.site.base is second.site.base


class Cut:
    """A way to the aggregator that is cut."""

    def request(self, *args, **given):
        raise httpx.ConnectError("refused")


def test_an_aggregator_that_cannot_be_reached_loses_nothing(tmp_path, alone):
    source, asked = Buffer(), centre(Cut())
    one = home(tmp_path, asked, source)
    with pytest.raises(httpx.ConnectError):
        one.turn()
    asked._http = http(alone)
    until_still(one)
    assert one.told["version"] == 1


class Full(QuickDisk):
    """Takes no state of a site from some moment on."""

    full = False

    def write(self, path, data):
        if self.full and path.name.endswith("north.state"):
            raise OSError(28, "No space left on device")
        super().write(path, data)


def test_what_a_full_disk_did_not_take_is_not_sent_and_is_learned_again_the_same(tmp_path, alone):
    disk, source = Full(), Buffer()
    plain = actor(tmp_path / "plain", updates=1, quorum=1, gated=False)
    until_still(home(tmp_path / "plain", centre(http(plain)), source))
    one = home(tmp_path, centre(http(alone)), source, disk=disk)
    assert one.turn()
    assert one.told["version"] == 0
    disk.full = True
    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            one.turn()
    assert (alone._aggregator.version, alone._federation.book.verdicts) == (0, {})
    disk.full = False
    until_still(one)
    assert (one.told["updates"], one.told["version"]) == (1, 1)
    assert (alone._aggregator.shared() == plain._aggregator.shared()).all()


def test_one_that_is_refused_does_not_hold_up_the_others(tmp_path):
    given = {"updates": 1, "quorum": 1, "gated": False}
    one = actor(tmp_path, **given)
    made = home(tmp_path, centre(http(one)), Buffer(), per_server=True)

    class Choosy:
        def __getattr__(self, name):
            return getattr(made_centre, name)

        def send(self, site, number, update):
            if site == "north.web-01":
                raise StateError("site north.web-01's update is unauthorised")
            return made_centre.send(site, number, update)

    made_centre = made._centre
    made._centre = Choosy()
    until_still(made)
    assert made.told["updates"] == 1
    assert "unauthorised" in made.told["failure"]


def failing(made, *names):
    """The aggregator's line breaks for these sites; whom it was asked for."""
    real, asked = made._centre, []

    class Failing:
        def __getattr__(self, name):
            return getattr(real, name)

        def current(self, site):
            asked.append(site)
            if site in names:
                raise OSError("no answer")
            return real.current(site)

    made._centre = Failing()
    return asked


def test_one_that_fails_takes_no_turn_of_those_after_it_and_a_retired_one_is_told_no_more(tmp_path):
    one, source = actor(tmp_path, updates=1, quorum=1, gated=False), Buffer()
    made = home(tmp_path, centre(http(one)), source, per_server=True)
    failing(made, "north.web-01")
    for _ in range(3):
        assert made.turn()
    assert (made.told["updates"], made.told["offered"]) == (1, 1)
    assert made.told["failure"] == "OSError: no answer"
    with pytest.raises(OSError, match="no answer"):  # nobody has anything to do
        made.turn()
    source.names = ("db-01",)
    assert not made.turn()
    assert made.told["failure"] is None


def test_where_three_in_a_row_fail_the_turn_is_broken_off_and_the_next_begins_with_the_rest(
    tmp_path,
):
    one, source = actor(tmp_path), Buffer(servers=tuple("abcde"))
    made = home(tmp_path, centre(http(one)), source, per_server=True)
    asked = failing(made, *(f"north.{name}" for name in "abcd"))
    with pytest.raises(OSError, match="no answer"):
        made.turn()
    assert [name[-1] for name in asked] == list("abc")
    assert made.turn()  # e took a version
    assert [name[-1] for name in asked[3:]] == list("deabc")
