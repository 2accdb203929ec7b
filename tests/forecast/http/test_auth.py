"""Who may call, and through which door."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import pytest

from forecast.config import ServeConfig
from forecast.errors import ConfigError, Forbidden, NotAuthorized, UnsupportedMedia
from forecast.http.auth import ANONYMOUS, Guard

LOCAL = {"host": "localhost:8000"}
WRITE = {**LOCAL, "content-type": "application/json", "x-fleetcast": "1"}


def entry(token: str, name: str, *scopes: str) -> str:
    digest = hashlib.sha256(token.encode()).hexdigest()
    quoted = ", ".join(f'"{scope}"' for scope in scopes)
    return f'[[tokens]]\nname = "{name}"\nsha256 = "{digest}"\nscopes = [{quoted}]\n'


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}", "host": "fleet.example:8000"}


def anonymous() -> Guard:
    return Guard(host="127.0.0.1", tokens_file=None, allow_anonymous_loopback=True)


@pytest.fixture
def tokens(tmp_path) -> Path:
    path = tmp_path / "tokens.toml"
    path.write_text(entry("reader", "grafana", "read") + entry("agent", "agents", "ingest"))
    return path


def guard(path: Path) -> Guard:
    return Guard(host="0.0.0.0", tokens_file=path, allow_anonymous_loopback=False)


def test_an_api_open_to_strangers_is_refused_before_it_starts():
    with pytest.raises(ConfigError, match=r"serve\.tokens_file is not set"):
        Guard.from_config(ServeConfig())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "fleet.example"])
def test_anonymous_callers_need_a_loopback_host(host):
    with pytest.raises(ConfigError, match=r"needs a loopback serve\.host"):
        Guard.from_config(ServeConfig(host=host, allow_anonymous_loopback=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.9"])
def test_a_loopback_host_may_be_anonymous(host):
    Guard.from_config(ServeConfig(host=host, allow_anonymous_loopback=True))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tokens = []", "nobody could call"),
        ("tokens = 3 3", "not TOML"),
        ('[[tokens]]\nname = "a"\nsha256 = "abc"\nscopes = ["read"]', r"tokens\.0\.sha256"),
        (entry("x", "a", "admin"), r"tokens\.0\.scopes"),
        (entry("x", "a"), r"tokens\.0\.scopes"),
        (entry("x", "a", "read") + entry("x", "b", "ingest"), "the same sha256"),
        (entry("x", "a", "read") + 'secret = "x"', r"tokens\.0\.secret"),
    ],
)
def test_a_wrong_token_file_is_refused_by_name_and_key(tmp_path, text, said):
    path = tmp_path / "tokens.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said) as refused:
        guard(path)
    assert str(path) in str(refused.value)


def test_a_missing_token_file_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.toml: No such file"):
        guard(tmp_path / "absent.toml")


def test_a_token_gives_its_name_and_its_scopes_and_no_more(tokens):
    principal = guard(tokens).authorise(bearer("reader"), "GET", "10.0.0.1", "read")
    assert (principal.name, principal.scopes) == ("grafana", {"read"})
    with pytest.raises(Forbidden, match="'grafana' does not have the scope 'ingest'"):
        guard(tokens).authorise(bearer("reader"), "POST", "10.0.0.1", "ingest")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Bearer "},
        {"authorization": "Bearer reader extra"},
        {"authorization": "Basic reader"},
        {"authorization": "reader"},
        {"authorization": "Bearer re\udcffader"},
    ],
)
def test_without_a_known_token_nobody_passes(tokens, headers):
    with pytest.raises(NotAuthorized):
        guard(tokens).authorise(headers, "GET", "127.0.0.1", "read")


def test_what_is_for_anybody_needs_no_token(tokens):
    assert guard(tokens).authorise({}, "GET", "10.0.0.1", None).scopes == frozenset()


def test_a_changed_token_file_is_read_again(tokens):
    door = guard(tokens)
    tokens.write_text(entry("fresh", "grafana", "read"))
    assert door.authorise(bearer("fresh"), "GET", None, "read").name == "grafana"
    with pytest.raises(NotAuthorized):
        door.authorise(bearer("reader"), "GET", None, "read")


def test_a_token_file_that_breaks_leaves_the_known_tokens_valid_and_says_so(tokens, caplog):
    door = guard(tokens)
    tokens.write_text("[[tokens")
    with caplog.at_level(logging.ERROR):
        door.authorise(bearer("reader"), "GET", None, "read")
        os.remove(tokens)
        door.authorise(bearer("reader"), "GET", None, "read")
    assert "not TOML" in caplog.text
    assert "No such file" in caplog.text


def test_an_emptied_token_file_locks_everybody_out(tokens):
    door = guard(tokens)
    tokens.write_text("tokens = []")
    with pytest.raises(NotAuthorized):
        door.authorise(bearer("reader"), "GET", None, "read")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8000", "[::1]:8000"])
def test_a_local_program_needs_no_token_in_the_anonymous_mode(host):
    assert anonymous().authorise({"host": host}, "GET", "127.0.0.1", "read") is ANONYMOUS


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "localhost:80:80",
     "evil.example:8000", "127.0.0.2", "localhost\n", "[::1"],
)  # fmt: skip
def test_a_name_that_was_rebound_to_this_machine_is_refused(host):
    with pytest.raises(Forbidden, match="Host header"):
        anonymous().authorise({"host": host}, "GET", "127.0.0.1", "read")


def test_another_machine_is_refused_in_the_anonymous_mode():
    with pytest.raises(Forbidden, match=r"not 10\.0\.0\.7"):
        anonymous().authorise(LOCAL, "GET", "10.0.0.7", "read")


@pytest.mark.parametrize("name", ["x-forwarded-for", "forwarded", "via", "x-real-ip"])
def test_a_proxy_on_this_machine_does_not_make_its_callers_local(name):
    headers = {**LOCAL, name: "127.0.0.1"}
    with pytest.raises(Forbidden, match="not through a proxy"):
        anonymous().authorise(headers, "GET", "127.0.0.1", "read")


def test_a_caller_of_unknown_address_is_not_taken_for_a_local_one():
    with pytest.raises(Forbidden):
        anonymous().authorise(LOCAL, "GET", None, "read")


def test_a_token_file_that_anybody_may_write_is_said_to_be_one(tokens, caplog):
    os.chmod(tokens, 0o644)  # reading the hashes gives nothing away
    guard(tokens)
    assert caplog.text == ""
    os.chmod(tokens, 0o666)
    guard(tokens)
    assert "anybody on this machine may write" in caplog.text


@pytest.mark.parametrize(
    "kind",
    ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"],
)
def test_what_a_web_form_can_send_writes_nothing(kind):
    with pytest.raises(UnsupportedMedia):
        anonymous().authorise({**WRITE, "content-type": kind}, "POST", "127.0.0.1", "ingest")


@pytest.mark.parametrize("value", [None, "", "0", "yes"])
def test_a_write_without_the_custom_header_is_refused(value):
    headers = {**WRITE, "x-fleetcast": value or ""}
    if value is None:
        del headers["x-fleetcast"]
    with pytest.raises(Forbidden, match="X-Fleetcast: 1"):
        anonymous().authorise(headers, "POST", "127.0.0.1", "ingest")


@pytest.mark.parametrize("kind", ["application/json", "Application/X-NDJSON; charset=utf-8"])
def test_a_write_with_type_and_header_passes(kind):
    headers = {**WRITE, "content-type": kind}
    assert anonymous().authorise(headers, "POST", "::1", "ingest") is ANONYMOUS


def test_with_both_doors_open_a_wrong_token_is_still_wrong(tokens):
    both = Guard(host="127.0.0.1", tokens_file=tokens, allow_anonymous_loopback=True)
    assert both.authorise(LOCAL, "GET", "127.0.0.1", "read") is ANONYMOUS
    with pytest.raises(NotAuthorized):
        both.authorise({**LOCAL, "authorization": "Bearer wrong"}, "GET", "127.0.0.1", "read")
