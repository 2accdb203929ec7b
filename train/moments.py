"""Least squares that forgets: weighted moments of inputs and outputs, and the weights they give.

The recursive form A <- l A + F'F, B <- l B + F'Y, W = A^-1 B of exponentially forgetting least
squares (Haykin, Adaptive Filter Theory, ch. RLS); with all ages at once it is weighted ridge
regression. Each member of a group may be pulled towards the group's own solution, a ridge whose
centre is that solution instead of 0.

G members of the group, N examples, P inputs, H outputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Floats = NDArray[np.float64]

_LEAST = 1e-9
"""Added to the diagonal, so that a group without any example has the solution 0."""


class Moments:
    """A = sum of l^age f f', B = sum of l^age f y', for each member of a group by itself.

    `forgetting` is l, per tick: in (0, 1], 1 forgets nothing. Raises ValueError for another one.

    >>> moments = Moments(group=1, inputs=1, outputs=1, forgetting=0.5)
    >>> moments.add(np.array([[[2.0]]]), np.array([[[6.0]]]), np.array([[0.0]]))
    >>> moments.pooled(ridge=0.0).round(6).tolist()
    [[3.0]]
    """

    def __init__(self, *, group: int, inputs: int, outputs: int, forgetting: float) -> None:
        if not 0 < forgetting <= 1:
            raise ValueError(f"forgetting {forgetting} is not in (0, 1]")
        self._forgetting = forgetting
        self._inputs: Floats = np.zeros((group, inputs, inputs))
        self._outputs: Floats = np.zeros((group, inputs, outputs))

    def forget(self, ticks: int) -> None:
        """Let everything grow older by so many ticks."""
        self._inputs *= self._forgetting**ticks
        self._outputs *= self._forgetting**ticks

    def add(self, inputs_GNP: Array, outputs_GNH: Array, age_GN: Array) -> None:
        """Take in examples that are so many ticks old; an infinite age leaves one out.

        Inputs and outputs must be finite all the same.
        """
        weight = self.weight(age_GN)
        weighed = np.swapaxes(inputs_GNP * weight[..., None].astype(inputs_GNP.dtype), -1, -2)
        self._inputs += weighed @ inputs_GNP
        self._outputs += weighed @ outputs_GNH

    def pooled(self, *, ridge: float) -> Floats:
        """Weights [P, H] of the whole group.

        `ridge` is added to the diagonal in units of its mean.
        """
        found: Floats = _ridged(self._inputs.sum(0)[None], self._outputs.sum(0)[None], ridge)[0]
        return found

    def alone(self, *, ridge: float) -> Floats:
        """Weights [G, P, H] of each member by itself; `ridge` as for the whole group."""
        return _ridged(self._inputs, self._outputs, ridge)

    def others(self, *, ridge: float) -> Floats:
        """Weights [G, P, H] of all members but each; `ridge` as for the whole group."""
        inputs: Floats = self._inputs.sum(0) - self._inputs
        return _ridged(inputs, self._outputs.sum(0) - self._outputs, ridge)

    def own(self, center_PH: Array, *, pull: float) -> Floats:
        """Weights [G, P, H] of each member, pulled towards a common centre.

        The smallest weighted squared error plus the squared distance from the centre, which counts
        as much as `pull` average members' examples, input by input.
        """
        strength = self._strength(pull)
        inputs = self._inputs + np.diag(strength)
        outputs = self._outputs + strength[:, None] * center_PH
        return np.asarray(np.linalg.solve(inputs, outputs), np.float64)

    def leverage(
        self, inputs_GNP: Array, age_GN: Array, *, ridge: float, pull: float | None
    ) -> Array:
        """How much of its own output each example's forecast [G, N] is, for examples taken in.

        Of the weights of `own` about the centre `pooled`; None: of `pooled`. An error over 1 less
        its leverage is the error without the example (Allen, The relationship between variable
        selection and data augmentation and a method for prediction, Technometrics 16, 1974): for
        `pooled` exactly where `ridge` is 0, else nearly.
        """
        inverse = np.linalg.inv(_on_diagonal(self._inputs.sum(0)[None], ridge))[0]
        found: Array = np.zeros(age_GN.shape, inputs_GNP.dtype)
        strength = None if pull is None else self._strength(pull)
        # One by one: a fleet's matrices together are larger than its examples.
        for row, (inputs, given) in enumerate(zip(self._inputs, inputs_GNP, strict=True)):
            moved = inverse
            if strength is not None:
                own = np.linalg.inv(inputs + np.diag(strength))
                moved = own + own @ (strength[:, None] * inverse)
            found[row] = np.einsum("np,np->n", given @ moved.astype(given.dtype), given)
        return np.asarray(found * self.weight(age_GN), found.dtype)

    def weight(self, age_GN: Array) -> Floats:
        """What an example of each age [G, N] counts; 0 of an infinite one."""
        return np.asarray((self._forgetting**age_GN) * np.isfinite(age_GN), np.float64)

    def _strength(self, pull: float) -> Floats:
        strength = pull * np.einsum("gpp->p", self._inputs) / max(1, len(self._inputs))
        return np.asarray(strength + _LEAST, np.float64)


def _ridged(inputs_GPP: Floats, outputs_GPH: Floats, ridge: float) -> Floats:
    return np.asarray(np.linalg.solve(_on_diagonal(inputs_GPP, ridge), outputs_GPH), np.float64)


def _on_diagonal(inputs_GPP: Floats, ridge: float) -> Floats:
    size = inputs_GPP.shape[-1]
    diagonal = ridge * np.einsum("gpp->g", inputs_GPP) / size + _LEAST
    return np.asarray(inputs_GPP + diagonal[:, None, None] * np.eye(size), np.float64)
