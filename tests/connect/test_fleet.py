from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connect.fleet import DemoFleet
from connect.workload import METRICS
from forecast.schema import validate_rows

DAY = 288
CPU, DISK = METRICS.index("cpu_usage_ratio"), METRICS.index("disk_write_bytes_per_s")


@pytest.fixture(scope="module")
def fleet() -> DemoFleet:
    return DemoFleet(seed=7)


@pytest.fixture(scope="module")
def month(fleet: DemoFleet) -> np.ndarray:
    """Values [slots, servers, 6] of 28 days; the drift comes with day 15."""
    return fleet.values(fleet.first_slot, fleet.first_slot + 28 * DAY)


def correlation(values: np.ndarray, lag: int) -> float:
    early, late = values[:-lag], values[lag:]
    seen = ~np.isnan(early) & ~np.isnan(late)
    return float(np.corrcoef(early[seen], late[seen])[0, 1])


def local_hour(fleet: DemoFleet, server: int, slots: np.ndarray) -> np.ndarray:
    zone = ZoneInfo(fleet.infos[server].timezone)
    clocks = [datetime.fromtimestamp(slot * 300, tz=UTC).astimezone(zone) for slot in slots]
    return np.array([clock.hour + clock.minute / 60 for clock in clocks])


@settings(max_examples=10)
@given(start=st.integers(0, 20 * DAY), count=st.integers(1, 20))
def test_any_range_gives_the_rows_that_single_slots_give(start: int, count: int) -> None:
    first = DemoFleet(seed=3).first_slot + start
    alone = DemoFleet(seed=3)
    bulk = dict(DemoFleet(seed=3).rows_by_slot(first, first + count))
    backwards = {slot: alone.rows(slot) for slot in reversed(range(first, first + count))}
    assert bulk == backwards


def test_rows_and_values_say_the_same(fleet: DemoFleet, month: np.ndarray) -> None:
    slot = fleet.first_slot + 14 * DAY - 1
    rows = {row["server"]: row for row in fleet.rows(slot)}
    for place, server in enumerate(fleet.servers):
        wanted = {
            name: value
            for name, value in zip(METRICS, month[14 * DAY - 1, place].tolist(), strict=True)
            if value == value
        }
        assert rows[server]["metrics"] == wanted
        assert rows[server]["timestamp"] == slot * 300


def test_another_seed_makes_another_fleet(fleet: DemoFleet, month: np.ndarray) -> None:
    other = DemoFleet(seed=8).values(fleet.first_slot, fleet.first_slot + DAY)
    assert np.mean(other == month[:DAY]) < 0.01


def test_more_servers_leave_the_others_as_they_are(fleet: DemoFleet, month: np.ndarray) -> None:
    wider = DemoFleet(seed=7, servers_per_role=3)
    place = [wider.servers.index(name) for name in fleet.servers]
    values = wider.values(fleet.first_slot, fleet.first_slot + DAY)[:, place]
    assert len(wider.servers) == 12
    np.testing.assert_array_equal(values, month[:DAY])


def test_every_row_is_accepted_as_it_is(fleet: DemoFleet) -> None:
    first = fleet.first_slot
    rows = [row for _, rows in fleet.rows_by_slot(first, first + 3 * DAY) for row in rows]
    now_ms = (first + 3 * DAY) * 300_000
    block, rejects = validate_rows(rows, fleet.schema(), now_ms=now_ms, max_clock_skew_ms=0)
    assert rejects == ()
    assert block.servers == fleet.servers
    assert block.infos == fleet.infos
    assert len(block) == sum(len(row["metrics"]) for row in rows)


def test_gaps_are_few_but_there(month: np.ndarray) -> None:
    missing = np.isnan(month)
    assert 0.0005 < missing.mean() < 0.02
    assert missing.all(axis=2).any(), "no server was ever silent"


def test_a_day_resembles_the_day_before_but_not_its_other_half(month: np.ndarray) -> None:
    cpu = np.nanmean(month[: 5 * DAY, :2, CPU], axis=1)
    assert correlation(cpu, DAY) > 0.6
    assert correlation(cpu, DAY // 2) < 0


def test_databases_rest_at_the_weekend(fleet: DemoFleet, month: np.ndarray) -> None:
    place = fleet.servers.index("database-01")
    days = np.nanmean(month[: 14 * DAY, place, CPU].reshape(14, DAY), axis=1)
    assert days[[5, 6, 12, 13]].max() < 0.8 * days[[1, 2, 3, 8, 9, 10]].min()


@pytest.mark.parametrize(
    "day", [datetime(2026, 3, 2, tzinfo=UTC), datetime(2026, 7, 6, tzinfo=UTC)]
)
def test_the_cron_job_runs_at_six_local_time_in_winter_and_summer(day: datetime) -> None:
    fleet = DemoFleet(seed=7, start_ms=int(day.timestamp() * 1000), drift_day=None)
    slots = fleet.first_slot + np.arange(10 * DAY)
    values = fleet.values(fleet.first_slot, fleet.first_slot + 10 * DAY)
    for server in ("database-01", "database-02", "batch-01"):
        place = fleet.servers.index(server)
        hour = local_hour(fleet, place, slots)
        before = np.nanmedian(values[(hour >= 5.5) & (hour < 6), place, CPU])
        during = np.nanmedian(values[(hour >= 6) & (hour < 6.5), place, CPU])
        after = np.nanmedian(values[(hour >= 7) & (hour < 7.25), place, CPU])
        assert during > before + 0.1
        assert during > after


def test_a_busy_server_is_a_noisy_one(fleet: DemoFleet, month: np.ndarray) -> None:
    cpu = month[: 14 * DAY, fleet.servers.index("web-01"), CPU]
    bends = np.abs(cpu[2:] - 2 * cpu[1:-1] + cpu[:-2])
    level = cpu[1:-1]
    busy, quiet = level > np.nanquantile(level, 0.8), level < np.nanquantile(level, 0.2)
    assert np.nanmedian(bends[busy]) > 2 * np.nanmedian(bends[quiet])


def test_an_incident_shows_in_the_values_and_not_in_the_rows(
    fleet: DemoFleet, month: np.ndarray
) -> None:
    first = fleet.first_slot
    found = fleet.incidents(first, first + 14 * DAY)
    assert {incident.kind for incident in found} == {"runaway", "leak", "flood", "writes"}
    for incident in found:
        assert 6 <= incident.to_slot - incident.from_slot <= 24
    writes = next(i for i in found if i.kind == "writes" and i.from_slot > first + 12)
    place, at = fleet.servers.index(writes.server), writes.from_slot - first
    during = month[at : writes.to_slot - first, place, DISK]
    assert np.nanmedian(during) > 2 * np.nanmedian(month[at - 12 : at, place, DISK])
    fields = {"timestamp", "server", "role", "timezone", "metrics"}
    assert all(set(row) == fields for row in fleet.rows(writes.from_slot))


def test_incidents_are_the_same_whatever_range_asks(fleet: DemoFleet) -> None:
    first = fleet.first_slot
    whole = fleet.incidents(first, first + 14 * DAY)
    for incident in whole:
        assert incident in fleet.incidents(incident.to_slot - 1, incident.to_slot)
        assert incident not in fleet.incidents(incident.to_slot, incident.to_slot + 1)


def test_the_drift_changes_half_of_the_fleet_and_nothing_before_it(
    fleet: DemoFleet, month: np.ndarray
) -> None:
    calm = DemoFleet(seed=7, drift_day=None)
    values = calm.values(fleet.first_slot, fleet.first_slot + 28 * DAY)
    assert fleet.drift_slot == fleet.first_slot + 15 * DAY
    assert fleet.drifting == ("database-01", "database-02", "batch-01", "batch-02")
    assert calm.drift_slot is None
    np.testing.assert_array_equal(values[: 15 * DAY], month[: 15 * DAY])
    changed = np.isin(fleet.servers, fleet.drifting)
    np.testing.assert_array_equal(values[:, ~changed], month[:, ~changed])
    assert np.nanmean(values[15 * DAY :, changed] == month[15 * DAY :, changed]) < 0.01


def test_the_drift_changes_the_shape_and_hardly_the_level(
    fleet: DemoFleet, month: np.ndarray
) -> None:
    for server, period in (("batch-01", 9), ("database-01", 8)):
        cpu = month[:, fleet.servers.index(server), CPU]
        before, after = cpu[DAY : 15 * DAY], cpu[15 * DAY :]
        # A sawtooth: alike one period later, unlike half a period later.
        rises = correlation(after, period) - correlation(after, period // 2)
        assert rises > 0.25
        assert correlation(before, period) < correlation(before, period // 2)
        assert 0.5 < np.nanmean(after) / np.nanmean(before) < 2


def errors_of_a_fit(cpu: np.ndarray, *, fit: slice, test: slice) -> tuple[float, float, float]:
    """Summed error half an hour ahead of a linear fit, of copy-last and of the same time yesterday.

    The fit reads recent means and yesterday's values around the same time, for cpu [slots].
    """
    seen = np.maximum.accumulate(np.where(np.isnan(cpu), 0, np.arange(len(cpu))))
    filled, ahead = np.nan_to_num(cpu[seen]), 6

    def features(days: slice) -> tuple[np.ndarray, np.ndarray]:
        at = np.arange(days.start * DAY, days.stop * DAY - ahead)
        spans = [
            (1, 0),
            (3, 0),
            (12, 0),
            (72, 0),
            (1, ahead - DAY),
            (3, 1 + ahead - DAY),
            (12, -DAY),
        ]
        means = [np.mean([filled[at + by - k] for k in range(n)], axis=0) for n, by in spans]
        return np.stack([*means, np.ones(len(at))], axis=1), filled[at + ahead]

    inputs, wanted = features(fit)
    weights = np.linalg.lstsq(inputs, wanted, rcond=None)[0]
    inputs, wanted = features(test)
    guesses = (inputs @ weights, inputs[:, 0], inputs[:, 4])
    fitted, last, yesterday = (float(np.abs(guess - wanted).sum()) for guess in guesses)
    return fitted, last, yesterday


def test_even_a_linear_fit_beats_copy_last_and_yesterday(month: np.ndarray) -> None:
    errors = [
        errors_of_a_fit(month[:, place, CPU], fit=slice(1, 8), test=slice(8, 15))
        for place in range(8)
    ]
    fitted, last, yesterday = np.sum(errors, axis=0)
    assert fitted < 0.92 * last
    assert fitted < 0.75 * yesterday


def test_learning_from_one_day_after_the_drift_pays(month: np.ndarray) -> None:
    drifting, week = range(2, 6), slice(17, 24)
    stale = [errors_of_a_fit(month[:, s, CPU], fit=slice(1, 15), test=week)[0] for s in drifting]
    learned = [errors_of_a_fit(month[:, s, CPU], fit=slice(16, 17), test=week) for s in drifting]
    fitted, last, yesterday = np.sum(learned, axis=0)
    assert fitted < 0.9 * sum(stale)
    assert fitted < 0.7 * last
    assert fitted < 0.85 * yesterday


def test_another_step_gives_as_many_slots_as_a_day_holds() -> None:
    fleet = DemoFleet(seed=7, servers_per_role=1, step_seconds=3600)
    values = fleet.values(fleet.first_slot, fleet.first_slot + 48)
    assert values.shape == (48, 4, 6)
    assert fleet.drift_slot == fleet.first_slot + 15 * 24
    assert fleet.schema().step_seconds == 3600


def test_an_empty_range_has_no_rows(fleet: DemoFleet) -> None:
    assert list(fleet.rows_by_slot(fleet.first_slot, fleet.first_slot)) == []
    assert fleet.values(fleet.first_slot, fleet.first_slot).shape == (0, 8, 6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"step_seconds": 7}, "7, which does not divide"), ({"servers_per_role": 0}, "is 0")],
)
def test_a_fleet_that_cannot_be_is_refused(arguments: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DemoFleet(**arguments)
