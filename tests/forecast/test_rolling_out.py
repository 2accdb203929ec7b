"""Rolling versions out in the registry: the controller's changes and people's, in any order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from forecast.audit import AuditLog, verify
from forecast.errors import Conflict, PreconditionFailed, RegistryError, UnknownVersion
from forecast.rolling_out import stands, tag_of
from forecast.rollout import Cohort, Share, Table
from forecast.versions import RegistryState
from tests.forecast.crash_disk import Crash, CrashDisk
from tests.forecast.registry_scene import add, artifact, folders, open_registry

REPORT = {"relative_change": -0.01}
LIVE = {"who": "rollout", "reasons": ("better live",), "report": {"change": -0.01}}


def accept(registry, number, *, slot, **changes):
    """Register the version of this number's update and let it begin or wait."""
    known = {"update_id": f"u{number}", "slot": slot}
    version = registry.register(artifact(f"u{number}"), **known)
    given = {"who": "gate", "reasons": ("better",), "report": REPORT, "canary_share": 0.05}
    registry.accept(version, **{**given, **known, **changes})
    return version


def steer(registry, action, version=None, *, slot=50, key="r", **changes):
    given = {"slot": slot, "who": "ann", "reason": "asked", "key": key, **changes}
    return registry.steer(action, version, **given)


@pytest.fixture
def registry(tmp_path):
    opened = open_registry(tmp_path, keep=9)
    add(opened, "b", slot=1, kind="base")
    return opened


def test_an_accepted_version_goes_from_shadow_to_canary_to_champion(registry, tmp_path):
    version = accept(registry, 2, slot=10)
    state = registry.state()
    assert (state.champion, state.aliases["challenger"], state.rollout.table) == (1, 2, None)
    state = registry.advance(version, slot=20, **LIVE)
    assert state.rollout.table == Table.canary(1, 2, 0.05)
    assert registry.advance(version, slot=20, **LIVE) == state  # a step done again
    state = registry.arrive(version, slot=30, **LIVE)
    assert (state.champion, state.rollout.table, state.rollout.flight) == (2, None, None)
    assert "challenger" not in state.aliases
    assert registry.arrive(version, slot=30, **LIVE) == state
    assert open_registry(tmp_path).state() == state


def test_an_update_is_judged_once_whatever_promotes_it_later(registry):
    version = accept(registry, 2, slot=10)
    registry.arrive(version, slot=30, **LIVE)
    registry.rollback(slot=40, who="ann", reason="bad")
    steer(registry, "promote", version)
    told = [(one.verdict, one.slot, one.report) for one in registry.updates()]
    assert told == [("accepted", 10, REPORT), ("promoted", 1, {})]  # and the base
    assert (registry.verdict("u2").verdict, registry.verdict("u2").report) == ("accepted", REPORT)
    assert registry.verdict("b") is None  # its key is its slot: a training by hand


def test_one_that_goes_back_leaves_no_trace_but_its_records_and_what_waits_begins(
    registry, tmp_path
):
    first = accept(registry, 2, slot=10)
    accept(registry, 3, slot=12)
    newest = accept(registry, 4, slot=14)
    assert folders(tmp_path) == [1, first, newest]  # 3 was superseded while it waited
    registry.advance(first, slot=20, **LIVE)
    state = registry.back(first, slot=25, **LIVE)
    assert (state.champion, state.rollout.flight.version, state.rollout.table) == (1, newest, None)
    assert state.rollout.flight.began == 25
    assert registry.back(first, slot=25, **LIVE) == state
    assert folders(tmp_path) == [1, newest]
    assert [record.kind for record in registry.rollouts(2)] == ["rollout", "rollout"]


def test_what_a_rollout_takes_back_from_a_cohort_counts_as_a_rollback_and_a_shadow_does_not(
    registry,
):
    for number, slot in ((2, 10), (3, 20)):
        version = accept(registry, number, slot=slot)
        if number == 3:
            registry.advance(version, slot=slot + 1, **LIVE)
        registry.back(version, slot=slot + 2, **LIVE)
    [change] = registry.changes(0)
    assert (change.kind, change.slot, change.who) == ("rollback", 22, "rollout")
    assert (change.reason, change.champion) == ("better live", 1)


def test_a_version_that_is_not_in_flight_is_not_moved(registry):
    accept(registry, 2, slot=10)
    before = registry.state()
    for move in (registry.advance, registry.arrive, registry.back):
        assert move(1, slot=20, **LIVE) == before
        assert move(9, slot=20, **LIVE) == before


def test_a_rollback_with_a_canary_takes_the_canary_back_and_only_then_the_champion(registry):
    add(registry, "u2", slot=5)
    version = accept(registry, 3, slot=10)
    registry.advance(version, slot=20, **LIVE)
    state = registry.rollback(slot=21, who="ann", reason="bad", pause=True)
    assert (state.champion, state.rollout.table, state.rollout.flight) == (2, None, None)
    assert registry.rollback(slot=22, who="ann", reason="worse").champion == 1


def test_a_rollback_of_the_champion_ends_what_was_compared_with_it(registry, tmp_path):
    add(registry, "u2", slot=5)
    accept(registry, 3, slot=10)
    accept(registry, 4, slot=12)
    state = registry.rollback(slot=20, who="ann", reason="bad")
    assert (state.champion, state.rollout.versions) == (1, frozenset())
    assert folders(tmp_path) == [1, 2]


def test_while_promotion_is_paused_nothing_begins_and_nothing_arrives(registry):
    version = accept(registry, 2, slot=10)
    registry.pause(reason="audit", who="ann", slot=11)
    with pytest.raises(RegistryError, match="paused by ann"):
        accept(registry, 3, slot=12)
    with pytest.raises(RegistryError, match="paused by ann"):
        registry.arrive(version, slot=20, **LIVE)
    assert registry.back(version, slot=21, **LIVE).rollout.flight is None  # the way back is open


@pytest.mark.parametrize("way_back", ["back", "rollback"])
def test_what_waited_answers_nobody_while_promotion_is_paused(registry, way_back):
    first = accept(registry, 2, slot=10, stage="canary")
    waits = accept(registry, 3, slot=11, stage="canary")
    assert registry.state().rollout.table == Table.canary(1, first, 0.05)
    if way_back == "back":
        registry.pause(reason="audit", who="ann", slot=12)
        state = registry.back(first, slot=13, **LIVE)
    else:
        state = registry.rollback(slot=13, who="ann", reason="bad", pause=True)
    flight = state.rollout.flight
    assert (flight.version, flight.stage, flight.since) == (waits, "shadow", 13)
    assert (state.rollout.table, state.paused.who) == (None, "ann")
    registry.resume(reason="fine", who="ann", slot=14)
    state = registry.advance(waits, slot=15, **LIVE)
    assert state.rollout.table == Table.canary(1, waits, 0.05)


def test_what_waited_begins_with_its_canary_while_nothing_is_paused(registry):
    first = accept(registry, 2, slot=10, stage="canary")
    waits = accept(registry, 3, slot=11, stage="canary")
    assert registry.back(first, slot=13, **LIVE).rollout.table == Table.canary(1, waits, 0.05)


def test_what_was_seen_must_stand_unless_the_request_was_done_before(registry):
    add(registry, "u2", slot=5)
    seen = tag_of(registry.state())
    registry.register(artifact("u3"), update_id="u3", slot=6)
    registry.expect(seen, "put:r1")  # another version is no other table
    table = Table((Share(2, 0.5), Share(1, 0.5)))
    steer(registry, "put", table=table, key="r1")
    with pytest.raises(PreconditionFailed, match="look again"):
        registry.expect(seen, "put:r2")
    registry.expect(seen, "put:r1")
    assert stands(registry.state(), '"2"')
    assert stands(registry.state(), "*")
    assert stands(registry.state(), f'"9-9", W/{tag_of(registry.state())}')


def test_a_dry_run_tells_and_does_nothing(registry, tmp_path):
    version = accept(registry, 2, slot=10)
    before, records = registry.state(), len(AuditLog(tmp_path / "audit"))
    assert steer(registry, "promote", version, dry_run=True).champion == version
    assert steer(registry, "retire", version, dry_run=True).rollout.flight is None
    assert (registry.state(), len(AuditLog(tmp_path / "audit"))) == (before, records)
    assert steer(registry, "promote", version).champion == version


def test_what_the_gate_or_the_rollout_refused_is_a_conflict_with_the_report(registry):
    refused = registry.register(artifact("u2"), update_id="u2", slot=5)
    told = {"slot": 5, "who": "gate", "update_id": "u2", "report": REPORT}
    registry.reject(refused, reasons=("worse",), **told)
    for action in ({"action": "promote", "version": refused}, {"action": "put"}):
        table = Table((Share(1, 0.5), Share(refused, 0.5)))
        with pytest.raises(Conflict, match="refused: worse") as caught:
            steer(registry, table=table, **action)
        assert caught.value.report == REPORT
    bad = accept(registry, 3, slot=10)
    registry.back(bad, slot=12, **LIVE)
    with pytest.raises(Conflict, match="refused: better live"):
        steer(registry, "promote", bad)
    flies, superseded = (accept(registry, number, slot=12) for number in (5, 6))
    accept(registry, 7, slot=13)
    registry.advance(flies, slot=14, **LIVE)
    steer(registry, "retire", flies, key="retire")
    for version in (flies, superseded):
        with pytest.raises(Conflict, match="passed the gate, and was superseded or dropped"):
            steer(registry, "promote", version)
    unjudged = registry.register(artifact("u4"), update_id="u4", slot=13)
    with pytest.raises(Conflict, match="not judged"):
        steer(registry, "promote", unjudged)
    with pytest.raises(UnknownVersion):
        steer(registry, "promote", 99)


def test_an_own_table_stands_until_somebody_changes_it_and_is_kept(registry, tmp_path):
    add(registry, "u2", slot=5)
    table = Table((Share(2, 1.0),), (Cohort("b", 0.5, (Share(1, 1.0),)),))
    state = steer(registry, "put", table=table)
    for number in range(3, 9):
        accept(registry, number, slot=number)
    assert registry.state().rollout.table == table
    assert registry.state().rollout.waiting.version == 8
    assert {1, 2} <= set(folders(tmp_path))
    state = steer(registry, "put", table=Table.of(2), key="end")
    assert (state.rollout.table, state.rollout.flight.version) == (None, 8)


def test_shadows_pins_and_retirement(registry, tmp_path):
    for number in (2, 3, 4):
        add(registry, f"u{number}", slot=number)
    assert steer(registry, "shadow", 2, key="a").rollout.shadows == (2,)
    assert steer(registry, "pin", 3, key="b").aliases["pin-3"] == 3
    with pytest.raises(RegistryError, match="is the champion"):
        steer(registry, "retire", 4, key="c")
    with pytest.raises(RegistryError, match="computed already"):
        steer(registry, "shadow", 4, key="d")
    state = steer(registry, "retire", 3, key="e")
    assert "pin-3" not in state.aliases
    assert state.line == (1, 2, 4)
    assert steer(registry, "shadow", 2, key="f", keep=False).rollout.shadows == ()
    assert steer(registry, "retire", 2, key="g").servable() == (4, 1)


def test_no_more_versions_than_a_machine_was_planned_for_are_computed(registry):
    for number in range(2, 7):
        add(registry, f"u{number}", slot=number)
        steer(registry, "pin", number, key=f"pin-{number}")
    for number in (2, 3, 4):
        steer(registry, "shadow", number, key=f"{number}")
    with pytest.raises(RegistryError, match="at most 3"):
        steer(registry, "shadow", 5, key="5")


def test_a_record_of_before_rollouts_is_the_champion_for_everyone(registry):
    stored = registry.state().to_json()
    del stored["rollout"]
    state = RegistryState.from_json(stored)
    assert (state.rollout.table, state.rollout.flight, state.champion) == (None, None, 1)


def test_a_crash_anywhere_in_an_arrival_leaves_it_done_or_not_and_the_retry_finishes(tmp_path):
    for at in range(100):
        root = tmp_path / str(at)
        root.mkdir()
        prepared = open_registry(root, keep=1)
        add(prepared, "b", slot=1, kind="base")
        version = accept(prepared, 2, slot=10)
        prepared.advance(version, slot=20, **LIVE)
        accept(prepared, 3, slot=22)
        disk = CrashDisk(root, at=at)
        try:
            open_registry(root, keep=1, disk=disk).arrive(version, slot=30, **LIVE)
        except Crash:
            again = open_registry(root, keep=1)
            assert again.state().champion in (1, 2)
            state = again.arrive(version, slot=30, **LIVE)
            assert (state.champion, state.rollout.flight.version) == (2, 3)
        else:
            break
    assert at > 5


@pytest.fixture
def memory_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where the system has one: many registries are built and removed."""
    shared = Path("/dev/shm")
    with TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else tmp_path) as folder:
        yield Path(folder)


NUMBERS = st.integers(min_value=1, max_value=12)


class Machine(RuleBasedStateMachine):
    """Any order of changes, restarts and crashes: someone serves, the table names only the kept."""

    @initialize(keep=st.integers(min_value=1, max_value=3))
    def start(self, keep: int) -> None:
        self.root, self.keep = self.folder(), keep
        self.registry = open_registry(self.root, keep=keep)
        self.slot = self.updates = self.asked = 0
        self.tried(lambda: add(self.registry, "b0", slot=1, kind="base"))

    def folder(self) -> Path:
        raise AssertionError("set by the test")

    def tried(self, change) -> None:
        self.slot += 1
        before = self.registry.state()
        try:
            change()
        except (RegistryError, Conflict):
            assert self.registry.state() == before

    @rule(stage=st.sampled_from(["shadow", "canary"]))
    def the_gate_accepts(self, stage: str) -> None:
        self.updates += 1
        number, slot = self.updates, self.slot + 1
        version = self.registry.register(artifact(f"u{number}"), update_id=f"u{number}", slot=slot)
        given = {"who": "gate", "reasons": ("yes",), "canary_share": 0.2, "stage": stage}
        self.tried(
            lambda: self.registry.accept(version, slot=slot, update_id=f"u{number}", **given)
        )

    @rule(move=st.sampled_from(["advance", "arrive", "back"]), number=st.none() | NUMBERS)
    def the_controller_moves(self, move: str, number: int | None) -> None:
        flight = self.registry.state().rollout.flight
        version = number if number is not None or flight is None else flight.version
        if version is not None:
            change = getattr(self.registry, move)
            self.tried(lambda: change(version, slot=self.slot, **LIVE))

    @rule(
        action=st.sampled_from(["promote", "pin", "shadow", "retire"]),
        number=NUMBERS,
        keep=st.booleans(),
    )
    def a_person_steers(self, action: str, number: int, keep: bool) -> None:
        self.asked += 1
        key = f"r{self.asked}"
        self.tried(lambda: steer(self.registry, action, number, slot=self.slot, key=key, keep=keep))

    @rule(one=NUMBERS, other=NUMBERS, share=st.floats(0.1, 0.9))
    def a_person_puts_a_table(self, one: int, other: int, share: float) -> None:
        self.asked += 1
        if one == other:
            table = Table.of(one)
        else:
            cohort = Cohort("b", 0.5, (Share(one, share), Share(other, 1 - share)))
            table = Table((Share(one, 1.0),), (cohort,))
        key = f"r{self.asked}"
        self.tried(lambda: steer(self.registry, "put", table=table, slot=self.slot, key=key))

    @rule(to=st.none() | NUMBERS, pause=st.booleans())
    def a_person_goes_back(self, to: int | None, pause: bool) -> None:
        told = {"who": "ann", "reason": "bad", "pause": pause}
        self.tried(lambda: self.registry.rollback(to, slot=self.slot, **told))

    @rule()
    def a_person_resumes(self) -> None:
        self.tried(lambda: self.registry.resume(reason="on", who="ann", slot=self.slot))

    @rule()
    def the_process_restarts(self) -> None:
        before = self.registry.state()
        self.registry = open_registry(self.root, keep=self.keep)
        assert self.registry.state() == before

    @rule(at=st.integers(0, 40), power_cut=st.booleans(), move=st.sampled_from(["arrive", "back"]))
    def the_process_dies_in_a_move(self, at: int, power_cut: bool, move: str) -> None:
        flight = self.registry.state().rollout.flight
        if flight is None:
            return
        before = self.registry.state()
        disk = CrashDisk(self.root, power_cut=power_cut)
        dying = open_registry(self.root, keep=self.keep, disk=disk)
        disk.at = disk.done + at
        self.slot += 1
        try:
            getattr(dying, move)(flight.version, slot=self.slot, **LIVE)
        except Crash:
            pass
        except RegistryError:
            assert before.paused is not None
        self.registry = open_registry(self.root, keep=self.keep)
        assert self.registry.state().revision in (before.revision, before.revision + 1)

    @invariant()
    def someone_serves_and_the_table_names_only_what_is_kept(self) -> None:
        state, kept = self.registry.state(), {one.version for one in self.registry.state().versions}
        verify(self.root / "audit")
        assert self.registry.newest_servable().version == state.champion
        assert folders(self.root) == sorted(kept)
        rollout = state.rollout
        assert rollout.versions <= kept
        live = {one.version for one in state.versions if one.status in ("promoted", "withdrawn")}
        for table in [] if rollout.table is None else [rollout.table]:
            assert set(table.versions) <= live | rollout.accepted
            _, shares = table.shares([f"s{at}" for at in range(20)], kept)
            assert abs(shares.sum(1) - 1).max() < 1e-5
        assert len(rollout.trials(state.champion, ())) <= 3
        if rollout.flight is not None and rollout.flight.stage != "operator":
            assert rollout.flight.version != state.champion
            assert state.aliases["challenger"] == rollout.flight.version


def test_whatever_happens_someone_serves_and_the_audit_verifies(memory_path):
    class InMemory(Machine):
        def folder(self) -> Path:
            return Path(mkdtemp(dir=memory_path))

    InMemory.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
    InMemory.TestCase().runTest()
