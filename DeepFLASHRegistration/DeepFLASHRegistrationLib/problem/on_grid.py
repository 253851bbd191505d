# SPDX-License-Identifier: Apache-2.0
"""From the lattice on which a geodesic's map is known to the voxels of any grid, a slice at a time."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..imaging.grid import over_indices

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Of a wave ω, linear interpolation of its values at voxels leaves sinc²(ω/2) = 1 − ω²/12 + … on average over where one
# looks; of f − (f₋ − 2f + f₊) / 12 it leaves the whole.
_SHARP = 1 / 12


class OnGrid:
    """A displacement field in mm: an affine function of the voxel, and what is known on a lattice if there is any."""

    def __init__(self, slope: np.ndarray, base: np.ndarray, rest: Interpolated | None):
        """``slope`` (d, d) times the index plus ``base`` (d,), LPS mm."""
        self.slope, self.base, self.rest = slope, base, rest

    @property
    def device(self) -> str:
        """Where `tensor` works; the others work on the host."""
        return "cpu" if self.rest is None else str(self.rest.device)

    def on_host(self) -> OnGrid:
        """The same without a device."""
        return OnGrid(self.slope, self.base, self.rest and self.rest.on_host())

    def fill(self, out: np.ndarray, ranges: Sequence[np.ndarray]) -> None:
        """Writes the field at these ranges of indices into an array (*ranges, d), float32; of what is on the host."""
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

    def tensor(self, ranges: Sequence[np.ndarray]) -> Tensor:
        """The field (d, *ranges) at these ranges of indices, on the device."""
        import torch

        d = len(ranges)
        total = self.rest.slab(ranges)
        for axis, index in enumerate(ranges):
            part = np.outer(self.slope[:, axis], index) + (self.base[:, None] if axis == 0 else 0)
            shape = [len(index) if a == axis else 1 for a in range(d)]
            total += torch.from_numpy(part.astype(np.float32)).to(total.device).view(d, *shape)
        return total

    def at(self, index: Tensor) -> Tensor:
        """The field (n, d) at voxels (n, d), on their device; on the host bit by bit as `fill` gives it."""
        import torch

        total = torch.empty(index.shape, device=index.device)
        for i, (row, start) in enumerate(zip(self.slope.tolist(), self.base.tolist(), strict=True)):
            part = start
            for weight, along in zip(row, index.T, strict=True):
                part = part + weight * along.double()
            total[:, i] = part
        if self.rest is not None:
            total += self.rest.at(index).T
        return total


@dataclass(frozen=True, eq=False)
class Line:
    """Points along one axis of a grid between which its voxels are interpolated, by cubic splines.

    Attributes:
        positions: (m,) float64, where the points lie, counted in voxels.
        first: from which voxel on there is anything but rest.
        columns, weights: (n, taps), for the voxels from there on, of which points each one is made, and by what.
        prepared: (m, m), what the values at the points are multiplied by before, or None.
    """

    positions: np.ndarray
    first: int
    columns: np.ndarray
    weights: np.ndarray
    prepared: torch.Tensor | None

    @classmethod
    def of(cls, size: int, reach: tuple[float, float], anchor: float, step: float, between: bool) -> Line:
        """For an axis of ``size`` voxels, at rest beyond its ``reach``: points at ``anchor`` and by steps of ``step``
        on both sides of it; or the voxels, if they lie farther apart. ``between``: see `Deformation.field`."""
        lower, upper = reach
        first, last = max(0, math.ceil(lower - 1e-9)), min(size - 1, math.floor(upper + 1e-9))
        voxels = np.arange(first, last + 1, dtype=np.float64)
        if step <= 1:
            columns = np.arange(len(voxels))[:, None] + ([-1, 0, 1] if between else [0])
            weights = np.broadcast_to([-_SHARP, 1 + 2 * _SHARP, -_SHARP] if between else [1.0], columns.shape)
            columns = columns.clip(0, max(0, len(voxels) - 1))
            return cls(voxels, first, columns, weights.astype(np.float32), None)
        # All of them, also beyond the grid: then a part of it finds the same numbers.
        begin, end = math.floor((lower - anchor) / step) - 1, math.ceil((upper - anchor) / step) + 1
        positions = anchor + step * np.arange(begin, end + 1)
        count = len(positions)
        place = (voxels - positions[0]) / step
        columns = np.floor(place).astype(int)[:, None] + (np.arange(-2, 4) if between else np.arange(-1, 3))
        away = place[:, None] - columns
        weights = _spline(away)
        if between:
            weights -= _SHARP * (_spline(away - 1 / step) - 2 * weights + _spline(away + 1 / step))
        weights[(columns < 0) | (columns >= count)] = 0
        return cls(positions, first, columns.clip(0, count - 1), weights.astype(np.float32), _from_values(count))

    def matrix(self, size: int) -> torch.Tensor:
        """All of it as one matrix (size, m), float64."""
        import torch

        whole = torch.zeros(size, len(self.positions), dtype=torch.float64)
        rows = slice(self.first, self.first + len(self.columns))
        whole[rows].scatter_add_(1, torch.from_numpy(self.columns), torch.from_numpy(self.weights).double())
        return whole if self.prepared is None else whole @ self.prepared


def _spline(x: np.ndarray) -> np.ndarray:
    """The cubic B-spline, whose knots are the integers."""
    x = np.abs(x)
    return np.where(x < 1, (4 - 6 * x**2 + 3 * x**3) / 6, np.maximum(2 - x, 0) ** 3 / 6)


def _from_values(count: int) -> torch.Tensor:
    """What values at so many points are multiplied by to become a cubic spline's coefficients, which end there."""
    import torch

    ones = torch.ones(count, dtype=torch.float64)
    return torch.linalg.inv((4 * torch.diag(ones) + torch.diag(ones[1:], 1) + torch.diag(ones[1:], -1)) / 6)


class Interpolated:
    """A displacement known at points along the axes of a grid, between them."""

    def __init__(self, u: Tensor, line: Line, matrices: Sequence[Tensor]):
        """u (d, *points), of the first axis the spline's coefficients; its Line; of the other axes the matrices from
        points to voxels."""
        self._u, self._line, self._matrices = u, line, matrices
        self.first, self.columns, self.weights = line.first, line.columns, line.weights
        self._rows: Tensor | None = None
        self._lock = threading.Lock()

    @classmethod
    def of(cls, u: Tensor, lines: Sequence[Line], shape: Sequence[int]) -> Interpolated:
        """u (d, *points), any components; for each axis of the grid of this shape its points."""
        line = lines[0]
        if line.prepared is not None:
            u = (line.prepared.to(u) @ u.flatten(2)).view_as(u)
        return cls(u, line, [other.matrix(n).to(u) for other, n in zip(lines[1:], shape[1:], strict=True)])

    def on_host(self) -> Interpolated:
        """The same without a device."""
        return Interpolated(self._u.cpu(), self._line, [matrix.cpu() for matrix in self._matrices])

    @property
    def device(self) -> torch.device:
        """Where `slab` works."""
        return self._u.device

    @property
    def rows(self) -> Tensor:
        """(d, m, *shape[1:]): the points along the first axis, of which each slice needs but a few."""
        from ..geodesics.band import separable

        with self._lock:
            if self._rows is None:
                self._rows = separable(self._u, list(self._matrices)).contiguous()
            return self._rows

    def forget(self) -> None:
        """Keeps no more than what the rows are made of, when next they are asked for: they are large."""
        self._rows = None

    def slice(self, k: int, ranges: Sequence[np.ndarray]) -> np.ndarray | None:
        """(d, *ranges) at the voxels with this first index and those ranges of the others; None at rest."""
        k -= self.first
        if not 0 <= k < len(self.columns):
            return None
        box, rows = _box(ranges), self.rows.numpy()
        total = None
        for column, weight in zip(self.columns[k], self.weights[k], strict=True):
            part = weight * rows[(slice(None), column, *box)]
            total = part if total is None else np.add(total, part, out=total)
        return total

    def slab(self, ranges: Sequence[np.ndarray]) -> Tensor:
        """(d, *ranges) at the voxels of these ranges, on the device."""
        import torch

        whole = self.rows
        total = whole.new_zeros((len(whole), *map(len, ranges)))
        k = ranges[0] - self.first
        inside = np.flatnonzero((k >= 0) & (k < len(self.columns)))
        if len(inside):
            there, k = slice(inside[0], inside[-1] + 1), k[inside]
            rows = whole[(slice(None), slice(None), *_box(ranges[1:]))]
            for column, weight in zip(self.columns[k].T, self.weights[k].T, strict=True):
                column, weight = (torch.from_numpy(x.copy()).to(rows.device) for x in (column, weight))
                shape = [-1 if axis == 1 else 1 for axis in range(rows.ndim)]
                total[:, there] += rows.index_select(1, column) * weight.view(shape)
        return total

    def at(self, index: Tensor) -> Tensor:
        """(d, n) at voxels (n, d), on their device."""
        import torch

        columns, weights = (torch.from_numpy(x.T.copy()).to(index.device) for x in (self.columns, self.weights))
        k = index[:, 0] - self.first
        total = torch.zeros(len(self._u), len(index), device=index.device)
        inside = (k >= 0) & (k < len(self.columns))
        if not len(self.columns):
            return total
        k = torch.where(inside, k, 0)
        rows, rest = self.rows, flat_index(index[:, 1:], self.rows.shape[2:])
        for column, weight in zip(columns, weights, strict=True):
            flat, weight = column[k] * rows[0, 0].numel() + rest, weight[k]
            for component, values in zip(total, rows, strict=True):
                component += weight * values.reshape(-1).index_select(0, flat)
        return total * inside


def flat_index(index: Tensor, shape: Sequence[int]) -> Tensor:
    """Where voxels (n, d) of an array lie in its memory."""
    flat = 0
    for along, n in zip(index.T, shape, strict=True):
        flat = flat * n + along
    return flat


def _box(ranges: Sequence[np.ndarray]) -> tuple[slice, ...]:
    """Consecutive indices as slices."""
    return tuple(slice(int(r[0]), int(r[-1]) + 1) if len(r) else slice(0) for r in ranges)
