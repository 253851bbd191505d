# SPDX-License-Identifier: Apache-2.0
"""An image as the affine alignment sees it: averaged to a few resolutions, its foreground, and samples of it in mm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..imaging.grid import Grid
from ..imaging.intensities import background_value, dilated, foreground, normalize
from ..imaging.resampling import mask_on_grid
from ..imaging.size import BRAIN_RADIUS_MM, radius_mm
from ..imaging.volume import Volume
from ..support.errors import InputError

# Lengths of an adult's brain; all follow the object's size.
LEVELS_MM = (8.0, 4.0, 2.0)  # edge of the voxels
BINS = 32
_MAX_POINTS = (6000, 40_000, 120_000)
_RIM_MM = 8.0  # background around the object counts too: the outline aligns as much as what is inside
_TOUCHING = 0.05  # share of a face of the field of view that the object must fill to be taken as cut off there


class Pyramid:
    """An image, scaled to [0, 1], with its foreground and mask, at the resolutions of LEVELS_MM (finest last)."""

    def __init__(self, volume: Volume, mask: Volume | None) -> None:
        self.name = volume.name or "image"
        self.masked = mask is not None
        inside = foreground(volume)
        if not inside.any() or volume.data.min() == volume.data.max():
            raise InputError(
                f"{self.name} is empty: every voxel is {float(volume.data.flat[0]):g}. Choose another image."
            )
        # Beyond a face that the object reaches, nothing is known; beyond others there is more background. (axis, end)
        constant = background_value(volume) is not None
        self.open = [
            [not constant or np.take(inside, end, axis=axis).mean() > _TOUCHING for end in (0, -1)]
            for axis in range(volume.ndim)
        ]
        limits = None
        if mask is not None:
            limits = mask_on_grid(mask, volume.grid)
            if (inside & limits).any():
                inside = inside & limits
        scaled = normalize(volume.with_data(volume.data), limits)
        channels = [scaled.data, inside.astype(np.float32)]
        if limits is not None:
            # What the mask excludes must not leak into the averages beside it.
            channels = [scaled.data * limits, channels[1], limits.astype(np.float32)]
        grid = volume.grid
        self.radius = radius_mm(grid, inside)
        self.scale = self.radius / BRAIN_RADIUS_MM
        self.levels: list[tuple[Grid, list[np.ndarray]]] = []
        for size in (self.scale * level for level in reversed(LEVELS_MM)):
            # Whole factors only; no axis below 4 voxels.
            factors = [
                max(1, min(int(size / h + 0.501), n // 4)) for h, n in zip(grid.spacing, grid.shape, strict=True)
            ]
            channels = [averaged(c, factors) for c in channels]
            grid = grid.resampled(factor=factors)
            value = channels[0] if limits is None else channels[0] / np.maximum(channels[2], 1e-6)
            self.levels.insert(0, (grid, [value, *channels[1:]]))
        weights = self.levels[1][1][1]
        used = np.argwhere(weights > 0)
        self.center = self.levels[1][0].index_to_physical(
            np.average(used, axis=0, weights=weights[weights > 0].astype(np.float64))
        )

    def points(self, level: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """LPS mm (n, d), values and bins (n,) of the voxels that count."""
        grid, channels = self.levels[level]
        value, inside = channels[:2]
        near = dilated(inside > half(inside), [max(1, round(_RIM_MM * self.scale / h)) for h in grid.spacing])
        if len(channels) > 2:
            near &= channels[2] > half(channels[2])
        index = np.argwhere(near)
        if len(index) > _MAX_POINTS[level]:
            chosen = np.random.default_rng(0).permutation(len(index))[: _MAX_POINTS[level]]
            index = index[np.sort(chosen)]
        where = tuple(index.T)
        value = np.ascontiguousarray(value[where])
        # Background is a class of its own, however dark the tissue.
        bins = 1 + np.minimum((value * (BINS - 1)).astype(np.intp), BINS - 2)
        bins[inside[where] < half(inside)] = 0
        return grid.index_to_physical(index), value, bins

    def moments(self) -> np.ndarray:
        """(d, d) unit vectors of the principal axes of the foreground, longest last."""
        grid, channels = self.levels[0]
        index = np.argwhere(channels[1] > half(channels[1]))
        if len(index) < 2:
            return np.eye(grid.ndim)
        offsets = grid.index_to_physical(index) - self.center
        return np.linalg.eigh(offsets.T @ offsets)[1]

    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper end of the foreground along each axis of space, relative to the center."""
        grid, channels = self.levels[0]
        points = grid.index_to_physical(np.argwhere(channels[1] >= min(0.5, channels[1].max()))) - self.center
        low, high = np.percentile(points, (1, 99), axis=0)
        return low, high


class Sampler:
    """The moving image at one level: value and gradient (in LPS) by linear interpolation."""

    def __init__(self, item: Pyramid, level: int) -> None:
        grid, channels = item.levels[level]
        d = grid.ndim
        value = np.pad(channels[0], 1, mode="edge" if np.all(item.open) else "constant")
        slopes = np.stack(np.gradient(value), -1)
        slopes = slopes @ (grid.direction / grid.spacing).T.astype(np.float32)
        self.table = np.ascontiguousarray(np.concatenate([value[..., None], slopes], -1)).reshape(-1, d + 1)
        self.values = value.reshape(-1, 1)
        self.mask = None
        if len(channels) > 2:
            self.mask = np.pad(channels[2] > half(channels[2]), 1).reshape(-1)
        self.open = item.open
        self.shape = value.shape
        self.strides = [int(np.prod(value.shape[a + 1 :])) for a in range(d)]
        # LPS mm relative to the object's center -> index in the padded array.
        self.linear = grid.inverse_affine[:d, :d]
        self.shift = grid.physical_to_index(item.center) + 1

    def __call__(self, points: np.ndarray, gradient: bool) -> tuple[np.ndarray, np.ndarray]:
        """At points (d, n): values, below them the gradient if asked for, (1 or 1 + d, n); where valid (n,)."""
        d = len(self.shape)
        base: np.ndarray | int = 0
        weights = []
        valid = np.ones(points.shape[1], dtype=bool)
        for axis in range(d):
            x = _row(self.linear[axis], self.shift[axis], points)
            if self.open[axis][0]:
                valid &= x >= 1
            if self.open[axis][1]:
                valid &= x <= self.shape[axis] - 2
            x = np.clip(x, 0, self.shape[axis] - 1.001)
            cell = x.astype(np.int32)
            base = base + cell * self.strides[axis]
            fraction = x - cell
            weights.append((1 - fraction, fraction))
        table = self.table if gradient else self.values
        result: np.ndarray | int = 0
        for corner in range(2**d):
            bits = [(corner >> axis) & 1 for axis in range(d)]
            weight = weights[0][bits[0]]
            for axis in range(1, d):
                weight = weight * weights[axis][bits[axis]]
            offset = sum(s for s, bit in zip(self.strides, bits, strict=True) if bit)
            result = result + table.take(base + offset, axis=0) * weight[:, None]
        if self.mask is not None:
            nearest = base
            for axis in range(d):
                nearest = nearest + (weights[axis][1] > 0.5) * self.strides[axis]
            valid &= self.mask[nearest]
        return result.T, valid


def half(share: np.ndarray) -> float:
    """The share from which on a voxel counts: a half; of what is too thin to fill a voxel by half, half of the most."""
    most = float(share.max())
    return 0.5 if most > 0.5 else most / 2


def averaged(data: np.ndarray, factors: Sequence[int]) -> np.ndarray:
    """Means over blocks of `factors` voxels; the last block repeats the border."""
    for axis, factor in enumerate(factors):
        if factor == 1:
            continue
        short = -data.shape[axis] % factor
        if short:
            data = np.pad(data, [(0, short if a == axis else 0) for a in range(data.ndim)], mode="edge")
        parts = [data[(slice(None),) * axis + (slice(i, None, factor),)] for i in range(factor)]
        mean = parts[0] + parts[1]
        for part in parts[2:]:
            mean += part
        data = mean * np.float32(1 / factor)
    return data


def _row(linear: np.ndarray, shift: float, points: np.ndarray) -> np.ndarray:
    """linear @ points + shift for one row, in single precision."""
    result = points[0] * np.float32(linear[0])
    for weight, coordinate in zip(linear[1:], points[1:], strict=True):
        result += coordinate * np.float32(weight)
    result += np.float32(shift)
    return result


def mapped(found: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (d, n) under a (d, d+1) map."""
    return np.stack([_row(weights[:-1], weights[-1], points) for weights in found])
