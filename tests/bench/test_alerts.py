"""The bench of alerts: what it keeps of a replay, what it hides, and the figures it makes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bench.alert_streams import MEMBERS, Ear, Heard, Labelled, labelled, names
from bench.alerts import LEAD, Parts, figures
from bench.scenarios import Scenario
from connect.replay import Replay
from forecast.record import ForecastBlock
from forecast.schema import Metric, Schema

DAY = 288
LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)


def block(slot: int, servers: tuple[str, ...], member: str = "ensemble") -> ForecastBlock:
    """Step h of server s says 100 s + h at .1, and .1 more with each level."""
    values = np.zeros((len(servers), 3, 1, len(LEVELS)), np.float32)
    for row, server in enumerate(servers):
        for step in range(3):
            values[row, step, 0] = 100 * int(server) + step + 1 + 0.1 * np.arange(len(LEVELS))
    return ForecastBlock(slot, member, 1, servers, ("cpu",), LEVELS, values)


def test_what_is_kept_of_a_slot_is_what_was_said_so_many_slots_before():
    ear = Ear(members=("ensemble",), leads=(1, 3), servers=("1", "2"), targets="c", slots=(10, 12))
    ear.issued([block(8, ("2", "1")), block(8, ("1", "2"), "copy_last")])
    ear.issued([block(9, ("2",))])
    ear.scored(10, ("2", "1"), np.array([[20.0], [10.0]]))
    ear.scored(9, ("1", "2"), np.zeros((2, 1)))  # before the stream
    assert ear.actuals[:, :, 0].tolist()[0] == [10, 20]
    assert np.isnan(ear.actuals[1]).all()
    one, three = ear.bands[0, 0, :, :, 0], ear.bands[0, 1, :, :, 0]
    np.testing.assert_allclose(one[0, 1], [201, 201.2, 201.4])  # from slot 9
    assert np.isnan(one[0, 0]).all()  # nobody spoke of server 1 then
    assert np.isnan(one[1]).all()
    np.testing.assert_allclose(three[1], [[103, 103.2, 103.4], [203, 203.2, 203.4]])


def stream(labels: np.ndarray, *, hide_hours: float = 0) -> Labelled:
    metric = Metric(name="cpu", unit="", kind="gauge", resolution=0.1)
    schema = Schema("servers", 300, (metric,), ("cpu",), ("server",))
    replay = Replay("x", None, schema, 0, 5 * DAY, 5 * DAY + len(labels))
    made = Scenario("x", "", replay, {}, None, ())
    return Labelled("made", made, ("a",), labels.astype(np.int8)[:, None], hide_hours)


def heard(run: str, spikes: list[int], slots: int) -> Heard:
    """A band of 1 around 0, and actuals that are 0 but for spikes of 50."""
    actuals = np.zeros((slots, 1, 1), np.float32)
    actuals[spikes] = 50
    bands = np.broadcast_to(np.array([-1, 0, 1], np.float32), (len(MEMBERS), 1, slots, 1, 1, 3))
    return Heard("made", run, MEMBERS, (LEAD,), bands, actuals, 3, 1, None, 1.0)


def scene(*, hide_hours: float = 0) -> Parts:
    """Four days with an incident each; frozen has two false alarms a day, online one."""
    slots = 4 * DAY
    labels = np.zeros(slots)
    incidents = [day * DAY + 100 for day in range(4)]
    for at in incidents:
        labels[at : at + 5] = 1
    early = [day * DAY + 20 for day in range(4)]
    late = [day * DAY + 270 for day in range(4)]
    made = stream(labels, hide_hours=hide_hours)
    runs = [
        heard("frozen", incidents + early + late, slots),
        heard("default", incidents + late, slots),
    ]
    return Parts({"made": made}, runs, hold=1)


def test_the_figures_compare_both_systems_at_every_recall():
    told = figures(scene())
    assert told["false_alarms_frozen"] == 2.0
    assert told["false_alarms_online"] == 1.0
    assert told["false_alarm_reduction"] == told["false_alarm_reduction_recall_50"] == 0.5
    assert told["false_alarm_reduction_low"] == told["false_alarm_reduction_high"] == 0.5
    assert told["recall"] == 1.0
    assert told["false_alarm_reduction_made"] == 0.5
    assert (told["incidents"], told["server_days"]) == (4, 4.0)


def test_where_the_last_hours_are_hidden_the_data_set_is_told_with_them_too():
    parts = scene(hide_hours=3)
    assert parts.pooled == ["made"]
    told = figures(parts)
    assert told["false_alarms_frozen_made"] == told["false_alarms_frozen"] == 1 / (21 / 24)
    assert told["false_alarms_online_made"] == 0.0
    assert told["false_alarms_online_made_whole_days"] == 1.0
    assert told["server_days"] == 3.5


@pytest.mark.data
@pytest.mark.parametrize("name", names())
def test_labels_are_read_beside_the_stream_and_not_by_it(name, data_dir):
    made = labelled(name, data_dir)
    replay = made.scenario.replay
    assert made.labels.shape == (replay.end_slot - replay.start_slot, len(made.servers))
    assert set(np.unique(made.labels)) == {-1, 0, 1}
    assert (made.labels[: 7 * DAY] == -1).all()  # a week to warm up in
    assert replay.schema.names == replay.schema.targets


@pytest.mark.data
@pytest.mark.parametrize("name", names())
def test_targets_are_those_of_the_rule_that_the_plan_states(name, data_dir):
    frame = pd.read_parquet(data_dir / f"{name}.parquet")
    columns = [column for column in frame if column.startswith("metric")]
    first = frame[frame["timestamp"] < frame["timestamp"].min() + pd.Timedelta(days=7)]
    slots = first["timestamp"].dt.floor("5min").rename("slot")
    means = first.groupby(["server", slots], observed=True)[columns].mean()
    by_server = means.groupby("server", observed=True)
    moves = ((by_server.std() >= 0.01) & (by_server.nunique() >= 20)).mean() >= 0.75
    alive = [column for column in columns if moves[column]]
    tables = [one[alive].corr().to_numpy() for _, one in by_server]
    alike = np.nanmean(tables, axis=0)
    chosen: list[int] = []
    for at in range(len(alive)):
        if all(abs(alike[at, other]) < 0.8 for other in chosen):
            chosen.append(at)
    targets = labelled(name, data_dir).scenario.replay.schema.targets
    assert targets == tuple(alive[at] for at in chosen)
