"""The scenarios of the bench change what they say, and nothing else."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from bench.scenarios import names, scenario
from connect.grid import GridSource
from forecast.errors import ConfigError

TARGETS = ("cpu_usage_ratio", "disk_write_kb_per_s")
DAY = 48
SHAPED = ("drift", "recurring", "new-servers", "cron", "dst", "churn")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """24 servers, 26 days, every half hour, with a daily rhythm and an incident column."""
    rng, slots = np.random.default_rng(3), 26 * DAY
    times = pd.date_range("2026-03-01T00:00:00Z", periods=slots, freq="30min")
    parts = []
    for server in range(24):
        wave = 0.4 + 0.2 * np.sin(np.arange(slots) * 2 * np.pi / DAY + server)
        parts.append(
            pd.DataFrame(
                {
                    "server": f"s-{server:02d}",
                    "timestamp": times,
                    TARGETS[0]: wave + rng.normal(0, 0.02, slots),
                    TARGETS[1]: np.exp(3 + wave + rng.normal(0, 0.1, slots)),
                    "incident": 1,
                }
            )
        )
    file = tmp_path_factory.mktemp("data") / "fleet.parquet"
    pd.concat(parts).to_parquet(file)
    return file


def values_of(name, path):
    made = scenario(name, data=path, targets=TARGETS)
    source = made.replay.source
    assert isinstance(source, GridSource)
    return made, source


def differs(one, other):
    """[S] which servers, and [W] which slots differ."""
    both = np.isnan(one) & np.isnan(other)
    different = (one != other) & ~both
    return different.any((0, 2)), different.any((1, 2))


@pytest.mark.parametrize("name", SHAPED)
def test_a_scenario_is_the_same_every_time_and_hides_incidents(name, path):
    (_, one), (made, other) = values_of(name, path), values_of(name, path)
    assert one.values.tobytes() == other.values.tobytes()
    assert made.replay.schema.names == TARGETS
    assert made.replay.start_slot - made.replay.first_slot == 7 * DAY
    lower = 0.0
    assert (one.values[np.isfinite(one.values)] >= lower).all()


@pytest.mark.parametrize(
    ("name", "servers", "first_day"),
    [("drift", range(10), 9), ("recurring", range(12), 10), ("cron", range(12), 0.25)],
)
def test_only_the_named_servers_change_and_not_before_their_day(name, servers, first_day, path):
    _, natural = values_of("natural", path)
    _, changed = values_of(name, path)
    where, when = differs(changed.values, natural.values[: len(changed.values)])
    assert np.flatnonzero(where).tolist() == list(servers)
    assert np.argmax(when) == first_day * DAY


def test_what_recurs_is_itself_in_between_and_another_meanwhile(path):
    _, natural = values_of("natural", path)
    _, changed = values_of("recurring", path)
    a, b = natural.values[:, 3], natural.values[:, 15]
    for days, source in (((7, 10), a), ((10, 14), b), ((14, 18), a), ((18, 22), b), ((22, 26), a)):
        span = slice(days[0] * DAY, days[1] * DAY)
        assert np.array_equal(changed.values[span, 3], source[span])


def test_new_servers_are_unknown_before_and_alone_scored(path):
    made, source = values_of("new-servers", path)
    assert np.isnan(source.values[: 15 * DAY, 18:]).all()
    assert np.isfinite(source.values[15 * DAY :]).all()
    assert made.scored is not None
    assert made.scored.servers == source.servers[18:]
    assert made.scored.from_slot - source.first_slot == 15 * DAY


def test_churn_renames_half_of_the_servers_every_day(path):
    _, natural = values_of("natural", path)
    _, churned = values_of("churn", path)
    seen = np.isfinite(churned.values).any(2)
    assert (seen.sum(1) == 24).all()
    named = [{churned.servers[at] for at in np.flatnonzero(row)} for row in seen[::DAY]]
    assert all(len(one & other) == 12 for one, other in pairwise(named))
    at = churned.servers.index("s-20-009")
    span = slice(9 * DAY, 10 * DAY)
    assert np.array_equal(churned.values[span, at], natural.values[span, 20])


def test_without_a_change_of_the_clocks_the_values_stay(path):
    # These data begin on 2026-03-01, so 15 weeks later it is summer for all of the stream.
    later = scenario("dst", data=path, targets=TARGETS, days=19)
    zones = {info.timezone for info in later.replay.source.infos}
    assert zones == {"Europe/Amsterdam"}
    _, natural = values_of("natural", path)
    where, _ = differs(later.replay.source.values, natural.values)
    assert not where.any()


@pytest.mark.data
def test_bitbrains_clocks_go_back_on_day_13(data_dir):
    made = scenario("dst", data=data_dir)
    natural = scenario("natural", data=data_dir)
    ours, theirs = made.replay.source.values, natural.replay.source.values[: 21 * 288]
    _, when = differs(ours, theirs)
    change = np.argmax(when)
    moment = pd.Timestamp((made.replay.first_slot + int(change)) * 300, unit="s", tz="UTC")
    assert moment >= pd.Timestamp("2013-10-27T01:00Z")
    assert moment < pd.Timestamp("2013-10-27T01:30Z")
    assert np.array_equal(ours[14 * 288 :], theirs[14 * 288 - 12 : -12], equal_nan=True)


@pytest.mark.data
@pytest.mark.parametrize("name", names())
def test_every_scenario_reads_its_own_file(name, data_dir):
    made = scenario(name, data=data_dir)
    assert made.replay.first_slot < made.replay.start_slot < made.replay.end_slot
    assert "incident" not in made.replay.schema.names


def test_wrong_wishes_are_refused(path):
    with pytest.raises(ConfigError, match="no scenario 'nothing'; there are natural"):
        scenario("nothing", data=path)
    with pytest.raises(ConfigError, match="--targets"):
        scenario("natural", data=path)
