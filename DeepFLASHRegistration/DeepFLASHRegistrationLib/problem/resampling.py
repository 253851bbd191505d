# SPDX-License-Identifier: Apache-2.0
"""Images on another grid, through an affine map, by linear interpolation; and images blurred."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..imaging.grid import Grid
from ..imaging.resampling import slabs
from ..imaging.volume import Volume

_BLUR_RADIUS = 3  # standard deviations, beyond which a Gaussian counts as 0


def linear(volume: Volume, grid: Grid, matrix: np.ndarray | None = None, outside: float = 0.0) -> np.ndarray:
    """The image at the points of a grid, mapped by an affine first.

    Args:
        volume: image.
        grid: where it is wanted.
        matrix: (d+1, d+1) LPS mm, point of the grid -> point of the volume; identity by default.
        outside: value beyond the volume.

    Returns:
        float32 of grid.shape; the volume's own array where nothing changes.
    """
    import torch

    from ..geodesics.sampling import sample_linear

    if matrix is None and volume.grid.same_as(grid, 1e-6):
        return volume.data
    data = torch.tensor(volume.data, dtype=torch.float32)
    result = np.empty(grid.shape, dtype=np.float32)
    for part, index in slabs(volume.grid, grid, matrix):
        result[part] = sample_linear(data, torch.from_numpy(index), outside).numpy().reshape(result[part].shape)
    return result


def blurred(values: np.ndarray, sigma: Sequence[float]) -> np.ndarray:
    """An array under Gaussians of these standard deviations in voxels, axis by axis; its border values continue.

    Returns:
        float32 of the same shape.
    """
    import torch
    from torch.nn import functional as F

    data = torch.tensor(values, dtype=torch.float32)
    for axis, width in enumerate(sigma):
        radius = math.ceil(_BLUR_RADIUS * width)
        weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / width) ** 2)
        lines = data.movedim(axis, -1)
        shape = lines.shape
        lines = F.pad(lines.reshape(-1, 1, shape[-1]), (radius, radius), mode="replicate")
        data = F.conv1d(lines, (weights / weights.sum())[None, None]).reshape(shape).movedim(-1, axis)
    return data.contiguous().numpy()
