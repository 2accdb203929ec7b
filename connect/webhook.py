"""Notices for people: kept until a webhook has taken them, sent beside the loop that makes them.

    Outbox.put ──► one small file ──► Webhook.run ──POST──► taken: gone from the file
                                          └── not taken: again, a bounded number of times

At least once: after a crash one may come again, with the same `Idempotency-Key`: fleet, panel,
slot, kind and a digest of the text. A notice that nobody takes is given up, counted and logged; the
audit log has it all the same.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from forecast.errors import StateError
from forecast.storage import DISK, Disk, write_atomic

log = logging.getLogger("fleetcast.notify")

_FORMAT = 1
_MOST = 100
"""Notices that wait at once; the oldest is given up for one more."""
_REMEMBERED = 200
"""Keys of those taken last: a step done again puts nothing in twice."""
_LONGEST_PAUSE_S = 60.0


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that people should know."""

    kind: str
    slot: int
    """Event time."""
    text: str
    fleet: str
    panel: str

    @property
    def key(self) -> str:
        """What makes it one: a step that is done again tells the same."""
        digest = hashlib.sha256(self.text.encode()).hexdigest()[:12]
        return f"{self.fleet}:{self.panel}:{self.slot}:{self.kind}:{digest}"


class Outbox:
    """Notices that wait, on disk at `path`; None keeps them in memory.

    Raises StateError when the file is damaged.
    """

    def __init__(self, path: Path | None = None, *, disk: Disk = DISK) -> None:
        self._path, self._disk = path, disk
        self._waiting: dict[str, Notice] = {}
        self._taken: list[str] = []
        self.given_up = 0
        """Notices that nobody took, since the start."""
        self.sent = 0
        """Notices that were taken, since the start."""
        self.changed = asyncio.Event()
        """Set when there may be something to send."""
        if path is not None and path.exists():
            self._load(path)

    @property
    def waiting(self) -> tuple[Notice, ...]:
        """What is not taken yet, the oldest first."""
        return tuple(self._waiting.values())

    def put(self, notices: Iterable[Notice]) -> None:
        """Keep notices until they are taken; one known already changes nothing."""
        new = {
            one.key: one
            for one in notices
            if one.key not in self._waiting and one.key not in self._taken
        }
        if not new:
            return
        self._waiting |= new
        while len(self._waiting) > _MOST:
            self._give_up(next(iter(self._waiting)), "too many wait")
        self._save()
        self.changed.set()

    def taken(self, key: str) -> None:
        """A notice has arrived."""
        if self._waiting.pop(key, None) is not None:
            self.sent += 1
            self._remember(key)

    def give_up(self, key: str, why: str) -> None:
        """Try a notice no more."""
        self._give_up(key, why)
        self._remember(key)

    def _give_up(self, key: str, why: str) -> None:
        if (notice := self._waiting.pop(key, None)) is not None:
            self.given_up += 1
            log.error("nobody was told: %s (%s)", notice.text, why, extra={"slot": notice.slot})

    def _remember(self, key: str) -> None:
        self._taken = [*self._taken, key][-_REMEMBERED:]
        self._save()

    def _save(self) -> None:
        if self._path is not None:
            tree = {
                "format": _FORMAT,
                "waiting": [asdict(one) for one in self._waiting.values()],
                "taken": self._taken,
            }
            write_atomic(self._path, json.dumps(tree, sort_keys=True).encode(), disk=self._disk)

    def _load(self, path: Path) -> None:
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            if tree["format"] != _FORMAT:
                raise StateError(f"{path}: format {tree['format']!r}; this code reads {_FORMAT}")
            found = [Notice(**one) for one in tree["waiting"]]
            self._taken = [str(key) for key in tree["taken"]]
        except (ValueError, KeyError, TypeError) as error:
            raise StateError(f"{path}: damaged: {error}") from error
        self._waiting = {one.key: one for one in found}
        self.changed.set()


class Webhook:
    """Posts an outbox's notices as JSON to one address, in order, each a bounded number of times.

    `pause` waits between two tries; nobody waits for it.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float,
        tries: int,
        pause: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        self._url, self._timeout_s, self._tries, self._pause = url, timeout_s, tries, pause

    async def run(self, outbox: Outbox) -> None:
        """Send what comes, until cancelled."""
        while True:
            await outbox.changed.wait()
            outbox.changed.clear()
            try:
                await self.deliver(outbox)
            except OSError as error:  # the disk: what waits is in memory still
                log.error("the outbox cannot be written: %s", error)

    async def deliver(self, outbox: Outbox) -> None:
        """Send all that waits; what is not taken after so many tries is given up."""
        async with httpx.AsyncClient(timeout=self._timeout_s) as client:
            while waiting := outbox.waiting:
                notice = waiting[0]
                why = await self._send(client, notice)
                if why is None:
                    outbox.taken(notice.key)
                else:
                    outbox.give_up(notice.key, why)

    async def _send(self, client: httpx.AsyncClient, notice: Notice) -> str | None:
        """None once it was taken, else why it was not."""
        why = "never tried"
        for attempt in range(self._tries):
            if attempt:
                await self._pause(min(_LONGEST_PAUSE_S, 2.0**attempt))
            try:
                async with asyncio.timeout(self._timeout_s):
                    answer = await client.post(
                        self._url, json=asdict(notice), headers={"Idempotency-Key": notice.key}
                    )
            except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
                why = type(error).__name__  # the text may name the address, which may be a secret
                continue
            if answer.is_success:
                return None
            why = f"status {answer.status_code}"
        return why
