"""Which config a fleet runs with: what changed, and never a secret."""

from __future__ import annotations

import json

from forecast.config_files import leaves
from forecast.config_record import HIDDEN, record, shown
from tests.actors.scenario import small_config, small_replay

CONFIG = {"fleet": "a", "serve.port": 8000, "panel.targets": ["cpu"]}


def test_the_first_record_holds_the_whole_config_and_no_change():
    first = record(CONFIG, None)
    assert (first["config"], first["changed"]) == (CONFIG, {})


def test_the_same_config_is_not_recorded_again_but_one_that_comes_back_is():
    first = record(CONFIG, None)
    assert record(dict(reversed(CONFIG.items())), first) is None
    other = record({**CONFIG, "serve.port": 9000}, first)
    assert other["changed"] == {"serve.port": [8000, 9000]}
    assert record(CONFIG, other)["changed"] == {"serve.port": [9000, 8000]}


def test_a_key_that_came_or_went_is_a_change():
    found = record({"fleet": "a", "new.key": True}, record(CONFIG, None))
    assert found["changed"] == {
        "new.key": [None, True],
        "panel.targets": [["cpu"], None],
        "serve.port": [8000, None],
    }


def test_no_secret_is_ever_in_a_record():
    secrets = {
        "alerts.webhook_url": "https://hooks.example/T0/S3CRET",
        "pull.password": "S3CRET",
        "pull.client_secret": "S3CRET",
        "pull.token": "S3CRET",
        "pull.tokens": ["S3CRET"],
        "pull.api_key": "S3CRET",
        "pull.url": "https://me:S3CRET@prometheus.example:9090/api?token=S3CRET#S3CRET",
        "sites": [{"name": "x", "token": "S3CRET", "url": "http://S3CRET@host/"}],
    }
    found = record({**secrets, **CONFIG}, record({}, None))
    assert "S3CRET" not in json.dumps(found)
    assert found["config"]["pull.url"] == "https://prometheus.example:9090/api"
    assert found["config"]["sites"] == [{"name": "x", "token": HIDDEN, "url": "http://host/"}]


def test_what_names_a_file_is_told_and_so_is_every_key_of_the_tree(tmp_path):
    config = small_config(tmp_path, small_replay())
    told = shown(leaves(config.model_dump(mode="json")))
    assert HIDDEN not in told.values()
    assert {"serve.tokens_file", "serve.tls_key", "online_learning.enabled"} <= set(told)
