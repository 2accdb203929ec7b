"""An aggregator's whole state as bytes, and back: a run that was resumed is bitwise the same.

    head      what changes with every update and is small: counts and accounts
    sums      what a mean has added up so far: raw float64 and a checksum, made without a copy more
    settled   vectors and moments, which change with a step
    entry     a delta that an order statistic holds; never changes
    partial   what a leaf has handed on and does not know to have arrived

The head names the pieces that belong to it; a piece's name always means the same bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecast.canonical import sha256
from forecast.errors import StateError
from forecast.packing import pack, unpack
from train.federated.aggregator import Aggregator
from train.federated.collected import Collected
from train.federated.history import History
from train.federated.optimizers import Moments
from train.federated.order import Entry
from train.federated.partial import Partial
from train.federated.pool import Pool
from train.federated.report import RoundReport
from train.federated.rounds import OpenRound
from train.federated.settings import AggregatorSettings
from train.federated.sites import Sites
from train.federated.usual import Usual

FORMAT = 1

FloatArray = NDArray[np.float32]
DoubleArray = NDArray[np.float64]
Arrays = dict[str, NDArray[Any]]
Make = Callable[[], bytes | memoryview]
Read = Callable[[str], bytes]
"""The bytes of a piece by its name."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A state: its head, and how to make each piece that it names."""

    head: bytes
    pieces: Mapping[str, Make]


def save(one: Aggregator) -> Saved:
    """The state now: what changes in place is in the head; the pieces can be made later."""
    settled = f"settled-{one.epoch}"
    held = {n: (pool.vector, pool.moments, pool.proposed) for n, pool in one.pools.items()}
    pieces: dict[str, Make] = {settled: partial(_settled, held)}
    round = one.open.number
    pools = {n: _told(n, round, pool.collected, pieces) for n, pool in one.pools.items()}
    handed = None
    if one.outgoing is not None:
        handed = f"partial-{one.outgoing.sequence}"
        pieces[handed] = partial(pack_partial, one.outgoing)
    header = {
        "format": FORMAT,
        "schema_hash": one.schema_hash,
        "rule": one.settings.rule,
        "settled": settled,
        "partial": handed,
        "pools": pools,
        "open": one.open.to_json(),
        "history": one.history.to_json(),
        "sites": one.admission.sites.to_json(),
        "nodes": one.nodes.to_json(),
        "norms": one.admission.norms.to_json(),
        "samples": one.admission.samples.to_json(),
        "partials": one.partials,
        "epoch": one.epoch,
        "last": None if one.last is None else one.last.to_json(),
    }
    return Saved(pack("aggregator", header, {}), pieces)


def pieces_of(head: bytes) -> set[str]:
    """Names of the pieces that belong to a head; raises StateError as `load`."""
    header, _ = unpack("aggregator", head)
    pools = header["pools"].values()
    entries = [each["piece"] for told in pools for each in told["entries"]]
    named = [header["settled"], header["partial"], *(told["sums"] for told in pools), *entries]
    return {piece for piece in named if piece is not None}


def load(one: Aggregator, head: bytes, read: Read) -> int:
    """Put a state into a fresh aggregator; how many updates of the open round were dropped.

    They are when its rule is another one than before: what one rule collects says nothing to the
    other. Raises StateError for bytes that are damaged, of an unknown format, or of another
    layout.
    """
    header, _ = unpack("aggregator", head)
    if header["format"] != FORMAT:
        raise StateError(f"state of an aggregator: format {header['format']}, need {FORMAT}")
    if header["schema_hash"] != one.schema_hash:
        got, need = header["schema_hash"][:12], one.schema_hash[:12]
        raise StateError(f"state of an aggregator: schema {got}, need {need}")
    settings = one.settings
    one.pools = _pools(read(header["settled"]), settings)
    one.open = OpenRound.from_json(header["open"])
    dropped = 0
    if header["rule"] == settings.rule:
        for name, told in header["pools"].items():
            one.pools[name].collected = _collected(told, read, settings)
    else:
        dropped, one.open = one.open.updates, one.open.next()
    most = settings.most_staleness
    one.history = History.from_json(header["history"], most_staleness=most)
    one.admission.sites = Sites.from_json(header["sites"], settings.most_sites)
    one.nodes = Sites.from_json(header["nodes"], settings.most_sites)
    one.admission.norms = Usual.from_json(header["norms"])
    one.admission.samples = Usual.from_json(header["samples"])
    one.partials, one.epoch = header["partials"], header["epoch"]
    last, handed = header["last"], header["partial"]
    one.last = None if last is None else RoundReport.from_json(last)
    one.outgoing = unpack_partial(read(handed), settings) if handed else None
    return dropped


def pack_partial(one: Partial) -> bytes:
    """A partial as bytes, for a file or for the way to another machine."""
    arrays: Arrays = {"norms": one.norms, "samples": one.samples}
    pools: dict[str, Any] = {}
    for name, collected in one.pools.items():
        pools[name] = _told(name, 0, collected, None)
        if collected.mean.sums is not None:
            arrays[pools[name]["sums"]] = collected.mean.sums
        for entry in collected.reservoir.entries.values():
            arrays[_piece(name, entry)] = entry.delta
    header = {
        "format": FORMAT,
        "node": one.node,
        "sequence": one.sequence,
        "schema_hash": one.schema_hash,
        "base_version": one.base_version,
        "counts": one.counts.to_json(),
        "pools": pools,
    }
    return pack("partial", header, arrays)


def unpack_partial(data: bytes, settings: AggregatorSettings) -> Partial:
    """What `pack_partial` made; raises StateError for anything else."""
    header, arrays = unpack("partial", data)
    if header["format"] != FORMAT:
        raise StateError(f"a partial: format {header['format']}, need {FORMAT}")

    def read(piece: str) -> bytes:
        if piece.startswith("sums"):
            return bytes(_sealed(_roomy(arrays[piece])))
        return pack("entry", {}, {"delta": arrays[piece]})

    pools = {name: _collected(told, read, settings) for name, told in header["pools"].items()}
    return Partial(
        node=header["node"],
        sequence=header["sequence"],
        schema_hash=header["schema_hash"],
        base_version=header["base_version"],
        counts=OpenRound.from_json(header["counts"]),
        norms=arrays["norms"],
        samples=arrays["samples"],
        pools=pools,
    )


def _told(
    name: str, round: int, collected: Collected, pieces: dict[str, Make] | None
) -> dict[str, Any]:
    """What was collected, as JSON; its sums and entries go to `pieces`, where there are any."""
    sums, samples = None, collected.mean.samples
    if collected.mean.sums is not None:
        # Within a round the samples rise with everything that is added.
        sums = f"sums-{round}-{samples}-{_hashed(name)}"
        if pieces is not None:
            pieces[sums] = partial(_sealed, _roomy(collected.mean.sums))
    entries = []
    for _, entry in sorted(collected.reservoir.entries.items()):
        piece = _piece(name, entry)
        if pieces is not None:
            pieces[piece] = partial(pack, "entry", {}, {"delta": entry.delta})
        told = {"site": entry.site, "sequence": entry.sequence, "draw": entry.draw}
        entries.append({**told, "piece": piece})
    return {"samples": samples, "sums": sums, "entries": entries}


def _piece(name: str, entry: Entry) -> str:
    return f"entry-{_hashed(f'{name}|{entry.draw}|{entry.sequence}|{entry.site}')}"


def _hashed(name: str) -> str:
    return sha256(name.encode())[:32]


def _collected(told: Mapping[str, Any], read: Read, settings: AggregatorSettings) -> Collected:
    made = Collected(settings)
    if told["sums"] is not None:
        made.mean.sums = _opened(told["sums"], read(told["sums"]))
    made.mean.samples = told["samples"]
    for each in told["entries"]:
        _, found = unpack("entry", read(each["piece"]))
        made.reservoir.add(Entry(each["draw"], each["site"], each["sequence"], found["delta"]))
    return made


def _roomy(sums: DoubleArray) -> DoubleArray:
    """A copy with room for a checksum behind it."""
    made = np.empty(len(sums) + 1, "<f8")
    made[:-1] = sums
    return made


def _sealed(made: DoubleArray) -> memoryview:
    """The bytes of a copy that has room, with their checksum in it."""
    view = made.data.cast("B")
    view[-8:] = zlib.crc32(view[:-8]).to_bytes(8, "little")
    return view


def _opened(piece: str, data: bytes) -> DoubleArray:
    """Sums out of what `_sealed` made; raises StateError when they are damaged."""
    if (
        len(data) < 8
        or len(data) % 8
        or zlib.crc32(data[:-8]) != int.from_bytes(data[-8:], "little")
    ):
        raise StateError(f"stored {piece}: the checksum does not match, {len(data)} bytes")
    return np.frombuffer(data, "<f8", len(data) // 8 - 1).astype(np.float64)


def _settled(
    held: Mapping[str, tuple[FloatArray, Moments, tuple[FloatArray, Moments] | None]],
) -> bytes:
    header: dict[str, Any] = {}
    arrays: Arrays = {}
    for name, (vector, moments, proposed) in held.items():
        header[name] = {"accepted": _kept(f"accepted/{name}", vector, moments, arrays)}
        if proposed is not None:
            header[name]["proposed"] = _kept(f"proposed/{name}", *proposed, arrays)
    return pack("settled", header, arrays)


def _pools(data: bytes, settings: AggregatorSettings) -> dict[str, Pool]:
    header, arrays = unpack("settled", data)
    pools = {}
    for name, told in header.items():
        vector, moments = _given(f"accepted/{name}", told["accepted"], arrays)
        pools[name] = Pool(vector, settings)
        pools[name].moments = moments
        if "proposed" in told:
            pools[name].proposed = _given(f"proposed/{name}", told["proposed"], arrays)
    return pools


def _kept(name: str, vector: FloatArray, moments: Moments, arrays: Arrays) -> dict[str, Any]:
    arrays[f"{name}/vector"] = vector
    for what in ("first", "second"):
        if (array := getattr(moments, what)) is not None:
            arrays[f"{name}/{what}"] = array
    return {"steps": moments.steps, "scale": moments.scale}


def _given(name: str, told: Mapping[str, Any], arrays: Arrays) -> tuple[FloatArray, Moments]:
    first, second = (arrays.get(f"{name}/{what}") for what in ("first", "second"))
    moments = Moments(told["steps"], told["scale"], first, second)
    return arrays[f"{name}/vector"], moments
