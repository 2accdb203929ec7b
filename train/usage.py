"""What trainings use of the machine: CPU time by kind, the process's memory, the GPU's memory."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

_STATM = Path("/proc/self/statm")


class Usage:
    """Counts one training at a time: `begins`, then `ended`.

    CPU time is that of the whole process, torch's threads included; what answers meanwhile is small
    against it. Workers of Ray Train are processes of their own and are not in it.
    """

    def __init__(self, kinds: Sequence[str]) -> None:
        self._cpu_s = dict.fromkeys(kinds, 0.0)
        self._began = time.process_time()
        self._gpu_bytes = 0

    def begins(self) -> None:
        """A training starts."""
        self._began = time.process_time()
        if _on_gpu():
            torch.cuda.reset_peak_memory_stats()

    def ended(self, kind: str) -> None:
        """The training of this kind that began last is over."""
        self._cpu_s[kind] += time.process_time() - self._began
        self._gpu_bytes = torch.cuda.max_memory_allocated() if _on_gpu() else 0

    def to_json(self) -> dict[str, Any]:
        """CPU seconds by kind so far, resident bytes now and at most, GPU bytes of the last one."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {
            "cpu_seconds": dict(self._cpu_s),
            "memory_bytes": resident_bytes(),
            "peak_bytes": peak,
            "gpu_bytes": self._gpu_bytes,
        }


def resident_bytes() -> int | None:
    """Resident memory of this process; None where the system does not say."""
    try:
        pages = int(_STATM.read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _on_gpu() -> bool:
    """Whether this process uses a GPU; asking opens none, which would take memory there."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
