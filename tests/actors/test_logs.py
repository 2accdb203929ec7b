"""Logs that a program can read: one JSON object per line, whatever is logged."""

from __future__ import annotations

import io
import json
import logging
import math
import re
from pathlib import Path

import numpy as np
import pytest

from actors import logs


@pytest.fixture
def lines():
    """Logs of a logger of its own through our formatter; the lines parsed."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(logs.JsonLines({"fleet": "web", "panel": "servers", "role": "trainer"}))
    logger = logging.getLogger("lines-of-a-test")
    logger.propagate, logger.level = False, logging.INFO
    logger.addHandler(handler)
    yield logger, lambda: [json.loads(line) for line in out.getvalue().splitlines()]
    logger.removeHandler(handler)


def test_a_line_says_when_who_what_and_every_extra(lines):
    logger, read = lines
    logger.info("%s is due", "update-9", extra={"update_id": "update-9", "slot": np.int64(9)})
    (line,) = read()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("ts"))
    assert isinstance(line.pop("pid"), int)
    assert line == {
        "level": "INFO",
        "logger": "lines-of-a-test",
        "message": "update-9 is due",
        "fleet": "web",
        "panel": "servers",
        "role": "trainer",
        "update_id": "update-9",
        "slot": 9,
    }


def test_an_exception_is_one_field_of_one_line(lines):
    logger, read = lines
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        logger.exception("failed")
    (line,) = read()
    assert line["message"] == "failed"
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: first\nsecond")


@pytest.mark.parametrize("value", [math.nan, {1, 2}, {(1,): 2}, Path("/x"), np.arange(3)])
def test_a_line_is_json_whatever_is_in_it(lines, value):
    logger, read = lines
    logger.warning("odd", extra={"odd": value})
    (line,) = read()
    assert line["message"] == "odd"
    assert "odd" in line


@pytest.mark.parametrize("name", ["token", "auth_token", "Authorization", "password"])
def test_a_secret_is_never_written(lines, name):
    logger, read = lines
    logger.warning("who", extra={name: "hunter2"})
    (line,) = read()
    assert "hunter2" not in json.dumps(line)


def test_configuring_twice_writes_each_line_once_and_leaves_other_handlers(monkeypatch):
    logger = logging.getLogger(logs.LOGGER)
    other = logging.NullHandler()
    monkeypatch.setattr(logger, "handlers", [other])
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(logger, "level", logging.NOTSET)
    err = io.StringIO()
    monkeypatch.setattr("sys.stderr", err)
    logs.configure("web", "servers", "buffer")
    logs.configure("web", "servers", "ledger")
    logging.getLogger(f"{logs.LOGGER}.anything").info("hello")
    assert [json.loads(line)["role"] for line in err.getvalue().splitlines()] == ["ledger"]
    assert other in logger.handlers
