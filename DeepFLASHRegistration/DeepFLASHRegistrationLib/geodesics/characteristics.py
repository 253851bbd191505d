# SPDX-License-Identifier: Apache-2.0
"""Points followed along the velocities of a geodesic: what its final maps are made of.

A particle meets N velocities, each read from a table at the middle of its step. That middle is extrapolated from the
steps before, so that a step of second order takes one look. Particles know nothing of each other: parts of a lattice
are followed side by side, each from the first step to the last in the processor's cache.

Looking is linear between the points of a table, which flattens waves: on average over where one looks, by
sinc²(ωh/2) at a distance h of the points. The tables hold the velocity with its coefficients divided by sinc(ωh/2),
which makes up for half of that. All of it would be nearer to the geodesic; but the search has found the velocity by
maps that are flattened as well, and made pairs, whose true map is known, then end a little farther from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .band import Band, Lattice, separable
from .sampling import require_finite

_ROWS = 16  # of a table, computed together
_POINTS = 1 << 15  # followed together on processors
# What a middle is extrapolated by: it lies a quarter of a step ahead of the last half of the step before.
_AHEAD = 0.75


class Characteristics:
    """Where particles come from and go to along velocities of a band.

    Args:
        band: of the velocities.
        velocities: (d, *modes) each, in the order of time; each carries for the same part of the time, which is 1.
        lattice: of the tables, cells of the whole domain.
        window: weights (*lattice.shape) that damp the velocity, e.g. towards the border of the domain.
        spread: takes a function and items, and calls it for each, side by side if it likes.
    """

    def __init__(
        self,
        band: Band,
        velocities: Sequence[Tensor],
        lattice: Lattice,
        window: Tensor | None = None,
        spread: Callable[[Callable[[Any], None], Iterable[Any]], Iterable[None]] = map,
    ):
        self.band, self.lattice, self._spread = band, lattice, spread
        like = velocities[0]
        self.device = like.device
        self._factors = [2 / (s * max(n - 1, 1)) for s, n in zip(lattice.step, lattice.shape, strict=True)]
        self._scale = like.new_tensor(self._factors)
        self._base = [o + s * (n - 1) / 2 for o, s, n in zip(lattice.origin, lattice.step, lattice.shape, strict=True)]
        self._tables = [v.new_empty((band.ndim, *lattice.shape)) for v in velocities]
        first, *rest = (_pointed(band, lattice, axis).to(like) for axis in range(band.ndim))
        factor = (self._scale / len(velocities)).view(-1, *[1] * band.ndim)
        rows = _ROWS if self.device.type == "cpu" else lattice.shape[0]

        def fill(job: tuple[int, Tensor, int]) -> None:
            number, partial, start = job
            part = slice(start, start + rows)
            values = separable(partial[:, part], rest) * factor
            if window is not None:
                values *= window[part]
            # Last axis first, as torch's sampling counts them.
            self._tables[number][:, part] = values.flip(0)

        with torch.no_grad():
            partials = [torch.tensordot(v, first, ([1], [1])).movedim(-1, 1) for v in velocities]
            jobs = ((k, p, start) for k, p in enumerate(partials) for start in range(0, lattice.shape[0], rows))
            for _ in spread(fill, jobs):
                pass
            for table in self._tables:
                require_finite(table)

    def moved(self, positions: Tensor, backwards: bool) -> Tensor:
        """Displacements of particles (d, …) in units of length.

        Args:
            positions: (d, …) in units of length, wherever they are.
            backwards: to where they come from, at the end of the time, and not to where they go from its beginning.
        """
        return self._followed(self.normalized(positions), backwards)

    def _followed(self, start: Tensor, backwards: bool) -> Tensor:
        """Displacements of particles at normalized places (d, …)."""
        total = last = before = None
        for table in reversed(self._tables) if backwards else self._tables:
            if last is None:
                ahead = self._looked_up(table, start)
            else:
                ahead = last if before is None else last + _AHEAD * (last - before)
            if backwards and last is None:
                ahead = -ahead
            middle = start + 0.5 * ahead if total is None else start + (total + 0.5 * ahead)
            before, last = last, self._looked_up(table, middle)
            if backwards:
                last = -last
            total = last if total is None else total + last
        return total.flip(0) / self._scale.view(-1, *[1] * (total.ndim - 1))

    def on_lattice(self, axes: Sequence[Tensor], backwards: bool) -> Tensor:
        """The same of the particles at all combinations of positions, (d, *lengths).

        Args:
            axes: for each axis of the result what it adds to the positions, (d, n), all float64 on the host.
        """
        d = self.band.ndim
        shape = tuple(axis.shape[1] for axis in axes)
        behind = max(1, math.prod(shape[1:]))
        rows = max(1, _POINTS // behind) if self.device.type == "cpu" else shape[0]
        result = self._tables[0].new_empty((d, *shape))

        # Last axis first, as torch counts; the sum of a few small numbers is as exact as a large one's rounding.
        factors = torch.tensor(self._factors, dtype=torch.float64)[:, None]
        base = torch.tensor(self._base, dtype=torch.float64)[:, None]
        places = [((axis - base) if a == 0 else axis) * factors for a, axis in enumerate(axes)]
        places = [
            x.flip(0).to(result.dtype).to(result.device).view(d, *[-1 if a == b else 1 for b in range(d)])
            for a, x in enumerate(places)
        ]

        def fill(start: int) -> None:
            result[:, start : start + rows] = self._followed(
                sum(places[1:], places[0][:, start : start + rows]), backwards
            )

        with torch.no_grad():
            for _ in self._spread(fill, range(0, shape[0], rows)):
                pass
        return result

    def normalized(self, positions: Tensor) -> Tensor:
        """Positions (d, …) in units of length as torch counts them in a table, (d, …), last axis first."""
        parts = [(x - base) * scale for x, base, scale in zip(positions, self._base, self._factors, strict=True)]
        return torch.stack(parts[::-1])

    def _looked_up(self, table: Tensor, places: Tensor) -> Tensor:
        """A table (d, *lattice.shape) at normalized places (d, …)."""
        d = len(table)
        # Torch wants as many axes as the table has.
        points = places.reshape(d, *places.shape[1:], *[1] * (d - places.ndim + 1)).movedim(0, -1)
        found = F.grid_sample(table[None], points[None], padding_mode="border", align_corners=True)[0]
        return found.view(places.shape)


class OneLook(Characteristics):
    """The same of a displacement in the band itself, which is read where a particle is."""

    def _followed(self, start: Tensor, backwards: bool) -> Tensor:
        found = self._looked_up(self._tables[0], start)
        return found.flip(0) / self._scale.view(-1, *[1] * (found.ndim - 1))


def _pointed(band: Band, lattice: Lattice, axis: int) -> Tensor:
    """The basis of an axis on a lattice, float64, sharpened by half of what linear interpolation will flatten."""
    half = band.frequencies(axis) * (lattice.step[axis] / 2)
    return band.basis(axis, lattice.positions(axis)) / torch.sinc(half / math.pi)
