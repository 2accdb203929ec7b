"""Logs as JSON lines on stderr, where Ray keeps them for its dashboard: one object per line.

    {"ts": "2026-01-05T06:00:00.120Z", "level": "INFO", "logger": "fleetcast.controller",
     "message": "update-53 promoted: ...", "fleet": "demo", "panel": "servers",
     "role": "controller", "pid": 4711, "update_id": "update-53", "slot": 57}

All that is passed to a log call as `extra` becomes a field of its line. INFO is for what changes
the state; nothing is logged per request or per step.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

LOGGER = "fleetcast"
"""Every logger of ours lies below this one."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_SECRET = ("token", "secret", "password", "authorization")
_HIDDEN = "(hidden)"


class JsonLines(logging.Formatter):
    """One JSON object per record; `about` names the process: fleet, panel, role.

    A field whose name says that it holds a secret is hidden. An exception is one field, with its
    traceback.
    """

    def __init__(self, about: Mapping[str, Any]) -> None:
        super().__init__()
        self._about = dict(about)

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "ts": moment.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **self._about,
            "pid": record.process,
        }
        for key, value in vars(record).items():
            if key not in _STANDARD and key not in line:
                line[key] = _HIDDEN if any(word in key.lower() for word in _SECRET) else value
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            return json.dumps(line, default=_plain, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError):  # a key that is no text, NaN, a tree that holds itself
            text = {key: value if _simple(value) else repr(value) for key, value in line.items()}
            return json.dumps(text, ensure_ascii=False)


class _Handler(logging.StreamHandler[TextIO]):
    """Ours, so that configuring again replaces it and leaves others' handlers alone."""


def configure(fleet: str, panel: str, role: str) -> None:
    """Let this process log as JSON lines on stderr. Calling it again changes whom it names only.

    For processes that are actors or Serve replicas; a command's own process keeps its terminal.
    """
    logger = logging.getLogger(LOGGER)
    for handler in [one for one in logger.handlers if isinstance(one, _Handler)]:
        logger.removeHandler(handler)
    handler = _Handler()
    handler.setFormatter(JsonLines({"fleet": fleet, "panel": panel, "role": role}))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _plain(value: Any) -> Any:
    """What JSON does not know: arrays' numbers as numbers, anything else as text."""
    return value.item() if hasattr(value, "item") and getattr(value, "size", 0) == 1 else str(value)


def _simple(value: Any) -> bool:
    return value is None or isinstance(value, str | int)
