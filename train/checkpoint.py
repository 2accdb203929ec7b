"""Checkpoints: what a training or an update needs to go on exactly, as one safetensors file.

Weights and arrays are tensors, everything else is JSON in the file's header: nothing in it can run
code. A checkpoint is never served, and only the training that made it may resume from it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Self

import safetensors
import safetensors.torch
from torch import Tensor

from forecast.errors import StateError, TrainingError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch.optim import Optimizer

    from forecast.windows import RawWindows

_FORMAT = 2
"""1 numbered the optimiser's moments by the many small weights of pytorch-forecasting's network."""
_UPDATE_FORMAT = "update-1"
_PARTS = ("network", "best", "moments")
_UPDATE_PARTS = ("weights", "moments")
"""What a file holds by name, beside what it holds once."""


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
        return _file({"format": _FORMAT, **asdict(self.progress)}, self, _PARTS)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """What `to_bytes` made; raises StateError for anything else."""
        with _damage_told():
            about, tensors = _read(data, _FORMAT, _PARTS)
            known = {field.name: about[field.name] for field in fields(Progress)}
            known |= {name: tuple(known[name]) for name in ("looks", "betas")}
        return cls(progress=Progress(**known), **tensors)


@dataclass(frozen=True, slots=True)
class UpdateCheckpoint:
    """The state of an online update after a step; all tensors are on the CPU.

    What holds weights back is worked out from the update's windows, so it is not in here.
    """

    of: str
    """Digest of the update: the checkpoint of another one is not resumed from."""
    step: int
    losses: Mapping[str, float]
    """Sums over the steps made, by part of the loss."""
    weights: Mapping[str, Tensor]
    """Those that move."""
    moments: Mapping[str, Tensor]
    """The optimiser's state: `<number of the weight>.<name>`."""
    rest: Tensor
    """Windows of the pass under way that were not drawn yet, in their order."""
    generator: Tensor
    """State of torch's generator."""

    def to_bytes(self) -> bytes:
        """One safetensors file."""
        about = {"of": self.of, "step": self.step, "losses": dict(self.losses)}
        return _file({"format": _UPDATE_FORMAT, **about}, self, _UPDATE_PARTS)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """What `to_bytes` made; raises StateError for anything else."""
        with _damage_told():
            about, tensors = _read(data, _UPDATE_FORMAT, _UPDATE_PARTS)
            known = {name: about[name] for name in ("of", "step", "losses")}
        return cls(**known, **tensors)


def moments_of(optimizer: Optimizer) -> dict[str, Tensor]:
    """An optimiser's state as the flat names of a checkpoint, on the CPU."""
    return {
        f"{number}.{name}": value.to("cpu", copy=True)
        for number, moments in optimizer.state_dict()["state"].items()
        for name, value in moments.items()
    }


def put_back(moments: Mapping[str, Tensor], optimizer: Optimizer, **place: object) -> None:
    """Let an optimiser go on from `moments_of`, its first group at this place in a cycle.

    Raises TrainingError for moments that are not of its weights: torch would not look.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in moments.items():
        number, key = name.split(".", 1)
        state.setdefault(int(number), {})[key] = value
    _refuse_foreign(state, optimizer.param_groups[0]["params"])
    whole = {**optimizer.state_dict(), "state": state}
    whole["param_groups"][0].update(place)
    optimizer.load_state_dict(whole)


def digest(about: Sequence[Any], *parts: RawWindows) -> str:
    """Of what a training is made of, so that no other one goes on from its checkpoint."""
    said = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for part in parts:
        said.update(repr(part.servers).encode())
        said.update(part.origin.tobytes())
        said.update(part.values.tobytes())
    return said.hexdigest()


def digest_of(arrays: Iterable[NDArray[Any]]) -> str:
    """Of what arrays hold, one after the other: what else a training begins from."""
    read = hashlib.sha256()
    for array in arrays:
        read.update(array.tobytes())
    return read.hexdigest()


def _refuse_foreign(state: Mapping[int, Mapping[str, Tensor]], weights: Sequence[Tensor]) -> None:
    for number, moments in state.items():
        for name, value in moments.items():
            if name != "step" and value.shape != weights[number].shape:
                raise TrainingError(f"the checkpoint's {number}.{name} is of another network")


def _file(
    about: Mapping[str, Any], given: Checkpoint | UpdateCheckpoint, parts: Sequence[str]
) -> bytes:
    tensors = {"rest": given.rest, "generator": given.generator}
    for part in parts:
        tensors |= {f"{part}/{name}": value for name, value in getattr(given, part).items()}
    own = {name: value.clone().contiguous() for name, value in tensors.items()}
    return safetensors.torch.save(own, metadata={"fleetcast": json.dumps(about)})


def _read(
    data: bytes, wanted: int | str, parts: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `_file` was told, and its tensors by field; raises StateError for another format."""
    tensors = safetensors.torch.load(data)
    size = int.from_bytes(data[:8], "little")
    about = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["fleetcast"])
    if about["format"] != wanted:
        raise StateError(f"checkpoint: format {about['format']!r} is unknown, this is {wanted!r}")
    single = {name: tensors.pop(name) for name in ("rest", "generator")}
    named: dict[str, dict[str, Tensor]] = {part: {} for part in parts}
    for name, value in tensors.items():
        part, inner = name.split("/", 1)
        named[part][inner] = value
    return about, {**single, **named}


@contextmanager
def _damage_told() -> Iterator[None]:
    """Raise StateError for whatever a file that is no checkpoint makes fail inside."""
    try:
        yield
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise StateError(f"checkpoint: damaged: {error!r}") from error
