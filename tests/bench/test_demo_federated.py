"""The federated demo: what an aggregator that answers with an error leads to, and its picture."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from bench.demo_federated import _result, _wait_for
from forecast.errors import DataError


class Refusing(BaseHTTPRequestHandler):
    """Answers 500 to everything."""

    def do_GET(self) -> None:
        self.send_response(500)
        self.end_headers()
        self.wfile.write(b"out of order")

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def refusing() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_an_aggregator_that_answers_with_an_error_is_told_in_one_line(refusing):
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, text=True) as process:
        with pytest.raises(DataError, match="healthz answers 500: out of order"):
            _wait_for(refusing, process)
        process.terminate()


def test_an_aggregator_that_ended_is_told_with_its_exit_code(refusing):
    process = subprocess.Popen(["sh", "-c", "exit 3"], text=True)
    process.wait()
    with pytest.raises(DataError, match="ended with 3"):
        _wait_for(refusing, process)


def test_the_result_and_the_picture_have_the_mix_beside_both_ways(tmp_path):
    line = {"version": 0, "global": 0.5, "personal": 0.4, "alone": 0.6, "mixed": 0.3}
    later = {**line, "version": 1, "personal": 0.3, "mixed": 0.2}
    picture = tmp_path / "demo.svg"
    done = {"north": {"updates": 1, "bytes_sent": 10}}
    told = _result(picture, {"north": [line, later]}, [], done)
    assert (told["wql_mixed"], told["wql_alone"], told["gain_north"]) == (0.2, 0.6, 0.5)
    drawn = picture.read_text()
    assert drawn.count("<polyline") == 4
    assert ">mixed<" in drawn
