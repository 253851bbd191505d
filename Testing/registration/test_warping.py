# SPDX-License-Identifier: Apache-2.0
"""Resampling through a displacement field, against SimpleITK."""

from __future__ import annotations

import numpy as np
import pytest
import registration_pairs as pairs
import SimpleITK as sitk
from DeepFLASHRegistrationLib.imaging import resampling
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.registration.warping import warp, warp_labels

pytest.importorskip("torch")


def some_field(grid: Grid) -> np.ndarray:
    """Displacements of up to 20 mm."""
    at = pairs.places(grid)
    return (12 * np.sin(np.roll(at, 1, -1) / 20) + 6).astype(np.float32)


def by_simpleitk(volume: Volume, grid: Grid, field: np.ndarray, interpolator: int, outside: float) -> np.ndarray:
    image = volume.grid.apply_to(sitk.GetImageFromArray(volume.data))
    transform = sitk.DisplacementFieldTransform(
        grid.apply_to(sitk.Cast(sitk.GetImageFromArray(field, isVector=True), sitk.sitkVectorFloat64))
    )
    reference = grid.apply_to(sitk.GetImageFromArray(np.zeros(grid.shape, np.float32)))
    return sitk.GetArrayFromImage(sitk.Resample(image, reference, transform, interpolator, outside))


GRIDS = {
    "3-D": (pairs.box((20, 22, 18), (4, 3, 5)), pairs.box((17, 21, 25), (4.4, 5, 3), pairs.turn(35), (3, 4, 5))),
    "2-D": (pairs.box((30, 28), (3, 2.5)), pairs.box((33, 31), 2.0, pairs.turn(25, (0, 0, 1))[:2, :2], (1, 2))),
}


@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS.keys())
def test_linear_and_nearest_are_simpleitks(grids: tuple[Grid, Grid]) -> None:
    fixed, moving = grids
    rng = np.random.default_rng(0)
    volume = Volume(moving, rng.normal(100, 20, moving.shape).astype(np.float32))
    field = some_field(fixed)
    found = warp(volume, fixed, field, outside=-7.0)
    expected = by_simpleitk(volume, fixed, field, sitk.sitkLinear, -7.0)
    assert found.dtype == np.float32
    different = np.abs(found - expected) > 0.05
    assert different.mean() < 1e-3  # voxels on the very border
    assert (found == -7).any()
    assert (found != -7).any()
    labels = volume.with_data(rng.integers(-3, 9, moving.shape).astype(np.int16))
    found = warp(labels, fixed, field, outside=-100, interpolation="nearest")
    assert found.dtype == np.int16
    assert (found != by_simpleitk(labels, fixed, field, sitk.sitkNearestNeighbor, -100)).mean() < 5e-3


def test_cubic_is_closer_to_a_smooth_image_than_linear() -> None:
    grid = pairs.box((30, 30, 30), 3.0)
    volume = Volume(grid, pairs.intensities(pairs.places(grid)).astype(np.float32))
    finer = pairs.box((30, 28, 29), 1.7)
    still = np.zeros((*finer.shape, 3), np.float32)
    true = pairs.intensities(pairs.places(finer))
    linear = np.abs(warp(volume, finer, still) - true).mean()
    cubic = np.abs(warp(volume, finer, still, interpolation="cubic") - true).mean()
    assert cubic < 0.6 * linear


def test_no_displacement_on_the_same_grid_changes_nothing() -> None:
    volume = pairs.moving_image()
    still = np.zeros((*volume.grid.shape, 3), np.float32)
    for interpolation in ("linear", "cubic", "nearest"):
        assert np.allclose(warp(volume, volume.grid, still, interpolation=interpolation), volume.data, atol=0.05)
    labels = pairs.moving_labels()
    assert np.array_equal(warp_labels(labels, labels.grid, still), labels.data)


def test_slabs_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = pairs.box((13, 12, 11), 6.0)
    field, volume, labels = some_field(fixed), pairs.moving_image(), pairs.moving_labels()
    whole = warp(volume, fixed, field), warp_labels(labels, fixed, field)
    monkeypatch.setattr(resampling, "_SLAB_VOXELS", 300)
    assert np.array_equal(warp(volume, fixed, field), whole[0])
    assert np.array_equal(warp_labels(labels, fixed, field), whole[1])


def test_labels_take_the_heaviest_neighbor_and_invent_none() -> None:
    labels = pairs.moving_labels()
    fixed = pairs.box((26, 25, 24), 4.0)
    field = some_field(fixed)
    found = warp_labels(labels, fixed, field)
    assert found.dtype == labels.data.dtype
    weights = np.stack([warp(labels.with_data((labels.data == k).astype(np.float32)), fixed, field) for k in range(5)])
    weights[0] += 1 - weights.sum(0)
    clear = np.sort(weights, 0)[-1] - np.sort(weights, 0)[-2] > 1e-3
    assert (found[clear] == weights.argmax(0)[clear]).mean() > 0.995
    assert set(np.unique(found)) <= set(np.unique(labels.data)) | {0}


def test_large_label_numbers_survive() -> None:
    grid = Grid((4, 4, 4), np.eye(4))
    data = np.full((4, 4, 4), 2**31 - 1, np.int32)
    data[:2] = 2**24 + 1
    found = warp_labels(Volume(grid, data), grid, np.zeros((4, 4, 4, 3), np.float32))
    assert np.array_equal(found, data)


def test_far_from_the_origin_nothing_is_lost() -> None:
    """Coordinates of kilometers leave single precision a tenth of a millimeter; indices must not suffer."""
    near, offset = pairs.moving_image(), np.array([2.0e6, -3.0e6, 1.0e6])
    affine = near.grid.affine.copy()
    affine[:3, 3] += offset
    far = Volume(Grid(near.grid.shape, affine), near.data)
    grid = pairs.box((20, 21, 22), 4.0)
    there = grid.affine.copy()
    there[:3, 3] += offset
    field = some_field(grid)
    assert np.allclose(warp(far, Grid(grid.shape, there), field), warp(near, grid, field), atol=0.5)


def test_unknown_interpolation_is_refused() -> None:
    volume = pairs.moving_image()
    with pytest.raises(ValueError, match="Unknown interpolation 'spline'; choose one of linear, cubic, nearest"):
        warp(volume, volume.grid, np.zeros((*volume.grid.shape, 3), np.float32), interpolation="spline")


def test_a_field_that_is_not_finite_is_refused_not_sampled() -> None:
    volume = pairs.moving_image()
    field = np.zeros((*volume.grid.shape, 3), np.float32)
    for value in (np.nan, np.inf, 1e30):
        field[3, 4, 5] = value
        with pytest.raises(ArithmeticError, match="no longer finite"):
            warp(volume, volume.grid, field)
