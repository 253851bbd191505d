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

from ..problem.known_transform import KnownTransform
from ..problem.parameters import METHODS, Parameters
from ..problem.problem import Problem
from ..problem.subject import Subject
from ..support.errors import InputError
from .stages import fitting, refining

if TYPE_CHECKING:
    from .prediction import Predictor


class Watch(Protocol):
    """Who is told about progress, and who may cancel."""

    cancel: Callable[[], bool]

    def tell(self, **event: Any) -> None: ...


@dataclass(frozen=True)
class Plan:
    """The parameters in effect, the trained model that prescribes them if there is one, the parameters of FLASH after a
    transform, and those that were given."""

    parameters: Parameters
    predictor: Predictor | None = None
    after: Parameters | None = None
    given: Parameters | None = None

    def problem(self, fixed: Subject, moving: Subject, affine: np.ndarray, device: str = "cpu") -> Problem:
        """The problem of two comparable subjects, aligned by the affine; their images are resampled on the device."""
        predictor = self.predictor
        if predictor is None:
            return Problem(fixed, moving, affine, self.parameters, device=device)
        return Problem(fixed, moving, affine, self.parameters, predictor.unit_mm, predictor.multiple, device)


@dataclass(frozen=True)
class Estimated:
    """The arguments of a Deformation or of a DenseMap, one record per accepted step, what a trained model finds unlike
    its data (prediction.Prediction), why each level of a search ended (`geodesics.search.descent.Ending`), and what a
    user should know besides."""

    velocity: dict[str, Any]
    history: list[dict[str, Any]]
    cancelled: bool
    unusual: tuple[dict[str, Any], ...] = ()
    endings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def plan(parameters: Parameters, ndim: int) -> Plan:
    """What the parameters' method needs; InputError if its model cannot be used."""
    if METHODS[parameters.method].fitted:
        refined = parameters.method.endswith("+flash")
        return Plan(fitting(parameters), None, refining(parameters) if refined else None, parameters)
    if not METHODS[parameters.method].needs_model:
        return Plan(parameters)
    from .prediction import predictor

    found = predictor(parameters.model)
    if found.ndim != ndim:
        raise InputError(
            f"Model {parameters.model!r} is for images of {found.ndim} dimensions, not {ndim}. Choose another model, "
            "or the method flash."
        )
    return Plan(found.config.effective(parameters), found)


def estimate(
    problem: Problem, plan: Plan, device: str, initial: Mapping[str, Any] | KnownTransform | None, watch: Watch
) -> Estimated:
    """The map by the plan's method, from where it is to start if that is given: a `Result.velocity`, or a map."""
    method = import_module(f".{METHODS[plan.parameters.method].file}", __package__)
    return method.estimate(problem, plan, device, initial, watch)
