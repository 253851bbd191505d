# SPDX-License-Identifier: Apache-2.0
"""A trained network in memory, whatever it predicts: read from its model, and what about images is unlike its data."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from ..imaging.grid import Grid
from ..problem.problem import Problem
from ..support.errors import InputError
from .pose import FAR, MeanImage, Pose
from .trained_models import Model

# What lies further beyond what was met in training is reported.
_EXTENT_SLACK = 1.25
_UNUSUAL = 4.0  # standard deviations


class TrainedNetwork:
    """A model in memory, for any device. InputError if its weights do not fit its architecture.

    Attributes:
        multiple: of what a level has a multiple of voxels along each axis.
        mean_image: of the training set; None if the model has none.
        learns: whether its weights can be fitted to a pair (instance optimization).
    """

    multiple = 1
    learns = False

    def __init__(self, model: Model):
        config = self.config = model.config
        self.mean_image: MeanImage | None = model.mean_image
        self.ndim, self.unit_mm, self.parameters = config.ndim, config.unit_mm, config.parameters
        try:
            # Without memory until the weights are known to fit: an architecture may ask for anything.
            with torch.device("meta"):
                self.network = self.built()
            config.refining(config.parameters)
        except ImportError as error:
            raise InputError(str(error)) from error
        except (LookupError, TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise InputError(
                f"{model.folder}: describes no predictor known here ({error}). Install the model again."
            ) from error
        model.check_shapes({name: tuple(value.shape) for name, value in self.network.state_dict().items()})
        weights = {name: torch.from_numpy(value) for name, value in model.arrays.items()}
        # Weights in files may be rounded to half precision; nothing is computed in it.
        weights = {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
        self.network.load_state_dict(weights, assign=True)
        self.network.requires_grad_(False).eval()

    @property
    def varies(self) -> bool:
        """Whether it was trained with dropout, so that it can answer at random."""
        return False

    def with_voxels(self, count: int) -> TrainedNetwork:
        """The same, of which a network with a grid of its own sees so many voxels along the longest axis.

        Raises:
            InputError: it has none, or needs more.
        """
        raise InputError(
            f"network_voxels: the model {self.config.name} has no grid of its own; it sees images as they are. Leave "
            "it out."
        )

    def built(self) -> torch.nn.Module:
        """The network that the config describes."""
        raise NotImplementedError

    def grid(self, fixed: Grid, pose: Pose | None) -> Grid | None:
        """The working grid of a fixed image that lies so to the mean image; None for the one that is chosen for any."""
        return None

    def unlike(self, pose: Pose, side: str) -> tuple[dict[str, Any], ...]:
        """The finding that an image does not look as those of the training do, if so; ``side``: which image."""
        mean, any_contrast = self.mean_image, self.config.contrast == "any"
        if pose.below(mean, any_contrast) <= FAR:
            return ()
        found, usual = (
            (pose.any_contrast, mean.any_contrast[0]) if any_contrast else (pose.agreement, mean.agreement[0])
        )
        return ({"finding": f"other-{side}", "model": self.config.name, "agreement": found, "usual": usual},)

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
