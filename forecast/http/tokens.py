"""New bearer tokens: made here, shown once, and their hashes put into the token file."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from forecast.errors import ConfigError
from forecast.http.auth import SCOPES, Guard
from forecast.storage import DISK, TEMPORARY

_PRIVATE = 0o600


@dataclass(frozen=True, slots=True)
class Token:
    """A token, and the entry of the token file that lets it in.

    >>> token = Token.make("grafana", ["read"])
    >>> print(token.entry().replace(token.sha256, "9f86..."))
    [[tokens]]
    name = "grafana"
    sha256 = "9f86..."
    scopes = ["read"]
    <BLANKLINE>
    """

    name: str
    scopes: tuple[str, ...]
    secret: str = field(repr=False)

    @classmethod
    def make(cls, name: str, scopes: Collection[str]) -> Self:
        """A new random token; raises ConfigError for an unknown scope or no name."""
        if unknown := sorted(set(scopes) - SCOPES):
            raise ConfigError(f"no scope {unknown[0]!r}; there are {', '.join(sorted(SCOPES))}")
        if not scopes or not 0 < len(name) <= 100:
            raise ConfigError("a token needs a name of at most 100 letters and at least one scope")
        return cls(name, tuple(sorted(set(scopes))), secrets.token_urlsafe(32))

    @property
    def sha256(self) -> str:
        """What the file holds instead of the token."""
        return hashlib.sha256(self.secret.encode()).hexdigest()

    def entry(self) -> str:
        """The TOML that lets this token in."""
        scopes = ", ".join(f'"{scope}"' for scope in self.scopes)
        # A JSON string of ASCII is a TOML string.
        return (
            f"[[tokens]]\nname = {json.dumps(self.name)}\n"
            f'sha256 = "{self.sha256}"\nscopes = [{scopes}]\n'
        )

    def append(self, path: Path) -> None:
        """Add the entry to a token file, or make one: the old content or the new one, never a part.

        What stands there stays, comments too. A new file is for its owner alone; one that exists
        keeps its owner and group and is closed to everybody else. Raises ConfigError when the file
        cannot be written, or would then not be a token file.
        """
        try:
            before = path.read_text(encoding="utf-8")
            stat = path.stat()
        except FileNotFoundError:
            before, stat = "", None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: {error}") from error
        gap = "" if not before else "\n" if before.endswith("\n") else "\n\n"
        text = f"{before}{gap}{self.entry()}"
        temporary = path.with_name(f"{TEMPORARY}{path.name}")
        try:
            _write(temporary, text.encode(), stat)
            # The one that will read it reads it first.
            Guard(host="127.0.0.1", tokens_file=temporary, allow_anonymous_loopback=False)
            DISK.rename(temporary, path)
            DISK.sync(path.parent)
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from error
        except ConfigError as error:
            said = str(error).removeprefix(f"{temporary}: ")
            raise ConfigError(f"{path}: left as it was: with the new entry, {said}") from error
        finally:
            temporary.unlink(missing_ok=True)


def _write(temporary: Path, data: bytes, before: os.stat_result | None) -> None:
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE)
    with os.fdopen(descriptor, "wb") as file:
        if before is not None:
            if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(descriptor, before.st_uid, before.st_gid)
            os.fchmod(descriptor, before.st_mode & 0o660 | _PRIVATE)
        file.write(data)
    DISK.sync(temporary)
