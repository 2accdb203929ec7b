"""FederationActor: a fleet's aggregator as sites see it, with rounds, verdicts and the record."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from actors import handles
from actors.aggregator import AggregatorActor, told_something
from actors.copied import Copied
from forecast.backup import STATE, Held, files_below
from forecast.errors import StateError
from forecast.model import ModelSpec, build
from forecast.schema import Schema
from forecast.storage import DISK, Disk, make_folders, write_atomic
from train.federated.book import RoundBook
from train.federated.federation import Federation, FederationRules
from train.federated.frame import WHOLE_NETWORK, FloatArray, Frame
from train.federated.partition import ROLE_TABLE, Layout
from train.federated.settings import AggregatorSettings
from train.federated.state import save
from train.federated.verdict import SiteScore

log = logging.getLogger("fleetcast.federation")


def begin(schema: Schema, spec: ModelSpec, *, seed: int) -> tuple[Frame, FloatArray]:
    """What the sites of a config have in common, and version 0: fresh weights, drawn by `seed`.

    All of the network is shared.
    """
    categories = {ROLE_TABLE: spec.window.roles}
    state = build(spec, seed=seed).state_dict()
    layout = Layout.of(state, rules=WHOLE_NETWORK, categories=categories)
    start = layout.flatten(state, categories=categories)
    return Frame(schema, spec, layout, categories), start


class FederationActor(AggregatorActor, Copied):
    """An `AggregatorActor` that turns its rounds by itself, whenever a site asks or sends.

    The book of rounds lies beside the aggregator's state and is written before it. What became of
    a step goes to the registry's audit log, and no site waits for that: it is done aside, and tried
    again with the next call when it failed.
    """

    def __init__(
        self,
        *,
        directory: Path,
        owner: str,
        schema: Schema,
        spec: ModelSpec,
        seed: int,
        settings: AggregatorSettings,
        rules: FederationRules,
        now: Callable[[], float],
        registry: Any = None,
        sites: Collection[str] | None = None,
        acknowledge: Literal["write", "fsync"] = "fsync",
        disk: Disk = DISK,
    ) -> None:
        """`now` is the wall clock; `registry` has an `ask` as `handles.Actors`, None: no record.

        Version 0 has fresh weights, drawn by `seed`.
        """
        frame, start = begin(schema, spec, seed=seed)
        super().__init__(
            directory=directory,
            owner=owner,
            layout=frame.layout,
            start=start,
            settings=settings,
            sites=sites,
            acknowledge=acknowledge,
            disk=disk,
        )
        self._disk, self._now, self._registry = disk, now, registry
        self._noting: asyncio.Task[None] | None = None
        self._directory = directory
        self._path = directory.with_name(f"{directory.name}-rounds") / "book.json"
        self._replacing = threading.Lock()
        """Held while a write replaces files: a backup holds them before or after."""
        try:
            make_folders(self._path.parent, disk=disk)
            book = _read(self._path, keep=rules.keep_rounds)
            self._federation = Federation(self._aggregator, rules, book, now_s=now())
        except BaseException:
            self._lock.release()
            raise

    async def current(self, site: str) -> dict[str, Any]:
        """The open round and the version, for one site; see `Federation.current`."""
        await self._turn()
        return self._federation.current(site)

    async def send(
        self, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
    ) -> dict[str, Any]:
        """Take an update as it came; the receipt, which is given when it is durable."""
        receipt = await self._change(lambda: self._federation.offer(header, arrays), told_something)
        await self._turn()
        return {**_plain(receipt), "durable": True}

    async def model(self, version: int, role: str = "") -> tuple[str, np.ndarray] | None:
        """Schema hash and vector of the last accepted version or the candidate; None: neither."""
        found = self._federation.model(version, role)
        return None if found is None else (self._aggregator.schema_hash, found)

    async def score(self, told: SiteScore | Mapping[str, Any]) -> dict[str, Any]:
        """Take a site's score of a candidate, and say what became of it so far."""
        one = told if isinstance(told, SiteScore) else SiteScore.from_json(told)
        await self._change(lambda: self._federation.score(one), bool)
        await self._turn()
        return self._fate(one.site, one.version)

    async def rounds(self, limit: int) -> dict[str, Any]:
        """The open round and the last ones, newest first."""
        await self._turn()
        kept = self._federation.book.rounds[-limit:][::-1]
        told = [{k: v for k, v in each.items() if k != "noted"} for each in kept]
        return {"open": await self.status(), "rounds": told}

    async def numbers(self) -> dict[str, Any]:
        """For telemetry."""
        return {**self._federation.numbers(), "unwritten": self._changes - self._written}

    def _fate(self, site: str, version: int) -> dict[str, Any]:
        book = self._federation.book
        found = book.of_version(version)
        decision = None if found is None else found["decision"]
        state = "unknown" if found is None else "pending"
        if decision is not None:
            state = "accepted" if decision["accept"] else "rejected"
        keep = book.keeps_previous(site, version)
        return {"version": version, "state": state, "keep_previous": keep}

    async def _turn(self) -> None:
        now = self._now()
        await self._change(lambda: self._federation.turn(now), bool)
        if self._federation.book.unnoted() and (self._noting is None or self._noting.done()):
            self._noting = asyncio.create_task(self._note())

    async def _note(self) -> None:
        """Put steps whose fate is known on record, each once: the key tells a repeated note."""
        while steps := self._federation.book.unnoted():
            step = steps[0]
            detail = {name: value for name, value in step.items() if name != "noted"}
            if self._registry is not None:
                asked = {"detail": detail, "who": "aggregator", "key": f"{step['version']}"}
                try:
                    await self._registry.ask(handles.REGISTRY, "note", "federated", **asked)
                except Exception as error:  # whatever it is, the federation goes on
                    said = f"{type(error).__name__}: {error}"
                    log.warning("version %d is not on record yet: %s", step["version"], said)
                    return
            step["noted"] = True
            self._changes += 1  # written with the next change: a repeated note is known

    async def close(self) -> None:
        """Write what is not yet written, and let go of the lock; a note is made again later."""
        if self._noting is not None and not self._noting.done():
            self._noting.cancel()
            await asyncio.wait([self._noting])
        await super().close()

    def _files(self) -> dict[str, Path]:
        """The state and the book."""
        folders = (self._directory, self._path.parent)
        found = [files_below(folder, f"{STATE}/{folder.name}") for folder in folders]
        return {place: path for each in found for place, path in each.items()}

    def _hold(self) -> Held:
        with self._replacing:
            return super()._hold()

    def _write(self) -> None:
        with self._still:
            changes, saved = self._changes, save(self._aggregator)
            book = json.dumps(self._federation.book.to_json(), allow_nan=False).encode()
        with self._replacing:
            write_atomic(self._path, book, disk=self._disk)
            self._store.write(saved)
        self._written = changes


def _plain(receipt: Any) -> dict[str, Any]:
    names = ("reason", "round", "version", "staleness")
    told = {name: getattr(receipt, name) for name in names}
    return {"verdict": receipt.verdict.value, "counted": receipt.counted, **told}


def _read(path: Path, *, keep: int) -> RoundBook:
    if not path.exists():
        return RoundBook(keep)
    try:
        return RoundBook.from_json(json.loads(path.read_bytes()), keep=keep)
    except (ValueError, KeyError, TypeError) as error:
        raise StateError(f"{path}: the book of rounds cannot be read: {error}") from error
