"""What trainings use: counted by kind, and only between begin and end."""

from __future__ import annotations

from train.usage import Usage


def busy() -> None:
    sum(at * at for at in range(200_000))


def test_cpu_time_is_counted_by_kind_between_begin_and_end():
    used = Usage(("base", "update"))
    assert used.to_json()["cpu_seconds"] == {"base": 0.0, "update": 0.0}
    used.begins()
    busy()
    used.ended("update")
    once = used.to_json()["cpu_seconds"]
    assert once["base"] == 0.0
    assert once["update"] > 0.0
    busy()  # between two trainings
    used.begins()
    used.ended("base")
    assert used.to_json()["cpu_seconds"]["update"] == once["update"]


def test_memory_is_that_of_this_process():
    told = Usage(("update",)).to_json()
    assert 1e6 < told["memory_bytes"] <= 1.5 * told["peak_bytes"]
    assert told["gpu_bytes"] == 0
