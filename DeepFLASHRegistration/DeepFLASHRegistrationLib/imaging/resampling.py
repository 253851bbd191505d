# SPDX-License-Identifier: Apache-2.0
"""Where the points of one grid lie in another, and what is nearest to them there: labels and masks on another grid."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..support.errors import InputError
from .grid import Grid, over_indices
from .volume import Volume

_SLAB_VOXELS = 32_768  # whose coordinates stay in the processor's cache


def slabs(
    source: Grid, grid: Grid, matrix: np.ndarray | None = None, displacement: np.ndarray | None = None
) -> Iterator[tuple[slice, np.ndarray]]:
    """Where the points of a grid lie in another grid, slab by slab.

    Args:
        source: the other grid.
        grid: whose points x are taken.
        matrix: (d+1, d+1) LPS mm, point of the grid -> point of the source; identity by default.
        displacement: float32 (*grid.shape, d), LPS mm, added to what the matrix makes of x; none by default.

    Yields:
        A slice of the grid's first axis, and the coordinates of its points in voxels of the source, float32 (n, d).
    """
    d = grid.ndim
    to_index = source.inverse_affine
    combined = to_index @ (np.eye(d + 1) if matrix is None else matrix) @ grid.affine
    turn = to_index[:d, :d].astype(np.float32)
    rows = max(1, _SLAB_VOXELS // max(1, int(np.prod(grid.shape[1:]))))
    for start in range(0, grid.shape[0], rows):
        part = slice(start, min(start + rows, grid.shape[0]))
        index = np.empty((part.stop - part.start, *grid.shape[1:], d), dtype=np.float32)
        ranges = [np.arange(part.start, part.stop), *map(np.arange, grid.shape[1:])]
        # The affine part in double precision axis by axis, the small rest in single.
        for i, base in enumerate(over_indices(combined[:d, :d], combined[:d, d], ranges)):
            index[..., i] = base
            if displacement is not None:
                for a in range(d):
                    if turn[i, a] != 0:
                        index[..., i] += turn[i, a] * displacement[part][..., a]
        yield part, index.reshape(-1, d)


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
    data = volume.data.reshape(-1)
    result = np.empty(grid.shape, dtype=data.dtype)
    for part, index in slabs(volume.grid, grid, matrix):
        inside, flat = np.ones(len(index), dtype=bool), np.zeros(len(index), dtype=np.int64)
        for axis, n in enumerate(volume.grid.shape):
            near = np.floor(index[:, axis] + np.float32(0.5))
            inside &= (near >= 0) & (near < n)
            flat = flat * n + np.clip(near, 0, n - 1).astype(np.int64)
        result[part] = np.where(inside, data[flat], data.dtype.type(0)).reshape(result[part].shape)
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
