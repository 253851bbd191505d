# SPDX-License-Identifier: Apache-2.0
"""What is trained: the registrations that are learned, and the networks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..problem.parameters import Parameters


@dataclass(frozen=True)
class Recipe:
    """Parameters of the objective, what is done at each level, and the levels of FLASH after the prediction.

    Attributes:
        parameters: of the registrations; one level per stage.
        stages: steps, trained steps and channels of the network for each level (see unrolled.Stage).
        refinement: resolutions and bands of FLASH after the prediction.
        unit_mm: the geodesics' unit of length, fixed so that the metric means the same on all images.
        ignored_labels: labels up to this number are no structures.
    """

    parameters: Parameters
    stages: tuple[tuple[int, int, tuple[int, ...]], ...]
    refinement: dict[str, Any]
    unit_mm: float = 1.25
    ignored_labels: int = 0
    architecture: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        stages = [
            {"steps": steps, "trained": trained, "channels": list(channels)} for steps, trained, channels in self.stages
        ]
        object.__setattr__(self, "architecture", {"stages": stages, "refinement": self.refinement})


def stated(**changes: Any) -> Parameters:
    """The parameters of what is learned, with some changed."""
    # What is learned is learned at these lengths, of images scaled so, and of this energy and these steps, whatever the
    # defaults are elsewhere.
    stated = {
        **{"window_mm": 8.75, "margin_mm": 12.0, "normalization": "percentiles"},
        **{"alpha": 6.0, "power": 2.0, "alpha_growth": 3.0, "search": "lbfgs", "integrator": "multistep"},
    }
    return Parameters.from_preset("default", **{**stated, **changes})


RECIPES = {
    # Small structures cut out of a scan: learned at half the resolution, finished on every voxel.
    "crop": Recipe(
        stated(resolutions=(2, 1), bands=(15, 23), iterations=(20, 25), margin_mm=8.0),
        ((4, 4, (32, 64, 64)), (2, 0, ())),
        {"resolutions": [1], "bands": [23]},
    ),
    # Whole brains at 1.25 mm: learned at a quarter of the resolution, finished at half.
    "brain": Recipe(
        stated(resolutions=(4, 2), bands=(15, 31), iterations=(10, 6), spacing_mm=1.25),
        ((5, 5, (32, 64, 64)), (10, 0, ())),
        {"resolutions": [1], "bands": [47]},
        ignored_labels=3,
    ),
}
