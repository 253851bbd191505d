# SPDX-License-Identifier: Apache-2.0
"""Models of the kind "feature-net": one pass, which CUDA replays as one graph."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..geodesics.band import Upsampler, fit_modes
from ..geodesics.captured import Captured
from ..geodesics.jacobian import smallest_determinant
from ..geodesics.objective import Evaluation, Objective, Pair
from ..learning.feature_net import MULTIPLE, Answer, Design, Domain, FeatureNet
from ..problem.problem import Problem, settings
from ..support.memory import give_back_memory
from .prediction import Maps, Prediction, Predictor


class Kind(Predictor):
    """See Predictor."""

    # The parameters' resolution, 2, times this is what the network wants.
    multiple = MULTIPLE // 2

    def built(self) -> FeatureNet:
        config = self.config
        if config.ndim != 3:
            raise ValueError("it is for images of three dimensions only")
        self._domain: tuple[Any, Domain] | None = None
        self._captured = Captured()
        return FeatureNet(Design.from_dict(config.architecture["design"]))

    def velocities(self, problem: Problem, pairs: Sequence[Pair]) -> Tensor:
        fixed, moving = (torch.stack([getattr(pair, name) for pair in pairs]) for name in ("fixed", "moving"))
        with torch.no_grad():
            return self._answered(self._prepared(problem, pairs[0]), fixed, moving).velocity.clone()

    def predict(
        self,
        problem: Problem,
        device: str = "cpu",
        report: Callable[[int, int, dict[str, Any]], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Prediction:
        started = time.perf_counter()
        pair = problem.pair(device)
        domain = self._prepared(problem, pair)
        stage, stopped = domain.stages[-1], False
        with torch.no_grad():
            if pair.fixed.is_cuda:
                answer = self._answered(domain, pair.fixed[None], pair.moving[None])
                velocity, displacement = answer.velocity[0], answer.displacement[0]
            else:
                both = self.network.features(torch.stack([pair.fixed, pair.moving]))
                passes = len(domain.stages) + self.network.design.again
                for last in self.network.unroll([x[:1] for x in both], [x[1:] for x in both], domain):
                    if cancelled is not None and last.number < passes - 1 and cancelled():
                        stopped = True
                        break
                stage, velocity, displacement = last.stage, last.velocity[0], last.displacement[0]
                del both, last
                # Features leave gaps between which the fields that follow find no place.
                give_back_memory()
        rest, reached = self._energies(problem, pair, stage, velocity, displacement)
        if report is not None:
            for step, found in enumerate((rest, reached)):
                record = {"level": 0, "iteration": step, "energy": found.energy, "similarity": found.dissimilarity}
                record["regularization"] = found.regularization
                record["smallest_determinant"] = (
                    smallest_determinant(displacement, stage.cells) if step and found.energy < torch.inf else 1.0
                )
                report(step, 1, record | {"seconds": time.perf_counter() - started})
        unusual = self.unusual(problem, rest.energy, reached.energy)
        if not reached.energy <= rest.energy:
            velocity, unusual = torch.zeros_like(velocity), (*unusual, self.dropped())
        return Prediction(velocity.clone(), self.network.design.metric, stopped, unusual)

    def maps(self, problem: Problem, pairs: Sequence[Pair]) -> list[Maps]:
        fixed, moving = (torch.stack([getattr(pair, name) for pair in pairs]) for name in ("fixed", "moving"))
        with torch.no_grad():
            answer = self._answered(self._prepared(problem, pairs[0]), fixed, moving)
        parts = (answer.fixed_to_moving, answer.moving_to_fixed, answer.warped)
        return [Maps(*(part[k].clone() for part in parts)) for k in range(len(pairs))]

    def _prepared(self, problem: Problem, pair: Pair) -> Domain:
        """What depends on the grid alone, kept for the next pair of the same; the network is on the pair's device."""
        device = pair.fixed.device
        key = (tuple(pair.fixed.shape), pair.lengths, problem.margin_mm / problem.unit_mm, device)
        if self._domain is None or self._domain[0] != key:
            self.network.to(device)
            self.network.mixed_precision = device.type == "cuda"
            domain = Domain(self.network.design, key[0], key[1], device, problem.window(str(device)))
            self._domain, self._captured = (key, domain), Captured()
        return self._domain[1]

    def _answered(self, domain: Domain, fixed: Tensor, moving: Tensor) -> Answer:
        """Recorded and replayed on CUDA."""
        return self._captured(lambda *images: self.network.answer(*images, domain), fixed, moving)

    def _energies(
        self, problem: Problem, pair: Pair, stage: Any, velocity: Tensor, displacement: Tensor
    ) -> tuple[Evaluation, Evaluation]:
        """E at rest and where a prediction leads, at the parameters' last level; infinite if that is not finite."""
        level = problem.levels(self.parameters)[-1]
        device = str(pair.fixed.device)
        at_rest = torch.zeros_like(fit_modes(velocity, level.band.modes))
        objective = Objective(pair, level, settings(self.parameters), problem.window(device), at_rest)
        rest = objective.at_rest()
        found = [Evaluation(rest, rest / objective.data_weight, 0.0, None, ())]
        dissimilarity = regularization = torch.inf
        with torch.no_grad():
            if torch.isfinite(velocity).all() and torch.isfinite(displacement).all():
                on_lattice = Upsampler(stage.cells, objective.flow.lattice, torch.float32, device)(displacement)
                dissimilarity = float(objective.sides[0](on_lattice)[0])
                regularization = objective.metric_weight * float(stage.shooting.energy(velocity[None]))
        energy = objective.data_weight * dissimilarity + regularization
        found.append(Evaluation(energy, dissimilarity, regularization, None, ()))
        return found[0], found[1]
