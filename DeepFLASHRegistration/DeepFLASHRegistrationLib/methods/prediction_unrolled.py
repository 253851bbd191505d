# SPDX-License-Identifier: Apache-2.0
"""Models of the kind "unrolled": FLASH's descent with learned steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..geodesics.band import Lattice, Upsampler
from ..geodesics.jacobian import smallest_determinant
from ..geodesics.objective import Pair
from ..geodesics.sampling import Sampler
from ..learning.unrolled import MULTIPLE, UnrolledPredictor, built
from ..problem.problem import Problem, settings
from .prediction import Maps, Prediction, Predictor


class Kind(Predictor):
    """See Predictor."""

    multiple = MULTIPLE

    def built(self) -> UnrolledPredictor:
        return built(self.config.ndim, self.config.architecture)

    def velocities(self, problem: Problem, pairs: Sequence[Pair]) -> Tensor:
        return torch.stack([v.detach() for v in self._last(problem, pairs).velocities])

    def _last(self, problem: Problem, pairs: Sequence[Pair]) -> Any:
        """The state after the last step."""
        window = problem.window(str(pairs[0].fixed.device))
        for state in self.unrolled(pairs, problem.levels(self.parameters), window, last_evaluated=False):
            last = state
        return last

    def predict(
        self,
        problem: Problem,
        device: str = "cpu",
        report: Callable[[int, int, dict[str, Any]], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Prediction:
        started = time.perf_counter()
        levels = problem.levels(self.parameters)
        total = sum(stage.steps for stage in self.network.stages)
        done, last, stopped = 0, None, False
        for state in self.unrolled((problem.pair(device),), levels, problem.window(device), last_evaluated=True):
            last, evaluation, objective = state, state.evaluations[0], state.objectives[0]
            done += state.attempts is not None
            if report is not None and (state.attempts is not None or done == 0):
                report(
                    done,
                    total,
                    {
                        "level": state.stage,
                        "iteration": state.step + 1,
                        "energy": evaluation.energy,
                        "similarity": evaluation.dissimilarity,
                        "regularization": evaluation.regularization,
                        "smallest_determinant": smallest_determinant(evaluation.displacement, objective.flow.lattice),
                        "seconds": time.perf_counter() - started,
                    },
                )
            if cancelled is not None and cancelled() and done < total:
                stopped = True
                break
        before = objective.at_rest()
        unusual = self.unusual(problem, before, evaluation.energy)
        velocity = last.velocities[0]
        if not evaluation.energy <= before:
            velocity = torch.zeros_like(velocity)
            unusual = (*unusual, self.dropped())
        return Prediction(velocity, objective.level.metric, stopped, unusual)

    def unrolled(self, pairs: Sequence[Pair], levels: Any, window: Any, **more: Any) -> Any:
        """The states of the network's steps; see UnrolledPredictor.unroll."""
        self.network.to(pairs[0].fixed.device)
        return self.network.unroll(pairs, levels, settings(self.parameters), window, **more)

    def maps(self, problem: Problem, pairs: Sequence[Pair]) -> list[Maps]:
        last = self._last(problem, pairs)
        like, found = pairs[0].fixed, []
        cells = Lattice.cells(tuple(like.shape), pairs[0].lengths)
        fine = Upsampler(last.objectives[0].flow.lattice, cells, like.dtype, like.device)
        sample = Sampler(cells, cells, like.dtype, like.device)
        with torch.no_grad():
            for pair, objective, velocity in zip(pairs, last.objectives, last.velocities, strict=True):
                trajectory = objective.shooting.shoot(velocity, objective.steps, objective.settings.integrator)
                flow = objective.flow
                forth, back = fine(flow.fixed_to_moving(trajectory)), fine(flow.moving_to_fixed(trajectory))
                found.append(Maps(forth, back, sample(pair.moving[None], forth)[0]))
        return found
