# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from DeepFLASHRegistrationLib.imaging.intensities import dilated
from DeepFLASHRegistrationLib.imaging.resampling import mask_on_grid, resample
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.support.errors import InputError
from imaging_shapes import centered_grid, rotation

WEIGHTS = np.array([0.5, -2.0, 3.0])


def ramp(grid) -> Volume:
    """A function that linear interpolation reproduces exactly."""
    index = np.moveaxis(np.indices(grid.shape), 0, -1)
    return Volume(grid, (grid.index_to_physical(index) @ WEIGHTS).astype(np.float32))


def test_an_image_is_sampled_where_the_affine_leads() -> None:
    source = ramp(centered_grid((30, 31, 32), (2, 2, 2)))
    grid = centered_grid((8, 9, 7), (1.5, 2.5, 2), rotation((1, 2, 3), 30)[:, ::-1], (1, 2, 3))
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation((0, 0, 1), 20) * 1.1, (4, -3, 2)
    index = np.moveaxis(np.indices(grid.shape), 0, -1)
    expected = (grid.index_to_physical(index) @ matrix[:3, :3].T + matrix[:3, 3]) @ WEIGHTS
    assert np.allclose(resample(source, grid, matrix), expected, atol=1e-3)


def test_outside_has_its_value_and_labels_keep_their_type() -> None:
    grid = centered_grid((6, 6, 6), (1, 1, 1))
    labels = Volume(grid, np.full(grid.shape, 70_000, np.int32))
    found = resample(labels, grid.padded(2), nearest=True)
    assert found.dtype == np.int32
    assert (found[2:-2, 2:-2, 2:-2] == 70_000).all()
    assert found.sum() == labels.data.sum()
    assert (resample(ramp(grid), grid.padded(2), outside=-9)[0] == -9).all()


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32])
def test_a_mask_of_another_grid_covers_the_same_place(dtype) -> None:
    fine, coarse = centered_grid((40, 40, 40), (1, 1, 1)), centered_grid((20, 20, 20), (2, 2, 2))
    mask = np.zeros(fine.shape, dtype)
    mask[10:20, :, 30:] = 1
    expected = np.zeros(coarse.shape, bool)
    expected[5:10, :, 15:] = True
    found = mask_on_grid(Volume(fine, mask), coarse)
    assert found.dtype == bool
    assert np.array_equal(found, expected)
    assert np.array_equal(mask_on_grid(Volume(fine, mask), fine), mask != 0)
    assert not mask_on_grid(Volume(fine, mask), fine.padded(3))[:3].any()


def test_a_mask_that_does_not_meet_the_grid_is_refused_by_name() -> None:
    grid, away = (centered_grid((9, 9, 9), (1, 1, 1), None, (x, 0, 0)) for x in (0, 50))
    ones = np.ones(grid.shape, np.uint8)
    with pytest.raises(InputError, match=r"body\.nii: the mask does not meet its image"):
        mask_on_grid(Volume(away, ones, "body.nii"), grid)
    with pytest.raises(InputError, match="moving mask: the mask does not meet"):
        mask_on_grid(Volume(away, ones), grid, "moving mask")


def test_a_mask_grows_by_a_box() -> None:
    mask = np.zeros((9, 9, 4), bool)
    mask[4, 1, 2] = True
    grown = dilated(mask, (2, 1, 0))
    assert grown.sum() == 5 * 3
    assert grown[2:7, 0:3, 2].all()
    assert dilated(mask, (20, 20, 20)).all()
