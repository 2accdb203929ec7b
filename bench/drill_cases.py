"""The cases of `make drill`: each makes something go wrong, and says what became of it."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

from actors import handles
from bench.drill_faults import Order, loss_of
from bench.drill_scene import VERDICTS, Mark, Outcome, Record, Scene, reason_of
from forecast.artifact import Artifact, unpack
from forecast.store import WEIGHTS

ROLE = "cache"
"""The role that is ruined; one of its servers is in the canary cohort."""

_SUBTLY = 0.1
_RATCHET = 0.01
WORST_RATCHET = 1.05
"""WQL of the worst champion over that of the first, at most."""
_TRIES = 5
"""Updates that ruin a role until one is good enough for all others."""
_SLOW_S = 20.0
_KILL_WITHIN_S = 300.0


def poisoned(scene: Scene) -> Outcome:
    """An update with a weight that is no number."""
    return _refused(scene, "poisoned update (NaN)", Order("nan"))


def subtly_worse(scene: Scene) -> Outcome:
    """An update that loses a tenth more than its parent."""
    return _refused(scene, f"subtly worse ({_SUBTLY:.0%})", Order("worse", share=_SUBTLY))


def one_role(scene: Scene) -> Outcome:
    """An update that is better for all roles but one, which it ruins."""
    return _refused(scene, f"ruins one role ({ROLE})", Order("role", role=ROLE), about=ROLE)


def corrupted(scene: Scene) -> Outcome:
    """A bit of a version's file flips while it is on its way to everyone."""
    since = scene.mark()
    scene.order(Order("same"))
    accepted = scene.verdict(since)
    version = accepted["detail"]["version"]
    path = scene.config.artifacts_dir / scene.config.panel.name / f"{version:06d}" / WEIGHTS
    _flip(path)
    found = scene.landed(version, since)
    return scene.outcome(
        "corrupted artifact",
        since,
        caught=reason_of(found),
        steps=found["slot"] - accepted["slot"],
        detected=found["kind"] == "rollout" and scene.champion == since.champion,
        bad=version,
    )


def killed(scene: Scene) -> Outcome:
    """The trainer is killed in the middle of an update, which is then done again."""
    since = scene.mark()
    scene.order(Order("slow", seconds=_SLOW_S))
    before: list[int] = []
    killer = threading.Thread(target=_kill_trainer, args=(scene, before))
    killer.start()
    found = scene.verdict(since)
    killer.join()
    scene.order()
    after = int(scene.ask(handles.TRAINER, "identity")["pid"])
    verdicts = scene.records(since, VERDICTS)
    again = bool(before) and after != before[0]
    update = found["detail"]["update_id"]
    return scene.outcome(
        "trainer killed mid-update",
        since,
        caught=f"Ray: started again, {update} done again: {found['kind']}",
        steps=found["slot"] - _asked(found),
        detected=again and len(verdicts) == 1 and found["kind"] != "update_failed",
    )


def bad_live(scene: Scene) -> Outcome:
    """A version that is fine on the hold-out ruins a role that came back while it was a canary."""
    since = scene.mark()
    accepted, begin = _accepted_blindly(scene, since)
    version = accepted["detail"]["version"]
    scene.until(
        lambda one: one["detail"].get("action") == "advance",
        since,
        at_most=60,
        what=f"version {version} does not get to its canary cohort",
    )
    back = scene.slot + 1
    scene.maintenance(ROLE, begin, back)
    found = scene.landed(version, since)
    return scene.outcome(
        "fine on the hold-out, bad live",
        since,
        caught=reason_of(found, about=ROLE),
        steps=found["slot"] - back + 1,
        detected=found["kind"] == "rollout" and scene.champion == since.champion,
        bad=version,
    )


def ratchet(scene: Scene, updates: int) -> Outcome:
    """Updates that each lose a percent more than their parent, one after the other."""
    since = scene.mark()
    scene.order(*[Order("worse", share=_RATCHET)] * updates)
    champions: dict[int, Artifact] = {}
    _keep_champion(scene, champions)
    verdicts: list[Record] = []
    for _ in scene.advance(3 * updates * scene.update_every):
        _keep_champion(scene, champions)
        verdicts = scene.records(since, VERDICTS)
        judged = {one["detail"]["update_id"] for one in verdicts}
        if len(judged) >= updates:
            break
    scene.mark()  # what is on its way still counts
    _keep_champion(scene, champions)
    slots = scene.slot - since.slot
    windows = scene.windows(-(-slots * scene.config.panel.step // 3600))
    losses = [
        loss_of(unpack(one, fingerprint=None, precision=None), windows)
        for one in champions.values()
    ]
    most = max(losses) / losses[0]
    refused = sum(one["kind"] == "reject" for one in verdicts)
    went_back = sum(
        one["detail"].get("action") == "back" for one in scene.records(since, ("rollout",))
    )
    return scene.outcome(
        f"{updates} updates, each 1 % worse",
        since,
        caught=f"gate refused {refused} of {updates}, rollout {went_back}; "
        f"{len(champions) - 1} promoted, at most {most - 1:+.2%}",
        steps=slots,
        detected=len(judged) >= updates and most <= WORST_RATCHET,
        ratchet_max=round(most, 4),
        ratchet_updates=updates,
        ratchet_promoted=len(champions) - 1,
    )


def breaker(scene: Scene, failures: int) -> Outcome:
    """Failures in a row: learning stops, and goes on after a probe that succeeds."""
    scene.change("learning/resume")
    since = scene.mark()
    scene.order(*[Order("nan")] * failures)
    opened = _noted(scene, since, "breaker_open")
    tried = len(scene.records(since, VERDICTS))
    scene.order(Order("same"))
    cooldown = scene.config.breaker.cooldown_hours * 3600 // scene.config.panel.step
    scene.pass_by(cooldown - 2)
    held = len(scene.records(since, VERDICTS)) == tried
    closed = _noted(scene, since, "breaker_closed")
    first = scene.records(since, VERDICTS)[0]
    return scene.outcome(
        f"{failures} failures in a row",
        since,
        caught=f"breaker: open for {closed['slot'] - opened['slot']} slots, closed by a probe",
        steps=opened["slot"] - first["slot"],
        detected=tried == failures and held,
    )


def since_friday(scene: Scene, slots: int) -> Outcome:
    """Somebody hurried a version past its rollout; days later it is found, and undone by time."""
    since = scene.mark()
    accepted, begin = _accepted_blindly(scene, since)
    version = accepted["detail"]["version"]
    scene.change("rollout/promote", version=version)
    [friday] = scene.records(since, ("promote",))
    scene.maintenance(ROLE, begin, scene.slot + 1)
    scene.pass_by(slots)
    monday, answered = scene.slot, scene.champion
    twin = next((one for one in scene.records(since, ("rollback",)) if one["who"] == "twin"), None)
    if answered != since.champion:  # the anchor, which the twin restores, may be another one
        scene.change("rollout/rollback", to_time=scene.time_of(friday["slot"]))
    scene.pass_by(1)
    paused = scene.rollout()["paused"] is not None
    scene.change("learning/resume")
    hours = (monday - friday["slot"]) * scene.config.panel.step // 3600
    told = [f"by hand: rollback to the time {hours} h before"] if answered != since.champion else []
    told += [] if twin is None else [f"{reason_of(twin)} (slot {twin['slot'] - friday['slot']})"]
    return scene.outcome(
        "bad since Friday, found on Monday",
        since,
        caught="; ".join(told),
        steps=scene.slot - monday,
        detected=(answered == version or twin is not None)
        and scene.champion == since.champion
        and paused,
        by_hand=True,
        rollback_hours=hours,
        twin_restored=int(twin is not None),
    )


def _keep_champion(scene: Scene, champions: dict[int, Artifact]) -> None:
    if (champion := scene.champion) not in champions:
        champions[champion] = scene.artifact(champion)


def _refused(scene: Scene, case: str, order: Order, *, about: str = "") -> Outcome:
    since = scene.mark()
    scene.order(order)
    found = scene.verdict(since)
    return scene.outcome(
        case,
        since,
        caught=reason_of(found, about=about),
        steps=found["slot"] - _asked(found),
        detected=found["kind"] == "reject" and scene.champion == since.champion,
        bad=found["detail"].get("version"),
    )


def _accepted_blindly(scene: Scene, since: Mark) -> tuple[Record, int]:
    """A version that ruins a role, judged while that role was under maintenance; since when."""
    begin = scene.slot + 1
    scene.maintenance(ROLE, begin, None)
    hours = scene.config.online_learning.gate_holdout_hours
    scene.pass_by(hours * 3600 // scene.config.panel.step + scene.config.panel.horizon_slots)
    scene.order(*[Order("role", role=ROLE)] * _TRIES)
    found = scene.until(
        lambda one: one["kind"] == "accept",
        since,
        at_most=(_TRIES + 1) * scene.update_every,
        what=f"none of {_TRIES} versions is fine on the hold-out",
    )
    scene.order()
    return found, begin


def _noted(scene: Scene, since: Mark, kind: str) -> Record:
    return scene.until(
        lambda one: one["kind"] == kind, since, at_most=20 * scene.update_every, what=f"no {kind}"
    )


def _asked(verdict: Record) -> int:
    """The slot at which the update of a verdict was asked for."""
    return int(verdict["detail"]["update_id"].rpartition("-")[2])


def _flip(path: Path) -> None:
    """Flip one bit in the middle of a file."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        [byte] = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def _kill_trainer(scene: Scene, before: list[int]) -> None:
    """Wait until an update is under way and kill the process; it is put into `before`."""
    until = time.monotonic() + _KILL_WITHIN_S
    while time.monotonic() < until:
        if scene.ask(handles.TRAINER, "slow"):
            before.append(int(scene.ask(handles.TRAINER, "identity")["pid"]))
            os.kill(before[0], signal.SIGKILL)
            return
        time.sleep(0.1)
