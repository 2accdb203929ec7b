"""The fields of one row as it comes over the wire: its time, its server, what it says of it.

`forecast.schema.validate_rows` reads the values; here is what belongs to the row as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from forecast.errors import DataError

LONGEST_NAME = 512
"""Characters; a longer server name, role or label value is refused."""


class RowError(DataError):
    """The whole row is no good; `reason` is one of the words of `forecast.schema.Reject`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class RowFields:
    """Reads the fields of the rows of one request; remembers what it parsed.

    >>> fields = RowFields(server_labels=("server",), latest_ms=2_000_000_000_000)
    >>> fields.time_ms({"timestamp": "2026-01-01T01:00:00+01:00"})
    1767225600000
    >>> fields.server({"server": "web-01"})
    'web-01'
    """

    def __init__(self, *, server_labels: tuple[str, ...], latest_ms: int) -> None:
        self._labels = server_labels
        self._latest_ms = latest_ms
        self._times: dict[str, int] = {}
        self._zones: set[str] = set()

    def time_ms(self, row: Mapping[Any, Any], field: str = "timestamp") -> int:
        """Epoch milliseconds of a field: ISO 8601 (UTC unless it says), or epoch seconds."""
        given = row.get(field)
        if isinstance(given, str):
            time_ms = self._times.get(given)
            if time_ms is None:
                time_ms = self._times[given] = _parse_time(given, field)
        elif isinstance(given, (int, float)) and not isinstance(given, bool):
            time_ms = _epoch_ms(given, field)
        else:
            raise RowError("malformed", f"{field} must be ISO 8601 or epoch seconds")
        if time_ms < 0:
            raise RowError("malformed", f"{field} {given!r:.40} lies before 1970")
        if time_ms > self._latest_ms:
            late_s = (time_ms - self._latest_ms) / 1000
            raise RowError(
                "future", f"{field} {given!r:.40} is {late_s:.0f} s beyond the allowed clock skew"
            )
        return time_ms

    def server(self, row: Mapping[Any, Any]) -> str:
        """The server's name: `server`, or the values of its labels joined by `/`."""
        labels = row.get("labels")
        if labels is None and len(self._labels) == 1:
            return _word(row.get("server"), "server")
        if not isinstance(labels, Mapping):
            raise RowError("malformed", f"labels must give {', '.join(self._labels)}")
        values = [_word(labels.get(label), f"label {label}") for label in self._labels]
        if any("/" in value for value in values[:-1]):
            # Only the last may hold one (a mount point does), or two servers could share a name.
            raise RowError("malformed", "only the last label's value may contain '/'")
        return "/".join(values)

    def info(self, row: Mapping[Any, Any]) -> tuple[str, str]:
        """Role and time zone, each empty when the row does not say."""
        role, zone = row.get("role"), row.get("timezone")
        if role not in (None, ""):
            role = _word(role, "role")
        if zone not in (None, ""):
            zone = _word(zone, "timezone")
            if zone not in self._zones:
                _check_zone(zone)
                self._zones.add(zone)
        return role or "", zone or ""


def _parse_time(text: str, field: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise RowError("malformed", f"{field} {text!r:.40} is not ISO 8601") from error
    return (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000


def _epoch_ms(seconds: float, field: str) -> int:
    # 1e11 s lie beyond the year 5000: beyond it, somebody sent milliseconds.
    if not abs(seconds) < 1e11:
        raise RowError("malformed", f"{field} {seconds!r:.40} is no number of epoch seconds")
    return math.floor(seconds * 1000)


def _word(value: object, field: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise RowError("malformed", f"{field} must be a non-empty string")
    if len(value) > LONGEST_NAME or not value.isprintable():
        raise RowError(
            "malformed", f"{field} must be printable and at most {LONGEST_NAME} characters long"
        )
    return value


def _check_zone(zone: str) -> None:
    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, OSError) as error:
        raise RowError("malformed", f"timezone {zone!r:.40} is not an IANA name") from error
