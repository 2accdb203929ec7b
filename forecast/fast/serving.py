"""The serving form: the same function of fixed weights, for forecasts alone.

What a variable adds is a function of one number: a table, read by one `embedding_bag` for all
variables of a step. Without dropout fc2 and the gate's linear are one product; norms' weights fold
into what reads them; attention shares its values, so heads are averaged before them, and its keys
and values are read off the enriched steps without being computed. Rows are [window, step] as the
windows come, features first in between (see `pieces`).

`torch.compile` of this form took 27 s and made 64 windows no faster (4.4 ms, 3.9 ms without): what
is left is spread over passes that torch already does at memory speed. So there is no compiler and
no other runtime on the way.

Legend: N windows, L context, H horizon, T targets, Q levels, C real columns, R = N x steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from forecast.fast.collapse import Collapsed, collapse
from forecast.fast.exact import FastTFT
from forecast.fast.gates import bent_, unit_
from forecast.fast.tables import LIMIT

Precision = Literal["float32", "int8"]

_ROWS = 10_752
"""Steps of windows computed at a time, 128 windows of the usual size: bounds the memory. Half as
many take 5 to 8 % longer, twice as many are no faster."""


@dataclass(slots=True)
class Outside:
    """What the tables did not cover."""

    values: int = 0
    """Inputs beyond a table's range, and inputs that are no numbers."""
    windows: int = 0
    """Windows with such an input; the exact form answered for them."""


class ServingTFT:
    """A network that only forecasts; built from a fast network whose weights it copies.

    One instance is used by one thread at a time: `outside` counts.
    """

    def __init__(
        self, network: FastTFT, tolerance: float = 4e-5, precision: Precision = "float32"
    ) -> None:
        """`tolerance` is the largest error of a table, in units of a normalised feature.

        With `int8` the tables, which are nearly all of the memory, are kept in bytes.
        """
        self.exact = FastTFT(network.shape)
        self.exact.load_state_dict(network.state_dict())
        self.exact.eval()
        self.outside = Outside()
        self.small = precision == "int8"
        with torch.inference_mode():
            self._parts: Collapsed = collapse(self.exact, tolerance, small=self.small)

    @property
    def steep(self) -> int:
        """Curves that are too steep for a table and are computed: each takes time."""
        return sum(len(each) for each in self._parts.tables.steep)

    @property
    def table_bytes(self) -> int:
        """Memory of the tables."""
        return self._parts.tables.rows.nbytes

    @property
    def table_error(self) -> float:
        """The largest error that was measured between the nodes of any table."""
        return self._parts.tables.error

    @torch.inference_mode()
    def __call__(self, encoder_cont: Tensor, decoder_cont: Tensor, categories: Tensor) -> Tensor:
        """Scaled quantiles [N, H, T, Q] from [N, L, C], [N, H, C] and categories [N, K]."""
        steps = encoder_cont.shape[1] + decoder_cont.shape[1]
        if not len(encoder_cont):
            return encoder_cont.new_empty(0, decoder_cont.shape[1], *self._parts.outputs)
        size = max(1, _ROWS // steps)
        given = (encoder_cont, decoder_cont, categories)
        parts = [
            self._some(*(tensor[start : start + size] for tensor in given))
            for start in range(0, len(encoder_cont), size)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _some(self, encoder_cont: Tensor, decoder_cont: Tensor, categories: Tensor) -> Tensor:
        p = self._parts
        inputs = [encoder_cont[..., p.encoder.columns], decoder_cont[..., p.decoder.columns]]
        inputs.append(encoder_cont[:, 0, p.static.columns] if p.static else inputs[0][:0])
        # Categories alone have no table.
        found = [places.find(part) for places, part in zip(p.tables.places, inputs, strict=False)]
        out = self._fast(inputs, found, categories)
        if all(float(largest) <= LIMIT for *_, largest in found):
            return out
        # Not "> LIMIT": a NaN is outside too.
        away = [~(part.abs() <= LIMIT).flatten(1) for part in inputs if part.numel()]
        rows = torch.cat(away, 1).any(1)
        self.outside.values += sum(int(part.sum()) for part in away)
        self.outside.windows += int(rows.sum())
        out[rows] = self.exact(encoder_cont[rows], decoder_cont[rows], categories[rows])
        return out

    def _fast(
        self,
        inputs: Sequence[Tensor],
        found: Sequence[tuple[Tensor, ...]],
        categories: Tensor,
    ) -> Tensor:
        p = self._parts
        count, context = inputs[0].shape[:2]
        if p.static is None:
            static_HN = inputs[0].new_zeros(p.hidden_size, count)
        else:
            at = found[2] if len(found) > 2 else (inputs[2], inputs[2])
            static_HN = p.static(inputs[2], at[0], at[1], categories)
        contexts = self._contexts(static_HN)
        encoder_on, decoder_on, hidden, cell, enriching = contexts.split_with_sizes(p.context_sizes)
        chosen_encoder = p.encoder(inputs[0], found[0][0], found[0][1], encoder_on)
        chosen_decoder = p.decoder(inputs[1], found[1][0], found[1][1], decoder_on)
        layers = p.lstm_layers
        state = [part.T.expand(layers, -1, -1).contiguous() for part in (hidden, cell)]
        first, *state = _lstm(chosen_encoder, state, p.lstm_encoder, layers)
        second, *_ = _lstm(chosen_decoder, state, p.lstm_decoder, layers)
        steps = torch.cat([first, second], 1).flatten(0, 1)
        skip = torch.cat([chosen_encoder, chosen_decoder], 1).flatten(0, 1).T.contiguous()
        local = p.local(steps.T, skip)
        before = p.enrich.inward(local).view(len(local), count, -1)
        before += enriching[..., None]
        normal = p.enrich.rest(before.flatten(1), p.local.affine(local))
        return self._decode(local.view_as(before), normal.view_as(before), context)

    def _contexts(self, static_HN: Tensor) -> Tensor:
        """[sum of context sizes, N] all that the static features bring into the rest."""
        p, size, count = self._parts, *static_HN.shape
        before = torch.addmm(p.contexts_in[1], p.contexts_in[0], static_HN)
        gates = torch.baddbmm(
            p.contexts_gate[1], p.contexts_gate[0], bent_(before).view(4, size, count)
        )
        mixed = torch.sigmoid(gates[:, size:]).mul_(gates[:, :size]).add_(static_HN)
        return torch.addmm(p.contexts_out[1], p.contexts_out[0], unit_(mixed).flatten(0, 1))

    def _decode(self, local: Tensor, normal: Tensor, context: int) -> Tensor:
        """[N, H, T, Q] from local and enriched steps [F, N, steps], before their norms."""
        p = self._parts
        _, count, times = normal.shape
        ahead = normal[..., context:].flatten(1)
        known = normal.permute(1, 0, 2)
        asking = torch.addmm(p.query[1], p.query[0], ahead).view(
            p.heads, -1, count, times - context
        )
        total: Tensor | None = None
        for head in asking:
            scores = torch.bmm(head.permute(1, 2, 0), known).add_(self._hidden(context, times))
            attention = torch.softmax(scores, -1)
            total = attention if total is None else total.add_(attention)
        assert total is not None
        seen = torch.bmm(total, known.mT).flatten(0, 1)
        attended = p.attended(seen.T, p.enrich.affine(ahead))
        wise = p.wise(attended, p.attended.affine(attended))
        last = p.last(wise, p.local.affine(local[..., context:].flatten(1)))
        flat = torch.addmm(p.output[1], last.T, p.output[0])
        return flat.view(count, times - context, *p.outputs)

    def _hidden(self, context: int, times: int) -> Tensor:
        """[H, L+H] what is added to a score: nothing where seen, -inf from the own step on."""
        key = (context, times)
        if key not in self._parts.hidden:
            later = torch.full((times - context, times - context), -math.inf).triu()
            zeros = torch.zeros(times - context, context)
            self._parts.hidden[key] = torch.cat([zeros, later], 1)
        return self._parts.hidden[key]


def _lstm(
    steps_NSH: Tensor, state: list[Tensor], weights: list[Tensor], layers: int
) -> tuple[Tensor, ...]:
    """Outputs [N, S, H], and the state behind the last step."""
    found: tuple[Tensor, ...] = torch.lstm(
        steps_NSH, state, weights, True, layers, 0.0, False, False, True
    )
    return found
