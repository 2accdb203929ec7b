"""Checkpoints: what a base training needs to go on exactly, as one safetensors file.

Weights and arrays are tensors, everything else is JSON in the file's header: nothing in it can run
code. A checkpoint is never served, and only the training that made it may resume from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Self

import safetensors
import safetensors.torch
from torch import Tensor

from forecast.errors import StateError, TrainingError

_FORMAT = 2
"""1 numbered the optimiser's moments by the many small weights of pytorch-forecasting's network."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training is."""

    of: str
    """Digest of the job: a checkpoint of another one is not resumed from."""
    step: int
    best_step: int
    looks: tuple[float, ...]
    """Validation loss at each look."""
    train_loss: float
    waited: int
    """Looks since the last better one."""
    best_loss: float
    ended: bool
    """Stopped early: nothing is left to train."""
    learning_rate: float
    betas: tuple[float, float]
    passes: int
    """Passes over the windows that were begun."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a training after a look; all tensors are on the CPU."""

    progress: Progress
    network: Mapping[str, Tensor]
    best: Mapping[str, Tensor]
    """The weights of the best look so far."""
    moments: Mapping[str, Tensor]
    """The optimiser's state: `<number of the weight>.<name>`."""
    rest: Tensor
    """Rows of the pass under way that were not drawn yet, in their order."""
    generator: Tensor
    """State of torch's generator, in the first worker."""

    def to_bytes(self) -> bytes:
        """One safetensors file."""
        tensors = {"rest": self.rest, "generator": self.generator}
        for part in ("network", "best", "moments"):
            tensors |= {f"{part}/{name}": value for name, value in getattr(self, part).items()}
        about = {"format": _FORMAT, **asdict(self.progress)}
        own = {name: value.clone().contiguous() for name, value in tensors.items()}
        return safetensors.torch.save(own, metadata={"fleetcast": json.dumps(about)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """What `to_bytes` made; raises StateError for anything else."""
        try:
            tensors = safetensors.torch.load(data)
            size = int.from_bytes(data[:8], "little")
            about = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["fleetcast"])
            if about["format"] != _FORMAT:
                raise StateError(f"checkpoint: format {about['format']!r} is unknown")
            known = {field.name: about[field.name] for field in fields(Progress)}
            known |= {name: tuple(known[name]) for name in ("looks", "betas")}
            parts: dict[str, dict[str, Tensor]] = {"network": {}, "best": {}, "moments": {}}
            rest, generator = tensors.pop("rest"), tensors.pop("generator")
            for name, value in tensors.items():
                part, inner = name.split("/", 1)
                parts[part][inner] = value
        except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
            raise StateError(f"checkpoint: damaged: {error!r}") from error
        return cls(progress=Progress(**known), rest=rest, generator=generator, **parts)


def refuse_foreign(state: Mapping[int, Mapping[str, Tensor]], weights: Sequence[Tensor]) -> None:
    """Raise TrainingError for moments that are not these weights': torch would not look."""
    for number, moments in state.items():
        for name, value in moments.items():
            if name != "step" and value.shape != weights[number].shape:
                raise TrainingError(f"the checkpoint's {number}.{name} is of another network")
