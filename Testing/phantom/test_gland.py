# SPDX-License-Identifier: Apache-2.0
"""The gland: its truth is true, and its two images agree in as much as is said."""

from __future__ import annotations

import numpy as np
import pytest
from DeepFLASHRegistrationLib.imaging.resampling import nearest
from DeepFLASHRegistrationLib.phantom.gland import GLAND_LABELS, WHOLE, make_gland
from DeepFLASHRegistrationLib.registration.metrics import grid_points, map_points

SMALL = {"shape": (40, 40, 40), "spacing_mm": 2.4}


@pytest.fixture(scope="module")
def gland():
    return make_gland(3, **SMALL)


def test_the_maps_are_each_others_inverse_and_carry_landmarks_and_labels(gland):
    points = grid_points(gland.fixed.grid, np.isin(gland.fixed_labels.data, WHOLE))
    there = map_points(points, gland.fixed_to_moving, gland.fixed.grid)
    back = map_points(there, gland.moving_to_fixed, gland.moving.grid)
    off = np.linalg.norm(back - points, axis=1)  # of fields of 2.4 mm, linear in between
    assert off.mean() < 0.15
    assert off.max() < 0.5
    mapped = map_points(gland.fixed_points, gland.fixed_to_moving, gland.fixed.grid)
    assert np.linalg.norm(mapped - gland.moving_points, axis=1).max() < 0.4
    at = np.rint(gland.moving.grid.physical_to_index(there)).astype(int)
    labels = gland.fixed_labels.data[np.isin(gland.fixed_labels.data, WHOLE)]
    assert np.mean(gland.moving_labels.data[tuple(at.T)] == labels) > 0.75


def test_it_has_all_structures_and_no_two_seeds_are_alike(gland):
    assert set(np.unique(gland.fixed_labels.data)) == {0, *GLAND_LABELS}
    assert set(np.unique(gland.moving_labels.data)) == {0, *GLAND_LABELS}
    assert not np.array_equal(make_gland(4, **SMALL).fixed.data, gland.fixed.data)
    assert np.array_equal(make_gland(3, **SMALL).moving.data, gland.moving.data)


def test_the_second_contrast_shows_nothing_of_the_anatomy(gland):
    """Bones are the brightest of tissues to ultrasound; where it shows nothing they are as bright as all else."""
    seen = {}
    for contrast, pair in (("different", gland), ("none", make_gland(3, contrast="none", **SMALL))):
        labels, values = nearest(pair.moving_labels, pair.moving.grid), pair.moving.data
        inside = values > 0
        seen[contrast] = values[inside & (labels == 6)].mean() / values[inside & (labels == 1)].mean()
    assert seen["different"] > 1.4
    assert seen["none"] == pytest.approx(1.0, abs=0.25)
    with pytest.raises(ValueError, match="contrast"):
        make_gland(0, contrast="ct")
