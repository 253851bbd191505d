# SPDX-License-Identifier: Apache-2.0
"""Headers times any number: the same registration, its lengths times that number."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.registration.register import register
from DeepFLASHRegistrationLib.registration.result import Result
from imaging_shapes import centered_grid, head_values, rotation, sampled


def of_size(volume: Volume, factor: float) -> Volume:
    matrix = volume.grid.affine.copy()
    matrix[:-1] *= factor
    return replace(volume, grid=Grid(volume.grid.shape, matrix))


def registered(factor: float) -> Result:
    """Two heads, of which one is turned and bent by up to 5 mm."""
    grid = centered_grid((26, 34, 28), (4, 4, 4))
    points = grid.index_to_physical(np.moveaxis(np.indices(grid.shape), 0, -1)) @ rotation((1, 2, -1), 8)
    bent = head_values(points + 5 * np.sin(points[..., [1, 2, 0]] / 12))
    pair = (of_size(v, factor) for v in (sampled(grid), Volume(grid, bent.astype(np.float32), "bent")))
    return register(*pair, Parameters.from_preset("fast"), device="cpu", threads=1)


@pytest.fixture(scope="module")
def usual() -> Result:
    return registered(1.0)


@pytest.mark.parametrize("factor", [0.001, 0.15, 1000])
def test_fast_is_the_same_whatever_the_size_of_the_world(usual, factor) -> None:
    other = registered(factor)
    assert other.field_grid.shape == usual.field_grid.shape
    assert usual.metrics["similarity_after"] > usual.metrics["similarity_before"] + 0.02
    # A hundredth of a voxel.
    assert np.abs(other.fixed_to_moving / factor - usual.fixed_to_moving).max() < 0.04
    assert np.abs(other.warped.data - usual.warped.data).max() < 0.002 * usual.warped.data.max()
    assert other.metrics["similarity_after"] == pytest.approx(usual.metrics["similarity_after"], abs=1e-5)
    assert other.metrics["folds"]["count"] == usual.metrics["folds"]["count"] == 0
    assert other.verdict.level == usual.verdict.level
