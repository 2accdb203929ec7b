"""Which versions there are and which one each alias names: the registry's state, without files.

A version goes `registered` -> `promoted` or `rejected`, and `promoted` -> `withdrawn` when it is
rolled back; a later promotion makes it `promoted` again. Each change gives a new state.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, Self

from forecast.errors import RegistryError, UnknownVersion
from forecast.pauses import Pause
from forecast.retention import Keeping, kept
from forecast.rollout import Rollouts

Status = Literal["registered", "promoted", "rejected", "withdrawn"]

MOVED_BY_PROMOTION = ("champion", "previous", "base")
"""Aliases that only a promotion or a rollback moves: there is one door to serving."""

BASE = "base"
"""The member as which the base issues, once it is not the champion."""


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """What the registry knows of a version without reading its files."""

    version: int
    kind: str
    """`base`, `update` or `retrain`, from the manifest's lineage."""
    parent: int | None
    update_id: str
    slot: int
    """Event time at which it was registered."""
    created_at: str
    fingerprint: str
    weights_sha256: str
    manifest_sha256: str
    bytes: int
    status: Status = "registered"
    decided_slot: int | None = None
    """Event time of its last promotion, rejection or withdrawal."""
    promotion: int | None = None
    """The state's revision at its last promotion; orders promotions."""
    promoted_slot: int | None = None
    """Event time of its last promotion."""


@dataclass(frozen=True, slots=True)
class RegistryState:
    """Everything the registry knows; `revision` rises with every change.

    `line` is the champion and those before it that a rollback may return to, oldest first.
    """

    revision: int = 0
    aliases: Mapping[str, int] = field(default_factory=dict)
    versions: tuple[VersionInfo, ...] = ()
    line: tuple[int, ...] = ()
    next_version: int = 1
    paused: Pause | None = None
    """Who holds promotion back, and why; None: nobody does."""
    resumed: int = 0
    """The revision of the last resume; 0 before the first."""
    rollout: Rollouts = field(default_factory=Rollouts)
    """Who answers in the champion's seat, for whom, and what is on its way there."""

    @property
    def champion(self) -> int | None:
        """The version that serves; None before the first promotion."""
        return self.aliases.get("champion")

    @property
    def anchor(self) -> int | None:
        """The version that a challenger must not fall behind; the base where none is named."""
        return self.aliases.get("anchor", self.aliases.get("base"))

    @property
    def held(self) -> str | None:
        """Why nothing is promoted now; None: it may be. A first version always may."""
        return None if self.paused is None or self.champion is None else str(self.paused)

    def info(self, version: int) -> VersionInfo:
        """What is known of a kept version; raises UnknownVersion."""
        for info in self.versions:
            if info.version == version:
                return info
        raise UnknownVersion(f"no version {version}; {self._known()}")

    def resolve(self, name: str | int) -> int:
        """The version an alias or a number names; raises UnknownVersion."""
        if isinstance(name, str) and name in self.aliases:
            return self.aliases[name]
        if isinstance(name, int) or re.fullmatch(r"[0-9]{1,18}", name):
            return self.info(int(name)).version
        raise UnknownVersion(f"no version or alias {name!r}; {self._known()}")

    def servable(self) -> tuple[int, ...]:
        """Versions that may answer, best first: the champion, those before it, the base."""
        base = self.aliases.get("base")
        order = list(reversed(self.line))
        if base is not None and base not in order and self.info(base).status == "promoted":
            order.append(base)
        return tuple(order)

    def beside(self, version: int, count: int) -> dict[str, int]:
        """Versions that stay members beside this champion, newest first, by the member's name.

        Those accepted last before it, at most `count`, and the base; none where `count` is 0. A
        name says which place before the champion a version has now, so names stay the same few.
        """
        order = self.servable()
        if not count or version not in order:
            return {}
        before = order[order.index(version) + 1 :]
        base = self.aliases.get("base")
        found: dict[str, int] = {}
        for place, each in enumerate(before, 1):
            if each == base:
                found[BASE] = each
            elif place <= count:
                found[f"previous_{place}"] = each
        return found

    def registered(self, info: VersionInfo) -> RegistryState:
        """With one more version."""
        return self._next(versions=(*self.versions, info), next_version=info.version + 1)

    def promoted(self, version: int, *, slot: int) -> RegistryState:
        """With this version as champion and the old champion as `previous`."""
        info = self.info(version)
        line = (*(kept for kept in self.line if kept != version), version)
        aliases = _without(self.aliases, "challenger", version)
        if info.kind == "base":
            aliases["base"] = version
        mark = replace(
            info,
            status="promoted",
            decided_slot=slot,
            promotion=self.revision + 1,
            promoted_slot=slot,
        )
        rollout = self.rollout.moved(version, slot=slot)
        state = replace(self, line=line, aliases=aliases, versions=self._with(mark))
        return state.rolled(rollout, slot=slot)

    def rejected(self, version: int, *, slot: int) -> RegistryState:
        """With this version marked as refused by the gate; raises RegistryError if it serves."""
        info = self.info(version)
        if info.status == "promoted":
            raise RegistryError(f"version {version} is promoted: roll it back, do not reject it")
        aliases = _without(self.aliases, "challenger", version)
        rollout = self.rollout.without((version,), slot=slot, champion=self.champion)
        state = replace(self._marked({version}, "rejected", slot), aliases=aliases)
        return state.rolled(rollout, slot=slot)

    def retired(self, version: int, *, slot: int) -> RegistryState:
        """With a version that answers nowhere any more; raises RegistryError if it is champion."""
        if version == self.champion:
            raise RegistryError(f"version {version} is the champion: roll back or promote another")
        status: Status = "rejected" if self.info(version).promotion is None else "withdrawn"
        aliases = _without(_without(self.aliases, "anchor", version), f"pin-{version}", version)
        line = tuple(kept for kept in self.line if kept != version)
        rollout = self.rollout.without((version,), slot=slot, champion=self.champion)
        state = replace(self._marked({version}, status, slot), line=line, aliases=aliases)
        return state.rolled(rollout, slot=slot)

    def rolled_back(self, to: int | None, *, slot: int) -> RegistryState:
        """With `to` as champion, and what came after it withdrawn.

        None is the step before: the table's, while the champion does not have every seat, else
        `previous`.
        Where the anchor is withdrawn, `to` takes its place. Raises RegistryError when there is no
        previous version, or `to` was never promoted.
        """
        if to is None and self.rollout.table is not None:
            ended = self.rollout.end(slot=slot, champion=self.champion)
            return self.rolled(ended, slot=slot)
        if to is None:
            if len(self.line) < 2:
                raise RegistryError(f"no previous version to roll back to; {self._known()}")
            to = self.line[-2]
        info = self.info(to)
        if info.promotion is None:
            raise RegistryError(f"version {to} is {info.status} and never was champion")
        if to in self.line:
            gone = {*self.line[self.line.index(to) :]} - {to}
        else:  # it was withdrawn: what was good before it is good still, and the base always
            later = {one.version for one in self.versions if (one.promotion or 0) > info.promotion}
            gone = (later & {*self.line}) - {self.aliases.get("base")}
        aliases = dict(self.aliases)
        if aliases.get("anchor") in gone:
            aliases["anchor"] = to
        # What was on its way was compared with what is withdrawn now, and may have come of it.
        rollout = self.rollout.without((*gone, *self.rollout.accepted), slot=slot, champion=to)
        line = (*(kept for kept in self.line if kept not in {*gone, to}), to)
        marked = self._marked(gone, "withdrawn", slot)._marked({to}, "promoted", slot)
        state = replace(marked, line=line, aliases=aliases)
        return state.rolled(rollout.moved(to, slot=slot), slot=slot)

    def rolled(self, rollout: Rollouts, *, slot: int) -> RegistryState:
        """With this rolled out; an accepted version that is not on its way any more is refused.

        While promotion is paused, what begins its way answers nobody yet.
        """
        if self.paused is not None:
            rollout = rollout.held(self.rollout)
        left = self.rollout.accepted - rollout.versions
        undecided = {each.version for each in self.versions if each.status == "registered"}
        return self._marked(left & undecided, "rejected", slot)._next(rollout=rollout)

    def aliased(self, name: str, version: int | None) -> RegistryState:
        """With the alias naming this version, or with no such alias (None).

        Raises RegistryError for a name that is no alias or that only a promotion moves.
        """
        if name in MOVED_BY_PROMOTION:
            raise RegistryError(f"alias {name!r} moves by promotion and rollback only")
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,62}", name):
            raise RegistryError(f"{name!r} is no alias: a letter, then letters, digits or '-'")
        aliases = {known: number for known, number in self.aliases.items() if known != name}
        if version is not None:
            aliases[name] = self.info(version).version
        return self._next(aliases=aliases)

    def pausing(self, pause: Pause) -> RegistryState:
        """With promotion held back, over what holds it back already."""
        return self._next(paused=pause.over(self.paused))

    def resuming(self) -> RegistryState:
        """With nothing held back by anybody."""
        return self._next(paused=None, resumed=self.revision + 1)

    def retained(self, keeping: Keeping, *, slot: int) -> RegistryState:
        """Without the versions that may go at a slot; see `forecast.retention`."""
        named = kept(self, keeping, slot=slot)
        return replace(
            self,
            versions=tuple(info for info in self.versions if info.version in named),
            line=tuple(version for version in self.line if version in named),
        )

    def anchored(self, version: int | None) -> RegistryState:
        """With this version as the anchor, as part of the change before; None: as it was.

        An anchor that was withdrawn meanwhile is none: then too it stays as it was.
        """
        if version is None or all(info.version != version for info in self.versions):
            return self
        if self.info(version).status != "promoted":
            return self
        return replace(self, aliases={**self.aliases, "anchor": version})

    def to_json(self) -> dict[str, Any]:
        """As the audit log holds it."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """The state of an audit record."""
        known = {each.name for each in fields(cls)}
        values = {name: value for name, value in stored.items() if name in known}
        values["versions"] = tuple(VersionInfo(**info) for info in stored["versions"])
        values["line"] = tuple(stored["line"])
        if values.get("paused") is not None:
            values["paused"] = Pause(**values["paused"])
        if "rollout" in values:
            values["rollout"] = Rollouts.from_json(values["rollout"])
        return cls(**values)

    def _with(self, info: VersionInfo) -> tuple[VersionInfo, ...]:
        return tuple(info if each.version == info.version else each for each in self.versions)

    def _marked(self, which: Collection[int], status: Status, slot: int) -> RegistryState:
        """With a status of these versions that was decided at a slot."""
        versions = tuple(
            replace(each, status=status, decided_slot=slot) if each.version in which else each
            for each in self.versions
        )
        return replace(self, versions=versions)

    def _next(self, **changes: Any) -> RegistryState:  # noqa: ANN401
        """The state after a change, `champion` and `previous` following the line."""
        state = replace(self, revision=self.revision + 1, **changes)
        aliases = {
            name: version
            for name, version in state.aliases.items()
            if name not in ("champion", "previous")
        }
        aliases |= dict(zip(("champion", "previous"), reversed(state.line), strict=False))
        rollout = state.rollout
        aliases = rollout.alias(aliases, before=self.rollout)
        if (rollout, aliases.get("champion")) != (self.rollout, self.champion):
            rollout = replace(rollout, changed=state.revision)
        return replace(state, aliases=aliases, rollout=rollout)

    def _known(self) -> str:
        numbers = [str(info.version) for info in self.versions]
        return f"there are {', '.join([*sorted(self.aliases), *numbers]) or 'none'}"


def _without(aliases: Mapping[str, int], name: str, version: int) -> dict[str, int]:
    """The aliases, less this one where it names this version."""
    return {known: of for known, of in aliases.items() if (known, of) != (name, version)}
