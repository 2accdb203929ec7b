"""A Ray cluster of several nodes on this machine, for drills: started by us, ended by us alone."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

# Ray reads these when it is first imported; one token for this process and what it starts.
os.environ.update(
    RAY_AUTH_MODE="token",
    RAY_AUTH_TOKEN=secrets.token_hex(16),
    RAY_USAGE_STATS_ENABLED="0",
    RAY_ENABLE_UV_RUN_RUNTIME_ENV="0",
)
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.pop("RAY_ADDRESS", None)

import ray
from ray.cluster_utils import Cluster

from actors.ray_folder import new_folder

_STORE_BYTES = 150 << 20


@dataclass(frozen=True, slots=True)
class Process:
    """A Ray worker: its process id, the title that says what runs in it, its node's raylet."""

    pid: int
    title: str
    raylet: int

    def kill(self) -> None:
        """kill -9."""
        os.kill(self.pid, signal.SIGKILL)


class Nodes:
    """A context manager around a head and worker nodes; this process is a driver on the head."""

    def __init__(self, *, head_cpus: float, worker_cpus: Sequence[float]) -> None:
        self._cpus = head_cpus, tuple(worker_cpus)
        self._folder: Path | None = None
        self._cluster: Any = None
        self._workers: list[Any] = []

    def __enter__(self) -> Self:
        self._folder = new_folder()
        # Where a cluster leaves its address for others; those of other clusters stay as they are.
        os.environ["RAY_TMPDIR"] = str(self._folder)
        (self._folder / "ray").mkdir()
        head = {
            "num_cpus": self._cpus[0],
            "object_store_memory": _STORE_BYTES,
            "include_dashboard": False,
            "temp_dir": str(self._folder),
        }
        try:
            self._cluster = Cluster(initialize_head=True, head_node_args=head)
            for cpus in self._cpus[1]:
                self.add(cpus)
            ray.init(
                address=self._cluster.address, log_to_driver=False, logging_level=logging.ERROR
            )
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def add(self, cpus: float) -> None:
        """One more node."""
        node = self._cluster.add_node(num_cpus=cpus, object_store_memory=_STORE_BYTES)
        self._workers.append(node)

    def lose(self) -> None:
        """Kill every process of the last node that was added, all at once."""
        self._cluster.remove_node(self._workers.pop(), allow_graceful=False)

    def workers(self) -> list[Process]:
        """Every Ray worker process of this cluster and of no other."""
        assert self._folder is not None
        raylets = {
            pid
            for pid, title in _processes()
            if Path(title.split(" ")[0]).name == "raylet" and str(self._folder) in title
        }
        return [
            Process(pid, title, parent)
            for pid, title in _processes()
            if title.startswith("ray::") and (parent := _parent(pid)) in raylets
        ]

    def _stop(self) -> None:
        ray.shutdown()
        if self._cluster is not None:
            self._cluster.shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _processes() -> list[tuple[int, str]]:
    """(process id, command line) of everything that runs here."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            try:
                title = (path / "cmdline").read_bytes()
            except OSError:
                continue  # it has ended meanwhile
            found.append((int(path.name), title.replace(b"\0", b" ").decode(errors="replace")))
    return found


def _parent(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[1])
