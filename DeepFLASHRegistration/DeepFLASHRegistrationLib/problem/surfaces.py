# SPDX-License-Identifier: Apache-2.0
"""Structures that are drawn on both sides, as images of the distance from their surfaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from ..imaging.grid import Grid
from ..imaging.size import radius_mm
from ..imaging.volume import Volume
from ..support.errors import InputError
from .parameters import Parameters
from .resampling import linear
from .subject import Subject

if TYPE_CHECKING:
    from .problem import Problem

_EDGE = 0.999  # of the reach; interpolation rounds
_MOST = 16
# How far from a surface alignment sees it, of the size of all structures.
_SEEN = 0.6
# Voxels along an axis on which structures are drawn for the alignment: at least so many, if there are.
_DRAWN = 80
# Alignments are compared, and each asks for the same distances: by label map, label and reach.
_KNOWN: WeakKeyDictionary[Volume, dict[tuple[int, float], Volume]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Surfaces:
    """Structures that do not touch, on the working grid: how deep each place lies in one, 0 outside to 1 with the
    surface at a half, in both images; how much each cell counts; and how much all of it does."""

    fixed: np.ndarray
    moving: np.ndarray
    weight: np.ndarray
    share: float


def distance(labels: Volume, label: int, reach: float) -> Volume:
    """How deep voxels lie inside a label, in mm, from -reach outside to reach; on the labels' own grid."""
    near = near_surface(labels, label, reach)
    lower = np.round(labels.grid.physical_to_index(near.grid.origin)).astype(int)
    whole = np.full(labels.grid.shape, -reach, dtype=np.float32)
    whole[tuple(slice(a, a + n) for a, n in zip(lower, near.grid.shape, strict=True))] = near.data
    return Volume(labels.grid, whole)


def near_surface(labels: Volume, label: int, reach: float) -> Volume:
    """As `distance`, on the part of the labels' grid beyond which it is -reach."""
    known = _KNOWN.setdefault(labels, {})
    if (label, reach) not in known:
        known[label, reach] = _near(labels, label, reach)
    return known[label, reach]


def _near(labels: Volume, label: int, reach: float) -> Volume:
    import SimpleITK as sitk

    inside, grid = labels.data == label, labels.grid
    pad = [int(np.ceil(reach / h)) + 2 for h in grid.spacing]
    used = [
        np.flatnonzero(inside.any(axis=tuple(a for a in range(inside.ndim) if a != axis)))
        for axis in range(inside.ndim)
    ]
    lower = [max(0, int(u[0]) - p) for u, p in zip(used, pad, strict=True)]
    end = [min(n, int(u[-1]) + 1 + p) for u, p, n in zip(used, pad, inside.shape, strict=True)]
    box = inside[tuple(slice(a, b) for a, b in zip(lower, end, strict=True))]

    def deep(part: np.ndarray) -> np.ndarray:
        image = sitk.GetImageFromArray(part.astype(np.uint8))
        image.SetSpacing([float(h) for h in grid.spacing[::-1]])
        far = sitk.SignedMaurerDistanceMap(image, insideIsPositive=True, squaredDistance=False, useImageSpacing=True)
        return sitk.GetArrayFromImage(far)

    # Distances count from the middles of a set's outermost voxels: those of the inside lie half a voxel below the
    # surface, those of the outside half a voxel above it, along whatever axis.
    both = deep(box) if box.all() else (deep(box) - deep(~box)) / 2
    part = grid.padded([-a for a in lower], [b - n for b, n in zip(end, inside.shape, strict=True)])
    return Volume(part, np.clip(both, -reach, reach).astype(np.float32))


def drawn(subject: Subject, labels: Sequence[int]) -> Volume:
    """Structures as an image: how deep each place lies in one, each about as bright as its number in the list says."""
    there = subject.label_map.thinned(_DRAWN)
    if not np.isin(labels, there.data).all():
        there = subject.label_map
    size = radius_mm(there.grid, np.isin(there.data, labels))
    image = np.zeros(there.grid.shape, dtype=np.float32)
    for number, label in enumerate(labels):
        share = 1 - 0.5 * number / len(labels)
        np.maximum(image, share * (1 + distance(there, label, _SEEN * size).data / (_SEEN * size)), out=image)
    return Volume(there.grid, image, there.name)


def surfaces(
    problem: Problem, fixed: Subject, moving: Subject, labels: Sequence[int], parameters: Parameters, counts: float
) -> tuple[Surfaces, ...]:
    """The labels as images to compare, in as few as keep those apart that touch.

    Args:
        problem: whose images are there already.
        counts: dissimilarity of what is missed by a mm.

    Raises:
        InputError: one of them lies elsewhere, or too many touch.
    """
    reach = max(problem.window_mm, 2 * float(problem.grid.spacing.max()))
    known = _known(problem, fixed, moving)
    found: list[list[np.ndarray]] = []
    taken: list[np.ndarray] = []
    sizes = {label: float(np.count_nonzero(fixed.label_map.data == label)) for label in labels}
    for label in labels:
        sides = near_surface(fixed.label_map, label, reach), near_surface(moving.label_map, label, reach)
        box, part = _around(problem, sides)
        here, there = (
            linear(side, part, matrix, -reach) / reach
            for side, matrix in zip(sides, (None, problem.affine), strict=True)
        )
        near = known[box] & ((here > -_EDGE) | (there > -_EDGE))
        surface = np.count_nonzero(known[box] & (np.abs(here) < _EDGE))
        if not surface or not (known[box] & (there > -_EDGE)).any():
            raise InputError(
                f"label_weight: label {label} does not lie where the images are compared. Leave it out by "
                "steering_labels, or check that labels and images belong together."
            )
        share = 1 / len(labels)
        if parameters.label_weighting == "volume":
            share = sizes[label] / sum(sizes.values())
        weight = np.full(near.shape, share / surface, dtype=np.float32)
        number = next((i for i, other in enumerate(taken) if not (other[box] & near).any()), len(found))
        if number == len(found):
            found.append([np.zeros(known.shape, np.float32) for _ in range(3)])
            taken.append(np.zeros(known.shape, bool))
        if len(found) > _MOST:
            raise InputError(
                f"label_weight: {len(labels)} structures, which lie on each other's surfaces, are more than can steer. "
                "Name the ones that matter by steering_labels."
            )
        taken[number][box] |= near
        for field, values in zip(found[number], ((1 + here) / 2, (1 + there) / 2, weight), strict=True):
            field[box][near] = values[near]
    scale = counts * (2 * reach) ** 2
    return tuple(Surfaces(*fields, scale * float(fields[2].sum(dtype=np.float64))) for fields in found)


def _known(problem: Problem, fixed: Subject, moving: Subject) -> np.ndarray:
    """Where both label maps are: where one ends no surface is known to be."""
    known = np.ones(problem.grid.shape, dtype=bool)
    for side, matrix in ((fixed, None), (moving, problem.affine)):
        whole = Volume(side.label_map.grid, np.ones(side.label_map.grid.shape, dtype=np.float32))
        known &= linear(whole, problem.grid, matrix, 0.0) > _EDGE
    return known


def _around(problem: Problem, sides: tuple[Volume, Volume]) -> tuple[tuple[slice, ...], Grid]:
    """The part of the working grid around what a fixed and a moving volume show; of at least a voxel."""
    d, grid = problem.grid.ndim, problem.grid
    back = np.linalg.inv(problem.affine)
    corners = np.concatenate([sides[0].grid.corners(), sides[1].grid.corners() @ back[:d, :d].T + back[:d, d]])
    at, n = grid.physical_to_index(corners), np.array(grid.shape)
    lower = np.clip(np.floor(at.min(0)).astype(int) - 1, 0, n - 1)
    end = np.clip(np.ceil(at.max(0)).astype(int) + 2, lower + 1, n)
    return tuple(map(slice, lower, end)), grid.padded(-lower, end - n)
