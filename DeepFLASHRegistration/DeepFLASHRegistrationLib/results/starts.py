# SPDX-License-Identifier: Apache-2.0
"""Registrations that start from saved results: of the neighbour in time, of steps one after the other, or of a mean."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from ..problem.deformation import Deformation
from ..problem.known_transform import KnownTransform
from ..problem.parameters import Parameters
from ..problem.subject import Subject
from ..registration.register import made_of, register
from ..registration.result import Result, digest
from ..support.errors import InputError
from .velocity import SUMMARY, VELOCITY, load_result


@dataclass(frozen=True)
class Start:
    """How a registration begins: its parameters, what ``run``, which is called as `register`, is given besides, and
    what is noted of it."""

    parameters: Parameters
    given: dict[str, Any] = field(default_factory=dict)
    run: Callable[..., Result] = register
    notes: tuple[str, ...] = ()


def started(start: Mapping[str, Any] | None, parameters: Parameters) -> Start:
    """How a registration starts from saved results.

    Args:
        start: None for none; or one of
            {"neighbour": folder}: FLASH goes on from a geodesic on the same fixed image. Its coarsest level, which
            finds the smooth part of a deformation, is passed over. Where there is no such result it starts from rest;
            {"round": folder, "mean": file}: FLASH goes on from a geodesic on an earlier template, which was moved along
            the mean geodesic (`numpy.save` of its velocity) since, in its alignment and domain;
            {"domain": folder}: from rest, in the domain of a geodesic;
            {"settled": folder, "mean": file}: of the velocity from which that would go on nothing is searched;
            {"steps": folders}: of the maps one after the other, the first from the fixed image on;
            {"mean": folders, "weights": numbers}: of the velocities' weighted mean nothing is searched.
        parameters: of the registration without a start.

    Raises:
        InputError: a result cannot be read; velocities of a mean do not live in one space.
    """
    if start is None:
        return Start(parameters)
    if "neighbour" in start:
        return _from_neighbour(start["neighbour"], parameters)
    if "round" in start:
        velocity = _centered(start["round"], start["mean"])
        given = {"initial_affine": velocity["affine"], "domain": velocity["domain"]}
        if parameters.method != "flash":
            return Start(parameters, given)
        begun = _gone_on(velocity, start["round"], parameters)
        return replace(begun, given={**begun.given, **given})
    if "domain" in start:
        return Start(parameters, {"domain": _geodesic(start["domain"]).domain})
    if "settled" in start:
        return Start(parameters, {"velocity": _centered(start["settled"], start["mean"])}, made_of)
    if "steps" in start:
        return Start(parameters, {"initial_map": _chained(start["steps"])})
    return Start(parameters, {"velocity": mean_velocity(start["mean"], start["weights"])}, made_of)


def refined(folder: str, parameters: Parameters) -> Start:
    """FLASH goes on from a saved result of the same fixed image, in its alignment: with landmarks or structures that
    were placed since, for example.

    Raises:
        InputError: it cannot be read, or its map is no geodesic; or the method is not FLASH.
    """
    if parameters.method != "flash":
        raise InputError(f"Only FLASH goes on from a result, not the method {parameters.method}. Leave the method out.")
    return refining(_geodesic(folder), folder, parameters)


def check_same_images(folder: str, ndim: int, **sides: Subject) -> None:
    """InputError unless a result folder, of so many dimensions, is that of these images (fixed, moving), as far as its
    result.json tells."""
    for side in sides.values():
        if side.ndim != ndim:
            raise InputError(
                f"{folder}: is a result in {ndim} dimensions, and {side.name} has {side.ndim}. Give the result of "
                "these images."
            )
    try:
        known = json.loads((Path(folder) / SUMMARY).read_text(encoding="utf-8"))["provenance"]
    except (OSError, ValueError, LookupError, TypeError):
        return  # the velocity alone was kept
    for name, side in sides.items():
        if known.get(f"{name}_sha256") not in (None, digest(side.checked(name).image)):
            raise InputError(
                f"{folder}: is the result of another {name} image than {side.name}, or of what it was before. Give the "
                "result of these images, or register them first."
            )


def refining(deformation: Deformation, name: str, parameters: Parameters) -> Start:
    """The same of a geodesic that was read already; ``name`` says in the notes where it is from."""
    start = _gone_on(arguments_of(deformation), name, parameters)
    return replace(start, given={**start.given, "initial_affine": deformation.affine})


def _centered(folder: str, mean: str) -> dict[str, Any]:
    return centered(_geodesic(folder), np.load(mean))


def centered(geodesic: Deformation, mean: np.ndarray) -> dict[str, Any]:
    """The velocity of a geodesic to a template that was moved along the mean of such since, as `Result.velocity`.

    Seen from the template, the geodesic begins with minus its end velocity; and the template has gone the mean of all
    that way. To first order that is the difference.
    """
    begun = dataclasses.replace(geodesic, velocity=-geodesic.end_velocity() - mean)
    return {**arguments_of(geodesic), "velocity": -begun.end_velocity()}


def _from_neighbour(folder: str, parameters: Parameters) -> Start:
    if not (Path(folder) / VELOCITY).exists():
        return Start(parameters, notes=(f"{folder}: has no result to start from; the search started from rest.",))
    return _gone_on(arguments_of(_geodesic(folder)), folder, parameters)


def _gone_on(velocity: dict[str, Any], folder: str, parameters: Parameters) -> Start:
    """From a velocity, whose smooth part is known."""
    iterations = parameters.iterations
    if len(iterations) > 1:
        parameters = replace(parameters, iterations=(0, *iterations[1:]))
    return Start(parameters, {"initial_velocity": velocity}, notes=(f"The search started from {folder}.",))


def _chained(folders: Sequence[str]) -> KnownTransform:
    """The maps one after the other, without an affine."""
    steps = [_geodesic(folder) for folder in folders]

    def moved(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = reduce(lambda at, step: step.points(at, "fixed_to_moving"), steps, points)
        return found, np.ones(len(points), dtype=bool)

    name = "the map" if len(folders) == 1 else f"the {len(folders)} maps one after the other"
    return KnownTransform(name, moved, np.eye(steps[0].domain.ndim + 1))


def mean_velocity(folders: Sequence[str], weights: Sequence[float]) -> dict[str, Any]:
    """The weighted sum of the velocities of results, as `Result.velocity`.

    Raises:
        InputError: a result is missing, or they do not live on one domain with one metric and one alignment.
    """
    found = [_geodesic(folder) for folder in folders]
    first = found[0]
    for folder, each in zip(folders, found, strict=True):
        if not _alike(each, first):
            raise InputError(
                f"{folder}: its velocity does not live in the space of that of {folders[0]}, so that they have no "
                "mean. Register the series again, into a new folder."
            )
    total = sum(weight * each.velocity.astype(np.float64) for weight, each in zip(weights, found, strict=True))
    return {**arguments_of(first), "velocity": total.astype(np.float32)}


def _geodesic(folder: str) -> Deformation:
    deformation = load_result(folder).deformation
    if not isinstance(deformation, Deformation):
        raise InputError(f"{folder}: its map is no geodesic. Register again with --as-geodesic.")
    return deformation


def arguments_of(deformation: Deformation) -> dict[str, Any]:
    """What determines a geodesic, as `Result.velocity` has it."""
    names = [each.name for each in dataclasses.fields(deformation) if each.init and each.name != "device"]
    return {name: getattr(deformation, name) for name in names}


def _alike(one: Deformation, other: Deformation) -> bool:
    """Whether two velocities are vectors of one space, and their geodesics those of one metric."""
    numbers = ("unit_mm", "alpha", "power", "gamma", "metric_step", "margin_mm", "band_limited")
    return (
        one.velocity.shape == other.velocity.shape
        and one.domain.same_as(other.domain)
        and np.allclose(one.affine, other.affine, rtol=0, atol=1e-9)
        and all(getattr(one, name) == getattr(other, name) for name in numbers)
    )
