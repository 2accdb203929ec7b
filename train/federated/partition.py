"""Which parameters sites share, and how those lie in the one flat vector that travels.

A state dict holds hundreds of small tensors; what is merged is one vector of float32: first what
all sites share, then what sites of one role share. What is private has no place in it at all.

Rows of a table of categories are laid out by the category's name, in an order that every site
derives alike: a role's local number says nothing anywhere else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from forecast.canonical import canonical, sha256

if TYPE_CHECKING:
    from torch import Tensor

FloatArray = NDArray[np.float32]
State = Mapping[str, "Tensor | NDArray[Any]"]
"""Parameters by name, tensors on the CPU or arrays."""


class Scope(StrEnum):
    """Who shares a parameter."""

    GLOBAL = "global"
    """All sites."""
    ROLE = "role"
    """Sites whose servers have the same role."""
    PRIVATE = "private"
    """Nobody: it never leaves its site."""


Rules = Sequence[tuple[str, Scope]]
"""Patterns as of a shell, in order: the first that matches a parameter's whole name decides."""

ROLE_TABLE = "input_embeddings.embeddings.static_role.weight"

DEFAULT_RULES: Rules = (
    # What turns a site's numbers into the network's, and back.
    ("adapter.*", Scope.PRIVATE),
    ("output_layer.*", Scope.PRIVATE),
    ("*prescalers.*", Scope.PRIVATE),
    # A role's row means the same everywhere; a server's would mean nothing elsewhere.
    (ROLE_TABLE, Scope.ROLE),
    ("input_embeddings.*", Scope.PRIVATE),
    ("*_variable_selection.*", Scope.ROLE),
    ("static_context_*", Scope.ROLE),
    ("lstm_*", Scope.GLOBAL),
    ("multihead_attn.*", Scope.GLOBAL),
    ("static_enrichment.*", Scope.GLOBAL),
    ("pos_wise_ff.*", Scope.GLOBAL),
    ("post_lstm_*", Scope.GLOBAL),
    ("post_attn_*", Scope.GLOBAL),
    ("pre_output_*", Scope.GLOBAL),
)
"""For the network of `forecast/definition.py`; a copy of a tensor falls where its original does."""


def scope_of(name: str, rules: Rules) -> Scope:
    """The scope of a parameter; raises ValueError when no rule speaks of it."""
    for pattern, scope in rules:
        if fnmatchcase(name, pattern):
            return scope
    raise ValueError(f"no rule says who shares {name!r}; {len(rules)} rules were asked")


@dataclass(frozen=True, slots=True)
class Piece:
    """One shared parameter, and its slice of the flat vector."""

    name: str
    shape: tuple[int, ...]
    """As laid out: a table has a row for every category that the federation knows."""
    dtype: str
    scope: Scope
    start: int
    stop: int
    categories: tuple[str, ...] = ()
    """Names of a table's rows in the order of the vector; none: no table."""


class Layout:
    """How a network's shared parameters lie in one flat vector of float32. Plain and immutable.

    >>> state = {"body": np.ones((2, 2), np.float32), "head": np.zeros(3, np.float32)}
    >>> layout = Layout.of(state, rules=[("body", Scope.GLOBAL), ("head", Scope.PRIVATE)])
    >>> layout.size, layout.private_names
    (4, ('head',))
    >>> shared = layout.flatten(state)
    >>> sorted(layout.compose(shared * 2, layout.private(state)))
    ['body', 'head']
    """

    def __init__(self, pieces: Sequence[Piece], private: Mapping[str, tuple[int, ...]]) -> None:
        """`private` gives the shapes of what stays at home; see `of`."""
        self.pieces = tuple(pieces)
        self._private = dict(private)
        self._sizes = dict.fromkeys(Scope, 0)
        for piece in self.pieces:
            self._sizes[piece.scope] += piece.stop - piece.start
        self._sizes[Scope.PRIVATE] = sum(math.prod(shape) for shape in private.values())
        listed = [[p.name, list(p.shape), p.dtype, p.scope, list(p.categories)] for p in pieces]
        self.schema_hash = sha256(canonical({"layout": 1, "pieces": listed}))
        """Of the shared part: the same for sites whose private parts differ."""

    @classmethod
    def of(
        cls,
        state: State,
        *,
        rules: Rules = DEFAULT_RULES,
        categories: Mapping[str, Sequence[str]] | None = None,
    ) -> Self:
        """The layout of a state dict, whatever its order.

        `categories` names, for each table among the parameters, the categories of the whole
        federation; the first stands for every unknown one. Raises ValueError for a parameter that
        no rule speaks of, or a shared one that is not float32.
        """
        tables = {name: _ordered(name, rows) for name, rows in (categories or {}).items()}
        scopes = {name: scope_of(name, rules) for name in sorted(state)}
        pieces, start = [], 0
        for scope in (Scope.GLOBAL, Scope.ROLE):
            for name in (name for name, found in scopes.items() if found is scope):
                dtype, shape = _dtype(state[name]), tuple(state[name].shape)
                if dtype != "float32":
                    raise ValueError(f"{name} is {dtype}: only float32 is merged")
                rows = tables.get(name, ())
                shape = (len(rows), *shape[1:]) if rows else shape
                stop = start + math.prod(shape)
                pieces.append(Piece(name, shape, dtype, scope, start, stop, rows))
                start = stop
        hidden = [name for name, found in scopes.items() if found is Scope.PRIVATE]
        return cls(pieces, {name: tuple(state[name].shape) for name in hidden})

    @property
    def size(self) -> int:
        """Numbers in the flat vector."""
        return self._sizes[Scope.GLOBAL] + self._sizes[Scope.ROLE]

    @property
    def counts(self) -> dict[Scope, int]:
        """Numbers of each scope."""
        return dict(self._sizes)

    @property
    def private_names(self) -> tuple[str, ...]:
        """Parameters that stay at home."""
        return tuple(self._private)

    def part(self, scope: Scope) -> slice:
        """Where a shared scope lies in the flat vector; raises ValueError for the private one."""
        if scope is Scope.PRIVATE:
            raise ValueError("what is private has no place in the vector that travels")
        end = self._sizes[Scope.GLOBAL]
        return slice(0, end) if scope is Scope.GLOBAL else slice(end, self.size)

    def flatten(
        self,
        state: State,
        *,
        categories: Mapping[str, Sequence[str]] | None = None,
        missing: FloatArray | None = None,
    ) -> FloatArray:
        """The shared part [size] of a state dict, a copy.

        `categories` names the rows of each table as this state holds them. What the federation
        knows and the state does not is taken from `missing` [size], or is 0.

        Raises ValueError for missing or spare parameters, another shape or another kind.
        """
        self._check_names(state)
        flat = np.zeros(self.size, np.float32) if missing is None else missing.copy()
        for piece in self.pieces:
            array = _array(piece.name, state[piece.name])
            if not piece.categories:
                self._check_shape(piece.name, array.shape, piece.shape)
                flat[piece.start : piece.stop] = array.reshape(-1)
                continue
            rows = _rows_of(piece, categories, len(array))
            self._check_shape(piece.name, array.shape, (len(rows), *piece.shape[1:]))
            table = flat[piece.start : piece.stop].reshape(piece.shape)
            for place, name in enumerate(rows):
                if name in piece.categories:
                    table[piece.categories.index(name)] = array[place]
        return flat

    def unflatten(
        self, flat: FloatArray, *, categories: Mapping[str, Sequence[str]] | None = None
    ) -> dict[str, FloatArray]:
        """The shared parameters by name, copies, tables in the order that `categories` names.

        Raises ValueError for a vector of another size.
        """
        if flat.shape != (self.size,) or flat.dtype != np.float32:
            raise ValueError(f"got {flat.dtype} {flat.shape}, need float32 ({self.size},)")
        state = {}
        for piece in self.pieces:
            array = flat[piece.start : piece.stop].reshape(piece.shape)
            if piece.categories:
                rows = _rows_of(piece, categories, len(piece.categories))
                found = [piece.categories.index(n) if n in piece.categories else 0 for n in rows]
                array = array[found]
            state[piece.name] = array.copy()
        return state

    def private(self, state: State) -> dict[str, FloatArray]:
        """What stays at home, copies; raises ValueError as `flatten`."""
        self._check_names(state)
        return {name: _array(name, state[name]).copy() for name in self._private}

    def compose(
        self,
        flat: FloatArray,
        private: Mapping[str, FloatArray],
        *,
        categories: Mapping[str, Sequence[str]] | None = None,
    ) -> dict[str, FloatArray]:
        """A whole state dict: the shared part of a vector [size], and a site's private one.

        Raises ValueError when the private part is not exactly what the layout leaves out.
        """
        if set(private) != set(self._private):
            raise ValueError(f"private: {_differing(set(private), set(self._private))}")
        for name, array in private.items():
            self._check_shape(name, array.shape, self._private[name])
        return {**self.unflatten(flat, categories=categories), **private}

    def _check_names(self, state: State) -> None:
        known = {piece.name for piece in self.pieces} | set(self._private)
        if set(state) != known:
            raise ValueError(_differing(set(state), known))

    @staticmethod
    def _check_shape(name: str, got: tuple[int, ...], needed: tuple[int, ...]) -> None:
        if tuple(got) != tuple(needed):  # never broadcast: (1,) would fit into (3,)
            raise ValueError(f"{name} is {tuple(got)}, need {tuple(needed)}")


def _ordered(table: str, names: Sequence[str]) -> tuple[str, ...]:
    """The first name, which stands for the unknown, then the others in alphabetical order."""
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{table}: categories differ and are at least one, got {list(names)}")
    return (names[0], *sorted(names[1:]))


def _rows_of(
    piece: Piece, categories: Mapping[str, Sequence[str]] | None, count: int
) -> Sequence[str]:
    """Names of the rows as the site holds them."""
    rows = (categories or {}).get(piece.name)
    if rows is None:
        raise ValueError(f"{piece.name} has {count} rows, but nothing says which categories")
    return rows


def _dtype(value: Tensor | NDArray[Any]) -> str:
    return str(value.dtype).removeprefix("torch.")


def _array(name: str, value: Tensor | NDArray[Any]) -> FloatArray:
    """As an array; raises ValueError when it is not float32."""
    if (dtype := _dtype(value)) != "float32":
        raise ValueError(f"{name} is {dtype}, need float32")
    array: FloatArray = value if isinstance(value, np.ndarray) else value.detach().cpu().numpy()
    return array


def _differing(got: set[str], needed: set[str]) -> str:
    odd = sorted(got ^ needed)
    return f"{len(odd)} parameters are missing or spare, first {odd[0]!r}"
