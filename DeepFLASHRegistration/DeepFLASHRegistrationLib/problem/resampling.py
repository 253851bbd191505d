# SPDX-License-Identifier: Apache-2.0
"""Images on another grid, through an affine map, by linear interpolation; and images blurred."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..imaging.grid import Grid
from ..imaging.volume import Volume
from ..support.side_by_side import side_by_side
from ..support.torch_device import as_tensor, is_cuda

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .field import Field

_POINTS = 1 << 15  # whose coordinates stay in a processor's cache
_DEVICE_POINTS = 1 << 21  # whose coordinates a GPU holds at a time
_MOST = 0.6  # from this part of the points on, all are looked at rather than those that are near something
_BLUR_RADIUS = 3  # standard deviations, beyond which a Gaussian counts as 0


class Look(NamedTuple):
    """What is looked for in a grid: from coordinates in its voxels, float32 (n, d), to what is there, (n,)."""

    values: Callable[[Tensor], Tensor]
    dtype: torch.dtype


class Marks(NamedTuple):
    """Of each voxel what is known beforehand.

    Attributes:
        voxels: uint8 of the grid's shape, bits.
        near: the bit of voxels around which looks may find anything but
        rests: what each look finds elsewhere.
        wanted: whether what is known of the voxels nearest to the points is a result too.
    """

    voxels: np.ndarray
    near: int
    rests: tuple[float, ...]
    wanted: bool = True


def looked_up(
    source: Grid,
    grid: Grid,
    looks: Sequence[Look],
    matrix: np.ndarray | None = None,
    displacement: np.ndarray | Field | None = None,
    device: str = "cpu",
    marks: Marks | None = None,
) -> list[Tensor]:
    """What is found in one grid at the points of another.

    Args:
        source: the grid that is looked at.
        grid: whose points x are taken.
        looks: what is looked for, called for slabs of the grid; on processors side by side.
        matrix: (d+1, d+1) LPS mm, point of the grid -> point of the source; identity by default.
        displacement: float32 (*grid.shape, d), LPS mm, added to what the matrix makes of x; none by default.
        device: where the looks work: a CUDA GPU, or "cpu".
        marks: of the source's voxels; those nearest to the points come first in the result where wanted, 0 outside.

    Returns:
        Of each look an array of grid.shape, on the device.
    """
    import torch

    from ..geodesics.sampling import sample_nearest

    place = torch.device(device)
    results = [torch.empty(grid.shape, dtype=look.dtype, device=place) for look in looks]
    if marks is not None:
        voxels = as_tensor(marks.voxels).to(place)
        carried = torch.empty(grid.shape, dtype=torch.uint8, device=place) if marks.wanted else None
    apart = is_cuda(device)
    rows = max(1, (_DEVICE_POINTS if apart else _POINTS) // max(1, math.prod(grid.shape[1:])))
    places = _Places(source, grid, matrix, displacement, place)

    def fill(start: int) -> None:
        part = slice(start, min(start + rows, grid.shape[0]))
        index, near = places(part), None
        if marks is not None and (marks.wanted or not apart):
            marked = sample_nearest(voxels, index, 0)
            if carried is not None:
                carried[part] = marked.view(carried[part].shape)
            if not apart:
                near = (marked & marks.near).nonzero().flatten()
                if len(near) > _MOST * len(index):
                    near = None
        for number, (result, look) in enumerate(zip(results, looks, strict=True)):
            if near is None:
                result[part] = look.values(index).view(result[part].shape)
                continue
            slab = result[part].reshape(-1)
            slab.fill_(marks.rests[number])
            if len(near):
                slab.index_copy_(0, near, look.values(index.t().index_select(1, near).t()))

    starts = range(0, grid.shape[0], rows)
    for _ in map(fill, starts) if apart else side_by_side(fill, starts):
        pass
    return [carried, *results] if marks is not None and marks.wanted else results


class _Places:
    """Where the points of a grid lie in another; see `looked_up`."""

    def __init__(
        self,
        source: Grid,
        grid: Grid,
        matrix: np.ndarray | None,
        displacement: np.ndarray | Field | None,
        device: torch.device,
    ):
        import torch

        d = grid.ndim
        to_index = source.inverse_affine
        combined = to_index @ (np.eye(d + 1) if matrix is None else matrix) @ grid.affine
        self.turn = to_index[:d, :d].tolist()
        self.shape, self.displacement = grid.shape, displacement
        # Along each axis, what it adds to each coordinate: in double precision, of which the sum alone is rounded.
        axes = [np.outer(column, np.arange(n)) for n, column in zip(grid.shape, combined[:d, :d].T, strict=True)]
        axes[0] += combined[:d, d:]
        self.axes = [torch.from_numpy(axis).to(device) for axis in axes]

    def __call__(self, part: slice) -> Tensor:
        """Coordinates in voxels of the source, float32 (n, d), of a slab of the grid."""
        import torch

        d = len(self.shape)
        index = torch.empty((d, part.stop - part.start, *self.shape[1:]), device=self.axes[0].device)
        moved = None if self.displacement is None else self._moved(part)
        for i, row in enumerate(self.turn):
            total = self.axes[0][i, part]
            for axis in self.axes[1:]:
                total = total[..., None] + axis[i]
            index[i] = total
            if moved is not None:
                for a, weight in enumerate(row):
                    if weight:
                        index[i].add_(moved[a], alpha=weight)
        return index.view(d, -1).t()

    def _moved(self, part: slice) -> Tensor:
        """The displacement of a slab, (d, …)."""
        import torch

        from .field import Field

        if isinstance(self.displacement, Field):
            return self.displacement.tensor(part).to(self.axes[0].device)
        return torch.from_numpy(np.ascontiguousarray(self.displacement[part])).movedim(-1, 0).to(self.axes[0].device)


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
    if matrix is None and volume.grid.same_as(grid, 1e-6):
        return volume.data
    device = device if is_cuda(device) else "cpu"
    (found,) = looked_up(volume.grid, grid, [linear_values(volume, outside, device)], matrix, None, device)
    return found.cpu().numpy()


def linear_values(volume: Volume, outside: float = 0.0, device: str = "cpu") -> Look:
    """An image, interpolated linearly; ``outside``: value beyond it."""
    import torch

    from ..geodesics.sampling import sample_linear

    data = as_tensor(volume.data).to(device, torch.float32)
    return Look(lambda index: sample_linear(data, index, outside), torch.float32)


def nearest_values(volume: Volume, device: str = "cpu") -> Look:
    """The nearest voxel's value; 0 outside."""
    from ..geodesics.sampling import sample_nearest

    data = as_tensor(volume.data).to(device)
    return Look(lambda index: sample_nearest(data, index, 0), data.dtype)


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
