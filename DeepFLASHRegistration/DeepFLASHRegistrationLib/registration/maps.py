# SPDX-License-Identifier: Apache-2.0
"""The maps of a geodesic on the fixed grid: where they are needed, without folds, and what they make of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..imaging.grid import Grid
from ..imaging.volume import Volume
from ..problem.deformation import Deformation, deformation_from
from ..problem.subject import Subject
from .verdict import SMALLEST_DETERMINANT

# Attempts to mend folds of the sampled map by damping the velocity around them.
_UNFOLDING = 6
# The written fields reach beyond the fixed image by this part of its longest edge.
_FIELD_MARGIN = 1 / 20


def field_grids(fixed: Grid, affine: np.ndarray) -> tuple[Grid, Grid]:
    """Grids of the written fields: the fixed grid with a margin, and a grid of the same axes and spacing over the box
    to which the affine takes it (the same grid where the affine is the identity)."""
    margin = np.ceil(_FIELD_MARGIN * fixed.extent.max() / fixed.spacing - 1e-6).astype(int)
    # The margin stays moderate where voxels are coarse or the object is small.
    margin = np.clip(margin, 2, np.maximum(2, np.array(fixed.shape) // 8))
    grid = fixed.padded(margin)
    d = fixed.ndim
    corners = grid.corners() @ affine[:d, :d].T + affine[:d, d]
    index = grid.physical_to_index(corners)
    lower = np.floor(index.min(0) + 1e-6).astype(int)
    upper = np.ceil(index.max(0) - 1e-6).astype(int)
    return grid, grid.padded(-lower, upper - (np.array(grid.shape) - 1))


def _inner(grid: Grid, field_grid: Grid, ring: int = 0) -> tuple[slice, ...]:
    """Where a grid lies in the field grid around it, with ``ring`` more voxels on each side."""
    return tuple(
        slice((n - m) // 2 - ring, (n - m) // 2 + m + ring) for n, m in zip(field_grid.shape, grid.shape, strict=True)
    )


def on_fixed_grid(fixed: Grid, parts: Mapping[str, Any]) -> np.ndarray:
    """The displacement at the voxels of the fixed grid, of `outputs`."""
    return parts["fixed_to_moving"][_inner(fixed, parts["field_grid"])]


@dataclass(frozen=True)
class Maps:
    """The final geodesic: its arguments, what computes its maps, and on the fixed grid where it folds and by how much
    it scales volumes."""

    velocity: dict[str, Any]
    deformation: Deformation
    field_grid: Grid
    inverse_grid: Grid
    fixed_to_moving: np.ndarray
    folded: np.ndarray
    determinant: np.ndarray
    notes: list[str]


def unfolded(fixed: Grid, velocity: Mapping[str, Any], inside: np.ndarray, device: str) -> Maps:
    """The maps of a velocity, which is weakened where they fold until they do not.

    The geodesic's map is one to one; its samples on the fixed grid need not be where it is steeper than voxels can
    show (or nearly so: a determinant below the verdict's limit). There, and only there, the velocity's detail is
    damped: a few millimeters around a few voxels.
    """
    from .metrics import folded_voxels, jacobian_determinant

    field_grid, inverse_grid = field_grids(fixed, velocity["affine"])
    # One voxel of the margin makes the differences central everywhere on the fixed grid.
    ring, crop = _inner(fixed, field_grid, 1), (slice(1, -1),) * fixed.ndim
    damped = 0
    for attempt in range(_UNFOLDING + 1):
        deformation = deformation_from(velocity, device)
        forward = deformation.displacement(field_grid, "fixed_to_moving")
        # Folds are mended wherever they are; those around the object do not count in the metrics.
        anywhere = folded_voxels(forward[ring], fixed.padded(1))[crop]
        folded = anywhere & inside
        determinant = jacobian_determinant(forward[ring], fixed.padded(1))[crop]
        count = int(np.count_nonzero(anywhere | (inside & (determinant < SMALLEST_DETERMINANT.check))))
        # FLASH's own map folds by truncation, which damping cannot mend; a field that folds widely is no slip.
        if not count or attempt == _UNFOLDING or velocity["band_limited"] or count > 0.01 * np.count_nonzero(inside):
            break
        damped += count
        steep = anywhere | (inside & (determinant < 1.6 * SMALLEST_DETERMINANT.check))
        at = fixed.index_to_physical(np.argwhere(steep))
        velocity = _damped(velocity, deformation, at + forward[_inner(fixed, field_grid)][steep])
        forward = None  # room for the next
    notes = []
    if damped:
        notes.append(
            f"The velocity was damped around {damped} voxels, where the map was steeper than the fixed image's "
            "voxels can show."
        )
    return Maps(dict(velocity), deformation, field_grid, inverse_grid, forward, folded, determinant, notes)


def _damped(velocity: Mapping[str, Any], deformation: Deformation, at: np.ndarray) -> dict[str, Any]:
    """The velocity with less detail around points (N, d) of the moving image, LPS mm."""
    import torch

    from ..geodesics.band import Band, attenuated

    # v0 lives in the moving image before the affine: where the points came from.
    back = np.linalg.inv(velocity["affine"])
    came = at @ back[:-1, :-1].T + back[:-1, -1]
    centers = (deformation.domain.physical_to_index(came) + 0.5) * deformation.cell
    band, wavelength = Band(velocity["velocity"].shape[1:], deformation.lengths), deformation.shortest_wavelength
    v0 = torch.as_tensor(velocity["velocity"], device=deformation.device)
    centers = torch.as_tensor(_thinned(centers, wavelength / 3))
    weaker = attenuated(v0, band, centers, 0.7 * wavelength, 0.5).cpu().numpy()
    return {**velocity, "velocity": weaker}


def _thinned(points: np.ndarray, distance: float) -> np.ndarray:
    """Points of a set such that every other lies within about ``distance`` of one kept."""
    _, first = np.unique(np.round(points / distance).astype(int), axis=0, return_index=True)
    return points[np.sort(first)]


def outputs(fixed: Subject, moving: Subject, maps: Maps) -> dict[str, Any]:
    """The images and fields of a Result."""
    from ..imaging.resampling import nearest
    from ..problem.resampling import linear
    from . import warping

    affine, image, moving_labels = maps.deformation.affine, moving.image, moving.label_map
    on_fixed = maps.fixed_to_moving[_inner(fixed.grid, maps.field_grid)]
    background = float(image.data.min())
    warped = warping.warp(image, fixed.grid, on_fixed, outside=background)
    before = linear(image, fixed.grid, affine, background)
    labels = labels_before = None
    if moving_labels is not None:
        labels = Volume(fixed.grid, warping.warp_labels(moving_labels, fixed.grid, on_fixed), moving_labels.name)
        labels_before = Volume(fixed.grid, nearest(moving_labels, fixed.grid, affine), moving_labels.name)
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithm = np.where(maps.determinant > 0, np.log(maps.determinant), -np.inf).astype(np.float32)
    return {
        "field_grid": maps.field_grid,
        "inverse_grid": maps.inverse_grid,
        "fixed_to_moving": maps.fixed_to_moving,
        "moving_to_fixed": maps.deformation.displacement(maps.inverse_grid, "moving_to_fixed"),
        "warped": Volume(fixed.grid, warped, image.name),
        "moving_affine": Volume(fixed.grid, before, image.name),
        "log_jacobian": Volume(fixed.grid, logarithm, "log Jacobian determinant"),
        "labels": labels,
        "labels_before": labels_before,
    }
