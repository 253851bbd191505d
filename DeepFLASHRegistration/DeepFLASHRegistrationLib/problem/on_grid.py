# SPDX-License-Identifier: Apache-2.0
"""From the lattice on which a geodesic's map is known to the voxels of any grid, a slice at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..imaging.grid import over_indices

if TYPE_CHECKING:
    import torch

    from ..geodesics.band import Lattice

# Normalized coordinates beyond it lie outside any lattice, and overflow nothing.
FAR = 1e3


class Interpolated(Protocol):
    """A displacement known on a lattice, between its points."""

    def slice(self, k: int, ranges: Sequence[np.ndarray]) -> np.ndarray | None:
        """(d, *ranges) at the voxels with this first index and those ranges of the others; None at rest."""

    def at(self, index: np.ndarray) -> np.ndarray:
        """(d, n) at voxels (n, d)."""


class OnGrid:
    """A displacement field in mm: an affine function of the voxel, and what is known on a lattice if there is any."""

    def __init__(self, slope: np.ndarray, base: np.ndarray, rest: Interpolated | None):
        """``slope`` (d, d) times the index plus ``base`` (d,), LPS mm."""
        self.slope, self.base, self.rest = slope, base, rest

    def fill(self, out: np.ndarray, ranges: Sequence[np.ndarray]) -> None:
        """Writes the field at these ranges of indices into an array (*ranges, d), float32."""
        still = not self.slope.any() and not self.base.any()
        for row, k in enumerate(ranges[0]):  # slice by slice, which stays in the processor's cache
            u = None if self.rest is None else self.rest.slice(int(k), ranges[1:])
            if still:
                out[row] = 0 if u is None else np.moveaxis(u, 0, -1)
                continue
            for i, part in enumerate(over_indices(self.slope, self.base, [np.array([k]), *ranges[1:]])):
                total = part[0].astype(np.float32)
                if u is not None:
                    total += u[i]
                out[row, ..., i] = total

    def at(self, index: np.ndarray) -> np.ndarray:
        """The field (n, d) at voxels (n, d), bit by bit as `fill` gives it."""
        total = np.empty(index.shape, dtype=np.float32)
        for i, (row, start) in enumerate(zip(self.slope, self.base, strict=True)):
            part = np.full(len(index), start)
            for axis in range(index.shape[1]):
                part = part + row[axis] * index[:, axis]
            total[:, i] = part
        if self.rest is not None:
            total += self.rest.at(index).T
        return total


class Along:
    """On a grid whose axes are those of the domain, in any order and sense: Keys' cubic convolution; outside, rest."""

    def __init__(self, u: torch.Tensor, lattice: Lattice, positions: Sequence[np.ndarray], axes: Sequence[int]):
        """u (d, *lattice.shape), any components; for each axis of the grid the positions of its voxels along the
        domain's axis that ``axes`` names, in units of length."""
        import torch

        from ..geodesics.band import cubic_matrix, cubic_weights

        u = u.permute(0, *(1 + axis for axis in axes))
        lengths = [lattice.step[axis] * lattice.shape[axis] for axis in axes]
        inside = [(x >= 0) & (x <= length) for x, length in zip(positions, lengths, strict=True)]
        # A product per axis but the first, of which each slice needs but four of the lattice's.
        for a in reversed(range(1, len(axes))):
            matrix = cubic_matrix(lattice, axes[a], torch.from_numpy(positions[a]))
            matrix = (matrix * torch.from_numpy(inside[a])[:, None]).to(u)
            u = (u.movedim(a + 1, -1) @ matrix.T).movedim(-1, a + 1)
        self.rows = u.contiguous().cpu().numpy()
        columns, weights = cubic_weights(lattice, axes[0], torch.from_numpy(positions[0]))
        self.columns = columns.numpy()
        self.weights = (weights.numpy() * inside[0][:, None]).astype(np.float32)

    def slice(self, k: int, ranges: Sequence[np.ndarray]) -> np.ndarray | None:
        weights = self.weights[k]
        if not weights.any():
            return None
        box = tuple(slice(int(r[0]), int(r[-1]) + 1) if len(r) else slice(0) for r in ranges)
        total = None
        for column, weight in zip(self.columns[k], weights, strict=True):
            if weight:
                part = weight * self.rows[(slice(None), column, *box)]
                total = part if total is None else np.add(total, part, out=total)
        return total

    def at(self, index: np.ndarray) -> np.ndarray:
        total = np.zeros((len(self.rows), len(index)), dtype=np.float32)
        for column, weight in zip(self.columns.T, self.weights.T, strict=True):
            total += weight[index[:, 0]] * self.rows[(slice(None), column[index[:, 0]], *index.T[1:])]
        return total


class Across:
    """On any grid: linear between the points of a lattice, which becomes up to twice as fine first."""

    def __init__(self, u: torch.Tensor, lattice: Lattice, wanted: Sequence[int], to_lattice: Normalizing):
        """u (d, *lattice.shape); ``wanted``: points per axis that are worth having."""
        from ..geodesics.band import Lattice, Upsampler

        shape = tuple(min(2 * n, max(n, m)) for n, m in zip(lattice.shape, wanted, strict=True))
        if shape != lattice.shape:
            finer = Lattice.cells(shape, [step * n for step, n in zip(lattice.step, lattice.shape, strict=True)])
            u = Upsampler(lattice, finer, u.dtype, u.device)(u)
            lattice = finer
        self.u = u
        self.matrix, self.offset = to_lattice(lattice)

    def slice(self, k: int, ranges: Sequence[np.ndarray]) -> np.ndarray:
        points = np.empty((*map(len, ranges), len(self.matrix)), dtype=np.float32)
        for a, part in enumerate(over_indices(self.matrix, self.offset, [np.array([k]), *ranges])):
            points[..., -1 - a] = part[0]
        return self._sampled(points)

    def at(self, index: np.ndarray) -> np.ndarray:
        d = index.shape[1]
        points = np.empty((len(index), d), dtype=np.float32)
        for a, (row, start) in enumerate(zip(self.matrix, self.offset, strict=True)):
            part = np.full(len(index), start)
            for axis in range(d):
                part = part + row[axis] * index[:, axis]
            points[:, -1 - a] = part
        return self._sampled(points.reshape(-1, *[1] * (d - 2), d)).reshape(len(self.u), -1)

    def _sampled(self, points: np.ndarray) -> np.ndarray:
        import torch
        from torch.nn.functional import grid_sample

        near = torch.from_numpy(points.clip(-FAR, FAR, out=points)).to(self.u.device)[None, None]
        with torch.no_grad():
            return grid_sample(self.u[None], near, align_corners=True)[0, :, 0].cpu().numpy()


class Normalizing(Protocol):
    def __call__(self, lattice: Lattice) -> tuple[np.ndarray, np.ndarray]:
        """(matrix, offset) from a grid's indices to normalized coordinates (-1 … 1) of a lattice, (d, d) and (d,)."""


def parallel(ratio: np.ndarray) -> tuple[list[int], np.ndarray] | None:
    """For each axis of a grid the domain's axis that it runs along, and by how many of its voxels a step goes; None if
    they are not parallel.

    ratio: (d, d), from differences of a grid's indices to those of the domain's.
    """
    d = len(ratio)
    order = np.abs(ratio).argmax(1)  # of each of the domain's axes, the grid's
    along = ratio[np.arange(d), order]
    if len(set(order)) < d or np.abs(ratio).sum() - np.abs(along).sum() >= 1e-6:
        return None
    axes = np.argsort(order)
    return axes.tolist(), along[axes]


def finer(lengths: Sequence[float], spacing: float) -> list[int]:
    """Points per axis of a domain of these lengths that lie no further apart than a spacing."""
    return [math.ceil(length / spacing - 1e-6) for length in lengths]
