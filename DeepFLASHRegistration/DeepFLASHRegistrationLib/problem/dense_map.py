# SPDX-License-Identifier: Apache-2.0
"""A map that is no geodesic: displacements on the working grid, in both directions, and nothing between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..imaging.grid import Grid
from ..support.errors import InputError
from .on_grid import Interpolated, Line
from .spatial_map import SpatialMap

if TYPE_CHECKING:
    import torch

# Of the search for an inverse: rounds, the part of a voxel that may be left of it, and that of a whole step.
_ROUNDS, _LEFT, _SMALLEST_STEP = 100, 0.01, 0.1


@dataclass(frozen=True, eq=False)
class DenseMap(SpatialMap):
    """See SpatialMap; what lies between the grid's points is interpolated by Keys' cubic convolution.

    Attributes:
        forth, back: float32 (d, *domain.shape), u and w in mm along the domain's array axes.
    """

    domain: Grid
    affine: np.ndarray
    forth: np.ndarray
    back: np.ndarray
    device: str = "cpu"

    unit_mm: ClassVar[float] = 1.0
    timed: ClassVar[bool] = False

    def on(self, device: str) -> DenseMap:
        """The same, computed on another device."""
        return replace(self, device=device)

    def rests(self, t: float) -> bool:
        if t not in (0, 1):
            raise InputError(
                f"There is no way to time {t:g} of this map: it is no geodesic, so that only its ends, 0 and 1, are "
                "known. Register again as a geodesic (--as-geodesic)."
            )
        return t == 0

    def _values(self, direction: str) -> torch.Tensor:
        import torch

        return torch.as_tensor(self.forth if direction == "fixed_to_moving" else self.back, device=self.device)

    def _interpolated(
        self, grid: Grid, to_index: np.ndarray, turn: np.ndarray, how: tuple[str, float, bool]
    ) -> Interpolated:
        """At the voxels what the map is there: between them nothing is known that they could lie beyond for."""
        import torch

        from ..geodesics.band import Lattice, cubic_matrix, cubic_weights

        d, shape = grid.ndim, self.domain.shape
        u = self._values(how[0])
        to_mm = torch.from_numpy(turn @ self.domain.direction).to(u)
        u = (to_mm @ u.flatten(1)).view_as(u)
        axes = _parallel(to_index[:d, :d])
        if axes is None:
            points = np.moveaxis(np.indices(grid.shape), 0, -1).reshape(-1, d) @ to_index[:d, :d].T + to_index[:d, d]
            count = grid.shape[0]
            line = Line(np.arange(count), 0, np.arange(count)[:, None], np.ones((count, 1), np.float32), None)
            return _AtVoxels(self._sampled(u, points).view(d, *grid.shape), line, ())
        u = u.permute(0, *(1 + axis for axis in axes))
        cells = Lattice(tuple(shape[axis] for axis in axes), (1.0,) * d, (0.0,) * d)
        places = [to_index[axis, d] + to_index[axis, a] * np.arange(grid.shape[a]) for a, axis in enumerate(axes)]
        inside = [(x >= -0.5) & (x <= n - 0.5) for x, n in zip(places, cells.shape, strict=True)]
        matrices = [
            (cubic_matrix(cells, a, torch.from_numpy(places[a])) * torch.from_numpy(inside[a])[:, None]).to(u)
            for a in range(1, d)
        ]
        columns, weights = cubic_weights(cells, 0, torch.from_numpy(places[0]))
        weights = (weights.numpy() * inside[0][:, None]).astype(np.float32)
        return Interpolated(u, Line(np.arange(cells.shape[0]), 0, columns.numpy(), weights, None), matrices)

    def _moved(self, index: np.ndarray, direction: str, t: float) -> np.ndarray:
        return self._sampled(self._values(direction), index).cpu().double().numpy().T

    def _sampled(self, u: torch.Tensor, index: np.ndarray) -> torch.Tensor:
        """u (d, *domain.shape) at indices (n, d) of the domain, at rest outside: (d, n)."""
        import torch

        from ..geodesics.sampling import sample_cubic

        last = np.array(self.domain.shape) - 1.0
        inside = ((index >= -0.5) & (index <= last + 0.5)).all(-1)
        near = torch.from_numpy(index.clip(0, last).astype(np.float32)).to(u.device)
        found = torch.stack([sample_cubic(component, near, 0.0) for component in u])
        return found * torch.from_numpy(inside).to(u)


class _AtVoxels(Interpolated):
    """What is known at every voxel of the grid."""

    def on_host(self) -> _AtVoxels:
        return _AtVoxels(self._u.cpu(), self._line, ())

    @property
    def rows(self) -> torch.Tensor:
        return self._u


def _parallel(ratio: np.ndarray) -> list[int] | None:
    """For each axis of a grid the domain's axis that it runs along; None if they are not parallel.

    ratio: (d, d), from differences of a grid's indices to those of the domain's.
    """
    order = np.abs(ratio).argmax(1)  # of each of the domain's axes, the grid's
    along = ratio[np.arange(len(ratio)), order]
    if len(set(order)) < len(ratio) or np.abs(ratio).sum() - np.abs(along).sum() >= 1e-6:
        return None
    return np.argsort(order).tolist()


def is_dense(values: Mapping[str, Any]) -> bool:
    """Whether Result.velocity holds the arguments of a DenseMap."""
    return "forth" in values


def inverted(displacement: np.ndarray, grid: Grid) -> tuple[np.ndarray, int]:
    """The inverse of id + u on the same grid: w with w(z) = −u(z + w(z)), by damped fixed-point steps.

    Args:
        displacement: u, float32 (d, *grid.shape), mm along the grid's array axes, which rests outside.
        grid: where.

    Returns:
        w likewise, and at how many voxels more than a hundredth of one is left: there u folds, or nearly so, and w is
        as near as the steps came.
    """
    import torch

    from ..geodesics.band import Lattice
    from ..geodesics.sampling import Sampler

    lattice = Lattice.cells(grid.shape, tuple(float(x) for x in grid.extent))
    u = torch.from_numpy(np.ascontiguousarray(displacement, dtype=np.float32))
    sample = Sampler(lattice, lattice, torch.float32, "cpu")
    limit, d = _LEFT * min(lattice.step), grid.ndim
    start = sample.identity.reshape(-1, d)
    w = -u.reshape(d, -1)
    # The points that are not there yet, how large a step they take, and how far they were off before.
    at = torch.arange(grid.size)
    rate, before = torch.ones(grid.size), torch.full((grid.size,), torch.inf)
    with torch.no_grad():
        for _ in range(_ROUNDS):
            now = w[:, at]
            points = (start[at] + sample.normalized(now)[0]).reshape(1, -1, *[1] * (d - 1), d)
            # Where it leads from z, seen from z: zero when w is the inverse.
            left = now + sample.at(u, points).reshape(d, -1)
            size = left.square().sum(0).sqrt()
            on = size > limit
            if not bool(on.any()):
                return w.reshape(u.shape).numpy(), 0
            at, left, size, now = at[on], left[:, on], size[on], now[:, on]
            # Where a step did not lead much nearer, u changes about as fast as its argument: by less from now on.
            rate = torch.where(size > 0.9 * before[on], 0.5 * rate[on], rate[on]).clamp(min=_SMALLEST_STEP)
            before = size
            w[:, at] = now - rate * left
    return w.reshape(u.shape).numpy(), len(at)
