"""The bench of online learning: its table's arithmetic, and a small run of the whole."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from bench import online
from bench.online_picture import draw
from bench.online_runs import RUNS, Outcome, Restricted
from bench.online_table import FROZEN, ROWS, Table, learning_gain, line
from bench.scenarios import Scored
from forecast.record import ForecastBlock
from forecast.tally import Tally

LEVELS = (0.1, 0.5, 0.9)
DAYS, SLOTS = 6, 4


def block(slot, member, values, servers=("a", "b")):
    return ForecastBlock(slot, member, None, servers, ("x", "y"), LEVELS, values)


def played(error, *, seed=0, restricted=None, members=("champion", "copy_last"), unseen=()):
    """A tally of a fleet whose champion errs by so much, and copy-last twice as far."""
    rng = np.random.default_rng(seed)
    tally = Tally(targets=("x", "y"), levels=LEVELS, horizon=2, day_slots=SLOTS)
    told = tally if restricted is None else Restricted(tally, restricted)
    for slot in range(DAYS * SLOTS):
        noise = rng.normal(size=(2, 2, 2, 1))
        width = np.array([-1.0, 0.0, 1.0])
        blocks = [
            block(slot, name, (10 + factor * error * noise + width).astype(np.float32))
            for name, factor in zip(members, (1, 2), strict=True)
        ]
        came = np.nan if slot in unseen else 10.0
        told.scored(slot, ("a", "b"), np.full((2, 2), came, np.float32))
        told.issued(blocks)
    return tally


def outcome(run, error, seed=0, **more):
    updates = ((4, "promoted"), (8, "rejected"))
    tally = played(error, seed=seed, **more)
    return Outcome(run, seed, tally, None, updates, None, DAYS * SLOTS, cpu_s=1.0, seconds=2.0)


def row(name):
    return next(one for one in ROWS if one.name == name)


def test_an_interval_is_of_the_days_on_which_something_came():
    silent = range(2 * SLOTS, 5 * SLOTS)
    runs = [outcome("frozen", 1.0, unseen=silent), outcome("default", 0.5, unseen=silent)]
    found = Table(runs, {}).gain(row("default"), FROZEN)
    assert 0 < found["gain_low"] <= found["gain"] <= found["gain_high"] < 1


def test_a_table_reads_members_of_runs_and_leaves_out_what_there_is_not():
    table = Table([outcome("frozen", 1.0), outcome("default", 0.5)], {})
    assert table.figures(row("naive")) is None
    assert table.figures(row("least_squares")) is None
    frozen, copied, default = (table.figures(row(n)) for n in ("frozen", "copy_last", "default"))
    assert frozen["gain"] == frozen["gain_low"] == frozen["gain_high"] == 0
    assert default["member"] == "champion"
    assert default["wql"] < frozen["wql"] < copied["wql"]
    assert default["gain"] == pytest.approx(1 - default["wql"] / frozen["wql"])
    assert 0 < default["gain_low"] <= default["gain"] <= default["gain_high"]
    assert (default["updates"], default["promoted"]) == (2, 1)
    assert table.figures(row("copy_last"))["worst_server"] > 0
    told = line(table, {"scenario": "made up"})
    assert told["naive_wql"] is None
    assert told["same_cells"]
    assert told["default_wql"] == default["wql"]
    assert told["learning_gain"] == told["gain"]
    json.dumps(told)


def test_learning_is_measured_against_the_same_member_of_the_frozen_run():
    both = ("champion", "ensemble")
    table = Table([outcome("frozen", 1.0, members=both), outcome("default", 1.0, members=both)], {})
    assert table.member(row("default")) == "ensemble"
    assert learning_gain(table)["learning_gain"] == 0
    assert table.figures(row("default"))["gain"] < 0  # here the ensemble errs twice as far


def test_seeds_are_added_up():
    one, two = outcome("frozen", 1.0, 0), outcome("frozen", 1.0, 1)
    figures = Table([one, two], {}).figures(FROZEN)
    apart = [Table([each], {}).figures(FROZEN) for each in (one, two)]
    assert figures["n"] == sum(each["n"] for each in apart)
    assert figures["wql"] == pytest.approx(np.mean([each["wql"] for each in apart]), rel=1e-6)


def test_mase_is_in_units_of_the_naive_error_on_the_history():
    table = Table([outcome("frozen", 1.0)], {("a", "x"): 2.0, ("b", "y"): 0.0})
    figures = table.figures(FROZEN)
    mae = played(1.0).report()["servers"]["a"]
    assert 0 < figures["mase"] < mae["champion"]["mae"]
    assert Table([outcome("frozen", 1.0)], {}).figures(FROZEN)["mase"] is None


def test_only_the_servers_and_slots_that_are_scored_count():
    tally = played(1.0, restricted=Scored(("b",), 8, 16))
    assert tally.servers == ("b",)
    assert tally.days == (2, 3)
    assert tally.report()["members"]["champion"]["n"] == 8 * 2 * 2


def test_every_row_has_a_run_and_a_name_of_its_own():
    assert {one.run for one in ROWS} <= set(RUNS)
    assert len({one.name for one in ROWS}) == len(ROWS)


def test_a_picture_is_whole_xml_whatever_is_missing(tmp_path):
    from xml.etree import ElementTree

    path = tmp_path / "deep" / "x.svg"
    draw(path, "a < b", [3, 4], {"frozen": [0.1, np.nan]}, [(3.5, "splice")], [(3.2, True)])
    assert ElementTree.parse(path).getroot().tag.endswith("svg")


@pytest.mark.data
@pytest.mark.slow
def test_the_bench_runs_on_real_data_and_tells_one_flat_line(
    data_dir, tmp_path, monkeypatch, capsys
):
    config = tmp_path / "tiny.toml"
    config.write_text(
        "[model]\nhidden_size = 4\nhidden_continuous_size = 4\n"
        "[training]\nwindows = 256\nmax_steps = 10\n"
    )
    given = ["--data", str(data_dir), "--servers", "3", "--days", "0.1", "--config", str(config)]
    more = ["--rows", "copy_last,frozen", "--json", "--processes", "1"]
    kept = ["--cache", str(tmp_path / "cache"), "--picture", str(tmp_path / "x.svg")]
    monkeypatch.setattr(sys, "argv", ["bench.online", *given, *more, *kept])
    assert online.main() == 0
    told = json.loads(capsys.readouterr().out)
    assert told["frozen_wql"] > 0
    assert told["streamed_slots"] == 29
    assert all(not isinstance(value, dict | list) for value in told.values())
    assert (tmp_path / "x.svg").exists()


def test_rows_that_there_are_not_are_refused(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["bench.online", "--data", str(tmp_path), "--rows", "none"])
    assert online.main() == 2
    assert "--rows: no none; there are copy_last" in capsys.readouterr().err
