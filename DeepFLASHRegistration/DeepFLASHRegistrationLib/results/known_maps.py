# SPDX-License-Identifier: Apache-2.0
"""Transform files of other programs as one map from the fixed to the moving image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..imaging.files import TRANSFORMS
from ..imaging.grid import Grid
from ..imaging.transform_files.registration_object import registration_kind
from ..imaging.transforms import read_affine_with_notes
from ..problem.deformation import Deformation
from ..problem.known_transform import KnownTransform
from ..problem.parameters import METHODS, Parameters
from ..problem.subject import Subject
from ..support.errors import InputError
from .bare_transform import Field, for_points


def with_transforms(
    paths: Sequence[str | os.PathLike], fixed: Subject, moving: Subject, parameters: Parameters
) -> tuple[Subject, dict[str, Any]]:
    """Reads the transforms that a registration is given, as its method wants them.

    Returns:
        The fixed subject, with notes on them, and what register() is given: initial_map, initial_affine or nothing.

    Raises:
        InputError: the method lacks one, or cannot do with those there are.
    """
    if METHODS[parameters.method].needs_transform:
        if not paths:
            raise InputError(f"The method {parameters.method} needs a transform, fixed to moving, and there is none.")
        known, notes = read_map(paths, fixed.grid, moving.grid)
        return fixed.with_image(fixed.image.noted(*notes)), {"initial_map": known}
    if not paths:
        return fixed, {}
    for path in paths:
        if len(paths) > 1 or not (str(path).lower().endswith(TRANSFORMS) or registration_kind(path) == "spatial"):
            raise InputError(
                f"{path}: {parameters.method} starts from one linear transform. The method transform takes this map as "
                "it is (with --as-geodesic: the geodesic nearest to it), transform+flash goes on from it."
            )
    affine, notes = read_affine_with_notes(paths[0], fixed.ndim, fixed.grid, moving.grid)
    return fixed.with_image(fixed.image.noted(*notes)), {"initial_affine": affine}


def read_map(paths: Sequence[str | os.PathLike], fixed: Grid, moving: Grid) -> tuple[KnownTransform, tuple[str, ...]]:
    """Reads transforms through which points of the fixed image go, one after the other, into the moving one.

    Args:
        paths: displacement fields, linear transforms as read_affine_with_notes takes them, other transforms of ITK,
            registrations of DICOM; in the order of antsApplyTransforms.
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
    if len(steps) == 1 and isinstance(steps[0], Field):
        return steps[0].last
    linear = [isinstance(step, Deformation) for step in steps]
    count = linear.index(True) if True in linear else len(steps)
    if count == len(steps) or not all(linear[count:]):
        return None
    matrix = steps[count].affine
    for step in steps[count + 1 :]:
        matrix = step.affine @ matrix
    return matrix
