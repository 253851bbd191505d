# SPDX-License-Identifier: Apache-2.0
"""The figures of a result: what `metrics` measures, applied to a registration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..imaging.intensities import background_value, foreground, without_padding
from ..imaging.resampling import resample
from ..imaging.volume import Volume
from ..problem.subject import Subject, corresponding
from . import metrics as m
from .maps import Maps
from .verdict import SMALLEST_LABEL_VOXELS


def measured(
    fixed: Subject, moving: Subject, parts: Mapping[str, Any], maps: Maps, inside: np.ndarray
) -> dict[str, Any]:
    """Result.metrics.

    Args:
        fixed, moving: checked subjects.
        parts: images and fields, as `maps.outputs` returns them.
        maps: where they come from.
        inside: object voxels of the fixed image, bool.
    """
    grid = fixed.grid
    found: dict[str, Any] = {
        "similarity_before": m.ncc(fixed.image.data, parts["moving_affine"].data, inside),
        "similarity_after": m.ncc(fixed.image.data, parts["warped"].data, inside),
        "voxel_mm": float(grid.voxel_volume ** (1 / fixed.ndim)),
        "ndim": fixed.ndim,
    }
    found.update(m.determinant_statistics(maps.determinant, inside))
    count = int(np.count_nonzero(maps.folded))
    found["folds_strict"] = {"count": count, "percent": 100.0 * count / max(int(np.count_nonzero(inside)), 1)}
    probes = m.grid_points(grid, inside)
    mapped = m.map_points(probes, parts["fixed_to_moving"], parts["field_grid"])
    found["inverse_error_mm"] = m.inverse_error(probes, mapped, parts["moving_to_fixed"], parts["inverse_grid"])
    found["border_hits"] = m.border_hits(mapped, moving.grid)
    found["largest_displacement_mm"] = float(np.sqrt(np.square(mapped - probes).sum(-1).max()))
    found["overlap"] = m.overlap(foreground(fixed.image), _foreground_of(parts["warped"], moving.image))
    found.update(_of_labels(fixed, moving, parts))
    found.update(_of_landmarks(fixed, moving, parts, maps.deformation.affine))
    return found


def _of_labels(fixed: Subject, moving: Subject, parts: Mapping[str, Any]) -> dict[str, Any]:
    labels, own = moving.label_map, fixed.label_map
    if labels is None:
        return {}
    voxel = fixed.grid.voxel_volume
    volumes = m.label_volumes(labels.data, labels.grid.voxel_volume)
    warped_volumes = m.label_volumes(parts["labels"].data, voxel)
    smallest = SMALLEST_LABEL_VOXELS * labels.grid.voxel_volume
    found: dict[str, Any] = {"volume_change": m.volume_change(volumes, warped_volumes, smallest)}
    if own is not None:
        there = resample(own, fixed.grid, nearest=True)
        found["dice"] = m.label_table(there, parts["labels_before"].data, parts["labels"].data, voxel, volumes)
        found["mean_dice_before"], found["mean_dice_after"] = m.mean_dice(found["dice"])
    return found


def _of_landmarks(fixed: Subject, moving: Subject, parts: Mapping[str, Any], affine: np.ndarray) -> dict[str, Any]:
    pairs = corresponding(fixed.landmarks, moving.landmarks)
    if pairs is None:
        return {}
    at_fixed, at_moving = pairs.fixed, pairs.moving
    d = fixed.ndim
    before = at_fixed @ affine[:d, :d].T + affine[:d, d]
    after = m.landmark_errors(m.map_points(at_fixed, parts["fixed_to_moving"], parts["field_grid"]), at_moving)
    first = m.landmark_errors(before, at_moving)
    return {
        "landmarks": {
            "names": list(pairs.names),
            "before_mm": first.tolist(),
            "after_mm": after.tolist(),
            "mean_before_mm": float(first.mean()),
            "mean_after_mm": float(after.mean()),
        }
    }


def _foreground_of(warped: Volume, moving: Volume) -> np.ndarray:
    """Foreground of the warped image by the moving image's own criterion."""
    background = background_value(moving)
    if background is not None:
        return warped.data > background
    seen, padding = without_padding(moving)
    low, high = seen.data.min(), seen.data.max()
    for value in padding:
        # Interpolation mixed the padding with its neighbours; foreground() knows it as one value.
        mixed = warped.data < low if value < low else warped.data > high
        warped = warped.with_data(np.where(mixed, warped.data.dtype.type(value), warped.data))
    return foreground(warped)
