"""The command line: plain messages, and the exit codes it promises."""

from __future__ import annotations

import socket

import pytest
from click.testing import CliRunner

from cli import main
from forecast.config_files import load
from forecast.errors import ConfigError
from tests.actors.scenario import small_config, small_replay


def run(*arguments: str):
    return CliRunner().invoke(main, list(arguments))


def test_config_show_tells_each_value_and_where_it_came_from():
    shown = run("config", "show", "--config", "configs/laptop.toml", "--port", "8111")
    assert shown.exit_code == 0, shown.output
    lines = dict(line.split(" = ", 1) for line in shown.output.splitlines())
    assert lines["online_learning.enabled"] == "True  # configs/laptop.toml"
    assert lines["serve.port"] == "8111  # command line"
    assert lines["buffer.history_days"].endswith("# default")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fleet = 7", "broken.toml: fleet"),
        ("[serve]\nport = 'http'", "broken.toml: serve.port"),
        ("[training]\nstepps = 3", "broken.toml: training.stepps: unknown key"),
        ("[clock]\nallowed_lateness = 'soon'", "broken.toml: clock.allowed_lateness"),
        ("[panel", "broken.toml: not TOML"),
    ],
)
def test_a_wrong_config_names_the_file_and_the_key(text, said, tmp_path):
    path = tmp_path / "broken.toml"
    path.write_text(text)
    refused = run("config", "show", "--config", str(path))
    assert refused.exit_code == 2
    assert said in refused.output


def test_a_site_is_patient_with_an_aggregator_that_is_away_for_as_long_as_it_was_told(tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens there
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        asked = ("site", "--aggregator", address, "--name", "a", "--patience", "0")
        given_up = run(*asked, "--state-dir", str(tmp_path))
    assert (given_up.exit_code, "unreachable" in given_up.output) == (3, True), given_up.output


def test_a_missing_data_file_is_a_usage_error_that_names_it():
    refused = run("config", "show", "--data", "nowhere.parquet", "--targets", "cpu")
    assert refused.exit_code == 2
    assert "nowhere.parquet" in refused.output


def test_nobody_there_is_exit_code_3():
    nowhere = ("--url", "http://127.0.0.1:9")
    assert run("status", *nowhere).exit_code == 3
    assert run("events", *nowhere).exit_code == 3
    for steering in ("rollback", "pause", "resume"):
        assert run(steering, "--reason", "test", *nowhere).exit_code == 3
        assert run(steering, *nowhere).exit_code == 2  # a reason is asked for
    assert run("rollout", *nowhere).exit_code == 3
    for change in ("promote", "pin", "shadow", "retire"):
        assert run(change, "3", "--reason", "test", *nowhere).exit_code == 3
        assert run(change, "3", *nowhere).exit_code == 2
        assert run(change, "three", "--reason", "test", *nowhere).exit_code == 2


def test_a_table_of_ones_own_is_read_from_a_file_and_wants_a_reason(tmp_path):
    nowhere = ("--url", "http://127.0.0.1:9")
    path = tmp_path / "table.json"
    missing = run("rollout", "--set", str(path), "--reason", "test", *nowhere)
    assert (missing.exit_code, str(path) in missing.output) == (2, True)
    path.write_text('{"everyone": {"3": 1}}')
    assert "--reason" in run("rollout", "--set", str(path), *nowhere).output
    assert run("rollout", "--set", str(path), "--reason", "test", *nowhere).exit_code == 3


def test_the_example_of_a_real_fleet_is_a_valid_config():
    from pathlib import Path

    config = load([Path("configs/node.toml")]).config
    schema = config.panel.schema_of()
    assert schema.metric("disk_reads_total").slot_rule == "rate"
    assert config.panel.context_slots == 72


def test_lengths_that_do_not_fit_together_are_refused(tmp_path):
    config = small_config(tmp_path, small_replay())
    tree = config.model_dump(mode="json")
    tree["buffer"]["history_days"] = 1
    with pytest.raises(ConfigError, match="history_days"):
        load((), overrides=tree)
    tree = config.model_dump(mode="json")
    tree["panel"]["targets"] = ["nothing"]
    with pytest.raises(ConfigError, match="nothing"):
        load((), overrides=tree)
