"""Drift of servers and of the fleet on made-up streams: what raises an alarm, and what does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.train.drift_scene import DAY, STEP_S, Scene, rules
from train.drift import Drift
from train.season import Season
from train.vote import Vote

CHANGE = 14


@pytest.fixture(scope="module")
def calm():
    """A fleet in which nothing happens; nobody changes it."""
    return Scene()


def changed(which, *, factor=1.0, loss=1.0, **how):
    """A fleet of which some servers are another from a day on, in what they do or what it costs."""
    scene = Scene(**how)
    scene.cpu[CHANGE * DAY :, which] *= factor
    scene.served[CHANGE * DAY :, which] *= loss
    return scene


def after(scene, drift, day=CHANGE):
    """Server, days until confirmed, day it began and channel of each alarm within a day of one."""
    return [
        (server, (alarm.slot + 1 - scene.first) / DAY - day, (since - scene.first) / DAY, channel)
        for alarm in drift.alarms
        for server, since, channel in zip(alarm.servers, alarm.since, alarm.channels, strict=True)
        if 0 < (alarm.slot + 1 - scene.first) / DAY - day <= 1
    ]


def test_a_quiet_fleet_raises_no_alarm_of_the_fleet_and_few_of_servers(calm):
    drift = calm.watched()
    assert calm.fleet_alarms(drift) == []
    assert sum(len(alarm.servers) for alarm in drift.alarms) <= 8


def test_a_server_that_changes_is_named_with_when_it_began_and_by_what():
    scene = changed([2], factor=1.5)
    drift = scene.watched()
    found = [one for one in after(scene, drift) if one[0] == "c000-s2"]
    _, took, began, channel = found[0]
    assert took < 0.5
    assert began == pytest.approx(CHANGE, abs=0.1)
    assert channel == "level of cpu"
    assert scene.fleet_alarms(drift) == []


def test_each_channel_tells_how_near_its_servers_are_to_an_alarm(calm):
    soon = round((CHANGE + 0.25) * DAY)
    quiet = calm.watched(upto=soon).levels()
    assert quiet.keys() == {"level", "spread", "loss"}
    assert all(0 <= level < 0.5 for level in quiet.values())
    worse = changed(slice(None), loss=1.2).watched(upto=soon).levels()
    assert 0.4 < worse.pop("loss") < 1
    assert worse == {channel: quiet[channel] for channel in ("level", "spread")}
    assert Drift(rules()).levels() == {}


def test_forecasts_that_get_worse_are_drift_though_the_inputs_look_the_same():
    scene = changed([1], loss=2.0)
    found = after(scene, scene.watched())
    assert ("c000-s1", "loss") in {(server, channel) for server, _, _, channel in found}


def test_forecasts_that_get_better_are_no_drift():
    scene = changed(slice(None), loss=0.4)
    assert not [one for one in after(scene, scene.watched()) if one[3] == "loss"]


def test_when_most_servers_change_the_fleet_did_and_the_alarm_says_since_when():
    scene = changed(slice(0, 6), factor=1.5)
    ((when, since),) = scene.fleet_alarms(drift := scene.watched())
    assert CHANGE < when < CHANGE + 0.5
    assert since == pytest.approx(CHANGE, abs=0.1)
    assert drift.fleet_since == round(since * DAY) + scene.first


def test_copying_every_server_a_hundred_times_changes_neither_alarms_nor_times():
    scene = changed(slice(None), factor=1.5, servers=5, days=16)
    seen = []
    for copies in (1, 100):
        drift = scene.watched(copies=copies)
        seen.append(
            [(replace(one, servers=(), since=(), channels=())) for one in drift.alarms]
            + [
                {(name[5:], since) for name, since in zip(one.servers, one.since, strict=True)}
                for one in drift.alarms
            ]
        )
        assert all(len(one.servers) % copies == 0 for one in drift.alarms)
    assert seen[0] == seen[1]
    assert any(getattr(one, "fleet_wide", False) for one in seen[0])


@pytest.mark.parametrize("days_before", [12, 16])
def test_the_clock_change_raises_no_alarm_of_the_fleet(days_before):
    change = 199_260_000 // STEP_S  # 1976-04-25
    begin = change - change % DAY - days_before * DAY
    scene = Scene(zone="America/New_York", begin=begin)
    offsets = np.diff(scene.hours)
    assert (np.abs(offsets[(offsets < 20) & (offsets > -20)] - STEP_S / 3600) > 0.5).any()
    assert scene.fleet_alarms(scene.watched()) == []


def test_a_holiday_raises_no_alarm_of_the_fleet_and_a_day_like_none_does():
    for share, told in ((0.2, False), (4.0, True)):
        scene = Scene()
        day = slice(16 * DAY, 17 * DAY)
        assert set(scene.weekdays[day]) < {0, 1, 2, 3, 4}
        scene.cpu[day] += (share - 1) * 0.4 * scene.busy[day]
        assert bool(scene.fleet_alarms(scene.watched())) == told


def test_masked_servers_are_skipped_and_held_ones_begin_anew():
    scene = changed([2], factor=1.5)
    for how in ("masked", "held"):
        drift = scene.watched(upto=CHANGE * DAY)
        later = Scene()
        later.first = scene.first + CHANGE * DAY
        for name in ("cpu", "served", "naive"):
            setattr(later, name, getattr(scene, name)[CHANGE * DAY :].copy())
        if how == "masked":
            later.cpu[:, 2] = later.served[:, 2] = later.naive[:, 2] = np.nan
        later.watched(drift, held=["c000-s2"] if how == "held" else ())
        assert not [one for one in after(scene, drift) if one[0] == "c000-s2"]


def test_servers_come_late_and_go_without_a_false_alarm(calm):
    drift = Drift(rules())
    for at in range(12 * DAY):
        names = ["a", "b", "late"] if at > 4 * DAY else ["a", "b", "early"]
        drift.update(
            slot=calm.first + at,
            servers=names,
            actuals_NT=calm.cpu[at, :3, None],
            served_NT=calm.served[at, :3, None],
            naive_NT=calm.naive[at, :3, None],
            timezones={},
        )
    assert drift.servers == ("a", "b", "late")
    assert not [one for one in drift.alarms if one.fleet_wide]


@pytest.mark.parametrize("upto", [10 * DAY, 10 * DAY + 1])
def test_it_goes_on_to_the_bit_from_what_it_packed(upto):
    scene = changed([0, 1], factor=1.4, servers=3, days=16)
    through = scene.watched()
    first = scene.watched(upto=upto)
    again = Drift.unpack(first.pack(), rules())
    scene.watched(again)  # slots that were seen are skipped
    assert again.pack() == through.pack()
    assert again.alarms == through.alarms != ()


def test_with_other_rules_it_begins_anew_but_keeps_the_alarms():
    scene = changed([0], factor=1.5, servers=3, days=16)
    drift = scene.watched()
    other = Drift.unpack(drift.pack(), rules(detector="window"))
    assert (other.servers, other.alarms, other.slot) == ((), drift.alarms, drift.slot)


def test_a_lower_share_lets_fewer_servers_speak_for_the_fleet():
    scene = changed(slice(0, 3), factor=1.5)
    assert scene.fleet_alarms(scene.watched(Drift(rules(fleet_share=0.3))))
    assert not scene.fleet_alarms(scene.watched(Drift(rules(fleet_share=0.9))))


@pytest.mark.parametrize(("share", "acts"), [(0.05, True), (0.4, False)])
def test_as_many_as_the_rules_say_ask_for_an_update(share, acts):
    scene = changed([0], factor=1.5, servers=12)
    drift = scene.watched(Drift(rules(fleet_share=0.9, update_share=share)))
    assert after(scene, drift)
    assert {one.acts for one in drift.alarms} == {acts}


def test_other_shares_of_the_vote_change_nothing_of_what_is_watched():
    scene = changed([0], factor=1.5, servers=3, days=16)
    drift = scene.watched()
    other = Drift.unpack(drift.pack(), rules(update_share=0.5, fleet_share=0.7))
    assert other.servers == drift.servers
    assert other.levels() == drift.levels()


def test_the_fleet_of_one_server_never_drifts_as_a_fleet_but_asks_for_an_update():
    scene = changed([0], factor=1.5, servers=1)
    drift = scene.watched()
    assert after(scene, drift)
    assert not scene.fleet_alarms(drift)
    assert all(one.acts for one in drift.alarms)


def test_a_few_of_very_many_ask_for_no_update():
    vote = Vote(1000, day=DAY, share=0.5, acts=0.02, chance=0.01)
    drifted = np.arange(1000) < 10
    every = np.arange(1000)
    outcome = vote.take(50, 4, drifted, np.full(1000, 40), np.ones(1000, bool), every)
    assert (outcome.share, outcome.acts, outcome.fleet_wide) == (0.01, False, False)
    more = (every >= 10) & (every < 25)
    assert vote.take(54, 4, more, np.full(1000, 50), np.ones(1000, bool), every).acts


def test_season_has_no_value_for_an_hour_it_does_not_know():
    season, none = Season(1, 1), np.zeros(1, bool)
    noon, workday = np.array([12]), np.array([0])

    def left(value):
        x = np.array([[value]])
        return season.removed(x, noon, workday, none, np.zeros((1, 1), bool))[0, 0]

    assert np.isnan(left(5.0))
    assert left(7.0) == 2.0
    assert left(6.0) == 0.0


def test_what_is_told_is_plain():
    scene = changed([0], factor=1.5, servers=3, days=16)
    told = scene.watched(Drift(replace(rules(), detector="cusum"))).to_json()
    assert (told["servers"], told["watching"], told["detector"]) == (3, 3, "cusum")
    assert told["alarms"][0]["slot"] >= told["alarms"][-1]["slot"]
    assert {one["server"] for one in told["nearest"]} == {"c000-s0", "c000-s1", "c000-s2"}
