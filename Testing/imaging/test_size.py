# SPDX-License-Identifier: Apache-2.0
"""The size of an object, which lengths follow."""

from __future__ import annotations

import numpy as np
import pytest
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.size import BRAIN_RADIUS_MM, radius_mm, scale
from imaging_shapes import centered_grid, rotation


def ball(grid: Grid, radius: float) -> np.ndarray:
    points = grid.index_to_physical(np.moveaxis(np.indices(grid.shape), 0, -1))
    return np.linalg.norm(points, axis=-1) < radius


@pytest.mark.parametrize("spacing", [(2, 2, 2), (4, 1.5, 2)])
def test_the_radius_of_a_ball_is_the_root_of_three_fifths_of_it(spacing) -> None:
    grid = centered_grid(tuple(int(100 / h) for h in spacing), spacing)
    assert radius_mm(grid, ball(grid, 40)) == pytest.approx(40 * np.sqrt(3 / 5), rel=0.005)
    turned = centered_grid(grid.shape, spacing, rotation((1, 2, 3), 40))
    assert radius_mm(turned, ball(turned, 40)) == pytest.approx(40 * np.sqrt(3 / 5), rel=0.005)


def test_a_disc_and_a_box() -> None:
    grid = centered_grid((100, 120), (1, 1))
    assert radius_mm(grid, ball(grid, 30)) == pytest.approx(30 / np.sqrt(2), rel=0.005)
    assert radius_mm(grid, np.ones(grid.shape)) == pytest.approx(np.sqrt((100**2 + 120**2) / 12))
    assert radius_mm(grid, np.zeros(grid.shape)) == radius_mm(grid, np.ones(grid.shape))  # nothing to go by: all of it


def test_a_few_stray_voxels_do_not_matter_and_the_size_of_the_world_does() -> None:
    grid = centered_grid((50, 50, 50), (3, 3, 3))
    inside = ball(grid, 50)
    usual = scale(grid, inside)
    assert usual == pytest.approx(50 * np.sqrt(3 / 5) / BRAIN_RADIUS_MM, rel=0.005)
    for factor in (1e-3, 7.0):
        matrix = grid.affine.copy()
        matrix[:-1] *= factor
        assert scale(Grid(grid.shape, matrix), inside) == pytest.approx(factor * usual)
    inside[0, 0, :20] = True
    assert scale(grid, inside) == pytest.approx(usual, rel=0.01)
