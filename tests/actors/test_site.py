"""Sites at work over HTTP: a federation from fresh weights on, killed anywhere, private at home."""

from __future__ import annotations

import json
from dataclasses import replace

import httpx
import numpy as np
import pytest

from actors.site_curve import Curve
from actors.site_models import SiteModels
from actors.site_slots import Slots
from forecast.errors import StateError
from forecast.packing import pack, unpack
from forecast.tensors import load
from tests.actors.federation_scene import (
    EVERY,
    FRAME,
    PREFIX,
    START,
    Now,
    actor,
    at_work,
    centre,
    http,
    plain_site,
    until_done,
)
from tests.train.federated.site_scene import AS_OF, Windows, fresh
from train.federated.frame import GlobalModel

NAMES = ("a", "b", "c")


class Wire:
    """A client that keeps every byte a site sends."""

    def __init__(self, client) -> None:
        self.sent: list[httpx.Request] = []
        self._client = client

    def request(self, *args, **given) -> httpx.Response:
        answer = self._client.request(*args, **given)
        self.sent.append(answer.request)
        return answer


def test_three_sites_learn_together_and_all_end_at_one_version(tmp_path):
    one = actor(tmp_path)
    asked = centre(http(one))
    works = [at_work(tmp_path, name, asked, seed=at) for at, name in enumerate(NAMES)]
    did = until_done(works)
    assert [what for _, what in did].count("sent") == 6
    rounds = asked.get(f"{PREFIX}/rounds")["rounds"]
    assert [each["sites"] for each in rounds] == [["a", "b", "c"]] * 2
    accepted = [each["version"] for each in rounds if each["decision"]["accept"]]
    assert {work.site.base.version for work in works} == {max(accepted)}
    assert (works[0].site.base.vector == one._aggregator.shared()).all()
    holdout = works[0].site.held_out(AS_OF)
    before = works[0].site.score(fresh(0, 9), AS_OF, seed=1)
    assert before.change > 0.05  # fresh weights are worse than what was learned
    assert len(holdout)


@pytest.mark.parametrize("codec", ["bf16", "int8"])
def test_a_compressed_delta_is_a_part_of_the_bytes(tmp_path, codec):
    sizes, told = {}, {}
    for each in ("float32", codec):
        one = actor(tmp_path / each, rules={"codec": each})
        asked = centre(http(one))
        works = [at_work(tmp_path / each, name, asked, rounds=1) for name in NAMES]
        until_done(works)
        sizes[each] = works[0].bytes_sent
        assert one._aggregator.version == 1
        told[each] = works[0].traffic.told()
        assert told[each]["codec"] == each
        assert told[each]["bytes_float32"] == told["float32"]["bytes_sent"]
    assert sizes[codec] < {"bf16": 0.65, "int8": 0.45}[codec] * sizes["float32"]
    assert told["float32"]["relative_error"] == 0
    assert 0 < told[codec]["relative_error"] < {"bf16": 2**-8, "int8": 0.05}[codec]


def test_what_was_sent_is_counted_over_restarts_and_a_state_of_before_knows_the_bytes(tmp_path):
    client = http(actor(tmp_path, rules={"codec": "int8"}))
    whole = at_work(tmp_path, "whole", centre(client), rounds=1)
    cut = at_work(tmp_path, "cut", centre(Cut(client, 4, arrives=True)), rounds=1)
    assert [whole.advance(), whole.advance(), cut.advance()] == ["took", "sent", "took"]
    with pytest.raises(Dying):
        cut.advance()
    cut = at_work(tmp_path, "cut", centre(client), rounds=1)
    assert cut.traffic.measured == 1
    assert cut.bytes_sent == 0
    assert cut.advance() == "sent"
    again = at_work(tmp_path, "cut", centre(client), rounds=1)
    assert again.traffic == cut.traffic
    assert again.traffic.told()["bytes_float32"] > 2 * again.bytes_sent > 0
    path = tmp_path / "cut.state"
    header, arrays = unpack("site-at-work", path.read_bytes())
    del header["traffic"]
    old = {**header, "format": 1, "bytes_sent": 1234}
    path.write_bytes(pack("site-at-work", old, arrays))
    told = at_work(tmp_path, "cut", centre(client), rounds=1).traffic.told()
    assert (told["bytes_sent"], told["bytes_float32"]) == (1234, 1234)
    assert (told["codec"], told["relative_error"]) == (None, None)
    path.write_bytes(pack("site-at-work", {**old, "format": 9}, arrays))
    with pytest.raises(StateError, match="format 9, need 2"):
        at_work(tmp_path, "cut", centre(client))


def test_nothing_that_is_private_or_raw_is_in_the_bytes_that_leave_a_site(tmp_path):
    one = actor(tmp_path)
    wire = Wire(http(one))
    asked = centre(wire)
    works = [at_work(tmp_path, name, asked, seed=at) for at, name in enumerate(NAMES)]
    until_done(works)
    shared = {piece.name for piece in FRAME.layout.pieces}
    assert not any(name.startswith("adapter") for name in shared)
    site = works[0].site
    assert site._correction
    secret = [array.tobytes() for array in site._correction.values() if array.size > 1]
    secret += [site.held_out(AS_OF).values[0, 0].tobytes()]
    bodies = [request.content for request in wire.sent if request.content]
    assert len(bodies) >= 9
    for body in bodies:
        assert not any(part in body for part in secret)
        if body[:1] == b"{":
            names = {"samples", "change", "lower", "upper", "blocks", "finite"}
            assert set(json.loads(body)) == names
        else:
            header, arrays = load(body)
            assert set(header) == {
                "site", "sequence", "base_version", "schema_hash", "samples", "role", "codec",
            }  # fmt: skip
            assert {name: array.shape for name, array in arrays.items()} == {
                "values": (FRAME.layout.size,)
            }


class Dying(Exception):
    """The process is killed here."""


class Cut:
    """A way to the aggregator that dies at its n-th call, before it arrives or after."""

    def __init__(self, client, at: int, *, arrives: bool) -> None:
        self._client, self._left, self._arrives = client, at, arrives

    def request(self, *args, **given) -> httpx.Response:
        self._left -= 1
        if self._left == 0 and not self._arrives:
            raise Dying
        answer = self._client.request(*args, **given)
        if self._left == 0:
            raise Dying
        return answer


@pytest.mark.parametrize(("arrives", "calls"), [(False, (2, 4, 7)), (True, (4, 7, 9))])
def test_a_site_killed_at_any_call_goes_on_and_the_global_model_is_bitwise_the_same(
    tmp_path, arrives, calls
):
    def run(folder, at):
        one = actor(folder)
        client = http(one)
        others = [at_work(folder, name, centre(client), seed=k) for k, name in enumerate(NAMES[:2])]
        mine = at_work(folder, "c", centre(Cut(client, at, arrives=arrives)), seed=2)
        died = False
        for _ in range(100):
            for other in others:
                other.advance()
            try:
                what = mine.advance()
            except Dying:
                died = True
                mine = at_work(folder, "c", centre(client), seed=2)
                what = "died"
            if what == "done":
                return one._aggregator.shared(), one._aggregator.version, died
        raise AssertionError(mine.slot)

    wanted, version, _ = run(tmp_path / "plain", 10**9)
    for at in calls:
        found, at_version, died = run(tmp_path / str(at), at)
        assert died
        assert at_version == version
        assert (found == wanted).all()


def test_a_site_of_another_network_is_told_so_and_stops(tmp_path):
    one = actor(tmp_path)
    work = at_work(tmp_path, "a", centre(http(one)))
    one._aggregator.schema_hash = "0" * 64
    with pytest.raises(StateError, match="the same metrics, roles and"):
        work.advance()


def test_many_sites_of_a_process_hold_one_vector(tmp_path):
    one = actor(tmp_path)
    wire, models = Wire(http(one)), SiteModels()
    works = [at_work(tmp_path, f"dc.{n}", centre(wire), models=models) for n in range(5)]
    for work in works:
        assert work.advance() == "took"
    assert all(work.site.base is works[0].site.base for work in works)
    assert sum("/global/" in str(request.url) for request in wire.sent) == 1


def test_a_site_without_windows_skips_its_slots_and_is_done(tmp_path):
    one = actor(tmp_path)
    work = at_work(tmp_path, "a", centre(http(one)), source=Windows(empty=True))
    assert [work.advance() for _ in range(4)] == ["took", "skipped", "skipped", "done"]
    assert work.updates == 0


def test_a_training_that_does_not_stay_finite_ends_no_site(tmp_path):
    one = actor(tmp_path)
    work = at_work(tmp_path, "a", centre(http(one)))
    fine = work.site._shared
    work.site._own = replace(work.site._own, learning_rate=1e38)
    work.site._shared = replace(fine, learning_rate=1e38)
    assert [work.advance(), work.advance()] == ["took", "skipped"]
    assert not work.site._correction
    work.site._shared = fine
    assert work.advance() == "sent"
    assert work.slot == AS_OF + 2 * EVERY


class Racing:
    """Something happens at the centre just before the first request for a version arrives."""

    def __init__(self, client, version: int, happens) -> None:
        self._client, self._path, self._happens = client, f"/global/{version}", [happens]

    def request(self, method, path, **given) -> httpx.Response:
        if path.endswith(self._path) and self._happens:
            self._happens.pop()()
        return self._client.request(method, path, **given)


def test_a_site_asks_again_when_what_it_asked_for_was_decided_meanwhile(tmp_path):
    now = Now()
    one = actor(tmp_path, now=now)
    client = http(one)

    def decided() -> None:
        now.s += 100
        assert centre(client).current("a")["candidate"] is None

    works = [at_work(tmp_path, name, centre(client), rounds=1) for name in NAMES[:2]]
    works.append(at_work(tmp_path, "c", centre(Racing(client, 1, decided)), rounds=1))
    for _ in range(2):
        for work in works:
            work.advance()
    assert one._federation.book.pending.version == 1
    assert works[2].advance() == "waits"
    assert works[2].advance() == "done"
    assert one._federation.book.outcomes["rejected"] == 1


def test_an_update_goes_to_the_round_that_is_open_when_it_is_sent(tmp_path):
    client = http(actor(tmp_path))
    work = at_work(tmp_path, "a", centre(Cut(client, 4, arrives=False)))
    assert work.advance() == "took"
    with pytest.raises(Dying):
        work.advance()
    work._outbox = (7, work._outbox[1])  # of an aggregator that was restored since
    work._save()
    work = at_work(tmp_path, "a", centre(client))
    assert [work.advance(), work.updates] == ["sent", 1]


class Older:
    """An aggregator that does not tell digests."""

    def __init__(self, centre) -> None:
        self._centre = centre

    def __getattr__(self, name):
        return getattr(self._centre, name)

    def current(self, site):
        told = self._centre.current(site)
        return {key: value for key, value in told.items() if not key.endswith("digest")}


@pytest.mark.parametrize("tells", [True, False])
def test_where_the_aggregator_began_anew_a_site_takes_what_it_is_told(tmp_path, tells, caplog):
    given = {"updates": 1, "quorum": 1, "gated": False}
    first = centre(http(actor(tmp_path / "first", **given)))
    work = at_work(tmp_path, "a", first if tells else Older(first), rounds=3)
    until_done([work])
    assert work.site.base.version == 3
    anew = actor(tmp_path / "second", **given)
    asked = centre(http(anew))
    work._centre = asked if tells else Older(asked)
    work._slots = Slots(AS_OF, EVERY, AS_OF + 4 * EVERY)
    assert work.advance() == "took"
    assert (work.site.base.version, work.site.serving.version) == (0, 0)
    assert (work.site.base.vector == anew._aggregator.shared()).all()
    until_done([work])
    assert work.site.base.version == 2
    assert (work.site.base.vector == anew._aggregator.shared()).all()
    assert caplog.text.count("the aggregator began anew, at version 0") == 1


def test_a_number_that_is_given_to_another_vector_is_taken_again(tmp_path):
    given = {"updates": 1, "quorum": 1, "gated": False}
    others = [actor(tmp_path / name, **given) for name in "xy"]
    for turn, one in enumerate(others):
        until_done([at_work(tmp_path / f"{turn}", "b", centre(http(one)), rounds=1, seed=turn)])
    work = at_work(tmp_path, "a", centre(http(others[0])), rounds=0)
    until_done([work])
    assert work.site.base.version == 1
    work = at_work(tmp_path, "a", centre(http(others[1])), rounds=0)
    assert (work.advance(), work.advance()) == ("took", "done")
    assert (work.site.base.vector == others[1]._aggregator.shared()).all()


def test_an_update_that_the_round_takes_no_more_is_sent_again_in_the_next_one(tmp_path):
    one = actor(tmp_path, per_site=1, updates=2)
    wire = Wire(http(one))
    work = at_work(tmp_path, "a", centre(wire), rounds=2)
    assert [work.advance(), work.advance()] == ["took", "sent"]
    work._held = lambda now: False  # it learned the next one before it knew what was sent
    sent = len(wire.sent)
    assert [work.advance() for _ in range(4)] == ["waits"] * 4
    assert work.waits_for == "the end of round 0"
    puts = [request.method for request in wire.sent[sent:]]
    assert puts.count("PUT") == 1


def test_a_curve_has_both_ways_by_version_and_goes_on_after_a_restart(tmp_path):
    one, client = actor(tmp_path), None
    client = http(one)

    def curve() -> Curve:
        holdout = Windows(3).holdout(as_of=AS_OF + 5000, hours=8, every=3)
        return Curve(tmp_path / "a.jsonl", plain_site("a"), START, lambda: holdout)

    others = [at_work(tmp_path, name, centre(client), seed=1) for name in NAMES[1:]]
    mine = at_work(tmp_path, "a", centre(client), watching=curve())
    for _ in range(100):
        for other in others:
            other.advance()
        if mine.advance() == "done":
            break
        mine = at_work(tmp_path, "a", centre(client), watching=curve())
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [line["version"] for line in lines][:2] == [0, 1]
    assert lines[0]["global"] == pytest.approx(lines[0]["alone"])
    assert lines[-1]["alone"] < lines[0]["alone"]
    assert lines[-1]["global"] < lines[0]["global"]
    assert all(
        np.isfinite([line[k] for k in ("global", "personal", "alone", "mixed")]).all()
        for line in lines
    )
    parts = [lines[-1][name] for name in ("global", "personal", "alone")]
    assert lines[-1]["mixed"] < np.mean(parts)


def test_where_all_forecasts_are_one_the_mix_is_it_and_a_state_of_before_has_no_number(tmp_path):
    holdout = Windows(3).holdout(as_of=AS_OF + 5000, hours=8, every=3)
    site, path = plain_site("a"), tmp_path / "a.jsonl"
    state = path.with_name("a.jsonl.alone")
    state.write_bytes(pack("site-alone", {"slot": AS_OF}, {"vector": START}))
    one = Curve(path, plain_site("a"), np.zeros_like(START), lambda: holdout)
    site.take(GlobalModel(0, START))
    one.took(site, AS_OF)
    line = json.loads(path.read_text())
    assert line["global"] == line["personal"] == line["alone"]
    assert line["mixed"] == pytest.approx(line["alone"], rel=1e-5)
    one.learned(AS_OF + EVERY, seed=1, rate=1.0)
    header, arrays = unpack("site-alone", state.read_bytes())
    assert header == {"format": 1, "slot": AS_OF + EVERY}
    state.write_bytes(pack("site-alone", {**header, "format": 9}, arrays))
    with pytest.raises(StateError, match="format 9, need 1"):
        Curve(path, plain_site("a"), START, lambda: holdout)
