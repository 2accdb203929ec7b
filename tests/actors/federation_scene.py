"""A federation of tiny sites: the actor, its HTTP side and the sites' client, without a socket."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from starlette.testclient import TestClient

from actors.federated_alone import AloneService
from actors.federation import FederationActor, begin
from actors.site import SiteAtWork
from actors.site_models import SiteModels
from actors.site_slots import Slots
from connect.federated import SiteClient
from forecast.http.auth import Guard
from forecast.http.federated_app import make_federated_app
from tests.forecast.crash_disk import QuickDisk
from tests.train.federated.site_scene import AS_OF, OWN, SCHEMA, SHARED, Windows
from tests.train.windows_scene import spec
from train.federated.federation import FederationRules
from train.federated.frame import SiteSettings
from train.federated.settings import AggregatorSettings
from train.federated.site import Site
from train.federated.verdict import VerdictRules

PREFIX = "/api/v1/federated"
FRAME, START = begin(SCHEMA, spec(), seed=0)
URL = "http://localhost:8000"
EVERY = 24


class Now:
    """The wall clock of a test."""

    s = 1000.0

    def __call__(self) -> float:
        return self.s


class Line(TestClient):
    """A line to an app that knows no timeouts."""

    def request(self, *args, timeout=None, **given):
        """Of any method."""
        return super().request(*args, **given)


def actor(folder: Path, disk=None, now=None, registry=None, rules=None, **settings):
    """An aggregator whose rounds end at three updates, and whose candidates are judged by two."""
    folder.mkdir(parents=True, exist_ok=True)
    given = {"updates": 3, "quorum": 2, "gated": True, "deadline_s": 60.0, **settings}
    told = {
        "verdict": VerdictRules(quorum=2, worse=0.05),
        "score_deadline_s": 30.0,
        **(rules or {}),
    }
    return FederationActor(
        directory=folder / "federated",
        owner="fleet a",
        schema=SCHEMA,
        spec=spec(),
        seed=0,
        settings=AggregatorSettings(**given),
        rules=FederationRules(**told),
        now=now or Now(),
        registry=registry,
        disk=disk or QuickDisk(),
    )


def update(site: str, turn: int, base: int) -> tuple:
    """Header and arrays of a site's update, drawn by its name and turn."""
    header = {
        "site": site, "sequence": turn, "base_version": base, "samples": 10, "role": "",
        "schema_hash": FRAME.layout.schema_hash, "codec": "float32",
    }  # fmt: skip
    values = np.random.default_rng([turn, *site.encode()]).normal(0, 0.01, FRAME.layout.size)
    return header, {"values": values.astype(np.float32)}


def http(one: FederationActor, guard: Guard | None = None, *, limit: int = 1 << 20) -> TestClient:
    """A client of its routes; by default anonymous, on this machine."""
    guard = guard or Guard(host="127.0.0.1", tokens_file=None, allow_anonymous_loopback=True)
    app = make_federated_app(AloneService(one), guard, max_update_bytes=limit)
    return Line(app, base_url=URL, client=("127.0.0.1", 50000))


def centre(client: TestClient) -> SiteClient:
    """The sites' own client, over these routes instead of a socket."""
    made = SiteClient(URL, patience_s=0.0)
    made.close()
    made._http = client
    return made


def plain_site(name: str, seed: int = 0, source=None) -> Site:
    """A site of the tiny network."""
    settings = SiteSettings(hours=24, windows=48, holdout_hours=2, own_windows=64)
    source = source or Windows(seed)
    given = {"shared": SHARED, "own": OWN, "settings": settings}
    return Site(name, FRAME, source, start={}, **given)


def at_work(folder: Path, name: str, asked, *, rounds: int = 2, seed: int = 0, **given):
    """A site that learns at so many slots, its state in the folder."""
    models = SiteModels()
    return SiteAtWork(
        plain_site(name, seed, given.pop("source", None)),
        asked,
        slots=Slots(AS_OF, EVERY, AS_OF + EVERY * (rounds - 1)),
        seed=7,
        path=folder / f"{name}.state",
        models=given.pop("models", models),
        disk=QuickDisk(),
        **given,
    )


def until_done(works, *, most: int = 200) -> list[tuple[str, str]]:
    """Let sites take turns until all are done; what each did."""
    did, left = [], list(works)
    for _ in range(most):
        said = [(one, one.advance()) for one in left]
        did += [(one.site.name, what) for one, what in said]
        left = [one for one, what in said if what != "done"]
        if not left:
            return did
    raise AssertionError(f"not done after {most} turns: {did[-6:]}")
