# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from DeepFLASHRegistrationLib.imaging.intensities import dilated
from DeepFLASHRegistrationLib.imaging.resampling import mask_on_grid, nearest
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.support.errors import InputError
from imaging_shapes import centered_grid


def test_labels_keep_their_type_and_end_with_their_grid() -> None:
    grid = centered_grid((6, 6, 6), (1, 1, 1))
    labels = Volume(grid, np.full(grid.shape, 70_000, np.int32))
    found = nearest(labels, grid.padded(2))
    assert found.dtype == np.int32
    assert (found[2:-2, 2:-2, 2:-2] == 70_000).all()
    assert found.sum() == labels.data.sum()


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
