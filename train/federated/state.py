"""An aggregator's whole state as bytes, and back: a run that was resumed is bitwise the same.

    head      what changes with every update: counts, accounts, sums of the open round
    settled   vectors and moments, which change with a step
    entry     a delta that an order statistic holds; never changes
    partial   what a leaf has handed on and does not know to have arrived

The head names the pieces that belong to it; a piece's name always means the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecast.canonical import sha256
from forecast.errors import StateError
from forecast.packing import pack, unpack
from train.federated.aggregator import Aggregator
from train.federated.collected import Collected
from train.federated.history import History
from train.federated.norms import Norms
from train.federated.optimizers import Moments
from train.federated.order import Entry
from train.federated.partial import Partial
from train.federated.pool import Pool
from train.federated.report import RoundReport
from train.federated.rounds import OpenRound
from train.federated.settings import AggregatorSettings
from train.federated.sites import Sites

FORMAT = 1

FloatArray = NDArray[np.float32]
Arrays = dict[str, NDArray[Any]]
Read = Callable[[str], bytes]
"""The bytes of a piece by its name."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A state: its head, and how to make each piece that it names."""

    head: bytes
    pieces: Mapping[str, Callable[[], bytes]]


def save(one: Aggregator) -> Saved:
    """The state now: what changes in place is in the head; the pieces can be made later."""
    settled = f"settled-{one.epoch}"
    held = {n: (pool.vector, pool.moments, pool.proposed) for n, pool in one.pools.items()}
    pieces: dict[str, Callable[[], bytes]] = {settled: lambda: _settled(held)}
    arrays: Arrays = {}
    pools = {n: _told(n, pool.collected, arrays, pieces) for n, pool in one.pools.items()}
    partial = None
    if one.outgoing is not None:
        partial, outgoing = f"partial-{one.outgoing.sequence}", one.outgoing
        pieces[partial] = lambda: pack_partial(outgoing)
    header = {
        "format": FORMAT,
        "schema_hash": one.schema_hash,
        "rule": one.settings.rule,
        "settled": settled,
        "partial": partial,
        "pools": pools,
        "open": one.open.to_json(),
        "history": one.history.to_json(),
        "sites": one.admission.sites.to_json(),
        "nodes": one.nodes.to_json(),
        "norms": one.admission.norms.to_json(),
        "partials": one.partials,
        "epoch": one.epoch,
        "last": None if one.last is None else one.last.to_json(),
    }
    return Saved(pack("aggregator", header, arrays), pieces)


def pieces_of(head: bytes) -> set[str]:
    """Names of the pieces that belong to a head; raises StateError as `load`."""
    header, _ = unpack("aggregator", head)
    entries = [each["piece"] for told in header["pools"].values() for each in told["entries"]]
    partial = [header["partial"]] if header["partial"] else []
    return {header["settled"], *partial, *entries}


def load(one: Aggregator, head: bytes, read: Read) -> int:
    """Put a state into a fresh aggregator; how many updates of the open round were dropped.

    They are when its rule is another one than before: what one rule collects says nothing to the
    other. Raises StateError for bytes that are damaged, of an unknown format, or of another
    layout.
    """
    header, arrays = unpack("aggregator", head)
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
            one.pools[name].collected = _collected(name, told, arrays, read, settings)
    else:
        dropped, one.open = one.open.updates, one.open.next()
    most = settings.most_staleness
    one.history = History.from_json(header["history"], most_staleness=most)
    one.admission.sites = Sites.from_json(header["sites"], settings.most_sites)
    one.nodes = Sites.from_json(header["nodes"], settings.most_sites)
    one.admission.norms = Norms.from_json(header["norms"])
    one.partials, one.epoch = header["partials"], header["epoch"]
    last, partial = header["last"], header["partial"]
    one.last = None if last is None else RoundReport.from_json(last)
    one.outgoing = unpack_partial(read(partial), settings) if partial else None
    return dropped


def pack_partial(partial: Partial) -> bytes:
    """A partial as bytes, for a file or for the way to another machine."""
    arrays: Arrays = {"norms": partial.norms}
    pools: dict[str, Any] = {}
    for name, collected in partial.pools.items():
        pieces: dict[str, Callable[[], bytes]] = {}
        pools[name] = _told(name, collected, arrays, pieces)
        for entry in collected.reservoir.entries.values():
            arrays[_piece(name, entry)] = entry.delta
    header = {
        "format": FORMAT,
        "node": partial.node,
        "sequence": partial.sequence,
        "schema_hash": partial.schema_hash,
        "base_version": partial.base_version,
        "counts": partial.counts.to_json(),
        "pools": pools,
    }
    return pack("partial", header, arrays)


def unpack_partial(data: bytes, settings: AggregatorSettings) -> Partial:
    """What `pack_partial` made; raises StateError for anything else."""
    header, arrays = unpack("partial", data)
    if header["format"] != FORMAT:
        raise StateError(f"a partial: format {header['format']}, need {FORMAT}")

    def read(piece: str) -> bytes:
        return pack("entry", {}, {"delta": arrays[piece]})

    pools = {
        name: _collected(name, told, arrays, read, settings)
        for name, told in header["pools"].items()
    }
    return Partial(
        node=header["node"],
        sequence=header["sequence"],
        schema_hash=header["schema_hash"],
        base_version=header["base_version"],
        counts=OpenRound.from_json(header["counts"]),
        norms=arrays["norms"],
        pools=pools,
    )


def _told(
    name: str, collected: Collected, arrays: Arrays, pieces: dict[str, Callable[[], bytes]]
) -> dict[str, Any]:
    """What was collected, as JSON; its sums go to `arrays`, its entries to `pieces`."""
    if collected.mean.sums is not None:
        arrays[f"sums/{name}"] = collected.mean.sums
    entries = []
    for _, entry in sorted(collected.reservoir.entries.items()):
        piece = _piece(name, entry)
        pieces[piece] = lambda entry=entry: pack("entry", {}, {"delta": entry.delta})  # type: ignore[misc]
        told = {"site": entry.site, "sequence": entry.sequence, "draw": entry.draw}
        entries.append({**told, "piece": piece})
    return {"samples": collected.mean.samples, "entries": entries}


def _piece(name: str, entry: Entry) -> str:
    return f"entry-{sha256(f'{name}|{entry.draw}|{entry.sequence}|{entry.site}'.encode())[:32]}"


def _collected(
    name: str, told: Mapping[str, Any], arrays: Arrays, read: Read, settings: AggregatorSettings
) -> Collected:
    made = Collected(settings)
    if (sums := arrays.get(f"sums/{name}")) is not None:
        made.mean.sums = sums.copy()
    made.mean.samples = told["samples"]
    for each in told["entries"]:
        _, found = unpack("entry", read(each["piece"]))
        made.reservoir.add(Entry(each["draw"], each["site"], each["sequence"], found["delta"]))
    return made


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
