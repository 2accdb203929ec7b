"""A backtest: its figures are the ledger's, and can be made again from its dump."""

from __future__ import annotations

import asyncio
import json
from functools import partial

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from actors.backtest import backtest, play, tally_of
from bench.online_base import base_model, cached_base
from cli import main
from connect.dump import actuals_path
from forecast.errors import ConfigError
from forecast.ledger import Ledger
from tests.actors.scenario import small_config, small_replay

REPLAY = small_replay()
SLOTS = 48
DAYS = SLOTS / 288


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return small_config(tmp_path_factory.mktemp("state") / "state", REPLAY)


@pytest.fixture(scope="module")
def base(config):
    return base_model(config, REPLAY)


@pytest.fixture(scope="module")
def told(config, tmp_path_factory):
    """A whole backtest with a dump: (report, the dump's path)."""
    path = tmp_path_factory.mktemp("dump") / "forecasts.parquet"
    return asyncio.run(backtest(config, REPLAY, stream_days=DAYS, dump=path)), path


class Books:
    """A ledger that is told what a backtest saw."""

    def __init__(self, path, config):
        panel = config.panel
        self.ledger = Ledger(
            path=path,
            targets=panel.targets,
            levels=panel.quantiles,
            horizon=panel.horizon_slots,
            step_seconds=panel.step,
            retain_slots=288,
        )
        self.scores = []

    def issued(self, blocks):
        self.ledger.issue(blocks)

    def scored(self, slot, servers, actuals_ST):
        self.scores.append(slot)
        self.ledger.score(slot, servers, actuals_ST)


async def test_the_tally_says_what_the_ledger_says(config, base, tmp_path):
    tally, books = tally_of(config, REPLAY), Books(tmp_path / "ledger.sqlite", config)
    await play(config, REPLAY, [tally, books], stream_days=DAYS, base=base)
    report, accuracy = tally.report(), books.ledger.accuracy(since_slot=REPLAY.start_slot)
    assert {one.member for one in accuracy.members} == set(report["members"])
    for one in accuracy.members:
        ours = report["members"][one.member]
        assert ours["n"] == one.pooled.n > 0
        assert ours["wql"] == pytest.approx(one.pooled.wql, rel=1e-12)
        assert ours["mae"] == pytest.approx(one.pooled.mae, rel=1e-12)
        assert ours["coverage"] == pytest.approx(one.pooled.coverage, rel=1e-12)
        for row in one.horizons:
            assert ours["wql_by_step"][str(row.horizon)] == pytest.approx(row.wql, rel=1e-12)
        for server, members in report["servers"].items():
            apart = books.ledger.accuracy(server=server).member(one.member)
            assert members[one.member]["wql"] == pytest.approx(apart.pooled.wql, rel=1e-12)


def test_every_figure_can_be_made_again_from_the_dump(told):
    report, path = told
    rows = pq.read_table(path).to_pandas()
    actuals = pq.read_table(actuals_path(path)).to_pandas()
    for column in ("server", "target", "member"):
        rows[column] = rows[column].astype(str)
    for column in ("server", "target"):
        actuals[column] = actuals[column].astype(str)
    assert (rows["slot"] == rows["origin"] + rows["horizon"]).all()
    versions = ["champion", "champion_calibrated", "twin"]
    assert (rows["version"].notna() == rows["member"].isin(versions)).all()
    actuals = actuals[actuals["slot"] >= REPLAY.start_slot].rename(columns={"value": "y"})
    joined = rows.merge(actuals, on=["server", "target", "slot"])
    level, y, value = (joined[name].to_numpy(np.float64) for name in ("level", "y", "value"))
    level = np.round(level, 6)  # they are stored as float32
    joined["loss"] = 2 * np.maximum(level * (y - value), (level - 1) * (y - value)) / 3
    joined["size"] = np.abs(y) / 3
    joined["date"] = pd.to_datetime(joined["slot"] * 300, unit="s").dt.date.astype(str)
    for member, figures in report["members"].items():
        mine = joined[joined["member"] == member]
        assert len(mine) == 3 * figures["n"]
        assert _wql(mine) == pytest.approx(figures["wql"], rel=1e-6)
        for step, part in mine.groupby("horizon"):
            assert _wql(part) == pytest.approx(figures["wql_by_step"][str(step)], rel=1e-6)
        for date, part in mine.groupby("date"):
            assert _wql(part) == pytest.approx(report["days"][date][member]["wql"], rel=1e-6)
        for server, part in mine.groupby("server"):
            assert _wql(part) == pytest.approx(report["servers"][server][member]["wql"], rel=1e-6)

    twin = joined[joined["member"] == "twin"]
    assert len(twin) == 3 * report["shadows"]["twin"]["n"]
    assert _wql(twin) == pytest.approx(report["shadows"]["twin"]["wql"], rel=1e-6)


def _wql(joined):
    sums = joined.groupby("target")[["loss", "size"]].sum()
    return (sums["loss"] / sums["size"]).mean()


def test_a_report_tells_what_was_learned_and_is_json(told, config):
    report, _ = told
    assert report["streamed_slots"] == SLOTS
    assert [one["update_id"].split("-")[0] for one in report["updates"]] == [
        "base",
        "update",
        "update",
    ]
    assert report["promoted"] + report["rejected"] == 3
    json.dumps(report)
    assert not config.state_dir.exists()


async def test_labels_that_come_later_are_scored_and_learned_later(config, base):
    class Order:
        def __init__(self):
            self.events = []

        def issued(self, blocks):
            self.events.append(("issued", blocks[0].slot))

        def scored(self, slot, servers, actuals_ST):
            self.events.append(("scored", slot))

    run = partial(play, config, REPLAY, stream_days=12 / 288, base=base)
    prompt, late = Order(), Order()
    await run([prompt])
    await run([late], label_delay_s=1800)
    for order, delay in ((prompt, 0), (late, 6)):
        scored = [at for at, (what, _) in enumerate(order.events) if what == "scored"]
        for at in scored[-10:]:
            slot = order.events[at][1]
            assert order.events[at + 1] == ("issued", slot + delay)


async def test_a_delay_that_is_no_whole_number_of_steps_is_refused(config):
    for delay in (299, 2 * 86400):
        with pytest.raises(ConfigError, match="label delay"):
            await backtest(config, REPLAY, stream_days=DAYS, label_delay_s=delay)


def test_a_base_is_trained_once_for_the_same_history_and_settings(config, base, tmp_path):
    first, known = cached_base(config, REPLAY, tmp_path)
    assert not known
    again, known = cached_base(config, REPLAY, tmp_path)
    assert known
    assert again == first == base
    training = config.training.model_copy(update={"seed": 8})
    _, known = cached_base(config.model_copy(update={"training": training}), REPLAY, tmp_path)
    assert not known


def test_the_command_line_needs_no_cluster():
    done = CliRunner().invoke(main, ["backtest", "--label-delay", "soon"])
    assert done.exit_code == 2
    assert "--label-delay: write a duration as 30s" in done.output


async def test_what_a_rollout_brought_to_everyone_counts_as_promoted(config, base):
    rollout = {"enabled": True, "shadow": 0, "canary": 300, "fast_shadow": 0, "fast_canary": 300}
    given = config.model_copy(
        update={
            "rollout": config.rollout.model_copy(update=rollout),
            "online_learning": config.online_learning.model_copy(
                update={"enable_validation": False}
            ),
        }
    )
    report = await play(given, REPLAY, [], stream_days=DAYS, base=base)
    verdicts = [one["verdict"] for one in report["updates"]]
    assert verdicts.count("promoted") == report["promoted"] >= 2
    assert verdicts.count("accepted") == report["accepted"]
    assert report["updates"][0]["update_id"].startswith("base")
