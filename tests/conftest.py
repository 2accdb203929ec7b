"""What every test may lean on: quiet, repeatable surroundings and one Ray cluster per session."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Ray and torch read these when they are first imported, hence here and not in a fixture. The token
# stays in this process and its children: left to itself Ray would write one to the home directory.
os.environ.update(
    RAY_AUTH_MODE="token",
    RAY_AUTH_TOKEN=secrets.token_hex(16),
    RAY_ENABLE_UV_RUN_RUNTIME_ENV="0",
    RAY_USAGE_STATS_ENABLED="0",
)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("RAY_ADDRESS", None)

settings.register_profile("fleetcast", deadline=None, derandomize=True, database=None)
settings.load_profile("fleetcast")

NAMESPACE = "fleetcast-tests"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that need Ray last, give them the cluster, skip what cannot run here."""
    for item in items:
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.usefixtures("ray_cluster"))
        if item.get_closest_marker("data") and "FLEETCAST_DATA" not in os.environ:
            item.add_marker(pytest.mark.skip(reason="FLEETCAST_DATA is unset"))
        if item.get_closest_marker("gpu") and not _cuda():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
    items.sort(key=lambda item: item.get_closest_marker("ray") is not None)


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with the real data; skips the test when FLEETCAST_DATA does not name one."""
    folder = os.environ.get("FLEETCAST_DATA")
    if folder is None:
        pytest.skip("FLEETCAST_DATA is unset")
    return Path(folder)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """A Ray cluster of this session's own, room for two fleets; yields its namespace.

    Tests share it, so each names its own fleet or actors and kills what it started.
    """
    import ray

    from actors.ray_folder import new_folder

    folder = new_folder()
    ray.init(
        address="local",
        namespace=NAMESPACE,
        num_cpus=4,
        object_store_memory=200 * 1024**2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
        _temp_dir=str(folder),
    )
    try:
        yield NAMESPACE
    finally:
        if "ray.serve" in sys.modules:
            from ray import serve

            serve.shutdown()
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
