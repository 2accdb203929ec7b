"""The plan against what it plans: real buffers, ledgers, artifacts and series."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from actors import arguments, telemetry
from actors.plan import measure, plan_of, refuse, series_of
from forecast.artifact import pack as pack_artifact
from forecast.config_files import load
from forecast.derived import Limits
from forecast.errors import ConfigError
from forecast.ledger import Ledger
from forecast.members import CLIMATOLOGY, COPY_LAST, LEAST_SQUARES, QUANTILE_NETWORK, SEASONAL_NAIVE
from forecast.model import Model, ModelSpec, build
from forecast.needs import NEEDS
from forecast.plan import Rates, Sizes
from forecast.record import CHAMPION, ForecastBlock, ServerStatus, Snapshot, pack_windows
from forecast.schema import SampleBlock, ServerInfo
from forecast.window_spec import WindowSpec
from forecast.windows import RawWindows
from train import rehearsal_log
from train.buffer import Buffer
from train.offer import Offer
from train.replay import ReplayTable
from train.segments import SegmentLog

SERVERS = 60
FIRST = 5_000_000


def config_of(**sections):
    tree = {"buffer": {"max_servers": SERVERS, "history_days": 10}, **sections}
    return load([Path("configs/node.toml")], overrides=tree).config


def names(count=SERVERS):
    return tuple(f"server-{number:04d}" for number in range(count))


def slot_of(config, slot, rng):
    """One sample of every series in one slot."""
    metrics = tuple(metric.name for metric in config.panel.metrics)
    count = SERVERS * len(metrics)
    return SampleBlock(
        servers=names(),
        infos=(ServerInfo(role="web", timezone="UTC"),) * SERVERS,
        metrics=metrics,
        server_index=np.repeat(np.arange(SERVERS, dtype=np.int32), len(metrics)),
        metric_index=np.tile(np.arange(len(metrics), dtype=np.int16), SERVERS),
        time_ms=np.full(count, slot * config.panel.step * 1000),
        value=rng.random(count),
    )


def test_grid_raw_samples_and_log_are_as_large_as_planned(tmp_path):
    config, rng = config_of(), np.random.default_rng(0)
    sizes = Sizes(config)
    given = {**arguments.stream(config), "directory": tmp_path / "buffer"}
    buffer = Buffer(**given)
    slots = 2 * config.clock.out_of_order // config.panel.step
    for slot in range(FIRST, FIRST + slots):
        buffer.append(f"request-{slot}", slot_of(config, slot, rng))
    status = buffer.status()
    kept = buffer._intake.raw.kept
    buffer.close()
    assert status.memory_bytes == sizes.grid
    assert status.log_bytes == pytest.approx(sizes.log_slot * slots, rel=0.1)
    assert 24 * len(kept) == pytest.approx(sizes.raw, rel=0.1)


def test_a_snapshot_takes_the_disk_that_was_planned(tmp_path):
    config, rng = config_of(), np.random.default_rng(0)
    given = {**arguments.stream(config), "directory": tmp_path, "snapshot_every_bytes": 1}
    buffer = Buffer(**given)
    buffer.append("request", slot_of(config, FIRST, rng))
    buffer.close()
    size = next(tmp_path.glob("snapshot-*")).stat().st_size
    assert size == pytest.approx(Sizes(config).grid_stored, rel=0.1)


def windows_of(sizes, config, rng):
    shape = (SERVERS, sizes.length, sizes.metrics)
    values, daily, weekly = rng.random((3, *shape), dtype=np.float32)
    return RawWindows(
        metrics=tuple(metric.name for metric in config.panel.metrics),
        context=sizes.context,
        horizon=sizes.horizon,
        step_seconds=config.panel.step,
        servers=names(),
        roles=("web",) * SERVERS,
        timezones=("UTC",) * SERVERS,
        origin=np.full(SERVERS, FIRST),
        values=values,
        daily=daily,
        weekly=weekly,
        spread=np.ones((SERVERS, sizes.metrics), np.float32),
    )


def blocks_of(sizes, config, slot, rng):
    """What each member that issues forecast, as alike as forecasts are."""
    shape = (SERVERS, sizes.horizon, sizes.targets, 1)
    steps = 0.5 + 0.01 * rng.normal(size=shape).cumsum(axis=1)
    width = rng.uniform(0.1, 0.2, (SERVERS, 1, sizes.targets, 1))
    versions = {CHAMPION: 9} | {f"previous_{n}": 9 - n for n in range(1, sizes.versions)}
    return tuple(
        ForecastBlock(
            slot=slot,
            member=member,
            version=versions.get(member),
            servers=names(),
            targets=config.panel.targets,
            levels=config.panel.quantiles,
            values=(steps + width * np.array(config.panel.quantiles)).astype(np.float32),
        )
        for member in (
            *versions,
            COPY_LAST,
            SEASONAL_NAIVE,
            CLIMATOLOGY,
            LEAST_SQUARES,
            QUANTILE_NETWORK,
        )
    )


@pytest.mark.parametrize("strategy", ["sliding_window", "ensemble"])
def test_the_ledger_grows_as_planned(strategy, tmp_path):
    config, rng = config_of(online_learning={"strategy": strategy}), np.random.default_rng(0)
    sizes, panel = Sizes(config), config.panel
    ledger = Ledger(
        path=tmp_path / "ledger.sqlite",
        targets=panel.targets,
        levels=panel.quantiles,
        horizon=sizes.horizon,
        step_seconds=panel.step,
        retain_slots=sizes.day,
        limits=Limits.of(panel.schema_of()),
    )
    slots = 24
    for slot in range(FIRST, FIRST + slots):
        actuals = rng.random((SERVERS, sizes.targets)).astype(np.float32)
        ledger.score(slot, names(), actuals)
        blocks = ledger.record(blocks_of(sizes, config, slot, rng))
        assert len(blocks) == sizes.members
        snapshot = Snapshot(
            revision=slot,
            slot=slot,
            fleet=config.fleet,
            panel=panel.name,
            step_seconds=panel.step,
            horizon=sizes.horizon,
            version=1,
            targets=panel.targets,
            units=("",) * sizes.targets,
            levels=panel.quantiles,
            servers=tuple(ServerStatus(n, "web", "UTC", "active", 0, slot, 0) for n in names()),
            served=(CHAMPION,) * SERVERS,
            blocks=blocks,
            raw=windows_of(sizes, config, rng),
            published_at=0.0,
        )
        ledger.publish(snapshot)
    ledger.close()
    raw = pack_windows(snapshot.raw)
    in_memory = len(raw) + sum(block.values.nbytes for block in blocks)
    assert in_memory == pytest.approx(sizes.snapshot, rel=0.1)
    kept = slots * (sizes.members * sizes.recorded + sizes.report) + sizes.members * sizes.sums
    size = (tmp_path / "ledger.sqlite").stat().st_size
    assert size == pytest.approx(kept + SERVERS * sizes.window, rel=0.2)


@pytest.mark.parametrize(("hidden", "layers"), [(16, 1), (32, 2), (64, 1)])
def test_a_version_takes_the_disk_that_is_planned(hidden, layers):
    config = config_of(model={"hidden_size": hidden, "lstm_layers": layers})
    sizes, schema = Sizes(config), config.panel.schema_of()
    window = WindowSpec(
        config.panel.step, sizes.context, sizes.horizon, schema.metrics, schema.targets, ("", "web")
    )
    spec = ModelSpec(
        window=window,
        quantiles=config.panel.quantiles,
        **config.model.model_dump(exclude={"roles"}),
    )
    probe = windows_of(sizes, config, np.random.default_rng(0)).select(np.arange(1))
    artifact = pack_artifact(
        Model(spec, build(spec, seed=0)),
        fingerprint=schema.fingerprint(),
        lineage={},
        metrics={},
        probe=probe,
        created_at="2026-01-01T00:00:00+00:00",
    )
    size = len(artifact.weights) + len(json.dumps(dict(artifact.manifest)))
    assert size == pytest.approx(sizes.artifact, rel=0.2)


def test_every_metric_of_the_table_is_counted_as_often_as_it_is_shown():
    config = config_of()
    values = {
        "role": ("buffer", "ledger", "trainer", "registry"),
        "member": tuple("abcdefgh"),
        "target": config.panel.targets,
        "interval": ("0.8", "0.6", "0.4", "0.2"),
        "verdict": ("promoted", "rejected"),
        "model": ("challenger", "champion"),
        "channel": ("level", "spread", "loss"),
        "kind": ("base", "retrain", "update"),
    }
    tree: dict = {"fleet": "a", "panel": "b"}
    for row in telemetry.TABLE:
        if row.path.startswith("federated."):
            assert series_of(row, config) == 0  # nothing of it is shown: there is no federation
            continue
        at = tree
        *folders, name = row.path.split(".")
        for folder in folders:
            at = at.setdefault(folder, {})
        if row.kind == "histogram":
            at[name] = telemetry.Durations().to_json()
        else:
            at[name] = 1 if row.label is None else dict.fromkeys(values[row.label], 1)
    lines = telemetry.exposition(tree).splitlines()
    shown = sum(not line.startswith("#") for line in lines)
    assert shown == sum(series_of(row, config) for row in telemetry.TABLE)


def test_more_servers_need_more_of_everything_but_series():
    small, large = plan_of(config_of()), plan_of(config_of(buffer={"max_servers": 6000}))
    for need in NEEDS:
        if need == "metric_series":
            assert small.total(need) == large.total(need)
        else:
            assert small.total(need) < large.total(need)


def test_versions_that_stay_members_are_counted():
    learning = {"strategy": "ensemble"}
    one, three, six = (
        plan_of(config_of(**more))
        for more in (
            {},
            {"online_learning": learning},
            {"online_learning": learning, "ensemble": {"versions": 6}},
        )
    )
    for need in NEEDS:
        assert one.total(need) < three.total(need) < six.total(need)


def test_a_version_on_its_way_is_counted():
    one, rolled = (plan_of(config_of(**more)) for more in ({}, {"rollout": {"enabled": True}}))
    for need in NEEDS:
        assert one.total(need) < rolled.total(need)


def test_a_limit_that_is_passed_is_refused_by_name_and_the_others_are_not():
    limits = {"memory_mb": 10, "metric_series": 1, "disk_mb_per_day": 10**9}
    with pytest.raises(ConfigError) as refused:
        refuse(config_of(limits=limits))
    said = str(refused.value)
    assert "limits.memory_mb: needs" in said
    assert "the limit is 10" in said
    assert "limits.metric_series" in said
    assert "disk" not in said
    assert refuse(config_of()).over() == ()


def test_learning_off_needs_no_cpu_for_updates():
    plan = plan_of(config_of(online_learning={"enabled": False}))
    updates = [item.amount for item in plan.items if item.what == "updates"]
    assert updates == [0.0]


def test_the_periodic_strategy_needs_retrains_and_no_updates():
    online = {"enabled": True, "strategy": "periodic", "lookback_days": 5}
    periodic, usual = (
        plan_of(config_of(online_learning=one)).to_json() for one in (online, {"enabled": True})
    )
    kind = "cpu_seconds_per_step"
    assert (periodic[f"{kind}.updates"], usual[f"{kind}.retrains"]) == (0, 0)
    assert periodic[f"{kind}.retrains"] > 0
    assert periodic["disk_mb_per_day.versions"] == pytest.approx(
        usual["disk_mb_per_day.versions"] / 24, rel=0.05
    )


def test_slower_rates_need_more_cpu():
    config = config_of()
    fast, slow = plan_of(config, Rates(1e-4, 1e-3)), plan_of(config, Rates(1e-3, 1e-2))
    assert slow.total("cpu_seconds_per_step") > fast.total("cpu_seconds_per_step")


def test_measured_rates_are_of_this_network():
    rates = measure(config_of(model={"hidden_size": 4, "hidden_continuous_size": 4}))
    assert rates.forward_s > 0
    assert rates.learn_s > 0


def test_the_json_is_flat_and_its_parts_add_up():
    flat = plan_of(config_of(limits={"memory_mb": 123456})).to_json()
    assert flat["memory_mb.limit"] == 123456
    assert flat["disk_mb.limit"] is None
    parts = [
        value for key, value in flat.items()
        if key.startswith("memory_mb.") and not key.endswith(".limit")
    ]  # fmt: skip
    assert sum(parts) == pytest.approx(flat["memory_mb"], abs=0.1)


def test_the_replay_table_takes_what_was_planned_and_nothing_without_its_strategy(tmp_path):
    online = {"strategy": "replay", "replay_buffer_size": 5000, "enabled": True}
    config = config_of(online_learning=online)
    sizes, rng = Sizes(config), np.random.default_rng(0)
    schema, shape = config.panel.schema_of(), {"context": sizes.context, "horizon": sizes.horizon}
    table = ReplayTable(schema=schema, capacity=5000, **shape)
    assert table.nbytes == pytest.approx(sizes.replay, rel=0.05)
    kind = rehearsal_log.about(schema, capacity=5000, **shape)
    for at in range(80):
        raw = windows_of(sizes, config, rng)
        raw = replace(raw, origin=raw.origin + 7 * at)
        table.insert(Offer.of(raw, schema), losses=None, seed=at)
    log = SegmentLog(tmp_path, acknowledge="write", segment_bytes=1 << 20, about=kind)
    log.compact(rehearsal_log.dump(table, kind, {}))
    size = next(tmp_path.glob("snapshot-*")).stat().st_size
    assert size == pytest.approx(sizes.replay * len(table) / 5000, rel=0.05)
    assert Sizes(config_of(online_learning={"enabled": True})).replay == 0
