# SPDX-License-Identifier: Apache-2.0
"""Transform files of other programs as one map from the fixed to the moving image."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from ..imaging.grid import Grid
from ..problem.deformation import Deformation
from ..problem.known_transform import KnownTransform
from ..support.errors import InputError
from .bare_transform import Field, for_points


def read_map(paths: Sequence[str | os.PathLike], fixed: Grid, moving: Grid) -> tuple[KnownTransform, tuple[str, ...]]:
    """Reads transforms through which points of the fixed image go, one after the other, into the moving one.

    Args:
        paths: displacement fields, linear transforms as read_affine_with_notes takes them, other transforms of ITK; in
            the order of antsApplyTransforms.
        fixed, moving: the images' grids.

    Returns:
        The map, and notes.

    Raises:
        InputError: one cannot be used, or has other dimensions than the images.
    """
    ndim = 3 if fixed.plane is not None else fixed.ndim
    steps, notes = [], []
    for path in paths:
        step, said = for_points(path, "moving", fixed, moving)
        if step.domain.ndim != ndim:
            raise InputError(
                f"{path}: is a {step.domain.ndim}-D transform, but the images are {ndim}-D. Pass a {ndim}-D one."
            )
        steps.append(step)
        notes += said

    def moved(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        points = points if fixed.plane is None else fixed.lift(points)
        known = np.ones(len(points), dtype=bool)
        for step in steps:
            if isinstance(step, Field):
                known &= step.domain.contains(points)
            points = step.points(points, "fixed_to_moving")
        return points if moving.plane is None else moving.project(points), known

    return KnownTransform(", ".join(map(str, paths)), moved, _last_linear(steps)), tuple(notes)


def _last_linear(steps: Sequence[object]) -> np.ndarray | None:
    """The product of the linear transforms at the end, where nothing linear comes before the rest."""
    linear = [isinstance(step, Deformation) for step in steps]
    count = linear.index(True) if True in linear else len(steps)
    if count == len(steps) or not all(linear[count:]):
        return None
    matrix = steps[count].affine
    for step in steps[count + 1 :]:
        matrix = step.affine @ matrix
    return matrix
