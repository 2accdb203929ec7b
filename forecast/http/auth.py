"""Who may call: named bearer tokens, or anybody on this machine where that was chosen.

A token's name and scopes stand in a TOML file beside the SHA-256 of the token, never the token:

    [[tokens]]
    name = "grafana"
    sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    scopes = ["read"]

The file is read again whenever it changes. Two entries may share a name: to rotate a token add the
new hash, move its users over, remove the old one.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from forecast.config import ServeConfig
from forecast.errors import ConfigError, Forbidden, NotAuthorized, UnsupportedMedia
from forecast.tensors import MEDIA_TYPE

log = logging.getLogger("fleetcast.auth")

Scope = Literal["read", "ingest", "operate", "federate"]
SCOPES: frozenset[Scope] = frozenset(get_args(Scope))

WRITE_HEADER = "x-fleetcast"
"""A page from elsewhere cannot send it without asking first, and is never allowed to."""

_LOCAL_HOST = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?", re.IGNORECASE)
_WRITE_TYPES = frozenset({"application/json", "application/x-ndjson", MEDIA_TYPE})
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
"""What a proxy adds: the caller is not who the connection comes from."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who makes a request, and what they may do."""

    name: str
    scopes: frozenset[Scope]


ANONYMOUS = Principal("anonymous", SCOPES)


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=100)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    scopes: frozenset[Scope] = Field(min_length=1)


class _TokenFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: tuple[_Entry, ...]


class Guard:
    """The one door: decides for each request who it is and whether it may pass.

    Raises ConfigError when the settings would leave the API open to strangers, or when the token
    file cannot be read.
    """

    def __init__(
        self, *, host: str, tokens_file: Path | None, allow_anonymous_loopback: bool
    ) -> None:
        if tokens_file is None and not allow_anonymous_loopback:
            raise ConfigError(
                "serve.tokens_file is not set: anybody could call the API. Name a file with "
                "[[tokens]], or set serve.allow_anonymous_loopback on a machine of your own"
            )
        if allow_anonymous_loopback and not is_loopback(host):
            raise ConfigError(
                f"serve.allow_anonymous_loopback needs a loopback serve.host, not {host!r}"
            )
        self._anonymous = allow_anonymous_loopback
        self._path = tokens_file
        self._mark: tuple[int, int, int] | None = None
        self._entries: tuple[_Entry, ...] = ()
        if tokens_file is not None:
            self._mark = _mark(tokens_file)
            self._entries = _read(tokens_file)
            if not self._entries:
                raise ConfigError(f"{tokens_file}: holds no [[tokens]]: nobody could call the API")

    @classmethod
    def from_config(cls, config: ServeConfig) -> Self:
        """The guard of one fleet's HTTP side."""
        return cls(
            host=config.host,
            tokens_file=config.tokens_file,
            allow_anonymous_loopback=config.allow_anonymous_loopback,
        )

    def authorise(
        self, headers: Mapping[str, str], method: str, client: str | None, scope: Scope | None
    ) -> Principal:
        """Who this is, once they may do what `scope` names (None: what anybody may).

        `headers` have lower-case names, `client` is the caller's address. Raises NotAuthorized,
        Forbidden, or UnsupportedMedia for an anonymous write that a web page could have sent.
        """
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if self._path is not None and scheme.lower() == "bearer":
            principal = self._bearer(token.strip())
        elif self._anonymous:
            _check_local(headers, method, client)
            principal = ANONYMOUS
        elif scope is None:
            return Principal("nobody", frozenset())
        else:
            raise NotAuthorized("send the header `Authorization: Bearer <token>`")
        if scope is not None and scope not in principal.scopes:
            raise Forbidden(f"the token {principal.name!r} does not have the scope {scope!r}")
        return principal

    def _bearer(self, token: str) -> Principal:
        """Whose token it is; every entry is compared, so that time tells nothing."""
        self._refresh()
        digest = hashlib.sha256(token.encode(errors="replace")).hexdigest()
        found: _Entry | None = None
        for entry in self._entries:
            if hmac.compare_digest(entry.sha256, digest):
                found = entry
        if found is None:
            raise NotAuthorized("unknown token")
        return Principal(found.name, found.scopes)

    def _refresh(self) -> None:
        """Read the file again when it changed.

        While it cannot be read the tokens known before stay valid: an editor that saves in two
        steps must not lock the fleet's agents out. An empty list, `tokens = []`, does.
        """
        assert self._path is not None
        try:
            mark = _mark(self._path)
            if mark == self._mark:
                return
            self._mark = mark
            self._entries = _read(self._path)
        except ConfigError as error:
            log.error("the tokens known before stay valid: %s", error)
        else:
            log.info("%s: read again, %d tokens", self._path, len(self._entries))


def _mark(path: Path) -> tuple[int, int, int]:
    try:
        found = os.stat(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    return found.st_mtime_ns, found.st_size, found.st_ino


def _read(path: Path) -> tuple[_Entry, ...]:
    """The entries. Who reads the hash of a random token learns nothing; who writes one is in."""
    try:
        if os.stat(path).st_mode & stat.S_IWOTH:
            log.warning("%s: anybody on this machine may write tokens to it", path)
        entries = _TokenFile.model_validate(tomllib.loads(path.read_text("utf-8"))).tokens
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: {key}: {first['msg']}") from error
    hashes = [entry.sha256 for entry in entries]
    if len(set(hashes)) < len(hashes):
        raise ConfigError(f"{path}: two tokens have the same sha256")
    return entries


def _check_local(headers: Mapping[str, str], method: str, client: str | None) -> None:
    """Let only programs on this machine pass, and no web page a browser here has open.

    A page from elsewhere can reach a loopback port by a form or a script, or under its own name by
    DNS rebinding. The Host header betrays the latter; a write needs a content type and a header
    that make the browser ask first, and nothing here answers that question with yes.
    """
    if any(name in headers for name in _FORWARDED):
        raise Forbidden("without a token only this machine may call, not through a proxy")
    if client is None or not is_loopback(client):
        raise Forbidden(f"without a token only this machine may call, not {client}")
    host = headers.get("host", "")
    if _LOCAL_HOST.fullmatch(host) is None:
        raise Forbidden(f"without a token the Host header must be localhost, not {host!r:.80}")
    if method in _SAFE_METHODS:
        return
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in _WRITE_TYPES:
        wanted = " or ".join(sorted(_WRITE_TYPES))
        raise UnsupportedMedia(f"the content type must be {wanted}, not {content_type!r:.80}")
    if headers.get(WRITE_HEADER) != "1":
        raise Forbidden("without a token a write needs the header `X-Fleetcast: 1`")


def is_loopback(host: str) -> bool:
    """Whether an address or name can only mean this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
