# SPDX-License-Identifier: Apache-2.0
"""Two images at one level of the alignment on a GPU: what their points give at a map, recorded once and replayed.

The same sums as `comparison` takes, of the same points, in double precision.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..geodesics.captured import Captured
from .comparison import Item, Outcome, Points
from .pyramid import BINS, Pyramid, half

_POINTS = 1 << 20  # looked at in one go


class DeviceComparison:
    """See comparison.Comparing."""

    def __init__(self, points: Points, moving: Pyramid, level: int, device: str) -> None:
        self.device, self.points = torch.device(device), points
        self.places, self.values = self._tensor(points.places), self._tensor(points.values)
        self.bins = self._tensor(points.bins).long()
        self._classes: Tensor | None = None  # (bins, n), 1 where a point is of that bin
        self._calls = {(ratio, slopes): Captured() for ratio in (False, True) for slopes in (False, True)}
        grid, channels = moving.levels[level]
        d = grid.ndim
        mode = "replicate" if np.all(moving.open) else "constant"
        value = F.pad(self._tensor(channels[0])[None, None], (1, 1) * d, mode=mode)[0, 0]
        slopes = torch.stack(torch.gradient(value))
        turn = self._tensor((grid.direction / grid.spacing).astype(np.float32))
        slopes = torch.einsum("ij,j...->i...", turn, slopes)
        self.table = torch.cat([value[None], slopes]).reshape(d + 1, -1).t().contiguous()
        self.mask = None
        if len(channels) > 2:
            self.mask = F.pad(self._tensor(channels[2]) > half(channels[2]), (1, 1) * d).reshape(-1)
        shape = self.table.new_tensor(value.shape)[:, None]
        self.last, self.most = shape - 2, shape - 1.001
        # Beyond an end that is not open, everything is known.
        ends = torch.tensor(moving.open, device=self.device)
        infinite = torch.full_like(self.last, torch.inf)
        self.lower = torch.where(ends[:, :1], 1.0, -infinite)
        self.upper = torch.where(ends[:, 1:], self.last, infinite)
        strides = [int(np.prod(value.shape[axis + 1 :])) for axis in range(d)]
        self.strides = torch.tensor(strides, device=self.device)[:, None]
        corners = list(itertools.product((0, 1), repeat=d))
        self.corners = torch.tensor(corners, device=self.device)[..., None]  # (corners, d, 1)
        self.offsets = (self.corners * self.strides).sum(1)  # (corners, 1)
        self.linear = self._tensor(grid.inverse_affine[:d, :d].astype(np.float32))
        self.shift = self._tensor((grid.physical_to_index(moving.center) + 1).astype(np.float32))[:, None]

    def products(self, found: np.ndarray, measure: str, derivatives: bool) -> tuple[np.ndarray, np.ndarray | None]:
        ratio = measure != "correlation"
        self._prepare(ratio)
        summed = self._calls[ratio, derivatives](
            lambda maps: self._summed(maps, ratio, derivatives), self._tensor(found[None].astype(np.float32))
        )
        sums = summed[0].cpu().numpy()
        rows = sums.shape[1]
        return sums[:rows], sums[rows:] if ratio else None

    def many(self, maps: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        self._prepare(True)
        found, most = [], max(1, _POINTS // self.places.shape[1])
        for first in range(0, len(maps), most):
            part = self._tensor(np.stack(maps[first : first + most]).astype(np.float32))
            sums = self._summed(part, True, False).cpu().numpy()
            found += [(each[: each.shape[1]], each[each.shape[1] :]) for each in sums]
        return found

    def sampled(self, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values, valid = self._sampled(self._mapped(self._tensor(found[None].astype(np.float32))), False)
        return values[0].cpu().numpy(), valid.cpu().numpy()

    def each(self, work: Callable[[Item], Outcome], items: Sequence[Item]) -> list[Outcome]:
        return [work(item) for item in items]

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.as_tensor(values, device=self.device)

    def _prepare(self, ratio: bool) -> None:
        if ratio and self._classes is None:
            self._classes = F.one_hot(self.bins, BINS).t().double()

    def _mapped(self, maps: Tensor) -> Tensor:
        """The points (d, maps * n) under maps (maps, d, d+1), one after the other."""
        return (maps[..., :-1] @ self.places + maps[..., -1:]).transpose(0, 1).flatten(1)

    def _sampled(self, places: Tensor, slopes: bool) -> tuple[Tensor, Tensor]:
        """At places (d, n): values, below them their slopes in LPS if asked for; where they are known (n,)."""
        x = self.linear @ places + self.shift
        valid = ((x >= self.lower) & (x <= self.upper)).all(0)
        x = torch.minimum(x.clamp(min=0), self.most)
        # Of what is no number, any place will do, as long as it lies in the array.
        cell = x.long().clamp(min=0)
        fraction = x - cell
        base = (cell * self.strides).sum(0)
        weights = torch.where(self.corners > 0, fraction, 1 - fraction).prod(1)
        table = self.table if slopes else self.table[:, :1]
        values = (table[base + self.offsets] * weights[..., None]).sum(0).t()
        if self.mask is not None:
            valid = valid & self.mask[base + ((fraction > 0.5) * self.strides).sum(0)]
        return values, valid

    def _summed(self, maps: Tensor, ratio: bool, derivatives: bool) -> Tensor:
        """At each map the products of the rows, (maps, rows, rows); for the ratio, below them their sums per bin,
        (maps, bins, rows)."""
        places = self._mapped(maps)
        values, valid = self._sampled(places, derivatives)
        values = values * valid
        rows = [valid[None], (self.values.repeat(len(maps)) * valid)[None], values[:1]]
        if derivatives:
            # d/d(change) of value(point + change @ (point, 1)), row by row of change.
            extended = torch.cat([places, torch.ones_like(places[:1])])
            rows.insert(2, (values[1:, None] * extended).flatten(0, 1))
        rows = torch.cat([row.double() for row in rows]).unflatten(1, (len(maps), -1)).transpose(0, 1)
        gram = rows @ rows.transpose(1, 2)
        return torch.cat([gram, self._classes @ rows.transpose(1, 2)], 1) if ratio else gram
