# SPDX-License-Identifier: Apache-2.0
"""Fields in files are rounded: by no more than is said, without folds, and so that they take a third of the bytes."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.image_files.nifti import rounded
from DeepFLASHRegistrationLib.imaging.transforms import read_displacement_field, write_displacement_field
from DeepFLASHRegistrationLib.registration.metrics import folded_voxels
from DeepFLASHRegistrationLib.results.rounding import field_step


def grid_of(shape: tuple[int, ...], spacing: float) -> Grid:
    d = len(shape)
    affine = np.eye(d + 1)
    affine[:d, :d] = np.eye(d)[::-1] * spacing
    return Grid(shape, affine)


def waves(grid: Grid, amplitude: float, wavelength: float) -> np.ndarray:
    """A smooth field of random waves, in voxels, beside a linear part as an affine leaves it."""
    rng = np.random.default_rng(0)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), -1)
    field = 0.02 * (index - np.array(grid.shape) / 2) @ rng.uniform(-1, 1, (grid.ndim, grid.ndim))
    for _ in range(12):
        direction = rng.normal(size=grid.ndim)
        phase = index @ (direction / np.linalg.norm(direction) * 2 * np.pi / rng.uniform(1, 3) / wavelength)
        field += amplitude / 4 * np.sin(phase + rng.uniform(0, 6))[..., None] * rng.normal(size=grid.ndim)
    return (field * float(grid.spacing[0])).astype(np.float32)


@pytest.mark.parametrize(
    ("spacing", "step"), [(3.0, 2.0**-7), (1.0, 2.0**-7), (0.5, 2.0**-8), (0.05, 2.0**-11), (1e-3, 2.0**-17)]
)
def test_the_step_is_a_128th_of_a_millimeter_and_less_for_small_voxels(spacing: float, step: float) -> None:
    grid = grid_of((12, 14, 10), spacing)
    assert field_step(waves(grid, 0.5, 9), grid) == step


@pytest.mark.parametrize("shape", [(20, 24, 22), (40, 48)])
def test_simpleitk_reads_the_exact_field_but_for_half_a_step(tmp_path: Path, shape: tuple[int, ...]) -> None:
    grid = grid_of(shape, 1.0)
    field = waves(grid, 1.5, 12)
    write_displacement_field(tmp_path / "f.nii.gz", grid, field, step_mm=2.0**-7)
    seen = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "f.nii.gz"))).reshape(field.shape)
    assert 0 < np.abs(seen - field).max() <= 2.0**-8
    assert np.array_equal(read_displacement_field(tmp_path / "f.nii.gz")[1], seen)
    assert np.array_equal(seen * 128, np.rint(seen * 128))
    header = gzip.open(tmp_path / "f.nii.gz").read(348)
    # Float32 without a slope: ITK 5.4 crashes on vectors of integers that are scaled.
    assert struct.unpack_from("<2h", header, 70) == (16, 32)
    assert struct.unpack_from("<2f", header, 112) == (1.0, 0.0)


@pytest.mark.parametrize("spacing", [0.6, 0.9, 1.0, 1.5])
def test_a_rounded_field_takes_at_most_two_fifths_of_the_bytes(tmp_path: Path, spacing: float) -> None:
    grid = grid_of((60, 110, 100), spacing)
    field = waves(grid, 0.7, 20)
    write_displacement_field(tmp_path / "exact.nii.gz", grid, field)
    write_displacement_field(tmp_path / "f.nii.gz", grid, field, step_mm=field_step(field, grid))
    assert (tmp_path / "f.nii.gz").stat().st_size < 0.4 * (tmp_path / "exact.nii.gz").stat().st_size


def test_rounding_never_folds() -> None:
    """A map that squeezes a voxel to less than a step: it is rounded more finely, down to not at all."""
    grid = grid_of((8, 9, 40), 1.0)
    for squeeze in (2e-3, 1e-4):
        field = np.zeros((8, 9, 40, 3), dtype=np.float32)
        field[:, :, 15:25, 0] = -(1 - squeeze) * np.arange(10)  # x + u grows by `squeeze` between neighbors
        field[:, :, 25:, 0] = field[:, :, 24:25, 0]
        assert not folded_voxels(field, grid).any()
        assert folded_voxels(rounded(field, 2.0**-7), grid).any()
        step = field_step(field, grid)
        assert step is None or (step < 2.0**-7 and not folded_voxels(rounded(field, step), grid).any())


def test_what_folds_already_is_rounded_as_all_else() -> None:
    grid = grid_of((8, 9, 40), 1.0)
    field = np.zeros((8, 9, 40, 3), dtype=np.float32)
    field[:, :, 15:25, 0] = -1.5 * np.arange(10)
    field[:, :, 25:, 0] = field[:, :, 24:25, 0]
    assert folded_voxels(field, grid).any()
    assert field_step(field, grid) == 2.0**-7


def test_minus_zero_is_zero() -> None:
    assert not np.signbit(rounded(np.array([-0.0, -1e-4, 1e-4], dtype=np.float32), 2.0**-7)).any()


def test_folds_are_looked_for_where_a_map_squeezes() -> None:
    grid = grid_of((60, 9, 12), 1.0)
    field = np.zeros((60, 9, 12, 3), dtype=np.float32)
    field[40:50, ..., 2] = -(1 - 2e-3) * np.arange(10)[:, None, None]  # along z
    field[50:, ..., 2] = field[49, 0, 0, 2]
    around = grid.index_to_physical(np.array([[45, 4, 6]]))
    elsewhere = grid.index_to_physical(np.array([[5, 4, 6]]))
    assert field_step(field, grid, np.empty((0, 3))) == field_step(field, grid, elsewhere) == 2.0**-7
    assert field_step(field, grid, around) == field_step(field, grid) != 2.0**-7


def test_where_a_result_squeezes_is_found_on_both_sides(saved: Any) -> None:
    from dataclasses import replace

    from DeepFLASHRegistrationLib.results.rounding import squeezed

    result, index = saved.result, (10, 12, 9)
    for value, which, direction in ((-3.0, 0, None), (3.0, 1, "fixed_to_moving")):
        data = np.zeros_like(result.log_jacobian.data)
        data[index] = value
        found = squeezed(replace(result, log_jacobian=result.log_jacobian.with_data(data)))
        point = result.fixed_grid.index_to_physical(np.array([index]))
        expected = point if direction is None else result.deformation.points(point, direction)
        assert np.allclose(found[which], expected, atol=0.2)
        assert not len(found[1 - which])
