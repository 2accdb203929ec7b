from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connect.files import FileSource
from forecast.errors import DataError
from forecast.schema import Metric, Schema, ServerInfo, validate_rows

START = pd.Timestamp("2026-03-01T00:00:00Z")
START_MS = 1_772_323_200_000
SECONDS = Schema(panel="servers", step_seconds=300, metrics=(Metric("x"),), targets=("x",))


def make_frame(servers: tuple[str, ...] = ("b", "a"), slots: int = 12) -> pd.DataFrame:
    """Two metrics of each server every 5 minutes; the n-th value of the first is n / 100."""
    times = pd.date_range(START, periods=slots, freq="5min")
    parts = [
        pd.DataFrame(
            {
                "server": name,
                "timestamp": times,
                "cpu_usage_ratio": np.arange(slots) / 100,
                "disk_kb_per_s": np.arange(slots) * 50.0,
            }
        )
        for name in servers
    ]
    return pd.concat(parts, ignore_index=True)


def read(path: Path, frame: pd.DataFrame, **arguments: Any) -> FileSource:
    """Write the frame where `path` says and read it back."""
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path, index=False)
    return FileSource.read(path, **({"targets": ("cpu_usage_ratio",)} | arguments))


def all_rows(source: FileSource) -> list[dict[str, Any]]:
    slots = source.rows_by_slot(source.first_slot, source.last_slot + 1)
    return [row for _, rows in slots for row in rows]


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_file_becomes_a_schema_and_rows_in_order_of_time(tmp_path: Path, ending: str) -> None:
    source = read(tmp_path / f"fleet.{ending}", make_frame())
    assert source.servers == ("a", "b")
    assert source.schema.step_seconds == 300
    assert source.schema.names == ("cpu_usage_ratio", "disk_kb_per_s")
    assert source.schema.targets == ("cpu_usage_ratio",)
    assert (source.first_slot, source.last_slot) == (START_MS // 300_000, START_MS // 300_000 + 11)
    assert source.rows(source.first_slot + 1) == [
        {
            "timestamp": START_MS // 1000 + 300,
            "server": name,
            "timezone": "UTC",
            "metrics": {"cpu_usage_ratio": 0.01, "disk_kb_per_s": 50.0},
        }
        for name in ("a", "b")
    ]


def test_dictionary_encoded_servers_and_float32_are_read_as_they_are(tmp_path: Path) -> None:
    plain = make_frame()
    packed = plain.astype({"server": "category", "cpu_usage_ratio": "float32"})
    packed["disk_kb_per_s"] = packed["disk_kb_per_s"].astype("float32")
    source = read(tmp_path / "packed.parquet", packed)
    assert source.values.dtype == np.float32
    assert source.servers == ("a", "b")
    rows = all_rows(source)
    assert rows[4]["metrics"]["cpu_usage_ratio"] == pytest.approx(0.02, rel=1e-6)
    assert isinstance(rows[4]["metrics"]["cpu_usage_ratio"], float)


def test_a_file_without_servers_is_one_named_after_it(tmp_path: Path) -> None:
    frame = make_frame(("only",)).drop(columns="server").rename(columns={"timestamp": "date"})
    frame["date"] = frame["date"].dt.strftime("%Y-%m-%d %H:%M:%S")
    source = read(tmp_path / "machine.csv", frame)
    assert source.servers == ("machine",)
    assert source.first_slot == START_MS // 300_000


@pytest.mark.parametrize("scale", [1, 1000])
def test_epoch_seconds_and_milliseconds_are_times_too(tmp_path: Path, scale: int) -> None:
    frame = make_frame()
    frame["timestamp"] = frame["timestamp"].map(lambda at: int(at.timestamp()) * scale)
    assert read(tmp_path / "fleet.csv", frame).first_slot == START_MS // 300_000


def test_times_with_an_offset_are_converted(tmp_path: Path) -> None:
    frame = make_frame()
    frame["timestamp"] = frame["timestamp"].dt.tz_convert("Europe/Berlin").map(str)
    assert read(tmp_path / "fleet.csv", frame).first_slot == START_MS // 300_000


def test_servers_are_taken_by_number_or_by_name(tmp_path: Path) -> None:
    frame = make_frame(("c", "a", "b"))
    assert read(tmp_path / "f.csv", frame, servers=2).servers == ("a", "b")
    assert read(tmp_path / "f.csv", frame, servers=9).servers == ("a", "b", "c")
    chosen = read(tmp_path / "f.csv", frame, servers=("c", "a"))
    assert chosen.servers == ("a", "c")
    assert {row["server"] for row in all_rows(chosen)} == {"a", "c"}


def test_days_count_from_the_first_time_of_the_chosen_servers(tmp_path: Path) -> None:
    early, late = make_frame(("early",), 600), make_frame(("late",), 600)
    late["timestamp"] += pd.Timedelta(days=1)
    frame = pd.concat([early, late])
    source = read(tmp_path / "f.parquet", frame, servers=("late",), days=1)
    assert source.first_slot == START_MS // 300_000 + 288
    assert source.last_slot == source.first_slot + 287
    second = read(tmp_path / "f.parquet", frame, servers=("late",), days=0.5, from_day=1.0)
    assert second.first_slot == START_MS // 300_000 + 2 * 288
    assert len(all_rows(second)) == 144


def test_the_step_is_the_most_common_distance(tmp_path: Path) -> None:
    frame = make_frame(slots=40).drop(index=[3, 4, 9, 55])
    assert read(tmp_path / "f.parquet", frame).schema.step_seconds == 300
    assert read(tmp_path / "f.parquet", frame, step_seconds=600).schema.step_seconds == 600


def test_roles_zones_and_incidents_are_no_metrics(tmp_path: Path) -> None:
    frame = make_frame()
    frame["role"] = np.where(frame["server"] == "a", "web", None)
    frame["timezone"] = np.where(frame["server"] == "a", "Asia/Tokyo", None)
    frame["incident"] = 0
    source = read(tmp_path / "f.parquet", frame, timezone="Europe/Paris")
    assert source.schema.names == ("cpu_usage_ratio", "disk_kb_per_s")
    assert source.infos == (
        ServerInfo(role="web", timezone="Asia/Tokyo"),
        ServerInfo(timezone="Europe/Paris"),
    )
    assert all_rows(source)[0]["role"] == "web"
    assert "role" not in all_rows(source)[1]


def test_gaps_and_what_is_not_finite_are_left_out(tmp_path: Path) -> None:
    frame = make_frame(("a",))
    frame.loc[2, "cpu_usage_ratio"] = np.nan
    frame.loc[3, "cpu_usage_ratio"] = np.inf
    frame.loc[4, ["cpu_usage_ratio", "disk_kb_per_s"]] = np.nan
    source = read(tmp_path / "f.parquet", frame)
    rows = dict(source.rows_by_slot(source.first_slot, source.last_slot + 1))
    first = source.first_slot
    assert rows[first + 2][0]["metrics"] == {"disk_kb_per_s": 100.0}
    assert rows[first + 3][0]["metrics"] == {"disk_kb_per_s": 150.0}
    assert rows[first + 4] == []


def test_a_slot_before_or_after_the_file_is_empty(tmp_path: Path) -> None:
    source = read(tmp_path / "f.parquet", make_frame())
    assert source.rows(source.first_slot - 1) == []
    assert source.rows(source.last_slot + 1) == []
    assert list(source.rows_by_slot(source.first_slot, source.first_slot)) == []


def test_columns_of_text_are_left_out_and_named(tmp_path: Path) -> None:
    frame = make_frame()
    frame["system"] = "linux"
    frame["never"] = np.nan
    source = read(tmp_path / "f.parquet", frame)
    assert source.left_out == ("system", "never")
    assert source.schema.names == ("cpu_usage_ratio", "disk_kb_per_s")


def test_integers_with_holes_are_numbers(tmp_path: Path) -> None:
    frame = make_frame(("a",))
    frame["threads"] = pd.array([4, None, *range(10)], dtype="Int64")
    source = read(tmp_path / "f.parquet", frame, targets=("threads",))
    assert [row["metrics"].get("threads") for row in all_rows(source)][:3] == [4.0, None, 0.0]


@given(
    times=st.lists(st.integers(0, 5000), min_size=2, max_size=60),
    cuts=st.lists(st.integers(0, 20), max_size=4),
)
def test_ranges_that_follow_each_other_give_every_row_once(
    times: list[int], cuts: list[int]
) -> None:
    seconds = np.sort(np.array(times))
    source = FileSource(
        path=Path("made.csv"),
        schema=SECONDS,
        servers=("a", "b"),
        infos=(ServerInfo(), ServerInfo()),
        left_out=(),
        time_ms=seconds * 1000,
        server_index=np.arange(len(seconds), dtype=np.int32) % 2,
        values=seconds[:, None] / 1.0,
    )
    edges = sorted({0, 20, *cuts})
    found = [
        (slot, row)
        for first, end in pairwise(edges)
        for slot, rows in source.rows_by_slot(first, end)
        for row in rows
    ]
    assert [row["timestamp"] for _, row in found] == seconds.tolist()
    assert all(row["timestamp"] // 300 == slot for slot, row in found)


def without(*columns: str) -> pd.DataFrame:
    return make_frame().drop(columns=list(columns))


def changed(column: str, row: int, value: object) -> pd.DataFrame:
    frame = make_frame()
    frame[column] = frame[column].astype(object)
    frame.loc[row, column] = value
    return frame


@pytest.mark.parametrize(
    ("frame", "arguments", "words"),
    [
        (without("timestamp"), {}, "column 'timestamp' is missing; there are"),
        (without("server"), {}, "column 'server' is missing, but several rows have the same time"),
        (without("cpu_usage_ratio"), {}, "column 'cpu_usage_ratio' is missing; there are"),
        (make_frame(), {"targets": ()}, "no targets named; the columns are"),
        (make_frame(), {"targets": ("incident",)}, "column 'incident' is missing"),
        (make_frame(), {"servers": ("a", "z")}, r"column 'server': no servers \['z'\]"),
        (make_frame(), {"servers": 0}, "no rows"),
        (make_frame(), {"days": 1, "from_day": 3}, "no rows of the chosen servers from day 3"),
        (make_frame(slots=1), {}, "no server has two samples"),
        (changed("timestamp", 2, "yesterday"), {}, "column 'timestamp': row 2 holds 'yesterday'"),
        (changed("timestamp", 2, "01/03/2026"), {}, "column 'timestamp': row 2 holds"),
        (changed("server", 3, None), {}, "column 'server': row 3 is empty"),
        (changed("cpu_usage_ratio", 5, "much"), {}, "column 'cpu_usage_ratio' .*not numeric"),
        (make_frame().assign(cpu_usage_ratio=np.nan), {}, "column 'cpu_usage_ratio' holds no"),
        (make_frame().assign(timezone="Mars"), {}, "column 'timezone' .*no zone 'Mars'"),
        (make_frame().iloc[::2], {"step_seconds": 7}, "step of 7 s"),
    ],
)
def test_a_file_that_cannot_be_read_says_which_column_is_wrong(
    tmp_path: Path, frame: pd.DataFrame, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        read(tmp_path / "bad.csv", frame, **arguments)
    assert str(tmp_path / "bad.csv") in str(caught.value)


def test_a_step_that_does_not_divide_a_day_is_refused(tmp_path: Path) -> None:
    frame = make_frame(("a",))
    frame["timestamp"] = pd.date_range(START, periods=12, freq="7min")
    with pytest.raises(DataError, match="a step of 420 s"):
        read(tmp_path / "f.parquet", frame)


def test_a_file_that_is_not_there_broken_or_of_another_kind_is_named(tmp_path: Path) -> None:
    missing, broken, other = (tmp_path / name for name in ("no.csv", "b.parquet", "x.json"))
    broken.write_bytes(b"not a table")
    other.write_text("{}")
    empty = tmp_path / "empty.csv"
    empty.write_text("")
    for path, words in (
        (missing, "No such file"),
        (broken, "not a parquet file"),
        (other, "only .parquet and .csv"),
        (empty, "not a csv file"),
        (tmp_path, "only .parquet and .csv"),
    ):
        with pytest.raises(DataError, match=words) as caught:
            FileSource.read(path, targets=("x",))
        assert str(path) in str(caught.value)


def test_a_header_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows"):
        read(tmp_path / "f.csv", make_frame().iloc[:0])


@pytest.mark.parametrize(
    ("name", "arguments", "step", "servers"),
    [
        ("bitbrains.parquet", {"targets": ("cpu_usage_ratio",), "days": 2}, 300, 24),
        ("smd.parquet", {"targets": ("metric_00",), "days": 2}, 60, 4),
        ("asd.parquet", {"targets": ("metric_00",), "days": 2}, 300, 8),
        ("ETTh1.csv", {"targets": ("OT",), "days": 30}, 3600, 1),
    ],
)
def test_real_files_are_read_and_every_row_is_accepted(
    data_dir: Path, name: str, arguments: dict[str, Any], step: int, servers: int
) -> None:
    source = FileSource.read(data_dir / name, servers=servers, **arguments)
    assert source.schema.step_seconds == step
    assert len(source.servers) == servers
    assert "incident" not in source.schema.names
    rows = all_rows(source)
    now_ms = (source.last_slot + 1) * step * 1000
    block, rejects = validate_rows(rows, source.schema, now_ms=now_ms, max_clock_skew_ms=0)
    assert rejects == ()
    assert len(block) == np.isfinite(source.values).sum()
