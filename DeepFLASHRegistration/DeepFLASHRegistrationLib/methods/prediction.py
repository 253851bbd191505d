# SPDX-License-Identifier: Apache-2.0
"""A trained model at work: from two images to v0, to both maps and the warped image, without leaving the device.

A kind of model is a file of this room with a class Kind, a Predictor (or a MapPredictor), and its line in _FILES. It
must tell how its network is built and how that makes v0 of images on the model's grid; all else it may leave as it is
here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..geodesics.band import Lattice, Metric, Upsampler, fit_modes
from ..geodesics.flow import Flow
from ..geodesics.jacobian import smallest_determinant
from ..geodesics.objective import Evaluation, Level, Objective, Pair
from ..geodesics.sampling import NonFiniteField, Sampler
from ..geodesics.shooting import Shooting
from ..problem.problem import Problem, settings
from ..support.errors import InputError
from .trained_models import Model, load_model
from .trained_network import TrainedNetwork

if TYPE_CHECKING:
    from .map_prediction import MapPredictor

# By a model's kind, the file of this room in which its Predictor is, as the class Kind.
_FILES = {
    "unrolled": "prediction_unrolled",
    "feature-net": "prediction_one_pass",
    "dual-net": "prediction_dual_net",
    "force-net": "prediction_force_net",
    "voxelmorph": "prediction_voxelmorph",
    "quicksilver": "prediction_quicksilver",
    "icon": "prediction_icon",
    "gradicon": "prediction_icon",
    "constricon": "prediction_icon",
    "unigradicon": "prediction_icon",
    "multigradicon": "prediction_icon",
    "carl": "prediction_icon",
    "nephi-codes": "prediction_nephi",
    "unicarl": "prediction_icon",
}


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


class Predictor(TrainedNetwork):
    """A model that predicts v0; see TrainedNetwork."""

    def velocities(self, problem: Problem, pairs: Sequence[Pair]) -> Tensor:
        """v0 of pairs of images on the model's grid, (n, d, *modes), on their device; together where that is possible.

        Args:
            problem: made with this model's parameters, unit, multiple and grid.
            pairs: images as tensors, all on the problem's working grid.
        """
        raise NotImplementedError

    def predict(
        self,
        problem: Problem,
        device: str = "cpu",
        report: Callable[[int, int, dict[str, Any]], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Prediction:
        """v0 of a problem.

        Args:
            problem: made with this model's parameters, unit, multiple and grid.
            device: where.
            report: called with (step, steps, record) after every step.
            cancelled: asked between steps; the velocity so far is returned.
        """
        started = time.perf_counter()
        pair = problem.pair(device)
        with torch.no_grad():
            velocity = self.velocities(problem, [pair])[0]
        level = problem.levels(self.parameters)[-1]
        rest, reached, smallest = self.energies(problem, pair, level, velocity)
        if report is not None:
            for step, (found, determinant) in enumerate(((rest, 1.0), (reached, smallest))):
                record = {"level": 0, "iteration": step, "energy": found.energy, "similarity": found.dissimilarity}
                record |= {"regularization": found.regularization, "smallest_determinant": determinant}
                report(step, 1, record | {"seconds": time.perf_counter() - started})
        unusual = self.unusual(problem, rest.energy, reached.energy)
        # What the velocity itself costs is for those to weigh who are taught by labels.
        if not reached.dissimilarity <= rest.dissimilarity:
            velocity, unusual = torch.zeros_like(velocity), (*unusual, self.dropped())
        return Prediction(velocity, level.metric, False, unusual)

    def maps(self, problem: Problem, pairs: Sequence[Pair]) -> list[Maps]:
        """From images in memory to both maps and the warped image of every pair, all on the images' device.

        Args:
            problem: what the levels and the window come from.
            pairs: images as tensors, all on the problem's working grid; the networks see them together.
        """
        with torch.no_grad():
            velocities = self.velocities(problem, pairs)
            level = problem.levels(self.parameters)[-1]
            return [self._mapped(problem, pair, level, v) for pair, v in zip(pairs, velocities, strict=True)]

    def _mapped(self, problem: Problem, pair: Pair, level: Level, velocity: Tensor) -> Maps:
        """The maps of a geodesic, on a lattice as fine as its band asks for and between its points by cubic curves."""
        like = pair.fixed
        cells = Lattice.cells(tuple(like.shape), pair.lengths)
        coarse = Lattice.cells(
            tuple(
                max(4, min(n, math.ceil(length / level.map_step - 1e-6)))
                for n, length in zip(like.shape, pair.lengths, strict=True)
            ),
            pair.lengths,
        )
        shooting = Shooting(level.band, level.metric, like.dtype, like.device)
        flow = Flow(level.band, coarse, like.dtype, like.device, problem.window(str(like.device))(coarse))
        trajectory = shooting.shoot(velocity, shooting.recommended_steps(velocity), "multistep")
        fine = Upsampler(coarse, cells, like.dtype, like.device)
        forth, back = (fine(way(trajectory)) for way in (flow.fixed_to_moving, flow.moving_to_fixed))
        return Maps(forth, back, Sampler(cells, cells, like.dtype, like.device)(pair.moving[None], forth)[0])

    def energies(
        self, problem: Problem, pair: Pair, level: Level, velocity: Tensor
    ) -> tuple[Evaluation, Evaluation, float]:
        """E at rest and at a velocity of any band, infinite if that is no geodesic, and the map's smallest determinant
        there."""
        velocity = fit_modes(velocity, level.band.modes)
        device, finite = str(velocity.device), bool(torch.isfinite(velocity).all())
        start = velocity if finite else torch.zeros_like(velocity)
        objective = Objective(pair, level, settings(self.parameters), problem.window(device), start)
        rest = objective.at_rest()
        dissimilarity, regularization, smallest = torch.inf, torch.inf, 1.0
        with torch.no_grad():
            try:
                if finite:
                    u = objective.map(velocity, "fixed_to_moving")
                    dissimilarity = float(objective.sides[0](u)[0])
                    regularization = objective.metric_weight * float(objective.shooting.energy(velocity))
                    smallest = smallest_determinant(u, objective.flow.lattice)
            except NonFiniteField:
                dissimilarity = torch.inf
        energy = objective.data_weight * dissimilarity + regularization
        energy = energy if math.isfinite(energy) else math.inf
        return (
            Evaluation(rest, rest / objective.data_weight, 0.0, None, ()),
            Evaluation(energy, dissimilarity, regularization, None, ()),
            smallest,
        )


_KEPT: dict[tuple[str, str], Predictor | MapPredictor] = {}


def predictor(model: str) -> Predictor | MapPredictor:
    """The predictor of a bundled or user model (name or folder), kept in memory while its files stay as they are.

    Raises:
        InputError: there is no such model, or it is damaged.
    """
    found = load_model(model)
    key = (str(found.folder.resolve()), found.checksum)
    if key not in _KEPT:
        _KEPT.clear()  # one at a time: a warm child must not collect them
        _KEPT[key] = predictor_of(found)
    return _KEPT[key]


def predictor_of(model: Model) -> Predictor | MapPredictor:
    """The predictor of a model that was read."""
    config = model.config
    if config.kind not in _FILES:
        raise InputError(f"The model {config.name} is of the kind {config.kind!r}, which register() does not run.")
    return import_module(f".{_FILES[config.kind]}", __package__).Kind(model)
