# SPDX-License-Identifier: Apache-2.0
"""A trained model whose answer is a map that is no geodesic of the band: from two images to both displacements.

A kind of such a model is a file of this room with a class Kind, a MapPredictor, and its line in prediction._FILES.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..geodesics.band import Lattice, Upsampler
from ..geodesics.jacobian import smallest_determinant
from ..geodesics.objective import Objective, Pair
from ..problem.problem import Problem, settings
from ..support.errors import InputError
from .instance import Fitted, Schedule, fit
from .network_instance import Fitting, NetworkInstance, step_bytes
from .trained_network import TrainedNetwork

# A step takes about three times as long as a judgement, which needs no derivatives.
_JUDGED_EVERY, _OF_JUDGING = 5, 3.0


@dataclass(frozen=True, eq=False)
class MapPrediction:
    """Both displacements on the working grid, float32 (d, *shape) in mm along its array axes, the second None where it
    is to be the inverse of the first; and what about the images is unlike the training data, as findings of the
    verdict."""

    forth: np.ndarray
    back: np.ndarray | None
    unusual: tuple[dict[str, Any], ...]


class MapPredictor(TrainedNetwork):
    """See TrainedNetwork."""

    def displacements(
        self, problem: Problem, pair: Pair, cancelled: Callable[[], bool]
    ) -> tuple[Tensor, Tensor | None]:
        """fixed_to_moving and moving_to_fixed minus the identity, (d, *shape), in units of length along array axes;
        None for the second if it is to be the inverse of the first.

        Args:
            problem: made with this model's parameters, unit and multiple.
            pair: its images, on the device that is to be used.
            cancelled: may be asked on the way.

        Raises:
            Cancelled: that was wanted.
        """
        raise NotImplementedError

    def seen(self, problem: Problem, pair: Pair) -> Tensor:
        """The fixed and the moving image as the network sees them, (2, *shape), on the pair's device; InputError if it
        cannot."""
        return torch.stack([pair.fixed, pair.moving])

    def check_voxels(self, problem: Problem, pair: Pair, shape: Sequence[int], least: int) -> None:
        """InputError if the network, which would see a pair on so many voxels, needs more than ``least``."""
        if min(shape) > least:
            return
        working = " x ".join(map(str, pair.fixed.shape))
        raise InputError(
            f"The model {self.config.name} needs more than {least} voxels of {problem.grid.spacing.min():.3g} mm along "
            f"each axis; around the fixed object there are {working}. Choose another model or method."
        )

    def fitting(self, shape: tuple[int, ...]) -> Fitting:
        """How the network is fitted to a pair that it sees so, if it `learns`."""
        raise NotImplementedError

    def fitted(
        self,
        problem: Problem,
        device: str,
        steps: int,
        report: Callable[[int, dict[str, Any], float], None],
        cancelled: Callable[[], bool],
    ) -> tuple[MapPredictor, Fitted]:
        """The same with weights that were fitted to the pair of a problem, as far as that went; this stays as it is.

        Args:
            problem, device, cancelled: as in `predict`.
            steps: of Adam.
            report: as in `instance.fit`.

        Raises:
            InputError, RuntimeError: as `instance.fit`.
        """
        pair = problem.pair(device)
        images = self.seen(problem, pair)
        shape = tuple(images.shape[1:])
        fitting = self.fitting(shape)
        needed = step_bytes(self.built, shape, fitting)
        found = copy.copy(self)
        instance = NetworkInstance(self.network.to(pair.fixed.device), images, fitting, needed)
        found.network = instance.network
        found.watched(cancelled)
        schedule = Schedule(steps, fitting.rate, judged_every=_JUDGED_EVERY, of_judging=_OF_JUDGING)
        done = fit(instance, schedule, device, report, cancelled)
        found.network.requires_grad_(False)
        return found, done

    def watched(self, cancelled: Callable[[], bool]) -> None:
        """Lets the network ask on its way whether it shall end, and raise Cancelled, if it can."""

    def answers(
        self, problem: Problem, pair: Pair, cancelled: Callable[[], bool]
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """`displacements`, and what it makes of them when it looks again, if it does; arguments as there."""
        yield self.displacements(problem, pair, cancelled)

    @torch.no_grad()
    def uncertainty(
        self, problem: Problem, device: str, samples: int, report: Callable[[int], None], cancelled: Callable[[], bool]
    ) -> np.ndarray:
        """By how many mm fixed_to_moving scatters about its mean when the network leaves out other features each time
        (Monte Carlo dropout: Gal & Ghahramani, ICML 2016): float32 (*shape) on the working grid.

        Args:
            samples: how many answers.
            report: called with how many there are.

        Raises:
            Cancelled: that was wanted.
        """
        pair, mean, scatter = problem.pair(device), 0.0, 0.0
        network, where = self.network.to(pair.fixed.device), [pair.fixed.device] if pair.fixed.is_cuda else []
        with torch.random.fork_rng(where):
            try:
                network.train()
                for k in range(samples):
                    torch.manual_seed(k)
                    forth, _ = self.displacements(problem, pair, cancelled)
                    # Welford's way, which needs no two passes.
                    apart = forth - mean
                    mean = mean + apart / (k + 1)
                    scatter = scatter + (apart * (forth - mean)).sum(0)
                    report(k + 1)
            finally:
                network.eval()
        found = problem.unit_mm * (scatter / max(samples - 1, 1)).clamp(min=0).sqrt()
        return found.float().cpu().numpy()

    def predict(
        self,
        problem: Problem,
        device: str = "cpu",
        report: Callable[[int, int, dict[str, Any]], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> MapPrediction:
        """Both maps of a problem: of the network's answers the one by which the images agree best, or rest if they
        agree better without.

        Args:
            problem: made with this model's parameters, unit and multiple.
            device: where.
            report: called with (step, steps, record) at rest and at each answer that is the best so far.
            cancelled: asked on the way.

        Raises:
            Cancelled: that was wanted.
        """
        started, pair = time.perf_counter(), problem.pair(device)
        self.network.to(pair.fixed.device)
        cells = Lattice.cells(problem.grid.shape, problem.lengths)
        best: tuple[Tensor, Tensor | None] | None = None
        left = rest = last = torch.inf

        def tell(step: int, energy: float, smallest: float) -> None:
            if report is not None:
                record = {"level": 0, "iteration": step, "energy": energy, "similarity": energy, "regularization": 0.0}
                seconds = time.perf_counter() - started
                report(step, 1, record | {"smallest_determinant": smallest, "seconds": seconds})

        with torch.no_grad():
            for step, answer in enumerate(self.answers(problem, pair, cancelled or (lambda: False)), 1):
                rest, last = self._dissimilarities(problem, pair, answer[0])
                if step == 1:
                    tell(0, rest, 1.0)
                    left = last
                if last <= min(rest, left):
                    best, left = answer, last
                    tell(step, last, smallest_determinant(answer[0], cells))
        unusual = self.unusual(problem, rest, left)
        if best is None:
            unusual = (*unusual, self.dropped())
            best = (torch.zeros_like(answer[0]),) * 2
        unit = problem.unit_mm
        both = [None if u is None else (unit * u).float().cpu().numpy() for u in best]
        return MapPrediction(*both, unusual)

    def _dissimilarities(self, problem: Problem, pair: Pair, forth: Tensor) -> tuple[float, float]:
        """At rest and through the map, at half of the resolution, where the noise of single voxels does not hide what
        became alike; infinite if that is not finite."""
        half = {"resolutions": (2,), "bands": self.parameters.bands[-1:], "iterations": (1,)}
        (level,) = problem.levels(replace(self.parameters, **half))
        device, like = str(pair.fixed.device), pair.fixed
        at_rest = torch.zeros(like.ndim, *level.band.modes, dtype=like.dtype, device=like.device)
        objective = Objective(pair, level, settings(self.parameters), problem.window(device), at_rest)
        rest = objective.at_rest() / objective.data_weight
        if not bool(torch.isfinite(forth).all()):
            return rest, torch.inf
        cells = Lattice.cells(problem.grid.shape, problem.lengths)
        return rest, float(objective.sides[0](Upsampler(cells, objective.flow.lattice, like.dtype, device)(forth))[0])
