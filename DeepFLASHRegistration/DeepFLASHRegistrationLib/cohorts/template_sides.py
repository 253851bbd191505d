# SPDX-License-Identifier: Apache-2.0
"""Subjects whose left and right are exchanged: no template is its own mirror image, and as that differs from it
subjects do not, unless their files are flipped."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from ..problem.deformation import Deformation
from .template_images import outlier_limit

# At least this part of the way is flipped.
_LEAST = 0.15
# Of fewer subjects it is not known how much they scatter.
_SUBJECTS = 5


def to_mirror(deformation: Deformation, asymmetry: np.ndarray) -> float:
    """Which part of the way from a template to its own mirror image lies on that to a subject: about 0 where left and
    right are where the template has them, since the mean over its subjects is none.

    Both begin at the template with a velocity; it is the projection of one onto the other, in the metric.

    Args:
        deformation: with the template as the fixed image, and the subject as the moving one.
        asymmetry: the velocity with which the geodesic to the mirror image begins, of the same band.
    """
    velocity = -deformation.end_velocity()

    def square(values: np.ndarray) -> float:
        return dataclasses.replace(deformation, velocity=values.astype(np.float32)).length() ** 2

    return (square(velocity + asymmetry) - square(velocity - asymmetry)) / (4 * square(asymmetry))


def flipped(sides: Mapping[str, float]) -> list[str]:
    """Names of those that lie farther on the way to the mirror image than the others scatter."""
    most = _limit(sides)
    return [name for name, value in sides.items() if value > most]


def is_flipped(value: float, others: Mapping[str, float]) -> bool:
    """Whether a further subject lies farther there than others scatter."""
    return value > _limit(others)


def _limit(sides: Mapping[str, float]) -> float:
    return max(_LEAST, outlier_limit(sides.values())) if len(sides) >= _SUBJECTS else np.inf
