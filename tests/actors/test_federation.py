"""The federation's actor: killed anywhere it ends the same, and its steps are on record once."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from actors import federated_arguments, handles, plan, telemetry
from forecast.config import Config
from forecast.errors import AuditError, Busy, StateError
from tests.actors.federation_scene import Now, actor, update
from tests.forecast.crash_disk import Crash, CrashDisk, QuickDisk
from train.federated.order import can_be_trimmed
from train.federated.state import save
from train.federated.update import Verdict

HEAD = {"fleet": "f", "panel": "p", "step_seconds": 300}
SITES = ("a", "b", "c")


def score(site: str, version: int, change: float) -> dict:
    told = {"samples": 9, "lower": -1.0, "upper": 1.0, "blocks": 4, "finite": True}
    return {"site": site, "version": version, "change": change, **told}


class Registry:
    """Keeps notes by key, as the audit log does."""

    def __init__(self) -> None:
        self.notes: dict[str, dict] = {}
        self.silent = False
        self.fault: Exception = Busy("the registry does not answer", retry_after_s=5)
        self.answers = asyncio.Event()
        self.answers.set()

    async def ask(self, role, method, kind, *, detail, who, key):
        assert (role, method, kind, who) == (handles.REGISTRY, "note", "federated", "aggregator")
        await self.answers.wait()
        if self.silent:
            raise self.fault
        self.notes.setdefault(key, detail)


async def noted(one) -> None:
    """Until nothing more is being put on record."""
    if one._noting is not None:
        await one._noting


CALLS = [
    *(("send", site, 0) for site in SITES),
    *(("score", site, 1, -0.1) for site in SITES),
    *(("send", site, 1) for site in SITES),
    *(("score", site, 2, 0.1) for site in SITES),
    *(("send", site, 2) for site in SITES),
    *(("score", site, 3, -0.1) for site in SITES),
]
"""Three rounds; the second candidate is rejected."""


async def run(folder, disk, done, registry):
    one = actor(folder, disk, registry=registry)
    try:
        for what, site, *rest in CALLS[len(done) :]:
            if what == "send":
                receipt = await one.send(*update(site, rest[0], one._aggregator.version))
                assert receipt["counted"], receipt
            else:
                await one.score(score(site, *rest))
            done.append(what)
        await one.current("a")
        await noted(one)
    except BaseException:
        one._lock.release()  # as the kernel does when the process is gone
        raise
    return one


def told(one):
    book = one._federation.book
    saved = save(one._aggregator)
    kept = [{k: v for k, v in each.items() if k != "noted"} for each in book.rounds]
    pieces = {name: make() for name, make in saved.pieces.items()}
    return saved.head, pieces, kept, dict(book.outcomes)


async def test_killed_anywhere_and_called_again_it_ends_bitwise_the_same(tmp_path):
    records = Registry()
    wanted = await run(tmp_path / "plain", QuickDisk(), [], records)
    assert wanted._federation.book.outcomes == {"stepped": 3, "accepted": 2, "rejected": 1}
    assert wanted._aggregator.version == 3
    assert sorted(records.notes) == ["1", "2", "3"]
    await wanted.close()
    for at in range(3, 900, 71):
        folder, notes = tmp_path / str(at), Registry()
        for name in ("federated", "federated-rounds"):
            (folder / name).mkdir(parents=True)
        disk, done = CrashDisk(folder, at, power_cut=at % 2 == 0), []
        try:
            await (await run(folder, disk, done, notes)).close()
            break
        except Crash:
            pass
        again = await run(folder, QuickDisk(), done, notes)
        assert told(again) == told(wanted), at
        assert {k: v["decision"] for k, v in notes.notes.items()} == {
            k: v["decision"] for k, v in records.notes.items()
        }
        await again.close()
    assert 60 < at < 880


@pytest.mark.parametrize("fault", [Busy("gone", retry_after_s=5), AuditError("a full disk")])
async def test_a_step_is_on_record_once_the_registry_answers(tmp_path, fault):
    registry = Registry()
    registry.silent, registry.fault = True, fault
    one = actor(tmp_path, registry=registry)
    for site in SITES:
        await one.send(*update(site, 0, 0))
    for site in SITES:
        await one.score(score(site, 1, -0.1))
    await noted(one)
    assert not registry.notes
    assert one._aggregator.version == 1
    registry.silent = False
    await one.current("a")
    await noted(one)
    [detail] = registry.notes.values()
    assert (detail["sites"], detail["version"]) == (["a", "b", "c"], 1)
    assert detail["decision"]["accept"]
    await one.close()


async def test_while_the_registry_hangs_the_federation_goes_on(tmp_path):
    registry = Registry()
    registry.answers.clear()
    one = actor(tmp_path, registry=registry, gated=False)
    for turn in range(3):
        for site in SITES:
            assert (await one.send(*update(site, turn, turn)))["counted"]
    assert (one._aggregator.version, registry.notes) == (3, {})
    registry.answers.set()
    await noted(one)
    assert list(registry.notes) == ["1", "2", "3"]
    registry.answers.clear()
    for site in SITES:
        await one.send(*update(site, 3, 3))
    await one.close()  # which waits for nobody
    registry.answers.set()
    one = actor(tmp_path, registry=registry, gated=False)
    await one.current("a")
    await noted(one)
    assert list(registry.notes) == ["1", "2", "3", "4"]
    await one.close()


async def test_a_bad_update_that_comes_again_makes_nobody_write(tmp_path):
    one = actor(tmp_path)
    header, arrays = update("a", 0, 0)
    bad = {"values": np.full_like(arrays["values"], np.nan)}
    said = [(await one.send(header, bad))["verdict"] for _ in range(5)]
    assert said == ["non_finite"] * 5
    assert one._changes == one._written == 1
    assert (await one.numbers())["verdicts"] == {"non_finite": 5}
    await one.close()


async def test_without_a_gate_a_step_is_accepted_at_once_and_on_record(tmp_path):
    registry = Registry()
    one = actor(tmp_path, registry=registry, gated=False)
    for site in SITES:
        await one.send(*update(site, 0, 0))
    assert one._aggregator.version == 1
    await noted(one)
    assert list(registry.notes) == ["1"]
    assert (await one.current("a"))["candidate"] is None
    await one.close()


async def test_a_round_that_misses_sites_ends_at_its_deadline(tmp_path):
    now = Now()
    one = actor(tmp_path, now=now)
    for site in SITES[:2]:
        await one.send(*update(site, 0, 0))
    now.s += 59
    assert (await one.current("a"))["candidate"] is None
    now.s += 2
    assert (await one.current("a"))["candidate"] == 1
    assert (await one.rounds(5))["rounds"][0]["sites"] == ["a", "b"]
    await one.close()


async def test_a_book_that_cannot_be_read_is_refused_and_leaves_no_lock(tmp_path):
    one = actor(tmp_path)
    await one.send(*update("a", 0, 0))
    await one.close()
    path = tmp_path / "federated-rounds" / "book.json"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"format": 1', b'"format": 9'))
    with pytest.raises(StateError, match="format 9, need 1"):
        actor(tmp_path)
    path.write_bytes(whole)
    await actor(tmp_path).close()


class Watched(QuickDisk):
    """Tells when it is about to put the aggregator's head in its place."""

    def __init__(self) -> None:
        self.at_head: list = []

    def rename(self, source, target) -> None:
        if target.name == "head":
            for call in self.at_head:
                call()
        super().rename(source, target)


async def test_a_copy_that_begins_within_a_write_is_of_one_state_and_others_go_on(tmp_path):
    disk = Watched()
    one, loop, begun = actor(tmp_path / "here", disk, gated=False), asyncio.get_running_loop(), []

    def begin() -> None:
        assert one._replacing.locked()
        disk.at_head.clear()
        asked = one.begin_copy(tmp_path / "copy")
        begun.append(asyncio.run_coroutine_threadsafe(asked, loop))

    for site in SITES[:2]:
        await one.send(*update(site, 0, 0))
    disk.at_head.append(begin)
    await one.send(*update("c", 0, 0))
    await asyncio.wrap_future(begun[0])
    assert one._aggregator.version == 1  # a write later
    for site in SITES:
        await one.send(*update(site, 1, 1))
    files, epoch = await one.end_copy()
    await one.close()
    assert (epoch, {file.path.split("/")[1] for file in files}) == (
        1, {"federated", "federated-rounds"},
    )  # fmt: skip
    again = actor(tmp_path / "copy" / "state")
    both = (again._federation.book.verdicts["accepted"], again._aggregator.open.updates)
    assert (both, again._aggregator.version) == ((3, 3), 0)
    await again.close()


PANEL = {"targets": ["cpu"], "metrics": [{"name": "cpu"}]}


def config(**federated) -> Config:
    given = {"enabled": True, **federated}
    return Config.model_validate({"state_dir": "s", "panel": PANEL, "federated": given})


def test_the_config_says_how_updates_are_merged_and_when_a_round_ends():
    given = federated_arguments.aggregator(
        config(sites=["a", "b", "c"], rule="median", deadline="5m", compression="int8", worse=0.01)
    )
    settings, rules = given["settings"], given["rules"]
    assert (settings.rule, settings.updates, settings.deadline_s) == ("median", 3, 300.0)
    assert (rules.codec, rules.verdict.worse, rules.verdict.quorum) == ("int8", 0.01, 2)
    assert given["sites"] == ("a", "b", "c")
    assert repr(given) == repr(federated_arguments.aggregator(
        config(sites=["a", "b", "c"], rule="median", deadline="5m", compression="int8", worse=0.01)
    ))  # fmt: skip


def test_a_quorum_that_the_named_sites_cannot_reach_is_refused():
    with pytest.raises(ValueError, match=r"federated\.quorum = 2, but sites has 1"):
        config(sites=["a"])


def test_a_trimmed_mean_that_could_never_be_made_is_refused():
    with pytest.raises(ValueError, match="needs 5 sites or more"):
        config(rule="trimmed_mean", sites=["a", "b", "c", "d"])
    with pytest.raises(ValueError, match=r"trim = 0\.49 needs"):
        config(rule="trimmed_mean", trim=0.49)
    assert config(rule="trimmed_mean", sites=list("abcde")).federated.updates_per_round == 5
    for trim in (0.2, 0.4, 0.45, 0.49):
        for count in range(2, 33):
            can = any(can_be_trimmed(m, trim) for m in range(count + 1))
            asked = {"rule": "trimmed_mean", "trim": trim, "sites": [f"s{n}" for n in range(count)]}
            if can:
                config(**asked)
            else:
                with pytest.raises(ValueError, match="needs 5 sites or more"):
                    config(**asked)


def test_series_are_counted_where_there_is_a_federation_alone():
    rows = [row for row in telemetry.TABLE if row.path.startswith("federated.")]
    there = config()
    off = there.model_copy(
        update={"federated": there.federated.model_copy(update={"enabled": False})}
    )
    assert {plan.series_of(row, off) for row in rows} == {0}
    [verdicts] = [row for row in rows if row.label == "verdict"]
    assert plan.series_of(verdicts, there) == len(Verdict)


async def test_its_numbers_are_in_the_metrics_by_verdict_and_outcome(tmp_path):
    one = actor(tmp_path)
    for site in SITES:
        await one.send(*update(site, 0, 0))
    await one.send(*update("a", 0, 0))
    tree = telemetry.tree_of(HEAD, {"federated": await one.numbers()})
    text = telemetry.exposition(tree)
    own = 'fleet="f",panel="p"'
    assert f'fleetcast_federated_updates_total{{{own},verdict="duplicate"}} 1.0' in text
    assert 'fleetcast_federated_rounds_total{fleet="f",outcome="stepped",panel="p"} 1.0' in text
    assert f"fleetcast_federated_participants{{{own}}} 3.0" in text
    await one.close()
