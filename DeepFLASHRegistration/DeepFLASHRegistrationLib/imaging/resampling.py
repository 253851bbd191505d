# SPDX-License-Identifier: Apache-2.0
"""Labels and masks on another grid: what is nearest to its points."""

from __future__ import annotations

import numpy as np

from ..support.errors import InputError
from ..support.side_by_side import side_by_side
from .grid import Grid, over_indices
from .volume import Volume

_SLAB_VOXELS = 32_768  # whose coordinates stay in the processor's cache


def nearest(volume: Volume, grid: Grid, matrix: np.ndarray | None = None) -> np.ndarray:
    """Labels or a mask at the points of a grid, mapped by an affine first: the nearest voxel's value, 0 outside.

    Args:
        volume: labels or mask.
        grid: where they are wanted.
        matrix: (d+1, d+1) LPS mm, point of the grid -> point of the volume; identity by default.

    Returns:
        Array of grid.shape, of the volume's own type.
    """
    if matrix is None and volume.grid.same_as(grid, 1e-6):
        return volume.data
    d = grid.ndim
    combined = volume.grid.inverse_affine @ (np.eye(d + 1) if matrix is None else matrix) @ grid.affine
    data, result = volume.data.reshape(-1), np.empty(grid.shape, dtype=volume.data.dtype)
    rows = max(1, _SLAB_VOXELS // max(1, int(np.prod(grid.shape[1:]))))

    def fill(start: int) -> None:
        part = slice(start, min(start + rows, grid.shape[0]))
        ranges = [np.arange(part.start, part.stop), *map(np.arange, grid.shape[1:])]
        inside, flat = True, 0
        places = over_indices(combined[:d, :d], combined[:d, d], ranges)
        for place, n in zip(places, volume.grid.shape, strict=True):
            near = np.floor(place.astype(np.float32) + np.float32(0.5))
            inside = inside & (near >= 0) & (near < n)
            flat = flat * n + np.clip(near, 0, n - 1).astype(np.int64)
        result[part] = np.where(inside, data[flat], data.dtype.type(0))

    for _ in side_by_side(fill, range(0, grid.shape[0], rows)):
        pass
    return result


def mask_on_grid(mask: Volume, grid: Grid, name: str = "mask") -> np.ndarray:
    """A mask given on any grid as a bool array on this one, by nearest neighbor; False outside.

    Args:
        mask: nonzero inside.
        grid: usually that of the mask's image.
        name: what the message calls a mask without a name.

    Raises:
        InputError: nothing of the mask lies on the grid.
    """
    inside = nearest(mask.with_data(mask.data != 0), grid)
    if not inside.any():
        raise InputError(f"{mask.name or name}: the mask does not meet its image. Check that it belongs to it.")
    return inside
