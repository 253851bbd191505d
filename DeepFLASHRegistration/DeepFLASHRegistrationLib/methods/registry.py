# SPDX-License-Identifier: Apache-2.0
"""What a method is, and the way to it by name.

A method is a file of this room with a function estimate(problem, plan, device, initial, watch), which makes of a
problem the map that solves it, a geodesic or a dense one: what determines it, a history of energies, and whether it was
cancelled. Adding one is adding the file, and its name to parameters.METHODS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..imaging.grid import Grid
from ..imaging.volume import Volume
from ..problem.known_transform import KnownTransform
from ..problem.parameters import METHODS, STEERABLE, Parameters
from ..problem.problem import Problem
from ..problem.subject import Subject
from ..support.errors import InputError
from .stages import fitting, refining
from .trained_models import check_method

if TYPE_CHECKING:
    from .pose import Place, Pose
    from .prediction import Predictor


# Settings of trained models, and what other methods lack of them.
_OF_MODELS = {
    "samples": "random answers",
    "instance_steps": "trained network that could be fitted",
    "network_voxels": "network",
}


class Watch(Protocol):
    """Who is told about progress, and who may cancel."""

    cancel: Callable[[], bool]

    def tell(self, **event: Any) -> None: ...


@dataclass(frozen=True)
class Plan:
    """The parameters in effect; the trained model that prescribes them, if any; or where FLASH is to work instead of on
    the grid that is chosen for any image, with the unit of length there; the parameters of FLASH after another map; and
    those that were given."""

    parameters: Parameters
    predictor: Predictor | None = None
    place: Place | None = None
    unit_mm: float | None = None
    after: Parameters | None = None
    given: Parameters | None = None

    @property
    def steering(self) -> Parameters:
        """The parameters by which FLASH is steered."""
        return self.after or self.parameters

    def pose(self, fixed: Subject, **how: Any) -> Pose | None:
        """How a fixed image lies to the mean image that the plan knows; None if it knows none. ``how``: see pose()."""
        mean = self.place.mean if self.place else self.predictor.mean_image if self.predictor else None
        if mean is None:
            return None
        from .pose import pose

        return pose(fixed.image, mean, fixed.mask, **how)

    def unlike(self, pose: Pose | None, moving: Volume, affine: np.ndarray) -> tuple[dict[str, Any], ...]:
        """What about two images, aligned by the affine, is unlike the mean image of the plan's model, as findings."""
        if pose is None or self.predictor is None:
            return ()
        from .pose import carried

        found = self.predictor.unlike(pose, "fixed-image")
        # Of a moving image that does not lie on the fixed one, more cannot be said.
        return found or self.predictor.unlike(carried(pose, self.predictor.mean_image, moving, affine), "moving-image")

    def problem(
        self,
        fixed: Subject,
        moving: Subject,
        affine: np.ndarray,
        device: str = "cpu",
        pose: Pose | None = None,
        grid: Grid | None = None,
    ) -> Problem:
        """The problem of two comparable subjects, aligned by the affine; their images are resampled on the device.

        ``pose``: of the fixed image, from `pose`, if it is known; ``grid``: the working grid, if that is."""
        predictor = self.predictor
        if grid is None and pose is None and (self.place or (predictor and predictor.config.posed)):
            pose = self.pose(fixed)
        if predictor is None:
            grid = grid or (self.place.of(pose) if self.place else None)
            return Problem(fixed, moving, affine, self.parameters, self.unit_mm, 1, device, grid)
        grid = grid or predictor.grid(fixed.grid, pose)
        return Problem(fixed, moving, affine, self.parameters, predictor.unit_mm, predictor.multiple, device, grid)


@dataclass(frozen=True)
class Estimated:
    """The arguments of a Deformation or of a DenseMap, one record per accepted step, what a trained model finds unlike
    its data (prediction.Prediction), why each level of a search ended (`geodesics.search.descent.Ending`), what a user
    should know besides, and by how many mm a model's random answers scatter, on the working grid."""

    velocity: dict[str, Any]
    history: list[dict[str, Any]]
    cancelled: bool
    unusual: tuple[dict[str, Any], ...] = ()
    endings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    uncertainty: np.ndarray | None = None


def plan(parameters: Parameters, ndim: int) -> Plan:
    """What the parameters' method needs; InputError if its model cannot be used."""
    method, refined = METHODS[parameters.method], parameters.method.endswith("+flash")
    if parameters.steered and not parameters.steerable:
        raise InputError(
            f"{parameters.steered}: the method {parameters.method} cannot be steered. Use {', '.join(STEERABLE)}, or "
            f"let FLASH refine its result ({parameters.method}+flash, where there is one)."
        )
    if parameters.method == "lddmm" and (parameters.rigid_labels or parameters.volume_labels):
        raise InputError(
            "rigid_labels and volume_labels: LDDMM is steered by landmarks and structures, and keeps none as they are. "
            "Use the method flash, or lddmm+flash."
        )
    if not method.needs_model:
        for name, lacks in _OF_MODELS.items():
            if getattr(parameters, name):
                raise InputError(f"{name}: the method {parameters.method} has no {lacks}. Leave it out.")
        if not method.fitted:
            return Plan(parameters)
        return Plan(fitting(parameters), after=refining(parameters) if refined else None, given=parameters)
    from .prediction import predictor

    found = predictor(parameters.model)
    check_method(found.config, parameters)
    if found.ndim != ndim:
        raise InputError(
            f"Model {parameters.model!r} is for images of {found.ndim} dimensions, not {ndim}. Choose another model, "
            "or the method flash."
        )
    if parameters.samples and not found.varies:
        raise InputError(
            f"samples: model {parameters.model!r} was trained without dropout, so that its answer is always the same. "
            "Leave them out, or train one with it (deepflash train PACK --method quicksilver --dropout 0.2)."
        )
    if parameters.instance_steps and not found.learns:
        raise InputError(
            f"instance_steps: models of the kind {found.config.kind} cannot be fitted to a pair. Leave them out; FLASH "
            f"can refine a prediction (--method {found.config.method}+flash)."
        )
    if parameters.network_voxels:
        found = found.with_voxels(parameters.network_voxels)
    effective = found.config.effective(parameters)
    if not method.fitted:
        return Plan(effective, found)
    return Plan(fitting(effective), found, after=found.config.refining(effective) if refined else None, given=effective)


def estimate(
    problem: Problem, plan: Plan, device: str, initial: Mapping[str, Any] | KnownTransform | None, watch: Watch
) -> Estimated:
    """The map by the plan's method, from where it is to start if that is given: a `Result.velocity`, or a map."""
    method = import_module(f".{METHODS[plan.parameters.method].file}", __package__)
    return method.estimate(problem, plan, device, initial, watch)
