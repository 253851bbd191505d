# SPDX-License-Identifier: Apache-2.0
"""Images on another grid, through an affine map, by linear interpolation; and images blurred."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..imaging.grid import Grid
from ..imaging.resampling import slabs
from ..imaging.volume import Volume
from ..support.torch_device import is_cuda

if TYPE_CHECKING:
    import torch

_DEVICE_POINTS = 1 << 21  # whose coordinates a GPU holds at a time
_BLUR_RADIUS = 3  # standard deviations, beyond which a Gaussian counts as 0


def linear(
    volume: Volume, grid: Grid, matrix: np.ndarray | None = None, outside: float = 0.0, device: str = "cpu"
) -> np.ndarray:
    """The image at the points of a grid, mapped by an affine first.

    Args:
        volume: image.
        grid: where it is wanted.
        matrix: (d+1, d+1) LPS mm, point of the grid -> point of the volume; identity by default.
        outside: value beyond the volume.
        device: a torch device; it is used if it is a CUDA GPU, and else the CPU.

    Returns:
        float32 of grid.shape; the volume's own array where nothing changes.
    """
    import torch

    from ..geodesics.sampling import sample_linear

    if matrix is None and volume.grid.same_as(grid, 1e-6):
        return volume.data
    place = torch.device(device if is_cuda(device) else "cpu")
    data = torch.tensor(volume.data, dtype=torch.float32, device=place)
    result = np.empty(grid.shape, dtype=np.float32)
    parts = _slabs_on(place, volume.grid, grid, matrix) if is_cuda(device) else slabs(volume.grid, grid, matrix)
    for part, index in parts:
        values = sample_linear(data, torch.as_tensor(index), outside)
        result[part] = values.cpu().numpy().reshape(result[part].shape)
    return result


def _slabs_on(
    device: torch.device, source: Grid, grid: Grid, matrix: np.ndarray | None
) -> Iterator[tuple[slice, torch.Tensor]]:
    """`imaging.resampling.slabs`, made where they are used: they are larger than the images."""
    import torch

    d = grid.ndim
    combined = source.inverse_affine @ (np.eye(d + 1) if matrix is None else matrix) @ grid.affine
    rows = max(1, _DEVICE_POINTS // max(1, math.prod(grid.shape[1:])))
    for start in range(0, grid.shape[0], rows):
        part = slice(start, min(start + rows, grid.shape[0]))
        ranges = [torch.arange(part.start, part.stop), *map(torch.arange, grid.shape[1:])]
        ranges = [
            x.to(device, torch.float64).view([-1 if a == b else 1 for b in range(d)]) for a, x in enumerate(ranges)
        ]
        axes = [
            (sum(float(row[a]) * ranges[a] for a in range(d)) + float(shift)).float()
            for row, shift in zip(combined[:d, :d], combined[:d, d], strict=True)
        ]
        shape = (part.stop - part.start, *grid.shape[1:])
        yield part, torch.stack([x.expand(shape) for x in axes], -1).reshape(-1, d)


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
