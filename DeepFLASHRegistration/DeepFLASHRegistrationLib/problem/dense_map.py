# SPDX-License-Identifier: Apache-2.0
"""A map that is no geodesic: displacements on the working grid, in both directions, and nothing between."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..imaging.grid import Grid
from ..support.errors import InputError
from .spatial_map import SpatialMap

if TYPE_CHECKING:
    import torch

    from ..geodesics.band import Lattice

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
    _kept: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

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

    def _known(self, direction: str, t: float) -> tuple[Lattice, torch.Tensor]:
        import torch

        from ..geodesics.band import Lattice

        if direction not in self._kept:
            values = self.forth if direction == "fixed_to_moving" else self.back
            self._kept[direction] = torch.as_tensor(values, device=self.device)
        return Lattice.cells(self.domain.shape, self.lengths), self._kept[direction]

    def _moved(self, index: torch.Tensor, direction: str, t: float) -> torch.Tensor:
        import torch

        from ..geodesics.sampling import sample_cubic

        index = index.to(device=self.device, dtype=torch.float32)
        last = torch.tensor([n - 1.0 for n in self.domain.shape], device=self.device)
        near = index.clamp(min=torch.zeros_like(last), max=last)
        return torch.stack([sample_cubic(component, near, 0.0) for component in self._known(direction, t)[1]])


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
