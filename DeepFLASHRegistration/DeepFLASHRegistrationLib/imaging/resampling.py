# SPDX-License-Identifier: Apache-2.0
"""Where the points of one grid lie in another, and what is nearest to them there: labels and masks on another grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..support.errors import InputError
from ..support.side_by_side import side_by_side
from .grid import Grid, over_indices
from .volume import Volume

_SLAB_VOXELS = 32_768  # whose coordinates stay in the processor's cache
# Values (n,) at coordinates (n, d) in voxels, and their type.
Look = tuple[Callable[[np.ndarray], np.ndarray], Any]


def sampled(
    source: Grid,
    grid: Grid,
    values: Callable[[np.ndarray], np.ndarray],
    dtype: np.dtype | type,
    matrix: np.ndarray | None = None,
    displacement: np.ndarray | None = None,
) -> np.ndarray:
    """What is found in one grid at the points of another.

    Args:
        source: the grid that is looked at.
        grid: whose points x are taken.
        values: from coordinates in voxels of the source, float32 (n, d), to what is there, (n,); called for slabs of
            the grid, side by side.
        dtype: of the values.
        matrix: (d+1, d+1) LPS mm, point of the grid -> point of the source; identity by default.
        displacement: float32 (*grid.shape, d), LPS mm, added to what the matrix makes of x, of which slabs of the first
            axis are taken; none by default.

    Returns:
        Array of grid.shape.
    """
    return sampled_together(source, grid, [(values, dtype)], matrix, displacement)[0]


def sampled_together(
    source: Grid,
    grid: Grid,
    looks: Sequence[Look],
    matrix: np.ndarray | None = None,
    displacement: np.ndarray | None = None,
) -> list[np.ndarray]:
    """As `sampled`, of several things that lie in the same grid, each as its values and their dtype."""
    results = [np.empty(grid.shape, dtype=dtype) for _, dtype in looks]
    rows = max(1, _SLAB_VOXELS // max(1, int(np.prod(grid.shape[1:]))))
    places = _Places(source, grid, matrix, displacement)

    def fill(start: int) -> None:
        part = slice(start, min(start + rows, grid.shape[0]))
        index = places(part)
        for result, (values, _) in zip(results, looks, strict=True):
            result[part] = values(index).reshape(result[part].shape)

    for _ in side_by_side(fill, range(0, grid.shape[0], rows)):
        pass
    return results


class _Places:
    """Where the points of a grid lie in another; see `sampled`."""

    def __init__(self, source: Grid, grid: Grid, matrix: np.ndarray | None, displacement: np.ndarray | None):
        d = grid.ndim
        to_index = source.inverse_affine
        combined = to_index @ (np.eye(d + 1) if matrix is None else matrix) @ grid.affine
        self.linear, self.offset = combined[:d, :d], combined[:d, d]
        self.turn = to_index[:d, :d].astype(np.float32)
        self.shape, self.displacement = grid.shape, displacement

    def __call__(self, part: slice) -> np.ndarray:
        """Coordinates in voxels of the source, float32 (n, d), of a slab of the grid."""
        d = len(self.shape)
        index = np.empty((part.stop - part.start, *self.shape[1:], d), dtype=np.float32)
        ranges = [np.arange(part.start, part.stop), *map(np.arange, self.shape[1:])]
        moved = None if self.displacement is None else self.displacement[part]
        # The affine part in double precision axis by axis, the small rest in single.
        for i, base in enumerate(over_indices(self.linear, self.offset, ranges)):
            index[..., i] = base
            if moved is not None:
                for a in range(d):
                    if self.turn[i, a] != 0:
                        index[..., i] += self.turn[i, a] * moved[..., a]
        return index.reshape(-1, d)


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
    return sampled(volume.grid, grid, *nearest_values(volume), matrix)


def nearest_values(volume: Volume) -> Look:
    """What `sampled` needs to find the nearest voxel's value, 0 outside."""
    data = volume.data.reshape(-1)

    def values(index: np.ndarray) -> np.ndarray:
        inside, flat = np.ones(len(index), dtype=bool), np.zeros(len(index), dtype=np.int64)
        for axis, n in enumerate(volume.grid.shape):
            near = np.floor(index[:, axis] + np.float32(0.5))
            inside &= (near >= 0) & (near < n)
            flat = flat * n + np.clip(near, 0, n - 1).astype(np.int64)
        return np.where(inside, data[flat], data.dtype.type(0))

    return values, data.dtype


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
