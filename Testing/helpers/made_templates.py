# SPDX-License-Identifier: Apache-2.0
"""Drawn slices whose middle is known, and templates of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from DeepFLASHRegistrationLib.cohorts.many import Settings
from DeepFLASHRegistrationLib.cohorts.template import TemplateRun
from DeepFLASHRegistrationLib.cohorts.template_how import How
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.io import write_volume
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.problem.deformation import Deformation
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.training.dataset import read_dataset

SIZE = 72
GRID = Grid((SIZE, SIZE), np.array([[0, 2.0, 0], [2.0, 0, 0], [0, 0, 1]]))


def anatomy(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intensities and labels at LPS mm (..., 2): an ellipse with two round parts, 0 outside."""
    x, y = points[..., 0] - 72, points[..., 1] - 72

    def ellipse(cx: float, cy: float, a: float, b: float) -> np.ndarray:
        return 1 / (1 + np.exp((np.hypot((x - cx) / a, (y - cy) / b) - 1) * min(a, b) / 1.5))

    body, left, right = ellipse(0, 0, 50, 38), ellipse(-18, 5, 12, 10), ellipse(20, -4, 9, 13)
    image = 100 * body + 60 * left - 55 * right
    labels = np.where(left > 0.5, 2, np.where(right > 0.5, 3, body > 0.5))
    return np.where(body > 0.02, image, 0), labels


def known(number: int) -> Deformation:
    """Geodesics that begin at the anatomy with velocities whose mean is zero."""
    rng = np.random.default_rng(number // 2)
    velocity = np.zeros((2, 9, 9), np.float32)
    velocity[:, 1:5, 1:5] = rng.normal(size=(2, 4, 4)) * 0.7 * (-1) ** number
    return Deformation(
        domain=GRID,
        unit_mm=1.25,
        velocity=velocity,
        alpha=22.0,
        power=1.5,
        gamma=1.0,
        metric_step=None,
        affine=np.eye(3),
        margin_mm=12.0,
    )


def draw(folder: Path, count: int = 4) -> Path:
    folder.mkdir()
    points = GRID.index_to_physical(np.stack(np.indices(GRID.shape), -1))
    for number in range(count):
        # Of the anatomy, which is its moving image, the subject shows what comes from there.
        image, labels = anatomy(points + known(number).displacement(GRID, "fixed_to_moving"))
        write_volume(folder / f"s{number}.nii.gz", Volume(GRID, image.astype(np.float32)))
        write_volume(folder / f"s{number}_labels.nii.gz", Volume(GRID, labels.astype(np.uint8)))
    return folder


def run(data: Path, out: Path, **how) -> TemplateRun:
    parameters = Parameters.from_preset("fast", iterations=(8, 12), alpha=8.0)
    made = TemplateRun(read_dataset(data), out, Settings(parameters, threads=1, workers=1), How(**{"rounds": 2, **how}))
    made.run(lambda end: None)
    return made
