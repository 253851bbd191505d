# SPDX-License-Identifier: Apache-2.0
"""How far to go along a direction: backtracking until the energy has fallen enough (Armijo), within a reach that is
remembered from step to step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..objective import Evaluation

_ARMIJO = 1e-4
_MOST_TRIALS = 12
_MOST_REFINEMENTS = 2
# In voxels of the level. Beyond it a similarity does not know where a step leads.
_REACH = 3.0


class Interrupted(Exception):
    """The search was cancelled between two evaluations."""


@dataclass(frozen=True)
class Ray:
    """Where a search stands and where it looks: v0, a direction, the energy there and its slope along the direction."""

    velocity: Tensor
    direction: Tensor
    energy: float
    slope: float


@dataclass(frozen=True)
class Step:
    """An accepted length, what it reached, and whether the time steps were refined on the way."""

    length: float
    reached: Evaluation
    refined: bool


class Reach:
    """The longest displacement of a step, in voxels of the level: as far as the last one got where it had to be
    shortened, and twice as far each time that all of it served."""

    def __init__(self) -> None:
        self.longest = _REACH

    def within(self, length: float, displacement: float) -> float:
        """A length along a direction of this largest displacement, or as much of it as is within reach."""
        return min(length, self.longest / max(displacement, 1e-12))

    def learn(self, tried: float, taken: float, displacement: float) -> None:
        """After a step of length ``taken`` where ``tried`` was tried first."""
        if taken < tried:
            self.longest = taken * displacement
        elif taken * displacement > 0.9 * self.longest:
            self.longest = min(_REACH, 2 * self.longest)


def backtracked(
    evaluate: Callable[[Tensor], Evaluation],
    refine: Callable[[], bool],
    ray: Ray,
    length: float,
    cancelled: Callable[[], bool],
) -> Step | None:
    """The first length, from the given one downwards, that lowers the energy enough; None if none does.

    Args:
        evaluate: the energy at a velocity.
        refine: takes more time steps from now on, if it can.

    Raises:
        Interrupted: `cancelled` said so before an evaluation.
    """
    refined = 0
    for _ in range(_MOST_TRIALS):
        if cancelled():
            raise Interrupted
        trial = evaluate(ray.velocity + length * ray.direction)
        if trial.energy <= ray.energy + _ARMIJO * length * ray.slope:
            return Step(length, trial, refined > 0)
        if math.isfinite(trial.energy):
            # Minimum of the parabola through both energies and the slope, kept within sane bounds.
            parabola = -0.5 * ray.slope * length / (trial.energy - ray.energy - ray.slope * length)
            length *= min(0.5, max(0.1, parabola))
        elif refined < _MOST_REFINEMENTS and refine():
            # The time steps may be at fault rather than the length of the step.
            refined += 1
        else:
            length *= 0.25
    return None
