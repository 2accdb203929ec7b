"""The two cases of `make drill` that need the state a second time: made from its backups."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors import arguments
from actors.embedded import Embedded
from bench.drill_scene import Outcome, Scene
from connect.stream import Client
from forecast.artifact import Artifact
from forecast.audit import AuditLog, verify
from forecast.config import Config
from forecast.registry import Registry, RegistryState
from forecast.restore import restore
from forecast.storage import Disk
from serve_app import build
from tests.forecast.crash_disk import Crash, CrashDisk, QuickDisk

_UPDATE = "drill-promotion"
_MOST = 1000


def crashes(scene: Scene) -> Outcome:
    """A promotion on a copy of the live registry dies between every two file operations."""
    since = scene.mark()
    backup = Path(_backed_up(scene.client, f"crash-{scene.slot}")["folder"])
    points = wrong = 0
    with tempfile.TemporaryDirectory(prefix="fc-crash-") as folder:
        copy = Path(folder) / "copy"
        restore(backup, state_dir=copy, who="drill", now_s=time.time(), disk=QuickDisk())
        kept = _only_registry(copy, Path(folder) / "kept", scene.config)
        challenger = scene.artifact(since.champion)
        for power_cut in (False, True):
            found = _everywhere(kept, Path(folder), scene.config, challenger, power_cut=power_cut)
            points, wrong = points + found[0], wrong + found[1]
    scene.pass_by(1)
    return scene.outcome(
        "crash within a promotion",
        since,
        caught=f"opened again after {points} crashes: old state or new, done again: promoted",
        steps=0,
        detected=points > 0 and not wrong,
        crash_points=points,
        crash_wrong=wrong,
    )


@dataclass(frozen=True, slots=True)
class Kept:
    """What a fleet leaves behind: a backup, and what it said when that was made."""

    backup: Path
    as_of: str
    forecasts: list[Any]
    champion: int


def keep(scene: Scene) -> Kept:
    """A backup of the fleet, and its forecasts as of the backup's slot."""
    told = _backed_up(scene.client, f"last-{scene.slot}")
    as_of = scene.time_of(told["slot"] + 1)
    return Kept(Path(told["folder"]), as_of, forecasts(scene.client, as_of), scene.champion)


def restored(config: Config, kept: Kept) -> Outcome:
    """The fleet on an empty machine: restored, deployed, asked the same."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fc-state-") as folder:
        there = config.model_copy(update={"state_dir": Path(folder) / "state"})
        manifest = restore(kept.backup, state_dir=there.state_dir, who="drill", now_s=time.time())
        # This process has had a Ray before, and one process knows one token.
        shutil.copy(config.state_dir / "ray.token", there.state_dir)
        with Embedded(there, build(there)) as embedded:
            client = Client(embedded.url)
            while not client.computes():
                time.sleep(0.2)
            after = forecasts(client, kept.as_of)
            found = client.get("/api/v1/audit/verify", head=manifest.audit_head)
            champion = client.get("/api/v1/rollout")["champion"]
            client.close()
    same = bool(after) and after == kept.forecasts
    return Outcome(
        case="restore on an empty machine",
        caught=f"{len(after)} forecasts as of the backup {'equal' if same else 'DIFFER'}, "
        f"{found['records']} audit records verify",
        steps=None,
        served=(champion,),
        exposed=0.0,
        failed=0,
        after=f"version {champion} is champion",
        detected=same and champion == kept.champion,
        figures={"restore_s": round(time.monotonic() - began, 1)},
    )


def forecasts(client: Client, as_of: str) -> list[Any]:
    """Every series' forecast as of a moment, computed now."""
    answer = client.post("/api/v1/forecast", {"as_of": as_of})
    told = [
        {key: one[key] for key in ("server", "metric", "quantiles")} for one in answer["series"]
    ]
    return sorted(told, key=lambda one: (one["server"], one["metric"]))


def _backed_up(client: Client, name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = client.post("/api/v1/backups", {"name": name})
    return found


def _only_registry(copy: Path, into: Path, config: Config) -> Path:
    """Of a restored state the audit log and the versions: what a promotion touches."""
    panel = config.panel.name
    shutil.copytree(copy / panel / "audit", into / "audit")
    shutil.copytree(copy / "artifacts" / panel, into / "artifacts" / panel)
    return into


def _everywhere(
    kept: Path, folder: Path, config: Config, challenger: Artifact, *, power_cut: bool
) -> tuple[int, int]:
    """How often a promotion died, and how often what it left was wrong."""
    model = _opened(shutil.copytree(kept, folder / f"model-{power_cut}"), config)
    allowed = (model.state(), *_promoted(model, challenger))
    wrong = 0
    for at in range(_MOST):
        root = shutil.copytree(kept, folder / f"at-{power_cut}-{at}")
        try:
            _promoted(
                _opened(root, config, CrashDisk(root, at=at, power_cut=power_cut)), challenger
            )
        except Crash:
            again = _opened(root, config)
            wrong += not _whole(root, again, allowed)
            _promoted(again, challenger)
            wrong += not _whole(root, again, allowed[-1:])
            shutil.rmtree(root)
        else:
            return at, wrong
    raise RuntimeError(f"a promotion of more than {_MOST} file operations")


def _opened(root: Path, config: Config, disk: Disk | None = None) -> Registry:
    """The registry in a folder, as its actor opens it."""
    given, disk = arguments.registry(config), disk or QuickDisk()
    for name in ("evidence_slots", "owner", "audit_dir"):
        del given[name]
    audit = AuditLog(root / "audit", segment_bytes=given.pop("segment_bytes"), disk=disk)
    return Registry(**{**given, "storage": root / "artifacts"}, audit=audit, disk=disk)


def _promoted(registry: Registry, challenger: Artifact) -> tuple[RegistryState, RegistryState]:
    """The states after a version was registered, and after it was promoted."""
    slot = int(challenger.manifest["lineage"]["slot"]) + 1
    version = registry.register(challenger, update_id=_UPDATE, slot=slot)
    known = registry.state()
    return known, registry.promote(
        version, slot=slot, reasons=("drill",), who="drill", update_id=_UPDATE
    )


def _whole(root: Path, registry: Registry, allowed: Sequence[RegistryState]) -> bool:
    """Whether a reopened registry is in one of these states, and serves its champion."""
    state, serves = registry.state(), registry.newest_servable()
    verify(root / "audit")
    return (
        state in allowed
        and serves is not None
        and serves.version == state.champion
        and not serves.refused
    )
