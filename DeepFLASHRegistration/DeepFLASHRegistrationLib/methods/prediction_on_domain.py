# SPDX-License-Identifier: Apache-2.0
"""Models whose network works on one domain, of one size and band: what they share.

The domain is a grid in the configuration. Of a posed model it lies in the space of its mean image, and in a fixed image
as the mean image does; else it lies along the fixed image's axes, middle on middle.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..geodesics.band import Band, Lattice, Metric, Upsampler
from ..geodesics.batched import BatchedFlow, BatchedSampler, BatchedShooting
from ..geodesics.captured import Captured
from ..geodesics.objective import Pair
from ..imaging.grid import Grid, stored, upright
from ..problem.problem import Problem
from ..problem.working import level_factors, level_modes
from .pose import Place, Pose
from .prediction import Maps, Predictor

# Time steps of the maps that are handed out: of so smooth velocities fewer do than in learning.feature_net.
_FINAL_STEPS = 10
_POINTS = 5.5  # of the maps' lattice per shortest wavelength; see problem.deformation
_MOST_CELLS = 1 << 27


class _Answer(NamedTuple):
    """Of a batch: v0 (n, d, *modes), both maps minus the identity (n, d, *cells), warped images (n, *cells)."""

    velocity: Tensor
    fixed_to_moving: Tensor
    moving_to_fixed: Tensor
    warped: Tensor


def domain_of(architecture: dict[str, Any]) -> Grid:
    """The grid that a configuration describes; ValueError, KeyError or TypeError if it describes none."""
    values = architecture["domain"]
    shape = tuple(int(n) for n in values["shape"])
    if not 0 < int(np.prod(shape, dtype=np.float64)) <= _MOST_CELLS or min(shape) < 2:
        raise ValueError("its domain has another number of voxels than a computer holds")
    return Grid(shape, np.array(values["affine"], dtype=np.float64))


def domain_values(grid: Grid) -> dict[str, Any]:
    """Inverse of `domain_of`, as the entry "domain"."""
    return {"shape": list(grid.shape), "affine": grid.affine.tolist()}


class DomainPredictor(Predictor):
    """See Predictor.

    Attributes:
        domain: the grid of the configuration.
        band, metric: of v0.
        recordable: whether its network looks at no value on the way, so that CUDA can record it.
    """

    recordable = True

    def prepared(self) -> None:
        """Reads the domain; `built` begins with it."""
        config = self.config
        self.domain = domain_of(config.architecture)
        if self.domain.ndim != config.ndim:
            raise ValueError(f"its domain has {self.domain.ndim} dimensions")
        if any(
            n % f
            for factors in level_factors(self.domain, config.parameters)
            for n, f in zip(self.domain.shape, factors)
        ):
            raise ValueError("its resolutions do not divide its domain")
        lengths = tuple(float(x) for x in self.domain.extent / config.unit_mm)
        self.band = Band(level_modes(self.domain, config.parameters)[-1], lengths)
        limited = config.parameters.map == "band-limited"
        step = float(self.domain.spacing.min() / config.unit_mm) if limited else None
        self.metric = Metric(config.parameters.alpha, config.parameters.power, config.parameters.gamma, step)
        self._captured, self._captured_maps, self._kept = Captured(self.recordable), Captured(self.recordable), None

    def grid(self, fixed: Grid, pose: Pose | None) -> Grid:
        if self.config.posed:
            return Place(self.mean_image, self.domain).of(pose)
        around = stored(fixed, *upright(fixed))
        affine = self.domain.affine.copy()
        affine[:-1, :-1] = around.direction * self.domain.spacing
        affine[:-1, -1] = around.center - affine[:-1, :-1] @ ((np.array(self.domain.shape) - 1) / 2)
        return dataclasses.replace(around, shape=self.domain.shape, affine=affine)

    def network_velocities(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Images (n, *cells) over the whole domain -> v0 (n, d, *modes)."""
        return self.network.predict(fixed, moving)

    def velocities(self, problem: Problem, pairs: Sequence[Pair]) -> Tensor:
        fixed, moving = self._stacked(pairs)
        with torch.no_grad():
            return self._captured(self.network_velocities, fixed, moving)

    def maps(self, problem: Problem, pairs: Sequence[Pair]) -> list[Maps]:
        if self.metric.step is not None:
            return super().maps(problem, pairs)
        fixed, moving = self._stacked(pairs)
        shooting, flow, fine, sample = self._tools(problem, fixed)

        def answer(fixed: Tensor, moving: Tensor) -> _Answer:
            velocity = self.network_velocities(fixed, moving)
            middles = shooting.middles(velocity, _FINAL_STEPS)
            forth, back = map(fine, flow.both(middles))
            return _Answer(velocity, forth, back, sample(moving[:, None], forth)[:, 0])

        with torch.no_grad():
            found = self._captured_maps(answer, fixed, moving)
        parts = (found.fixed_to_moving, found.moving_to_fixed, found.warped)
        return [Maps(*(part[k] for part in parts)) for k in range(len(pairs))]

    def _stacked(self, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
        fixed, moving = (torch.stack([getattr(pair, name) for pair in pairs]) for name in ("fixed", "moving"))
        if tuple(fixed.shape[1:]) != self.domain.shape:
            raise ValueError(f"The images have {tuple(fixed.shape[1:])} voxels, not the model's {self.domain.shape}.")
        self.network.to(fixed.device)
        return fixed, moving

    def _tools(self, problem: Problem, like: Tensor) -> tuple[BatchedShooting, BatchedFlow, Upsampler, BatchedSampler]:
        """What follows from the domain and the device; kept, for a recording reads them where they are."""
        if self._kept is None or self._kept[0] != like.device:
            band, lengths, device = self.band, self.band.lengths, like.device
            wavelengths = [2 * length / max(n - 1, 1) for n, length in zip(band.modes, lengths, strict=True)]
            points = [round(_POINTS * length / min(wavelengths)) for length in lengths]
            cells = Lattice.cells(self.domain.shape, lengths)
            coarse = Lattice.cells(tuple(max(4, min(p, n)) for p, n in zip(points, self.domain.shape)), lengths)
            tools = (
                BatchedShooting(band, self.metric, like.dtype, device),
                BatchedFlow(band, coarse, like.dtype, device, problem.window(str(device))),
                Upsampler(coarse, cells, like.dtype, device),
                BatchedSampler(cells, cells, like.dtype, device),
            )
            self._kept, self._captured_maps = (device, tools), Captured(self.recordable)
        return self._kept[1]
