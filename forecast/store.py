"""The registry's files: one folder a version, never changed, and a projection of the aliases.

    <storage>/<panel>/000003/weights.safetensors, manifest.json
    <storage>/<panel>/aliases.json

What is there is decided elsewhere; this writes a folder whole, reads it back verified, and clears
what the state does not name. `aliases.json` is for people and tools that cannot ask the registry;
it also remembers how far the audit log had come, which tells a log that lost its end.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forecast.artifact import Artifact
from forecast.audit import AuditLog
from forecast.canonical import sha256
from forecast.errors import ArtifactError, AuditError, StateError
from forecast.storage import TEMPORARY, Disk, make_folders, write_atomic, write_folder
from forecast.versions import RegistryState, VersionInfo

WEIGHTS = "weights.safetensors"
MANIFEST = "manifest.json"
ALIASES = "aliases.json"

log = logging.getLogger("fleetcast.registry")


@dataclass(frozen=True, slots=True)
class Refused:
    """A version that cannot serve, and why."""

    version: int
    reason: str


@dataclass(frozen=True, slots=True)
class Servable:
    """A version that can serve, read and verified; `refused` are the better ones that cannot."""

    version: int
    artifact: Artifact
    refused: tuple[Refused, ...] = ()


class VersionStore:
    """The folder of one panel; `fingerprint` is the schema that new artifacts must be of."""

    def __init__(self, folder: Path, *, panel: str, fingerprint: str, disk: Disk) -> None:
        self._folder = folder
        self._panel = panel
        self._fingerprint = fingerprint
        self._disk = disk

    def open(self, state: RegistryState, audit: AuditLog) -> None:
        """Create the folder if need be, and refuse to go on without what the log names.

        Raises StateError when none of the versions is there, and AuditError when `aliases.json`
        follows a record that the log has not.
        """
        named = [self._path(info.version) for info in state.versions]
        if named and not any(path.is_dir() for path in named):
            raise StateError(
                f"{self._folder}: none of the {len(named)} versions that the audit log names is "
                f"there; is the storage mounted?"
            )
        seen = self._projection()
        if seen is not None:
            self._compare(seen, audit)
        make_folders(self._folder, disk=self._disk)

    def write(self, version: int, artifact: Artifact, *, update_id: str, slot: int) -> VersionInfo:
        """Store an artifact as this version, read it back, and describe it.

        Raises ArtifactError when it does not fit its own checksum or is of another schema.
        """
        manifest, weights = artifact.manifest, artifact.weights
        digest = sha256(weights)
        if manifest.get("sha256") != digest:
            raise ArtifactError(
                f"update {update_id}: {WEIGHTS} has sha256 {digest}, its manifest says "
                f"{manifest.get('sha256')}"
            )
        if manifest.get("fingerprint") != self._fingerprint:
            raise ArtifactError(
                f"update {update_id}: the artifact is of schema {manifest.get('fingerprint')}, "
                f"this panel's is {self._fingerprint}"
            )
        try:
            encoded = json.dumps(manifest, sort_keys=True, indent=1, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise ArtifactError(f"update {update_id}: {MANIFEST}: {error}") from error
        lineage = manifest.get("lineage", {})
        info = VersionInfo(
            version=version,
            kind=str(lineage.get("kind", "update")),
            parent=lineage.get("parent"),
            update_id=update_id,
            slot=int(slot),
            created_at=str(manifest.get("created_at", "")),
            fingerprint=self._fingerprint,
            weights_sha256=digest,
            manifest_sha256=sha256(encoded),
            bytes=len(weights) + len(encoded),
        )
        files = {WEIGHTS: weights, MANIFEST: encoded}
        write_folder(self._path(version), files, disk=self._disk)
        self.read(info)
        return info

    def manifest(self, info: VersionInfo) -> dict[str, Any]:
        """A version's manifest, verified; raises ArtifactError naming the file."""
        data = _read(self._path(info.version) / MANIFEST, info.manifest_sha256)
        manifest: dict[str, Any] = json.loads(data)
        return manifest

    def read(self, info: VersionInfo) -> Artifact:
        """A version's files, verified; raises ArtifactError naming the file that is wrong.

        A version of an earlier schema is read too: whether it still fits is the reader's to judge,
        so that an edited config does not take the serving model away.
        """
        manifest = self.manifest(info)
        weights = _read(self._path(info.version) / WEIGHTS, info.weights_sha256)
        return Artifact(manifest=manifest, weights=weights)

    def newest_servable(self, state: RegistryState, refused: Collection[int]) -> Servable | None:
        """The best version that reads well and that the caller has not refused."""
        passed: list[Refused] = []
        for version in state.servable():
            if version in refused:
                passed.append(Refused(version, "refused by the reader"))
                continue
            try:
                return Servable(version, self.read(state.info(version)), tuple(passed))
            except ArtifactError as error:
                log.error("version %d cannot serve: %s", version, error)
                passed.append(Refused(version, str(error)))
        return None

    def settle(self, state: RegistryState, audit: AuditLog) -> None:
        """Bring the files in line with the state: the projection, then what may go."""
        if audit.latest is not None:
            projection = {
                "format": 1,
                "panel": self._panel,
                "revision": state.revision,
                "sequence": audit.latest.sequence,
                "hash": audit.latest.hash,
                "aliases": dict(state.aliases),
            }
            if self._projection() != projection:
                data = json.dumps(projection, sort_keys=True, indent=1).encode()
                write_atomic(self._folder / ALIASES, data, disk=self._disk)
        self.sweep(state)

    def sweep(self, state: RegistryState) -> None:
        """Remove unfinished files, retired versions, and one that never got its audit record."""
        kept = {self._path(info.version).name for info in state.versions}
        for path in sorted(self._folder.iterdir()):
            ours = path.name.isdecimal() and int(path.name) <= state.next_version
            if path.name.startswith(TEMPORARY) or (ours and path.name not in kept):
                self._disk.remove(path)

    def _path(self, version: int) -> Path:
        return self._folder / f"{version:06d}"

    def _projection(self) -> dict[str, Any] | None:
        path = self._folder / ALIASES
        try:
            seen = json.loads(path.read_bytes())
            return {"sequence": int(seen["sequence"]), "hash": str(seen["hash"]), **seen}
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError) as error:
            log.warning("%s is damaged and is written again: %s", path, error)
            return None

    def _compare(self, seen: dict[str, Any], audit: AuditLog) -> None:
        path = self._folder / ALIASES
        way_out = "restore the log, or remove the file to accept the loss"
        try:
            record = audit.record(seen["sequence"])
        except IndexError as error:
            raise AuditError(f"{path} follows {error} in the log: {way_out}") from error
        if record.hash != seen["hash"]:
            raise AuditError(
                f"{path} follows another log, whose record {record.sequence} has hash "
                f"{seen['hash']}; here it has {record.hash}: {way_out}"
            )


def _read(path: Path, digest: str) -> bytes:
    """A file's content; raises ArtifactError naming it when it is not what was stored."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}") from error
    if (found := sha256(data)) != digest:
        raise ArtifactError(f"{path}: sha256 is {found}, stored was {digest}")
    return data
