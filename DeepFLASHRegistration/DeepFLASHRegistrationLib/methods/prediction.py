# SPDX-License-Identifier: Apache-2.0
"""A trained model at work: from two images to v0, to both maps and the warped image, without leaving the device."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..geodesics.band import Lattice, Metric, Upsampler
from ..geodesics.jacobian import smallest_determinant
from ..geodesics.objective import Pair
from ..geodesics.sampling import Sampler
from ..learning.unrolled import MULTIPLE, built
from ..problem.problem import Problem, settings
from ..support.errors import InputError
from .trained_models import Model, load_model

# What lies further beyond what was met in training is reported.
_EXTENT_SLACK = 1.25
_UNUSUAL = 4.0  # standard deviations


@dataclass(frozen=True)
class Prediction:
    """v0 (d, *modes), its metric, whether it was cancelled, and what about the images is unlike the training data, as
    findings of the verdict: {"finding": name, and the figures it speaks of}."""

    velocity: Tensor
    metric: Metric
    cancelled: bool
    unusual: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Maps:
    """On the working grid's cells, in units of length along array axes: fixed_to_moving and moving_to_fixed minus the
    identity (d, *shape), and the warped moving image (*shape)."""

    fixed_to_moving: Tensor
    moving_to_fixed: Tensor
    warped: Tensor


class Predictor:
    """A model in memory, for any device. InputError if its weights do not fit its architecture."""

    def __init__(self, model: Model):
        config = self.config = model.config
        if config.kind != "unrolled":
            raise InputError(f"The model {config.name} is of the kind {config.kind!r}, which register() does not run.")
        self.ndim, self.unit_mm, self.parameters = config.ndim, config.unit_mm, config.parameters
        self.multiple = MULTIPLE
        try:
            # Without memory until the weights are known to fit: an architecture may ask for anything.
            with torch.device("meta"):
                self.network = built(config.ndim, config.architecture)
            levels = config.architecture["refinement"]
            dataclasses.replace(config.parameters, **levels, iterations=(1,) * len(levels["resolutions"]))
        except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise InputError(
                f"{model.folder}: describes no predictor known here ({error}). Install the model again."
            ) from error
        model.check_shapes({name: tuple(value.shape) for name, value in self.network.state_dict().items()})
        weights = {name: torch.from_numpy(value) for name, value in model.arrays.items()}
        self.network.load_state_dict(weights, assign=True)
        self.network.requires_grad_(False).eval()

    def predict(
        self,
        problem: Problem,
        device: str = "cpu",
        report: Callable[[int, int, dict[str, Any]], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Prediction:
        """v0 of a problem.

        Args:
            problem: made with this model's parameters, unit and multiple.
            device: where.
            report: called with (step, steps, record) after every step.
            cancelled: asked between steps; the velocity so far is returned.
        """
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
        unusual = self._unusual(problem, before, evaluation.energy)
        velocity = last.velocities[0]
        if not evaluation.energy <= before:
            velocity = torch.zeros_like(velocity)
            unusual = (*unusual, {"finding": "dropped", "model": self.config.name})
        return Prediction(velocity, objective.level.metric, stopped, unusual)

    def unrolled(self, pairs: Sequence[Pair], levels: Any, window: Any, **more: Any) -> Any:
        """The states of the network's steps; see UnrolledPredictor.unroll."""
        self.network.to(pairs[0].fixed.device)
        return self.network.unroll(pairs, levels, settings(self.parameters), window, **more)

    def maps(self, problem: Problem, pairs: Sequence[Pair]) -> list[Maps]:
        """From images in memory to both maps and the warped image of every pair, all on the images' device.

        Args:
            problem: what the levels and the window come from.
            pairs: images as tensors, all on the problem's working grid; the networks see them together.
        """
        last = None
        for state in self.unrolled(
            pairs, problem.levels(self.parameters), problem.window(str(pairs[0].fixed.device)), last_evaluated=False
        ):
            last = state
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

    def _unusual(self, problem: Problem, before: float, after: float) -> tuple[dict[str, Any], ...]:
        """What about a pair is unlike the pairs of the training."""
        found = []
        low, high = self.config.extent_mm
        at = np.argwhere(problem.fixed_mask)
        extent = (at.max(0) - at.min(0) + 1) * problem.grid.spacing
        if extent.min() < low / _EXTENT_SLACK or extent.max() > high * _EXTENT_SLACK:
            sizes = {"smallest_mm": float(extent.min()), "largest_mm": float(extent.max())}
            trained = {"low_mm": float(low), "high_mm": float(high)}
            found.append({"finding": "other-size", "model": self.config.name, **sizes, **trained})
        mean, sd = self.config.energy
        ratio = after / before if before > 0 else math.nan
        if not ratio < mean + _UNUSUAL * sd:
            energies = {"left": float(ratio), "usual": float(mean), "spread": float(sd)}
            found.append({"finding": "energy-left", "model": self.config.name, **energies})
        return tuple(found)


_KEPT: dict[tuple[str, str], Predictor] = {}


def predictor(model: str) -> Predictor:
    """The predictor of a bundled or user model (name or folder), kept in memory while its files stay as they are.

    Raises:
        InputError: there is no such model, or it is damaged.
    """
    found = load_model(model)
    key = (str(found.folder.resolve()), found.checksum)
    if key not in _KEPT:
        _KEPT.clear()  # one at a time: a warm child must not collect them
        _KEPT[key] = Predictor(found)
    return _KEPT[key]
