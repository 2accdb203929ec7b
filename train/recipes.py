"""A recipe: which weights an update moves, how fast, and what holds them back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Part = Literal["full", "last_layers", "adapter"]
"""All weights; the output layer with the gate and norm before it; a correction of the output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one update learns. Raises ValueError for numbers that make no sense."""

    learning_rate: float
    epochs: int
    """Passes over the given windows."""
    batch_size: int
    gradient_clip: float
    """The most that the norm of a step's gradient may be."""
    moving: Part = "full"
    micro_batch_size: int = 0
    """Windows in memory at once; a batch's gradients are summed over them. 0: the whole batch."""
    warm_restart_steps: int = 0
    """Steps in which the rate falls to almost 0 before it starts again; 0: it does not fall."""
    drift_rate_factor: float = 1.0
    """Of the rate, in an update after a confirmed drift."""
    ewc_weight: float = 0.0
    """How much it costs to move weights that the windows so far depend on; 0: nothing."""
    ewc_decay: float = 0.95
    """What a batch's say in that is worth when the next one, later in time, has been seen."""
    distillation_weight: float = 0.0
    """How much it costs to forecast otherwise than the champion does; 0: nothing."""
    proximal_weight: float = 0.0
    """How much it costs a federated site to leave the weights it began from; 0: nothing."""

    def __post_init__(self) -> None:
        if (
            min(self.learning_rate, self.gradient_clip) <= 0
            or min(self.epochs, self.batch_size) < 1
        ):
            raise ValueError(
                f"learning_rate {self.learning_rate} and gradient_clip {self.gradient_clip} must "
                f"be above 0, epochs {self.epochs} and batch_size {self.batch_size} at least 1"
            )
        sizes = (self.micro_batch_size, self.warm_restart_steps)
        held = (self.ewc_weight, self.distillation_weight, self.proximal_weight)
        if min(*sizes, *held) < 0:
            raise ValueError(
                f"micro_batch_size {sizes[0]}, warm_restart_steps {sizes[1]}, ewc_weight {held[0]},"
                f" distillation_weight {held[1]} and proximal_weight {held[2]} start at 0"
            )
        if self.drift_rate_factor <= 0 or not 0 < self.ewc_decay <= 1:
            raise ValueError(
                f"drift_rate_factor {self.drift_rate_factor} must be above 0, "
                f"ewc_decay {self.ewc_decay} in (0, 1]"
            )

    def rate(self, step: int, *, drifted: bool = False) -> float:
        """The learning rate of the step with this number, from 0.

        With warm restarts it falls along half a cosine (Loshchilov and Hutter 2017, "SGDR").

        >>> recipe = Recipe(
        ...     learning_rate=0.1, epochs=1, batch_size=8, gradient_clip=1.0, warm_restart_steps=4
        ... )
        >>> [round(recipe.rate(step), 3) for step in range(6)]
        [0.1, 0.085, 0.05, 0.015, 0.1, 0.085]
        """
        rate = self.learning_rate * (self.drift_rate_factor if drifted else 1.0)
        if not self.warm_restart_steps:
            return rate
        passed = step % self.warm_restart_steps / self.warm_restart_steps
        return rate * 0.5 * (1.0 + math.cos(math.pi * passed))
