"""What the system says of itself: the same numbers everywhere, on Ray too."""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from pathlib import Path

import httpx
import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families

from actors import handles, telemetry, topology
from actors.local import LocalFleet, LocalHandle
from actors.ray_metrics import Metrics, Publisher
from tests.actors.scenario import blocks, small_config, small_replay

HEAD = {"fleet": "web", "panel": "servers", "step_seconds": 300}
_DEADLINE_S = 240.0
_OTHERS = {row.label for row in telemetry.TABLE if row.label} - {"role", "member"}
_MOVING = {
    "fleetcast_wait_seconds_total",
    "fleetcast_disk_free_bytes",
    "fleetcast_trainer_memory_bytes",
    "fleetcast_trainer_peak_memory_bytes",
    "fleetcast_training_cpu_seconds_total",  # its parts add up to another last bit
}


class FakeRay:
    """Ray's metrics, remembered: totals by name and labels; refuses what Ray refuses."""

    def __init__(self):
        self.values = {}

    def make(self, row, labels):
        return _FakeMetric(self.values, row, labels)


class _FakeMetric:
    def __init__(self, values, row, keys):
        self.values, self.row, self.keys = values, row, keys

    def _key(self, labels):
        assert set(labels) == set(self.keys)
        return (self.row.name, *labels.values())

    def set(self, value, labels):
        assert self.row.kind == "gauge"
        self.values[self._key(labels)] = value

    def inc(self, value, labels):
        assert self.row.kind == "counter"
        if value <= 0:
            raise ValueError("Ray adds nothing but what is above zero")
        self.values[self._key(labels)] = self.values.get(self._key(labels), 0) + value

    def observe(self, value, labels):
        assert self.row.kind == "histogram"
        self.values.setdefault(self._key(labels), []).append(value)


def tree(**parts):
    return telemetry.tree_of(HEAD, parts)


def numbers(text, prefix="", **wanted):
    """Samples of an exposition by name and value of the labels other than fleet and panel."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith(f"{prefix}fleetcast_") and (
                wanted.items() <= sample.labels.items()
            ):
                own = tuple(sample.labels.get(key, "") for key in ("role", "member", "le"))
                own += tuple(sample.labels[key] for key in _OTHERS & sample.labels.keys())
                found[sample.name.removeprefix(prefix), own] = sample.value
    return found


# The table


def test_names_follow_prometheus_so_that_they_are_the_same_in_both_exporters():
    names = [row.name for row in telemetry.TABLE]
    assert len(set(names)) == len(names)
    for row in telemetry.TABLE:
        assert re.fullmatch(r"fleetcast_[a-z0-9_]+", row.name)
        # Ray puts _total behind a counter that lacks it, and would tell two names for one metric.
        assert row.name.endswith("_total") == (row.kind == "counter"), row
        if row.kind != "counter" and row.unit in ("seconds", "bytes", "ratio"):
            assert row.name.endswith(f"_{row.unit}"), row
        assert row.path.split(".")[0] in {*telemetry.PARTS, "forecast", "health"}


def test_what_an_actor_does_not_say_is_left_out_of_the_text():
    text = telemetry.exposition(
        tree(
            buffer=None,
            controller={"stepped_slot": 7, "steps": 3, "restarts": {"buffer": 2, "ledger": 0}},
            ledger={"wql": {"champion": 0.2}},
            registry={"champion": None, "last_update": {"promoted": True}},
        )
    )
    assert numbers(text, fleet="web", panel="servers") == {
        ("fleetcast_step_seconds", ("", "", "")): 300,
        ("fleetcast_stepped_slot", ("", "", "")): 7,
        ("fleetcast_steps_total", ("", "", "")): 3,
        ("fleetcast_actor_restarts_total", ("buffer", "", "")): 2,
        ("fleetcast_actor_restarts_total", ("ledger", "", "")): 0,
        ("fleetcast_wql_ratio", ("", "champion", "")): 0.2,
        ("fleetcast_last_update_promoted", ("", "", "")): 1,
    }


def test_durations_are_a_histogram_with_growing_buckets():
    took = telemetry.Durations()
    for seconds in (0.05, 0.07, 20.0, 9999.0):
        took.observe(seconds)
    found = numbers(telemetry.exposition(tree(controller={"step_duration": took.to_json()})))
    name = "fleetcast_step_duration_seconds"
    buckets = {le: n for (key, (_, _, le)), n in found.items() if key == f"{name}_bucket"}
    assert list(buckets.values()) == sorted(buckets.values())
    assert (buckets["0.05"], buckets["0.1"], buckets["30.0"], buckets["+Inf"]) == (1, 2, 3, 4)
    assert found[f"{name}_count", ("", "", "")] == 4
    assert math.isclose(found[f"{name}_sum", ("", "", "")], 10019.12)


async def test_every_part_is_plain_values_so_that_the_http_side_needs_no_training_code(tmp_path):
    fleet = LocalFleet(small_config(tmp_path, small_replay()))
    for role, method in telemetry.PARTS.values():
        # The local loop has no controller to ask, and no federation.
        if role not in (handles.CONTROLLER, *handles.FEDERATED):
            json.dumps(await getattr(getattr(fleet, role), method).remote())
    await fleet.close()


# Into Ray


def test_a_counter_grows_by_what_was_added_and_goes_on_from_zero_after_a_restart():
    shown = FakeRay()
    metrics = Metrics(shown.make)
    seen = []
    for late in (0, 5, 5, 8, 2, None, 3):
        metrics.publish(tree(buffer=None if late is None else {"late": late}))
        seen.append(shown.values.get(("fleetcast_ingest_late_samples_total", "web", "servers"), 0))
    assert seen == [0, 5, 5, 8, 10, 10, 11]


def test_a_gauge_stays_as_it_was_while_its_actor_is_silent():
    shown = FakeRay()
    metrics = Metrics(shown.make)
    metrics.publish(tree(buffer={"closed_slot": 4, "may_learn": False}))
    metrics.publish(tree(buffer=None))
    assert shown.values == {
        ("fleetcast_step_seconds", "web", "servers"): 300,
        ("fleetcast_closed_slot", "web", "servers"): 4,
        ("fleetcast_may_learn", "web", "servers"): 0,
    }


def test_a_histogram_gets_an_observation_in_the_bucket_of_each_new_one():
    shown = FakeRay()
    metrics = Metrics(shown.make)
    key = ("fleetcast_update_duration_seconds", "web", "servers")
    took = telemetry.Durations()
    for seconds in (0.2, 40.0):
        took.observe(seconds)
        metrics.publish(tree(training={"update": took.to_json()}))
    assert [bucket_of(value) for value in shown.values[key]] == [bucket_of(0.2), bucket_of(40.0)]
    again = telemetry.Durations()  # the trainer restarted
    again.observe(4000.0)
    metrics.publish(tree(training={"update": again.to_json()}))
    assert [bucket_of(value) for value in shown.values[key]][2:] == [len(telemetry.BOUNDS)]


def bucket_of(seconds):
    return sum(bound < seconds for bound in telemetry.BOUNDS)


class _Actor:
    """Answers every part of the status, as it is told."""

    def __init__(self, pid=1):
        self.pid, self.fails, self.asked = pid, None, 0

    async def identity(self):
        return {"pid": self.pid}

    async def numbers(self):
        self.asked += 1
        if self.fails is not None:
            raise self.fails
        return {"late": self.asked}

    async def counts(self):
        await asyncio.Event().wait()  # never

    async def published(self):
        return {"age_seconds": 3.0}


async def test_an_actor_that_hangs_or_fails_costs_its_own_numbers_only_and_is_told_once(caplog):
    shown, actor = FakeRay(), _Actor()

    async def own():
        return {"steps": 9}

    publisher = Publisher(
        head=HEAD,
        actors={handles.BUFFER: LocalHandle(actor), handles.LEDGER: LocalHandle(_Actor())},
        own=own,
        metrics=Metrics(shown.make),
        timeout_s=0.02,
    )
    actor.fails = RuntimeError("away")
    for _ in range(3):
        await publisher.publish()
    labels = ("web", "servers")
    known = {
        ("fleetcast_step_seconds", *labels): 300,
        ("fleetcast_steps_total", *labels): 9,
        ("fleetcast_forecast_age_seconds", *labels): 3,
    }
    assert shown.values == known
    assert caplog.text.count("buffer.numbers") == 1
    assert caplog.text.count("ledger.counts") == 1
    actor.fails, actor.pid = None, 2
    await publisher.publish()
    assert shown.values["fleetcast_ingest_late_samples_total", *labels] == 4
    assert publisher.restarts == {handles.BUFFER: 1, handles.LEDGER: 0}


async def test_metrics_that_cannot_be_written_stop_nothing(caplog):
    async def own():
        return {"steps": 9}

    class Broken:
        def publish(self, _tree):
            raise ValueError("no exporter")

    publisher = Publisher(head=HEAD, actors={}, own=own, metrics=Broken())
    await publisher.publish()
    await publisher.publish()
    assert caplog.text.count("no exporter") == 1


# On Ray


@pytest.fixture
def fleet(ray_cluster, tmp_path):
    """A small fleet's config and its actors, under way."""
    replay = small_replay()
    config = small_config(tmp_path, replay).model_copy(update={"fleet": "seen"})
    yield config, replay, topology.ensure(config)
    topology.stop(config)


async def _until(condition):
    """What the condition gives once it is true; it is asked again and again until the deadline."""
    deadline = time.monotonic() + _DEADLINE_S
    while not (found := await condition()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.2)  # polls a condition with a deadline
    return found


async def _told(config, actors):
    """What /metrics says, but for what moves, and sums, which Ray takes from the buckets."""
    parts = {
        part: await getattr(actors[role], method).remote()
        for part, (role, method) in telemetry.PARTS.items()
        if role in actors
    }
    said = numbers(telemetry.exposition(telemetry.status(config, None, parts)))
    return {
        (name, labels): value
        for (name, labels), value in said.items()
        if name not in _MOVING and not name.endswith(("_bucket", "_sum"))
        # Ray has no series of a counter that never counted.
        if value != 0 or not name.endswith(("_total", "_count"))
    }


async def _exported(**labels):
    """What Ray's metrics exporter of this node shows of fleets with these labels."""
    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        answer = await client.get(url)
    return numbers(answer.raise_for_status().text, "ray_", **labels)


@ray.remote(num_cpus=0)
class _OtherFleet:
    """All that Ray's exporter sees of a second fleet: a process that shows other numbers."""

    def __init__(self):
        self._metrics = Metrics()

    def show(self, slot):
        self._metrics.publish(
            telemetry.tree_of({**HEAD, "fleet": "other"}, {"controller": {"stepped_slot": slot}})
        )


@pytest.mark.ray
@pytest.mark.slow
async def test_ray_exports_what_metrics_says_and_keeps_logs_that_name_the_update(fleet):
    config, replay, actors = fleet
    other = _OtherFleet.remote()
    last = 0
    for request_id, block in blocks(replay, slots=3):
        last = (await actors[handles.BUFFER].append.remote(request_id, block)).closed_slot

    async def stepped():
        return (await actors[handles.CONTROLLER].status.remote())["stepped_slot"] == last

    await _until(stepped)

    async def same():
        told = await _told(config, actors)
        shown = await _exported(fleet="seen", panel=config.panel.name)
        return told if told.items() <= shown.items() else None

    told = await _until(same)
    assert told["fleetcast_stepped_slot", ("", "", "")] == last
    assert told["fleetcast_champion_version", ("", "", "")] == 1
    assert told["fleetcast_base_training_duration_seconds_count", ("", "", "")] == 1
    sent = sum(len(block.value) for _, block in blocks(replay, slots=3))
    assert told["fleetcast_ingest_accepted_samples_total", ("", "", "")] == sent
    assert told["fleetcast_wql_ratio", ("", "champion", "")] > 0

    async def others():
        await other.show.remote(5)
        return await _exported(fleet="other")

    assert await _until(others) == {
        ("fleetcast_step_seconds", ("", "", "")): 300,
        ("fleetcast_stepped_slot", ("", "", "")): 5,
    }

    said = _lines(await actors[handles.CONTROLLER].identity.remote())
    (update,) = await actors[handles.REGISTRY].updates.remote(1)
    about = [line for line in said if line.get("update_id") == update.update_id]
    assert [line["role"] for line in about] == [handles.CONTROLLER] * len(about)
    assert any("is due" in line["message"] for line in about)
    assert any("promoted" in line["message"] for line in about)
    said = _lines(await actors[handles.REGISTRY].identity.remote())
    (kept,) = [line for line in said if "registered" in line["message"]]
    assert (kept["fleet"], kept["update_id"]) == ("seen", update.update_id)
    assert (kept["version"], kept["slot"]) == (1, update.slot)


def _lines(identity):
    """Our lines in the log file of an actor's process, where Ray's dashboard finds them."""
    # Next to the logs lies the folder of the node's sockets.
    logs_dir = Path(ray.nodes()[0]["RayletSocketName"]).parents[1] / "logs"
    (path,) = logs_dir.glob(f"worker-*-{identity['pid']}.err")
    text = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in text if line.startswith("{")]
