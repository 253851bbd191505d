# SPDX-License-Identifier: Apache-2.0
"""Resampling images and labels through a displacement field in mm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..imaging.grid import Grid, over_indices
from ..imaging.volume import Volume

if TYPE_CHECKING:
    from ..imaging.segmentation import Segmentation

_SLAB_VOXELS = 32_768  # whose coordinates stay in the processor's cache


def warp(
    volume: Volume, grid: Grid, displacement: np.ndarray, *, outside: float = 0.0, interpolation: str = "linear"
) -> np.ndarray:
    """The volume at x + u(x) for the points x of a grid.

    Args:
        volume: the moving image, in any units.
        grid: the fixed grid.
        displacement: float32 (*grid.shape, d), LPS mm, fixed -> moving, affine included.
        outside: value beyond the volume.
        interpolation: "linear", "cubic" (Keys) or "nearest".

    Returns:
        float32 of grid.shape; with "nearest", the volume's own type.
    """
    import torch

    from ..geodesics.sampling import sample_cubic, sample_linear, sample_nearest

    samplers = {"linear": sample_linear, "cubic": sample_cubic, "nearest": sample_nearest}
    if interpolation not in samplers:
        raise ValueError(f"Unknown interpolation {interpolation!r}; choose one of {', '.join(samplers)}.")
    data = torch.tensor(volume.data)
    if interpolation != "nearest":
        data = data.float()
    result = np.empty(grid.shape, dtype=volume.data.dtype if interpolation == "nearest" else np.float32)
    for part, index in _indices(volume.grid, grid, displacement):
        values = samplers[interpolation](data, torch.from_numpy(index), outside)
        result[part] = values.numpy().reshape(result[part].shape)
    return result


def warp_labels(labels: Volume, grid: Grid, displacement: np.ndarray) -> np.ndarray:
    """The label map at x + u(x): at each point the label of largest linear-interpolation weight; 0 outside."""
    import torch

    from ..geodesics.sampling import LabelSampler

    label_at = LabelSampler(torch.tensor(labels.data))
    result = np.empty(grid.shape, dtype=labels.data.dtype)
    for part, index in _indices(labels.grid, grid, displacement):
        result[part] = label_at(torch.from_numpy(index)).numpy().reshape(result[part].shape)
    return result


def warp_segmentation(segmentation: Segmentation, grid: Grid, displacement: np.ndarray) -> Segmentation:
    """Each layer on its own by `warp_labels`, so that names, colors, terminology and overlaps stay what they are."""
    layers = [Volume(grid, warp_labels(each, grid, displacement), each.name) for each in segmentation.layers]
    return segmentation.with_layers(layers)


def _indices(source: Grid, grid: Grid, displacement: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Slabs of the grid with the source's voxel coordinates of x + u(x), float32 (n, d)."""
    d = grid.ndim
    to_index = source.inverse_affine
    combined = to_index @ grid.affine
    turn = to_index[:d, :d].astype(np.float32)
    rows = max(1, _SLAB_VOXELS // max(1, int(np.prod(grid.shape[1:]))))
    for start in range(0, grid.shape[0], rows):
        part = slice(start, min(start + rows, grid.shape[0]))
        field = displacement[part]
        index = np.empty((*field.shape[:-1], d), dtype=np.float32)
        ranges = [np.arange(part.start, part.stop), *map(np.arange, grid.shape[1:])]
        # The affine part in double precision axis by axis, the small rest in single.
        for i, base in enumerate(over_indices(combined[:d, :d], combined[:d, d], ranges)):
            index[..., i] = base
            for a in range(d):
                if turn[i, a] != 0:
                    index[..., i] += turn[i, a] * field[..., a]
        yield part, index.reshape(-1, d)
