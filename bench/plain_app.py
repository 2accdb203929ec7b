"""A plain FastAPI app around `model.predict()`: the other side of `make bench-serve`.

As its users write it, and fairly: scaling is what the library does by itself, and answers are in
natural units, as ours are. Lags and calendar stand ready in a frame of just the rows that are
needed, a slot's rows come in untimed, batches have the size that was fastest, and orjson writes the
arrays. POST /advance moves on by one slot, POST /forecast builds the data set and predicts.
"""

from __future__ import annotations

import argparse
import json
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
import safetensors.torch
import torch
import uvicorn
from fastapi import FastAPI, Response
from pytorch_forecasting import TemporalFusionTransformer, TimeSeriesDataSet
from pytorch_forecasting.data.encoders import EncoderNormalizer, MultiNormalizer, NaNLabelEncoder
from pytorch_forecasting.metrics import MultiLoss, QuantileLoss
from torch import nn

from forecast.model import ModelSpec

_LIGHTNING = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}


class Plain:
    """The frame, the network and the way from one to the other that the library offers."""

    def __init__(self, spec: ModelSpec, servers: list[str], batch_size: int) -> None:
        self._spec, self._servers, self._batch = spec, servers, batch_size
        self._names = [f"y_{place}" for place in range(len(spec.window.targets))]
        self._slot = 0
        self._random = np.random.default_rng(1)
        length = spec.window.context + spec.window.horizon
        self._frame = pd.concat([self._rows(slot) for slot in range(length)], ignore_index=True)
        self._slot = length
        self._known = self._dataset()
        self._parameters = self._known.get_parameters()

    def network(self, weights: Path) -> TemporalFusionTransformer:
        """The network as the library makes it from a data set, with the weights both sides have."""
        levels = list(self._spec.quantiles)
        network = TemporalFusionTransformer.from_dataset(
            self._known,
            hidden_size=self._spec.hidden_size,
            attention_head_size=self._spec.attention_heads,
            lstm_layers=self._spec.lstm_layers,
            dropout=self._spec.dropout,
            hidden_continuous_size=self._spec.hidden_continuous_size,
            loss=MultiLoss([QuantileLoss(levels) for _ in self._names]),
            logging_metrics=nn.ModuleList([]),
        )
        network.load_state_dict(safetensors.torch.load_file(weights))
        return network.eval()

    def advance(self) -> None:
        """A new slot for every server; the oldest goes."""
        slots = self._frame["slot"]
        kept = self._frame[slots > slots.min()]
        self._frame = pd.concat([kept, self._rows(self._slot)], ignore_index=True)
        self._slot += 1

    def predict(self, network: TemporalFusionTransformer) -> list[np.ndarray[Any, Any]]:
        """Quantiles [N, H, Q] per target of the newest window of every server."""
        dataset = TimeSeriesDataSet.from_parameters(
            self._parameters, self._frame, predict=True, stop_randomization=True
        )
        loader = dataset.to_dataloader(train=False, batch_size=self._batch, num_workers=0)
        # The library writes into the dictionary it is given.
        found = network.predict(loader, mode="quantiles", trainer_kwargs=dict(_LIGHTNING))
        return [part.numpy() for part in found]

    def _rows(self, slot: int) -> pd.DataFrame:
        """One slot's rows: features as the network reads them, numbers of no meaning."""
        window, count = self._spec.window, len(self._servers)
        roles = window.roles[1:] or ("",)
        names = [name for name in window.reals if name != "relative_time_idx"] + self._names
        drawn = self._random.uniform(-1, 1, (count, len(names))).astype(np.float32)
        columns: dict[str, Any] = {name: drawn[:, at] for at, name in enumerate(names)}
        columns |= {name: np.float32(0.5) for name in window.static_reals}
        role = [roles[at % len(roles)] for at in range(count)]
        frame = pd.DataFrame({"server": self._servers, "slot": slot, "static_role": role})
        return pd.concat([frame, pd.DataFrame(columns, index=frame.index)], axis=1)

    def _dataset(self) -> TimeSeriesDataSet:
        window = self._spec.window
        roles = NaNLabelEncoder(add_nan=True).fit(pd.Series(window.roles[1:], dtype=object))
        return TimeSeriesDataSet(
            self._frame,
            time_idx="slot",
            group_ids=["server"],
            target=self._names,
            min_encoder_length=window.context,
            max_encoder_length=window.context,
            min_prediction_length=window.horizon,
            max_prediction_length=window.horizon,
            static_categoricals=list(window.static_categoricals),
            static_reals=list(window.static_reals),
            time_varying_known_reals=[n for n in window.known_reals if n != "relative_time_idx"],
            time_varying_unknown_reals=list(window.unknown_reals),
            add_relative_time_idx=True,
            # The library's own defaults: targets by window, as ours are, features once for all.
            target_normalizer=MultiNormalizer([EncoderNormalizer() for _ in self._names]),
            categorical_encoders={"static_role": roles},
        )


def app_of(plain: Plain, network: TemporalFusionTransformer, servers: list[str]) -> FastAPI:
    """The app; calls run in FastAPI's threads, one at a time: Lightning is not made for more."""
    app, turn = FastAPI(), threading.Lock()

    @app.post("/advance")
    def advance() -> Response:
        with turn:
            plain.advance()
        return Response(b"{}", media_type="application/json")

    @app.post("/forecast")
    def forecast() -> Response:
        with turn:
            parts = plain.predict(network)
        quantiles = np.stack(parts, axis=1)
        body = orjson.dumps(
            {"servers": servers, "quantiles": np.ascontiguousarray(quantiles)},
            option=orjson.OPT_SERIALIZE_NUMPY,
        )
        return Response(body, media_type="application/json")

    return app


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.plain_app", description=__doc__)
    parser.add_argument("folder", type=Path, help="holds spec.json and weights.safetensors")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--servers", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    spec = ModelSpec.from_json(json.loads((options.folder / "spec.json").read_text()))
    servers = [f"server-{number:04}" for number in range(options.servers)]
    plain = Plain(spec, servers, options.batch_size)
    network = plain.network(options.folder / "weights.safetensors")
    app = app_of(plain, network, servers)
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
