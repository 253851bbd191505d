# SPDX-License-Identifier: Apache-2.0
"""Maps on the fixed grid: without folds, in the object and around it."""

from __future__ import annotations

import numpy as np
import torch
from DeepFLASHRegistrationLib.geodesics.band import Band, Evaluator, Lattice
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.problem.deformation import deformation_from
from DeepFLASHRegistrationLib.registration.maps import unfolded
from DeepFLASHRegistrationLib.registration.metrics import folded_voxels


def steep(grid: Grid, center: tuple[float, ...]) -> dict:
    """A geodesic that is steeper around a point, given in voxels, than the grid's voxels can show."""
    lengths = tuple(map(float, grid.shape))
    d = grid.ndim
    band, cells = Band((15,) * d, lengths), Lattice.cells(grid.shape, lengths)
    at = np.stack(np.meshgrid(*(np.arange(n) + 0.5 for n in grid.shape), indexing="ij"), -1) - np.array(center)
    noise = np.random.default_rng(1).normal(size=(d, *grid.shape))
    field = 7.5 * noise * np.exp(-(at**2).sum(-1) / (2 * 2.0**2))
    velocity = Evaluator(band, cells, torch.float32, "cpu").project(torch.from_numpy(field.astype(np.float32))).numpy()
    metric = {"alpha": 2.0, "power": 2.0, "gamma": 1.0, "metric_step": None}
    more = {"domain": grid, "unit_mm": 1.0, "affine": np.eye(d + 1), "margin_mm": 4.0, "band_limited": False}
    return {"velocity": velocity, **metric, **more, "integrator": "rk4", "steps": 0}


def test_folds_are_mended_also_beside_the_object() -> None:
    grid = Grid((32, 32, 32), np.eye(4)[[2, 1, 0, 3]])
    geodesic = steep(grid, (16, 16, 8))
    inside = np.zeros(grid.shape, bool)
    inside[8:24, 8:24, 18:26] = True
    before = deformation_from(geodesic).displacement(grid, "fixed_to_moving")
    assert 0 < np.count_nonzero(folded_voxels(before, grid)) < 20
    assert not folded_voxels(before, grid)[inside].any()
    maps = unfolded(grid, geodesic, inside, "cpu")
    assert not folded_voxels(np.asarray(maps.fixed_to_moving), maps.fixed_to_moving.grid).any()
    assert any("damped" in note for note in maps.notes)
