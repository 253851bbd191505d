# SPDX-License-Identifier: Apache-2.0
"""Resampling through an affine map, by SimpleITK, and masks on the grid of their image."""

from __future__ import annotations

import numpy as np

from ..support.errors import InputError
from .grid import Grid
from .volume import Volume


def resample(
    volume: Volume, grid: Grid, matrix: np.ndarray | None = None, *, nearest: bool = False, outside: float = 0.0
) -> np.ndarray:
    """The volume at the points of a grid, mapped by an affine first.

    Args:
        volume: image, labels or mask.
        grid: where it is wanted.
        matrix: (d+1, d+1) LPS mm, grid point -> point of the volume; identity by default.
        nearest: nearest neighbor (labels) instead of linear interpolation.
        outside: value beyond the volume.

    Returns:
        Array of grid.shape, float32 for images, the volume's own type with `nearest`.
    """
    import SimpleITK as sitk

    if matrix is None and volume.grid.same_as(grid, 1e-6):
        return volume.data
    d = grid.ndim
    matrix = np.eye(d + 1) if matrix is None else matrix
    image = volume.grid.apply_to(sitk.GetImageFromArray(volume.data))
    transform = sitk.AffineTransform(d)
    transform.SetMatrix(matrix[:d, :d].ravel().tolist())
    transform.SetTranslation(matrix[:d, d].tolist())
    size, spacing, origin, direction = grid.to_image_geometry()
    moved = sitk.Resample(
        image,
        size,
        transform,
        sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear,
        origin,
        spacing,
        direction,
        outside,
        image.GetPixelID() if nearest else sitk.sitkFloat32,
    )
    return sitk.GetArrayFromImage(moved)


def mask_on_grid(mask: Volume, grid: Grid, name: str = "mask") -> np.ndarray:
    """A mask given on any grid as a bool array on this one, by nearest neighbor; False outside.

    Args:
        mask: nonzero inside.
        grid: usually that of the mask's image.
        name: what the message calls a mask without a name.

    Raises:
        InputError: nothing of the mask lies on the grid.
    """
    inside = resample(mask.with_data((mask.data != 0).astype(np.uint8)), grid, nearest=True) != 0
    if not inside.any():
        raise InputError(f"{mask.name or name}: the mask does not meet its image. Check that it belongs to it.")
    return inside
