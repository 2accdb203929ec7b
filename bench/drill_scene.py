"""A live fleet under load, as the cases of `make drill` see it: rows in, the audit log out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import ray

from actors import handles
from bench.drill_faults import Order
from bench.load import Readers, servers_of
from connect.replay import Replay
from connect.stream import Client, Feeder
from forecast.artifact import Artifact
from forecast.config import Config
from forecast.errors import FleetcastError
from forecast.windows import RawWindows

Record = Mapping[str, Any]
"""A record of the audit log, as the API tells it."""

VERDICTS = ("accept", "promote", "reject", "update_failed")
_RECORDS = 1000
_ANSWER_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one case."""

    case: str
    caught: str
    """How it was detected, and by whom."""
    steps: int | None
    """Slots from when it could be seen to when it was undone; None where that has no meaning."""
    served: tuple[int, ...]
    """The versions that answered meanwhile."""
    exposed: float | None
    """The share of the servers that the bad version answered; None where a person let it."""
    failed: int
    """Requests without a good answer."""
    after: str
    """The state after it."""
    detected: bool
    figures: Mapping[str, float | int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment: the last record, the slot, the champion, and what the readers had seen."""

    sequence: int
    slot: int
    champion: int
    versions: Counter[int]
    failed: int


class Scene:
    """Drives one fleet slot by slot; each slot is stepped before the next one is sent."""

    def __init__(self, config: Config, replay: Replay, client: Client, readers: Readers) -> None:
        self.config, self.replay, self.client, self.readers = config, replay, client, readers
        self.slot = replay.start_slot - 1
        self.servers = tuple(servers_of(replay))
        self._feeder = Feeder(client, replay.source, name="drill", max_ahead=0)

    def advance(self, slots: int) -> Iterator[int]:
        """Send so many slots; yields each once it is stepped."""
        first = self.slot + 1
        for slot, _ in self._feeder.stream(first, first + slots):
            self.slot = slot
            yield slot

    def pass_by(self, slots: int) -> None:
        """Let time pass."""
        for _ in self.advance(slots):
            pass

    def until(
        self, wanted: Callable[[Record], bool], since: Mark, *, at_most: int, what: str
    ) -> Record:
        """Let time pass until such a record; raises FleetcastError when there is none in time."""
        for _ in self.advance(at_most):
            found = next((one for one in self.records(since) if wanted(one)), None)
            if found is not None:
                return found
        raise FleetcastError(f"{what}: not in {at_most} slots after slot {since.slot}")

    def verdict(self, since: Mark) -> Record:
        """The next verdict on an update."""
        return self.until(
            lambda one: one["kind"] in VERDICTS,
            since,
            at_most=6 * self.update_every,
            what="no verdict on an update",
        )

    def landed(self, version: int, since: Mark) -> Record:
        """When a version on its way arrived, or went back."""
        return self.until(
            lambda one: (
                one["detail"].get("version") == version
                and (one["kind"] == "promote" or one["detail"].get("action") == "back")
            ),
            since,
            at_most=120,
            what=f"version {version} is still on its way",
        )

    def mark(self) -> Mark:
        """This moment, with nothing on its way."""
        while self.rollout()["flight"] is not None:
            self.pass_by(1)
        account = self.readers.account
        newest = self.client.get("/api/v1/audit", limit=1)["records"]
        return Mark(
            newest[0]["sequence"],
            self.slot,
            self.champion,
            Counter(account.versions),
            account.failed,
        )

    def records(self, since: Mark, kinds: Collection[str] = ()) -> list[Record]:
        """The records after a moment, the oldest first."""
        found = self.client.get("/api/v1/audit", limit=_RECORDS, kind=[*kinds])["records"]
        return [one for one in reversed(found) if one["sequence"] > since.sequence]

    def outcome(
        self,
        case: str,
        since: Mark,
        *,
        caught: str,
        steps: int | None,
        detected: bool,
        bad: int | None = None,
        by_hand: bool = False,
        **figures: float | int,
    ) -> Outcome:
        """What became of a case that began at a mark; `bad` is the version that is meant."""
        account = self.readers.account
        now = Counter(account.versions)  # the readers go on meanwhile
        exposed = len(account.answered.get(bad, ())) / len(self.servers) if bad else 0.0
        return Outcome(
            case=case,
            caught=caught,
            steps=steps,
            served=tuple(sorted(one for one in now if now[one] > since.versions[one])),
            exposed=None if by_hand else exposed,
            failed=account.failed - since.failed,
            after=f"version {self.champion} is champion",
            detected=detected,
            figures=figures,
        )

    @property
    def update_every(self) -> int:
        """Slots between two updates."""
        minutes = self.config.online_learning.update_frequency_minutes
        return minutes * 60 // self.config.panel.step

    @property
    def champion(self) -> int:
        """The version that serves."""
        return int(self.rollout()["champion"])

    def rollout(self) -> Mapping[str, Any]:
        """Where the rollout stands."""
        found: Mapping[str, Any] = self.client.get("/api/v1/rollout")
        return found

    def change(self, path: str, **body: Any) -> Any:  # noqa: ANN401 - JSON
        """Change something as a person would."""
        told = {"reason": "drill", **body}
        return self.client.change("POST", f"/api/v1/{path}", told, if_match="*")

    def maintenance(self, role: str, begin: int, end: int | None) -> None:
        """Tell that the servers of a role are under maintenance from slot `begin` to before `end`.

        None: until told otherwise.
        """
        step = self.config.panel.step
        until = None if end is None else end * step
        event = {"id": f"{role}-{begin}", "kind": "maintenance", "roles": [role]}
        told = self.client.post(
            "/api/v1/events", {"events": [{**event, "start": begin * step, "end": until}]}
        )
        if told["rejected"]:
            raise FleetcastError(f"maintenance of {role}: {told['rejected']}")

    def time_of(self, slot: int) -> str:
        """When a slot begins."""
        return datetime.fromtimestamp(slot * self.config.panel.step, UTC).isoformat()

    def order(self, *orders: Order) -> None:
        """What the next updates are to be; after them there is nothing to learn."""
        self.ask(handles.TRAINER, "order", orders)

    def ask(self, role: str, method: str, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Call an actor of the fleet."""
        actor = handles.find(self.config.fleet, self.config.panel.name, role)
        if actor is None:
            raise FleetcastError(f"the {role} is gone")
        return ray.get(getattr(actor, method).remote(*args, **kwargs), timeout=_ANSWER_S)

    def artifact(self, version: int) -> Artifact:
        """A version's files."""
        found: Artifact = self.ask(handles.REGISTRY, "load", version)
        return found

    def windows(self, hours: int) -> RawWindows:
        """Windows with labels of the last hours, a horizon apart, for a measure of our own."""
        found: RawWindows = self.ask(
            handles.BUFFER,
            "holdout",
            as_of=self.slot,
            hours=hours,
            every=self.config.panel.horizon_slots,
            known_at=self.slot,
        )
        return found


def reason_of(record: Record, *, about: str = "") -> str:
    """Who decided a record, and the first of its reasons that says something about it."""
    detail = record["detail"]
    reasons: Sequence[str] = detail.get("reasons") or [detail.get("reason", "")]
    return f"{record['who']}: {next((one for one in reasons if about in one), reasons[0])}"
