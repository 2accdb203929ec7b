from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connect.files import FileSource
from connect.grid import GridSource
from connect.replay import Replay
from forecast.schema import Metric, Schema, ServerInfo

SCHEMA = Schema(
    "servers", 300, (Metric("cpu", lower=0.0, upper=1.0), Metric("net", lower=0.0)), ("cpu",)
)
INFOS = (ServerInfo("web", "Europe/Berlin"), ServerInfo(), ServerInfo(timezone=""))
NUMBERS = st.one_of(st.just(float("nan")), st.sampled_from([0.0, 0.25, 1.0, 1.5]))


def grid_of(values: list[float]) -> GridSource:
    array = np.array(values, np.float32).reshape(4, 3, 2)
    return GridSource(SCHEMA, ("c", "a", "b"), INFOS, 100, array)


@given(st.lists(NUMBERS, min_size=24, max_size=24), st.integers(98, 105), st.integers(0, 5))
def test_samples_are_what_the_wire_rows_are_validated_to(values, start, slots):
    grid = grid_of(values)
    replay = Replay("grid", grid, SCHEMA, 100, 101, 104)
    plain = Replay("grid", _Rows(grid), SCHEMA, 100, 101, 104)
    block, rejects = replay.samples(start, start + slots, schema=SCHEMA)
    wanted, refused = plain.samples(start, start + slots, schema=SCHEMA)
    assert tuple(rejects) == refused
    assert (block.servers, block.infos, block.metrics) == (
        wanted.servers,
        wanted.infos,
        wanted.metrics,
    )
    for name in ("server_index", "metric_index", "time_ms", "value", "row_index"):
        ours, theirs = getattr(block, name), getattr(wanted, name)
        assert ours.dtype == theirs.dtype
        assert ours.tolist() == theirs.tolist()


class _Rows:
    def __init__(self, grid):
        self.rows_by_slot = grid.rows_by_slot


def test_a_slot_with_several_samples_of_a_file_has_their_mean(tmp_path: Path) -> None:
    times = pd.date_range("2026-03-01T00:00:00Z", periods=10, freq="1min")
    frame = pd.DataFrame({"server": "a", "timestamp": times, "cpu": np.arange(10.0)})
    frame.loc[7, "cpu"] = np.nan
    frame.to_parquet(tmp_path / "x.parquet")
    source = FileSource.read(tmp_path / "x.parquet", targets=("cpu",), step_seconds=300)
    assert GridSource.of(source).values[:, 0, 0].tolist() == [2.0, 7.0]


def test_values_that_do_not_fit_the_names_are_refused() -> None:
    with pytest.raises(ValueError, match="slots, servers, metrics"):
        GridSource(SCHEMA, ("a",), INFOS[:1], 100, np.zeros((4, 3, 2), np.float32))
