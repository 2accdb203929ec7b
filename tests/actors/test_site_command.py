"""`fleetcast site` on the demo fleet: a site for each server, and an aggregator of its config."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import pytest

from actors import federated_arguments
from actors.federation import FederationActor
from actors.site_command import SiteWishes, run
from connect.replay import Replay
from forecast.errors import ConfigError, DataError
from tests.actors.federation_scene import centre, http
from tests.actors.scenario import small_config, small_replay

SITE = {
    "hours": 24, "windows": 32, "own_windows": 32, "own_epochs": 1, "holdout_hours": 4,
}  # fmt: skip


def configured(folder):
    replay = small_replay()
    config = small_config(folder, replay)
    federated = {"enabled": True, "updates": 4, "quorum": 2, "worse": 0.05, "site": SITE}
    asked = type(config.federated).model_validate(federated)
    return config.model_copy(update={"federated": asked}), replay


def test_a_process_of_many_sites_takes_part_and_goes_on_where_it_was(tmp_path):
    config, replay = configured(tmp_path / "home")
    center, _ = configured(tmp_path / "centre")
    center.panel_dir.mkdir(parents=True)
    one = FederationActor(**federated_arguments.aggregator(center))
    asked, said = centre(http(one, limit=1 << 24)), []
    wishes = SiteWishes(
        name="dc", per_server=True, rounds=1, every="1h", compare_days=0.25, patience_s=30.0
    )
    done = run(config, replay, wishes, asked, tell=said.append, pause=lambda: None)
    count = done["sites"]
    assert done["updates"] == count >= 4
    assert {json.loads(line)["site"] for line in said} >= {"dc.web-01"}
    curves = sorted((config.panel_dir / "site" / "dc").glob("*.curve.jsonl"))
    assert len(curves) == count
    line = json.loads(curves[0].read_text().splitlines()[0])
    assert {"site", "version", "global", "personal", "alone", "mixed"} <= set(line)
    assert done["bytes_sent"] == done["bytes_float32"] > 0
    assert (done["codec"], done["relative_error"]) == ("float32", 0)
    sent = [json.loads(each) for each in said if json.loads(each)["did"] == "sent"]
    assert sum(each["bytes_sent"] for each in sent) == done["bytes_sent"]
    again = run(config, replay, wishes, asked, tell=said.append, pause=lambda: None)
    assert again == done


@pytest.mark.parametrize("name", ["", "../else", "a/b", ".a", "a b", "a\n", "ü", "a" * 201])
def test_a_name_that_no_aggregator_takes_is_refused_before_anything_is_made(tmp_path, name):
    config, replay = configured(tmp_path)
    with pytest.raises(ConfigError, match=r"--name: .* is no name of a site"):
        run(config, replay, SiteWishes(name=name, rounds=1), object())
    assert not config.panel_dir.exists()


@dataclass(frozen=True)
class Named(Replay):
    """The demo fleet, where each server is called something else."""

    say: Callable[[str], str] = str

    def samples(self, from_slot, to_slot, *, schema):
        block, latest = super().samples(from_slot, to_slot, schema=schema)
        return replace(block, servers=tuple(self.say(name) for name in block.servers)), latest


def test_a_server_whose_name_makes_no_site_is_refused_by_name(tmp_path):
    config, replay = configured(tmp_path)
    there = {each.name: getattr(replay, each.name) for each in fields(replay)}
    moved = Named(**there, say=lambda name: f"../{name}")
    wishes = SiteWishes(name="dc", rounds=1, per_server=True)
    with pytest.raises(ConfigError, match=r"--per-server with the server '\.\./.*'dc\.\.\./"):
        run(config, moved, wishes, object())
    assert not config.panel_dir.exists()


def test_servers_and_lengths_that_the_data_has_not_are_refused(tmp_path):
    config, replay = configured(tmp_path)
    wishes = {"name": "dc", "rounds": 1}
    with pytest.raises(ConfigError, match="no server 'mars'"):
        run(config, replay, SiteWishes(**wishes, servers=("mars",)), object())
    with pytest.raises(ConfigError, match="--every"):
        run(config, replay, SiteWishes(**wishes, every="often"), object())
    with pytest.raises(DataError, match="of them are kept to compare on"):
        run(config, replay, SiteWishes(**wishes, compare_days=1000), object())
