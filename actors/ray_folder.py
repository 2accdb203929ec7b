"""Ray's own files for a cluster that we start: a folder for its sockets, a token of its own."""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path

_SHORT = "/tmp"
"""Ray's sockets lie below its folder, and a socket's path may have 107 characters."""


def new_folder() -> Path:
    """A fresh temporary folder with a short path; whoever asked for it removes it."""
    return Path(tempfile.mkdtemp(prefix="fc-", dir=_SHORT))


def write_token(path: Path) -> None:
    """Put a new token into a new file that only this user reads; raises FileExistsError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
