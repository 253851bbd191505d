# SPDX-License-Identifier: Apache-2.0
"""Problems with known answers, on which every piece of the search is tested."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from DeepFLASHRegistrationLib.geodesics.band import Band, Metric
from DeepFLASHRegistrationLib.geodesics.objective import Evaluation, Level, Pair
from geodesic_fields import waves
from torch import Tensor

DOUBLE = torch.float64


@dataclass(frozen=True)
class Function:
    """A function of a tensor, where to start, and where it is smallest; its Hessian there, on the diagonal."""

    value: Callable[[Tensor], Tensor]
    start: Tensor
    smallest: Tensor
    diagonal: Tensor

    def __call__(self, x: Tensor) -> Evaluation:
        """As an objective evaluates."""
        at = x.detach().requires_grad_()
        value = self.value(at)
        (gradient,) = torch.autograd.grad(value, at)
        return Evaluation(float(value.detach()), 0.0, 0.0, gradient, ())


def _functions() -> dict[str, Function]:
    scales = torch.logspace(0, 4, 30, dtype=DOUBLE)
    wanted = torch.linspace(-2, 3, 30, dtype=DOUBLE)
    generator = torch.Generator().manual_seed(3)
    mixing = torch.randn(12, 12, generator=generator, dtype=DOUBLE)
    full = mixing @ mixing.t() + torch.eye(12, dtype=DOUBLE)
    ones = torch.ones(12, dtype=DOUBLE)
    return {
        "one number": Function(
            lambda x: (3 * (x - 2) ** 2).sum(),
            torch.zeros(1, dtype=DOUBLE),
            torch.full((1,), 2.0).double(),
            ones[:1] * 6,
        ),
        "scales from 1 to 1e4": Function(
            lambda x: 0.5 * (scales * (x - wanted) ** 2).sum(), torch.zeros(30, dtype=DOUBLE), wanted, scales
        ),
        "all mixed": Function(lambda x: 0.5 * (x - ones) @ full @ (x - ones), 0 * ones, ones, full.diagonal()),
        "no parabola": Function(lambda x: (torch.sqrt(1 + (x - 5) ** 2) - 1).sum(), 0 * ones, 5 * ones, ones),
        "flat at the bottom": Function(lambda x: ((x - 1) ** 4 + 0.01 * (x - 1) ** 2).sum(), -ones, ones, 0.02 * ones),
        "a bent valley (Rosenbrock)": Function(
            lambda x: (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum(),
            torch.tensor([-1.2, 1.0], dtype=DOUBLE),
            torch.ones(2, dtype=DOUBLE),
            torch.tensor([802.0, 200.0], dtype=DOUBLE),
        ),
    }


FUNCTIONS = _functions()


@dataclass(frozen=True)
class Shift:
    """Periodic images of which one is the other moved by so many voxels: what v0 has to be is known."""

    shape: tuple[int, ...]
    voxels: tuple[float, ...]

    def pair(self, inverted: bool = False, dtype: torch.dtype = DOUBLE) -> Pair:
        fixed, moving = waves(self.shape, dtype=dtype), waves(self.shape, self.voxels, dtype=dtype)
        everywhere = torch.ones_like(fixed)
        lengths = tuple(float(n) for n in self.shape)
        return Pair(fixed, 1 - moving if inverted else moving, everywhere, everywhere, None, None, lengths)

    def level(self, iterations: int = 20, modes: int = 5) -> Level:
        d = len(self.shape)
        band = Band((modes,) * d, tuple(float(n) for n in self.shape))
        return Level((1,) * d, band, Metric(2.0, 2.0), (2,) * d, iterations, 1.0)


SHIFTS = {"2d": Shift((32, 28), (1.5, -1.0)), "3d": Shift((16, 18, 14), (0.8, -1.2, 0.6))}
