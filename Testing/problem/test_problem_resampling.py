# SPDX-License-Identifier: Apache-2.0
"""Images on another grid and blurred, against SimpleITK, SciPy and what is known."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepFLASHRegistrationLib.geodesics import captured
from DeepFLASHRegistrationLib.geodesics.sampling import sample_linear
from DeepFLASHRegistrationLib.imaging.intensities import dilated
from DeepFLASHRegistrationLib.imaging.resampling import nearest
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.problem import resampling
from DeepFLASHRegistrationLib.problem.resampling import (
    Look,
    Marks,
    blurred,
    linear,
    linear_values,
    looked_up,
    nearest_values,
)
from imaging_shapes import centered_grid, rotation
from scipy.ndimage import gaussian_filter

WEIGHTS = np.array([0.5, -2.0, 3.0])


def ramp(grid) -> Volume:
    """A function that linear interpolation reproduces exactly."""
    index = np.moveaxis(np.indices(grid.shape), 0, -1)
    return Volume(grid, (grid.index_to_physical(index) @ WEIGHTS).astype(np.float32))


def turned() -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation((0, 0, 1), 20) * 1.1, (4, -3, 2)
    return matrix


def by_itk(volume: Volume, grid, matrix: np.ndarray, interpolator: int, outside: float) -> np.ndarray:
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation(matrix[:3, 3].tolist())
    size, spacing, origin, direction = grid.to_image_geometry()
    image = volume.grid.apply_to(sitk.GetImageFromArray(volume.data))
    found = sitk.Resample(image, size, transform, interpolator, origin, spacing, direction, outside)
    return sitk.GetArrayFromImage(found)


def test_an_image_is_sampled_where_the_affine_leads() -> None:
    source = ramp(centered_grid((30, 31, 32), (2, 2, 2)))
    grid = centered_grid((8, 9, 7), (1.5, 2.5, 2), rotation((1, 2, 3), 30)[:, ::-1], (1, 2, 3))
    index = np.moveaxis(np.indices(grid.shape), 0, -1)
    expected = (grid.index_to_physical(index) @ turned()[:3, :3].T + turned()[:3, 3]) @ WEIGHTS
    assert np.allclose(linear(source, grid, turned()), expected, atol=1e-3)


def test_outside_has_its_value_and_the_same_grid_changes_nothing() -> None:
    grid = centered_grid((6, 6, 6), (1, 1, 1))
    assert (linear(ramp(grid), grid.padded(2), outside=-9)[0] == -9).all()
    assert np.array_equal(linear(ramp(grid), grid), ramp(grid).data)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("points", [100, 1 << 21], ids=["in slabs", "at once"])
def test_a_gpu_samples_where_the_cpu_does(ndim, points, monkeypatch) -> None:
    """Coordinates are made on the device, in slabs of their own: the same to a rounding of single precision."""
    source = centered_grid((20, 17, 23)[:ndim], (1.5, 2, 1)[:ndim])
    grid = centered_grid((25, 24, 22)[:ndim], (1, 1.5, 1.2)[:ndim])
    matrix = turned() if ndim == 3 else np.array([[0.9, 0.2, 1.0], [-0.2, 1.1, -2.0], [0, 0, 1]])
    volume = Volume(source, np.random.default_rng(0).normal(size=source.shape).astype(np.float32))
    there = linear(volume, grid, matrix, -3.0)
    monkeypatch.setattr(resampling, "is_cuda", lambda device: True)
    monkeypatch.setattr(resampling, "_DEVICE_POINTS", points)
    here = linear(volume, grid, matrix, -3.0, "cpu")
    assert (there == -3).any()
    assert np.abs(here - there).max() < 1e-5


def test_what_a_device_samples_lies_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device "meta" has no numbers, and cannot be read."""
    monkeypatch.setattr(resampling, "is_cuda", lambda device: True)
    source, grid = centered_grid((20, 17, 23), (1.5, 2, 1)), centered_grid((25, 24, 22), (1, 1.5, 1.2))
    volume = Volume(source, np.zeros(source.shape, np.float32))
    marks = Marks(np.zeros(source.shape, np.uint8), 1, (0.0, 0.0))
    looks = [linear_values(volume, -3.0, "meta"), nearest_values(volume, "meta")]
    with captured._later() as conditions:
        found = looked_up(source, grid, looks, turned(), None, "meta", marks)
    assert conditions[0][0].device.type == "meta"
    assert [(each.device.type, tuple(each.shape)) for each in found] == [("meta", grid.shape)] * 3


def test_where_nothing_is_near_nothing_is_looked_for() -> None:
    """The same as looking everywhere, though most points are not looked at."""
    source = centered_grid((30, 31, 32), (2, 2, 2))
    data = np.zeros(source.shape, np.float32)
    data[9:14, 10:16, 12:20] = np.random.default_rng(0).normal(size=(5, 6, 8))
    image, labels = Volume(source, data), Volume(source, (data > 0.5).astype(np.int16) * 7)
    grid = centered_grid((40, 37, 41), (1.5, 1.5, 1.5), rotation((1, 2, 3), 30)[:, ::-1], (1, 2, 3))
    near = dilated(data != 0, (1, 1, 1)).astype(np.uint8) * 4
    counted = []

    def look(index: torch.Tensor) -> torch.Tensor:
        counted.append(len(index))
        return sample_linear(torch.from_numpy(image.data), index, 0.0)

    looks = [Look(look, torch.float32), nearest_values(labels)]
    marked = looked_up(source, grid, looks, turned(), marks=Marks(near + np.uint8(1), 4, (0.0, 0.0)))
    assert sum(counted) < 0.2 * grid.size
    for ours, theirs in zip(marked[1:], looked_up(source, grid, looks, turned()), strict=True):
        assert np.array_equal(ours, theirs)
    assert np.array_equal(marked[0], nearest(Volume(source, near + np.uint8(1)), grid, turned()))
    assert float(marked[1].abs().max()) > 1


@pytest.mark.parametrize("kind", ["linear", "nearest"])
def test_noise_is_resampled_as_itk_does_it(kind) -> None:
    source = centered_grid((20, 17, 23), (1.5, 2, 1), rotation((2, 1, 0), 15))
    grid = centered_grid((25, 24, 22), (1, 1.5, 1.2), rotation((1, 2, 3), 30)[:, ::-1], (3, 2, 1))
    noise = np.random.default_rng(0).normal(size=source.shape).astype(np.float32)
    if kind == "linear":
        volume = Volume(source, noise)
        found, expected = linear(volume, grid, turned(), -5.0), by_itk(volume, grid, turned(), sitk.sitkLinear, -5.0)
    else:
        volume = Volume(source, (noise * 1000).astype(np.int32))
        found, expected = nearest(volume, grid, turned()), by_itk(volume, grid, turned(), sitk.sitkNearestNeighbor, 0)
    assert 0.2 < (expected != expected.min()).mean() < 1  # there is an outside and an inside
    close = np.isclose(found, expected, atol=1e-3)
    assert close.mean() > 0.9998  # rounding may decide at the outer border


def test_a_blur_is_the_gaussian_s() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(30, 26, 28)).astype(np.float32)
    sigma = (2.0, 1.0, 3.0)
    found = blurred(values, sigma)
    assert np.allclose(found, gaussian_filter(values, sigma, mode="nearest", truncate=3), atol=1e-5)
    assert np.allclose(blurred(np.full((9, 8), 3.0), (2.0, 50.0)), 3.0, atol=1e-5)
