# SPDX-License-Identifier: Apache-2.0
"""Models whose answer is a map, and a pair that lies some voxels apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from DeepFLASHRegistrationLib.methods.map_prediction import MapPredictor
from DeepFLASHRegistrationLib.methods.registry import Plan
from DeepFLASHRegistrationLib.methods.trained_models import ModelConfig, save_model
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.problem.problem import Problem, comparable
from DeepFLASHRegistrationLib.problem.subject import Subject
from DeepFLASHRegistrationLib.registration.register import register
from DeepFLASHRegistrationLib.registration.result import Result
from made_models import SETTINGS
from training_images import subject

SPACING, SHAPE, SHIFT = 4.0, (30, 34, 28), 3
REFINEMENT = {"resolutions": [1], "bands": [9]}


def saved(folder: Path, kind: str, architecture: dict, network: torch.nn.Module, **more: object) -> Path:
    """A model in a folder."""
    values = {
        "name": kind,
        "kind": kind,
        "architecture": architecture | {"refinement": REFINEMENT},
        "parameters": Parameters(
            resolutions=(4, 2, 1), bands=(7, 9, 9), iterations=(2, 2, 1), spacing_mm=SPACING, margin_mm=8 * SPACING
        ),
        "unit_mm": SPACING,
        "spacing_mm": SPACING,
        "extent_mm": (20.0, 200.0),
        "energy": (0.2, 0.3),
    }
    arrays = {name: value.detach().numpy().astype(np.float16) for name, value in network.state_dict().items()}
    return save_model(folder, ModelConfig(**(SETTINGS | values | more)), arrays)


def moved() -> list[Subject]:
    """A subject, and the same as it lies some voxels further along the last axis."""
    image, labels = subject(4, SHAPE, SPACING)
    there = [v.with_data(np.roll(v.data, SHIFT, axis=-1)) for v in (image, labels)]
    return [Subject(image, labels=labels), Subject(there[0], labels=there[1])]


def problem_of(predictor: MapPredictor) -> Problem:
    """The pair as a model sees it, aligned by nothing."""
    sides = comparable(*(each.checked() for each in moved()), predictor.parameters)
    return Plan(predictor.parameters, predictor).problem(*sides, np.eye(4))


def registered(model: Path, method: str, **more: object) -> Result:
    """The pair, by a model."""
    fixed, moving = moved()
    parameters = Parameters(method=method, model=str(model), initial_alignment="none", **more)
    labels = {"fixed_labels": fixed.labels, "moving_labels": moving.labels}
    return register(fixed.image, moving.image, parameters, threads=1, **labels)
