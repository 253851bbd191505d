# SPDX-License-Identifier: Apache-2.0
"""Models of the kind "quicksilver": LDDMM's momentum, which is shot without a band."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..geodesics.band import Lattice, Metric
from ..geodesics.full_space import FullFlow, FullShooting, shot
from ..geodesics.objective import Pair
from ..geodesics.sampling import NonFiniteField, Sampler
from ..learning.quicksilver import QuicksilverNet
from ..problem.parameters import Parameters
from ..problem.problem import Problem
from ..support.errors import Cancelled
from .map_prediction import MapPredictor

_DRIFT, _MOST_STEPS = 0.02, 64
CORRECTIONS = 1


class Kind(MapPredictor):
    """See MapPredictor."""

    def built(self) -> QuicksilverNet:
        values = self.config.architecture
        scale, dropout = float(values["scale"]), float(values["dropout"])
        self.corrections = values["corrections"]
        if self.corrections not in range(5):
            raise ValueError(f"it corrects itself {self.corrections!r} times; 0 to 4 are known")
        return QuicksilverNet(self.config.ndim, tuple(values["features"]), values["block"], scale, dropout)

    @property
    def varies(self) -> bool:
        return float(self.config.architecture["dropout"]) > 0

    def displacements(self, problem: Problem, pair: Pair, cancelled: Callable[[], bool]) -> tuple[Tensor, Tensor]:
        return next(self.answers(problem, pair, cancelled))

    def answers(self, problem: Problem, pair: Pair, cancelled: Callable[[], bool]) -> Iterator[tuple[Tensor, Tensor]]:
        like = pair.fixed
        cells = Lattice.cells(tuple(like.shape), pair.lengths)
        window = problem.window(str(like.device))(cells)
        images = pair.fixed, pair.moving
        try:
            yield from corrected_maps(self.network, images, cells, self.parameters, window, self.corrections, cancelled)
        except NonFiniteField:  # a momentum of which no geodesic starts
            nowhere = like.new_full((like.ndim, *like.shape), torch.nan)
            yield nowhere, nowhere


def corrected_maps(
    network: QuicksilverNet,
    images: tuple[Tensor, Tensor],
    cells: Lattice,
    parameters: Parameters,
    window: Tensor,
    corrections: int,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Both maps of the momentum that the network predicts, and then those followed by what it sees still apart.

    Args:
        images: fixed and moving, on cells.
        parameters, window: see `shot_momentum`.
        corrections: how often the network looks again (Yang et al. have a second network look once).
        cancelled: asked on the way.

    Yields:
        fixed_to_moving and moving_to_fixed minus the identity, in units of length.

    Raises:
        Cancelled: that was wanted.
        NonFiniteField: no geodesic starts from what it predicts.
    """
    fixed, moving = images
    sample, carried, forth, back = Sampler(cells, cells, fixed.dtype, fixed.device), moving, None, None
    for _ in range(1 + corrections):
        answer = None
        for answer in network.momentum(fixed, carried):
            if answer is None and cancelled():
                raise Cancelled("Cancelled before the prediction was done.")
        there, home = shot_momentum(answer, cells, parameters, window)
        # x goes to y by the new map, and from there on by what was found before.
        forth = there if forth is None else there + sample(forth, there)
        back = home if back is None else back + sample(home, back)
        yield forth, back
        carried = sample(moving[None], forth)[0]


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
