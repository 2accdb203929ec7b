"""The federation's routes: whose token speaks for which site, what is refused before it is read."""

from __future__ import annotations

import numpy as np
import pytest

from forecast.http.auth import Guard
from forecast.http.tokens import Token
from forecast.tensors import MEDIA_TYPE, dump, load
from tests.actors.federation_scene import FRAME, PREFIX, Now, actor, http
from tests.train.federated.scene import FullDisk

SIZE, HASH = FRAME.layout.size, FRAME.layout.schema_hash
SENT = {"Content-Type": MEDIA_TYPE, "X-Fleetcast": "1"}
SCORE = {"samples": 9, "change": -0.1, "lower": -0.2, "upper": 0.0, "blocks": 4, "finite": True}


def update(site: str = "a", sequence: int = 0, *, scale: float = 0.01, **given) -> bytes:
    header = {
        "site": site, "sequence": sequence, "base_version": 0, "schema_hash": HASH, "samples": 10,
        "role": "", "codec": "float32", **given,
    }  # fmt: skip
    values = np.random.default_rng(sequence).normal(0, scale, SIZE).astype(np.float32)
    return dump(header, {"values": values})


def put(client, site="a", body=None, *, number=0, headers=SENT):
    path = f"{PREFIX}/rounds/{number}/updates/{site}"
    return client.put(path, content=update(site) if body is None else body, headers=headers)


def stepped(client, *sites: str) -> None:
    for site in sites:
        assert put(client, site).json()["verdict"] == "accepted"


def tell(client, site: str, version: int = 1, **given):
    path = f"{PREFIX}/global/{version}/scores/{site}"
    return client.put(path, json={**SCORE, **given}, headers={"X-Fleetcast": "1"})


def kind_of(response) -> tuple[int, str]:
    return response.status_code, response.json()["type"].removeprefix("/docs#")


def test_an_update_sent_again_is_a_duplicate_and_changes_nothing(tmp_path):
    one = actor(tmp_path)
    client = http(one)
    first = put(client).json()
    assert (first["verdict"], first["counted"], first["durable"]) == ("accepted", True, True)
    again = put(client).json()
    assert (again["verdict"], again["counted"]) == ("duplicate", True)
    assert one._aggregator.open.updates == 1


def test_the_global_model_has_a_tag_that_spares_the_bytes(tmp_path):
    one = actor(tmp_path)
    client = http(one)
    answer = client.get(f"{PREFIX}/global/0")
    header, arrays = load(answer.content)
    assert header == {"version": 0, "schema_hash": HASH, "role": ""}
    assert (arrays["shared"] == one._aggregator.shared()).all()
    tag = answer.headers["etag"]
    again = client.get(f"{PREFIX}/global/0", headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")
    assert kind_of(client.get(f"{PREFIX}/global/5")) == (409, "conflict")


def test_the_scores_of_all_that_took_part_decide_and_a_repeated_one_changes_nothing(tmp_path):
    one = actor(tmp_path)
    client = http(one)
    stepped(client, "a", "b", "c")
    now = client.get(f"{PREFIX}/rounds/current", params={"site": "a"}).json()
    assert (now["candidate"], now["scored"], now["round"]) == (1, False, 1)
    assert load(client.get(f"{PREFIX}/global/1").content)[0]["version"] == 1
    assert tell(client, "a").json()["state"] == "pending"
    assert tell(client, "a", change=0.5).json()["state"] == "pending"
    assert tell(client, "b").json()["state"] == "pending"
    told = tell(client, "c", change=0.06).json()
    assert told == {"version": 1, "state": "accepted", "keep_previous": True}
    assert tell(client, "c").json() == told
    assert tell(client, "x", version=9).json()["state"] == "unknown"
    found = client.get(f"{PREFIX}/rounds").json()
    [decision] = [each["decision"] for each in found["rounds"]]
    assert [each["change"] for each in decision["scores"]] == [-0.1, -0.1, 0.06]
    assert found["open"]["version"] == 1
    ours, theirs = (
        client.get(f"{PREFIX}/rounds/current", params={"site": site}).json() for site in "ac"
    )
    assert (ours["keep_previous"], theirs["keep_previous"]) == (False, True)


def test_a_candidate_that_is_worse_is_dropped_and_the_global_model_stays_bitwise(tmp_path):
    one = actor(tmp_path)
    client, before = http(one), one._aggregator.shared()
    stepped(client, "a", "b", "c")
    states = [tell(client, site, change=0.01).json()["state"] for site in "abc"]
    assert states == ["pending", "pending", "rejected"]
    assert one._aggregator.version == 0
    assert (one._aggregator.shared() == before).all()


def test_scores_that_do_not_come_are_waited_for_until_the_deadline(tmp_path):
    now = Now()
    one = actor(tmp_path, now=now)
    client = http(one)
    stepped(client, "a", "b", "c")
    tell(client, "a")
    now.s += 29
    assert client.get(f"{PREFIX}/rounds/current", params={"site": "a"}).json()["candidate"] == 1
    now.s += 2
    current = client.get(f"{PREFIX}/rounds/current", params={"site": "a"}).json()
    assert (current["candidate"], current["version"]) == (None, 0)
    [found] = client.get(f"{PREFIX}/rounds").json()["rounds"]
    assert found["decision"]["reasons"] == ["1 sites could tell, 2 are needed"]


@pytest.mark.parametrize(
    ("body", "headers", "wanted"),
    [
        (b"junk", SENT, (422, "unprocessable")),
        (
            b"\x80\x04N.",
            {**SENT, "Content-Type": "application/x-pickle"},
            (415, "unsupported-media"),
        ),
        (update("b"), SENT, (422, "unprocessable")),
        (update(), {"Content-Type": MEDIA_TYPE}, (403, "forbidden")),
        (bytes(2 << 20), SENT, (413, "too-large")),
    ],
)
def test_what_is_no_update_of_this_site_is_refused(tmp_path, body, headers, wanted):
    one = actor(tmp_path)
    assert kind_of(put(http(one), body=body, headers=headers)) == wanted
    assert one._aggregator.open.updates == 0


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        ({"schema_hash": "0" * 64}, "malformed"),
        ({"samples": "many"}, "malformed"),
        ({"colour": 1}, "malformed"),
        ({"codec": "int8"}, "malformed"),
        ({"codec": ["x"]}, "malformed"),
        ({"base_version": 3}, "stale"),
        ({"scale": np.nan}, "non_finite"),
    ],
)
def test_a_bad_update_gets_its_verdict_and_the_round_goes_on(tmp_path, given, verdict):
    one = actor(tmp_path)
    client = http(one)
    answer = put(client, body=update(**given))
    assert (answer.status_code, answer.json()["verdict"]) == (200, verdict)
    assert put(client, "b").json()["verdict"] == "accepted"
    assert one._federation.numbers()["verdicts"] == {verdict: 1, "accepted": 1}


def test_a_round_that_is_not_open_yet_is_a_conflict(tmp_path):
    assert kind_of(put(http(actor(tmp_path)), number=4)) == (409, "conflict")


def test_a_body_is_not_read_beyond_the_limit(tmp_path):
    client = http(actor(tmp_path), limit=100)
    read = []

    def endless():
        for at in range(1000):
            read.append(at)
            yield bytes(60)

    answer = client.put(f"{PREFIX}/rounds/0/updates/a", content=endless(), headers=SENT)
    assert kind_of(answer) == (413, "too-large")


def test_with_a_full_disk_an_update_is_not_acknowledged(tmp_path):
    disk = FullDisk()
    client = http(actor(tmp_path, disk=disk))
    disk.full = True
    assert kind_of(put(client)) == (503, "busy")
    disk.full = False
    assert put(client).json()["verdict"] == "duplicate"


@pytest.fixture
def tokens(tmp_path):
    """A guard with three tokens, and the headers that show each."""
    path, shown = tmp_path / "tokens.toml", {}
    for name, scopes in (("a", ["federate"]), ("dc", ["federate"]), ("grafana", ["read"])):
        token = Token.make(name, scopes)
        token.append(path)
        shown[name] = {"Authorization": f"Bearer {token.secret}"}
    guard = Guard(host="0.0.0.0", tokens_file=path, allow_anonymous_loopback=False)
    return guard, shown


def test_a_token_speaks_for_its_own_site_and_those_it_hosts(tmp_path, tokens):
    guard, shown = tokens
    client = http(actor(tmp_path / "state"), guard)
    for token, site, wanted in (
        ("a", "a", 200), ("a", "b", 403), ("a", "ab", 403), ("dc", "dc.web-1", 200),
        ("dc", "dcx", 403), ("grafana", "a", 403),
    ):  # fmt: skip
        headers = {**shown[token], **SENT}
        assert put(client, site, headers=headers).status_code == wanted, (token, site)
        asked = client.get(f"{PREFIX}/rounds/current", params={"site": site}, headers=shown[token])
        assert asked.status_code == wanted
    assert client.get(f"{PREFIX}/global/0").status_code == 401
    assert client.get(f"{PREFIX}/global/0", headers=shown["grafana"]).status_code == 403
    assert client.get(f"{PREFIX}/rounds", headers=shown["a"]).status_code == 403
    assert client.get(f"{PREFIX}/rounds", headers=shown["grafana"]).status_code == 200
