# SPDX-License-Identifier: Apache-2.0
"""Folds and determinants of a tensor: as numpy finds them in an array, which is tested against cases solved by hand."""

from __future__ import annotations

import numpy as np
import pytest
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.registration.metrics import folded_voxels, jacobian_determinant

torch = pytest.importorskip("torch")

from DeepFLASHRegistrationLib.registration.folds import folds_and_determinants  # noqa: E402
from recordings import NoReads, OneDevice  # noqa: E402


def oblique(d: int, handed: int) -> Grid:
    """A turned grid of either handedness, its voxels no cubes."""
    rng = np.random.default_rng(d)
    axes, _ = np.linalg.qr(rng.normal(size=(d, d)))
    axes[:, 0] *= handed * np.sign(np.linalg.det(axes))
    matrix = np.eye(d + 1)
    matrix[:d, :d] = axes * (1.1, 0.9, 1.3)[:d]
    return Grid((14, 17, 15)[:d], matrix)


@pytest.mark.parametrize("handed", [1, -1], ids=["right", "left"])
@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize("size", [0.05, 0.2, 0.4])
def test_they_are_those_of_the_array(d: int, handed: int, size: float) -> None:
    grid = oblique(d, handed)
    field = (size * np.random.default_rng(1).normal(size=(*grid.shape, d))).astype(np.float32)
    folded, determinant = folds_and_determinants(torch.from_numpy(field).movedim(-1, 0), grid.affine[:-1, :-1])
    inner = (slice(1, -1),) * d
    assert np.array_equal(folded, folded_voxels(field, grid)[inner])
    assert np.abs(determinant.numpy() - jacobian_determinant(field, grid)[inner]).max() < 2e-6
    assert bool(folded.any()) == (size > 0.1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_folded(value: float) -> None:
    grid = oblique(3, 1)
    field = np.zeros((*grid.shape, 3), np.float32)
    field[6, 7, 8, 1] = value
    folded, _ = folds_and_determinants(torch.from_numpy(field).movedim(-1, 0), grid.affine[:-1, :-1])
    assert np.array_equal(folded, folded_voxels(field, grid)[1:-1, 1:-1, 1:-1])
    assert folded[5, 6, 7]


def test_nothing_waits_for_a_number_of_a_device() -> None:
    with OneDevice("meta"), NoReads():
        folded, determinant = folds_and_determinants(torch.zeros(3, 6, 7, 8, device="meta"), np.diag([1.0, 2.0, 3.0]))
    assert tuple(folded.shape) == tuple(determinant.shape) == (4, 5, 6)
