# SPDX-License-Identifier: Apache-2.0
"""Models of the kind "quicksilver": LDDMM's momentum, which is shot without a band."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..geodesics.band import Lattice, Metric
from ..geodesics.full_space import FullFlow, FullShooting, shot
from ..geodesics.objective import Pair
from ..geodesics.sampling import NonFiniteField
from ..learning.quicksilver import QuicksilverNet
from ..problem.parameters import Parameters
from ..problem.problem import Problem
from ..support.errors import Cancelled
from .map_prediction import MapPredictor

_DRIFT, _MOST_STEPS = 0.02, 64


class Kind(MapPredictor):
    """See MapPredictor."""

    def built(self) -> QuicksilverNet:
        values = self.config.architecture
        if self.config.ndim != 3:
            raise ValueError("it is for images of three dimensions only")
        return QuicksilverNet(tuple(values["features"]), float(values["scale"]), float(values["dropout"]))

    def displacements(self, problem: Problem, pair: Pair, cancelled: Callable[[], bool]) -> tuple[Tensor, Tensor]:
        like = pair.fixed
        answer = None
        for answer in self.network.momentum(pair.fixed, pair.moving):
            if answer is None and cancelled():
                raise Cancelled("Cancelled before the prediction was done.")
        cells = Lattice.cells(tuple(like.shape), pair.lengths)
        try:
            return shot_momentum(answer, cells, self.parameters, problem.window(str(like.device))(cells))
        except NonFiniteField:  # a momentum of which no geodesic starts
            return torch.full_like(answer, torch.nan), torch.full_like(answer, torch.nan)


def shot_momentum(m0: Tensor, cells: Lattice, parameters: Parameters, window: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps of an initial momentum on cells minus the identity, in units of length.

    Args:
        m0: (d, *cells).
        parameters: of LDDMM, whose metric made it.
        window: weights of the velocity.
    """
    metric = Metric(parameters.alpha, parameters.power, parameters.gamma)
    shooting = FullShooting(cells, metric, m0.dtype, m0.device)
    p = shooting.of_momentum(m0)
    steps = shooting.recommended_steps(p)
    # Nothing keeps a prediction from being rough; the exact geodesic keeps its energy.
    while steps < _MOST_STEPS and not shooting.drift(shooting.shoot(p, steps, "rk4")) < _DRIFT:
        steps *= 2
    flow = FullFlow(shooting, m0.dtype, m0.device, window.to(m0))
    return shot(p, shooting, flow, steps, "rk4")
