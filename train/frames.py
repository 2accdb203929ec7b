"""Frames: log records as bytes with checksums, and how a torn tail is told from damage.

A frame is a marker, the payload's length, a CRC-32 of length and payload, and the payload: JSON and
arrays (`forecast/packing.py`). A header says `settled` when not all before it was acknowledged yet:
the byte up to which everything was. What does not read lies in the unfinished tail of a file when
no whole frame after it tells that it had been acknowledged; before that it is damage.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from forecast.errors import StateError
from forecast.packing import pack, unpack

_KIND = "log record"
_MARK = b"\xf1eet"
_FRAME = struct.Struct("<4sQI")
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Record:
    """JSON values and named arrays; read arrays are views of what was read."""

    header: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]


def frame(record: Record, *, settled: int | None = None) -> bytes:
    """A record as bytes; `settled` when not everything before it in its file is acknowledged."""
    header = record.header if settled is None else {**record.header, "settled": settled}
    payload = pack(_KIND, header, record.arrays)
    return _FRAME.pack(_MARK, len(payload), _checksum(payload)) + payload


def frames(data: bytes, path: Path, *, may_tear: bool) -> Iterator[tuple[int, Record]]:
    """The end and the content of each frame; stops before a torn tail where there may be one.

    Raises StateError for damage, with file and offset.
    """
    at = 0
    while at < len(data):
        read = _read(data, at)
        if read is None:
            if may_tear and not _acknowledged(data, at):
                return
            raise StateError(f"{path}: damaged at byte {at} of {len(data)}")
        at, record = read
        yield at, record


def _checksum(payload: bytes | memoryview) -> int:
    return zlib.crc32(payload, zlib.crc32(_LENGTH.pack(len(payload))))


def _read(data: bytes, at: int) -> tuple[int, Record] | None:
    """The end and the content of the frame that begins here; None when no whole frame does."""
    if len(data) - at < _FRAME.size:
        return None
    mark, length, checksum = _FRAME.unpack_from(data, at)
    end = at + _FRAME.size + length
    if mark != _MARK or end > len(data):
        return None
    payload = memoryview(data)[at + _FRAME.size : end]
    return (end, Record(*unpack(_KIND, payload))) if _checksum(payload) == checksum else None


def _acknowledged(data: bytes, at: int) -> bool:
    """Whether a whole frame further on says that what stood here had been acknowledged.

    Records that wait for one sync together reach the disk in any order: after a power cut a later
    one may be whole and an earlier one not.
    """
    place = at
    while (place := data.find(_MARK, place + 1)) >= 0:
        read = _read(data, place)
        if read is not None and read[1].header.get("settled", place) > at:
            return True
    return False
