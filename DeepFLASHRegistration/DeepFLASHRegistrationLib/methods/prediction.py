# SPDX-License-Identifier: Apache-2.0
"""A trained model at work: from two images to v0, to both maps and the warped image, without leaving the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..geodesics.band import Metric
from ..geodesics.objective import Pair
from ..problem.problem import Problem
from ..support.errors import InputError
from .trained_models import Model, load_model

# What lies further beyond what was met in training is reported.
_EXTENT_SLACK = 1.25
_UNUSUAL = 4.0  # standard deviations
# By a model's kind, the file of this room in which its Predictor is, as the class Kind.
_FILES = {"unrolled": "prediction_unrolled", "feature-net": "prediction_one_pass"}


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
    """A model in memory, for any device. InputError if its weights do not fit its architecture.

    Attributes:
        multiple: of what a level has a multiple of voxels along each axis.
    """

    multiple: int

    def __init__(self, model: Model):
        config = self.config = model.config
        self.ndim, self.unit_mm, self.parameters = config.ndim, config.unit_mm, config.parameters
        try:
            # Without memory until the weights are known to fit: an architecture may ask for anything.
            with torch.device("meta"):
                self.network = self.built()
            config.refining(config.parameters)
        except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise InputError(
                f"{model.folder}: describes no predictor known here ({error}). Install the model again."
            ) from error
        model.check_shapes({name: tuple(value.shape) for name, value in self.network.state_dict().items()})
        weights = {name: torch.from_numpy(value) for name, value in model.arrays.items()}
        # Weights in files may be rounded to half precision; nothing is computed in it.
        weights = {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
        self.network.load_state_dict(weights, assign=True)
        self.network.requires_grad_(False).eval()

    def built(self) -> torch.nn.Module:
        """The network that the config describes."""
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
            problem: made with this model's parameters, unit and multiple.
            device: where.
            report: called with (step, steps, record) after every step.
            cancelled: asked between steps; the velocity so far is returned.
        """
        raise NotImplementedError

    def maps(self, problem: Problem, pairs: Sequence[Pair]) -> list[Maps]:
        """From images in memory to both maps and the warped image of every pair, all on the images' device.

        Args:
            problem: what the levels and the window come from.
            pairs: images as tensors, all on the problem's working grid; the networks see them together.
        """
        raise NotImplementedError

    def unusual(self, problem: Problem, before: float, after: float) -> tuple[dict[str, Any], ...]:
        """What about a pair is unlike the pairs of the training, as findings; of the energies at rest and left."""
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

    def dropped(self) -> dict[str, Any]:
        """The finding that a prediction did not lower the energy."""
        return {"finding": "dropped", "model": self.config.name}


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
        _KEPT[key] = predictor_of(found)
    return _KEPT[key]


def predictor_of(model: Model) -> Predictor:
    """The predictor of a model that was read."""
    config = model.config
    if config.kind not in _FILES:
        raise InputError(f"The model {config.name} is of the kind {config.kind!r}, which register() does not run.")
    return import_module(f".{_FILES[config.kind]}", __package__).Kind(model)
