# SPDX-License-Identifier: Apache-2.0
"""What steers besides the images: terms that mean what they say, and input that cannot steer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.landmarks import Landmarks
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.phantom.gland import make_gland
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.problem.problem import Problem, comparable
from DeepFLASHRegistrationLib.problem.steering import COUNTS, check_steering
from DeepFLASHRegistrationLib.problem.subject import Subject, corresponding
from DeepFLASHRegistrationLib.problem.surfaces import distance
from DeepFLASHRegistrationLib.support.errors import InputError


@pytest.fixture(scope="module")
def gland():
    return make_gland(3, shape=(40, 40, 40), spacing_mm=2.4)


@pytest.fixture(scope="module")
def sides(gland):
    found = []
    for side in ("fixed", "moving"):
        landmarks = Landmarks(getattr(gland, f"{side}_points"), gland.point_names, f"{side}.fcsv")
        image, labels = getattr(gland, side), getattr(gland, f"{side}_labels")
        found.append(Subject(image, labels, None, landmarks).checked(side))
    return found


def parameters(**changes):
    return Parameters.from_preset("fast", **changes)


def problem(sides, gland, **changes):
    chosen = parameters(**changes)
    return Problem(*comparable(*sides, chosen), gland.affine, chosen)


def test_nothing_steers_unless_it_is_asked_for(sides, gland):
    plain = problem(sides, gland)
    assert not plain.steering
    assert type(plain.compared()).__name__ == "Pair"


def test_the_distance_of_a_ball_is_that_of_its_radius():
    grid = Grid((31, 41, 36), np.diag([1.0, 0.8, 1.2, 1.0])[[2, 1, 0, 3]])
    index = np.moveaxis(np.indices(grid.shape), 0, -1)
    points = grid.index_to_physical(index.reshape(-1, 3)).reshape(*grid.shape, 3)
    radius = np.linalg.norm(points - grid.index_to_physical((np.array(grid.shape) - 1) / 2), axis=-1)
    found = distance(Volume(grid, np.where(radius < 10, 7, 0).astype(np.int32)), 7, 4.0).data
    expected = np.clip(10 - radius, -4, 4)
    assert np.abs(found - expected).max() < 1.3
    assert np.abs(found - expected).mean() < 0.2
    assert np.abs((found - expected)[np.abs(expected) < 4].mean()) < 0.2


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_surface_lies_between_voxels_of_whatever_edges(axis):
    """A slab along each axis of voxels of 1, 2 and 3 mm: exact to rounding, at its ends and in the middle."""
    grid = Grid((16, 18, 20), np.diag([1.0, 2.0, 3.0, 1.0]))
    spacing, at = grid.spacing[axis], np.indices(grid.shape)[axis]
    inside = (at >= 5) & (at < 11)
    found = distance(Volume(grid, inside.astype(np.int32)), 1, 8.0).data
    expected = 3 * spacing - np.abs((at + 0.5 - 8) * spacing)
    np.testing.assert_allclose(found, np.clip(expected, -8, 8), atol=1e-5)


def test_landmarks_pull_towards_where_they_lie(sides, gland):
    """The map that they tell takes each to its partner, to within its trust; it weighs most near to them."""
    made = problem(sides, gland, landmark_weight=1.0, landmark_trust_mm=0.2)
    guide, grid = made.steering.guide, made.grid
    at = np.rint(grid.physical_to_index(gland.fixed_points)).astype(int)
    moved = gland.fixed_points + guide.displacement[(slice(None), *at.T)].T @ grid.direction.T * made.unit_mm
    there = moved @ made.affine[:3, :3].T + made.affine[:3, 3]
    assert np.linalg.norm(there - gland.moving_points, axis=1).max() < 1.5  # of voxels of 2.4 mm
    assert guide.weight[tuple(at.T)].min() > 5 * np.median(guide.weight)
    # A map of landmarks that is missed everywhere by what it is trusted to counts as a quarter of COUNTS.
    mean = made.unit_mm**2 * guide.weight.sum() / np.count_nonzero(made.fixed_mask)
    assert guide.share == pytest.approx(0.25 * COUNTS * mean, rel=1e-5)


def test_a_trust_of_its_own_counts_and_an_infinite_one_only_measures(sides, gland):
    fixed, moving = sides
    trust = np.full(len(gland.fixed_points), np.nan)
    trust[:4], trust[4] = 0.5, np.inf
    pairs = corresponding(replace(fixed.landmarks, trust=trust), replace(moving.landmarks, trust=trust))
    assert pairs.trust[0] == pytest.approx(np.hypot(0.5, 0.5))
    assert pairs.steers.tolist() == [i != 4 for i in range(len(trust))]
    assert np.isnan(pairs.trust[5:]).all()
    only = replace(fixed, landmarks=replace(fixed.landmarks, trust=np.full(len(trust), np.inf)))
    with pytest.raises(InputError, match="infinite trust"):
        problem((only, moving), gland, landmark_weight=1.0)
    with pytest.raises(ValueError, match="above 0"):
        replace(fixed.landmarks, trust=np.zeros(len(trust)))


def test_structures_that_touch_are_told_apart_and_others_share_a_channel(sides, gland):
    made = problem(sides, gland, label_weight=1.0, steering_labels=(5, 6))
    assert len(made.steering.surfaces) == 1
    assert len(problem(sides, gland, label_weight=1.0, steering_labels=(1, 2)).steering.surfaces) == 2
    alone = problem(sides, gland, label_weight=1.0, steering_labels=(1,)).steering.surfaces
    assert len(alone) == 1
    # A surface that is missed by its trust counts as COUNTS.
    reach = max(made.window_mm, 2 * float(made.grid.spacing.max()))
    here, weight = alone[0].fixed, alone[0].weight
    assert 0 <= here.min() < here.max() <= 1
    trust = 1.0
    told = problem(sides, gland, label_weight=1.0, steering_labels=(1,), label_trust_mm=trust).steering.surfaces[0]
    surface = (here > 0) & (here < 1)
    missed = told.share * (weight * surface).sum() / weight.sum() * (trust / (2 * reach)) ** 2
    assert missed == pytest.approx(COUNTS, rel=0.05)


def test_by_volume_the_large_count_more(sides, gland):
    alike = problem(sides, gland, label_weight=1.0, steering_labels=(1, 5)).steering.surfaces
    volume = problem(sides, gland, label_weight=1.0, steering_labels=(1, 5), label_weighting="volume").steering.surfaces
    made = problem(sides, gland)
    cyst = gland.fixed_points[gland.point_names.index("cyst")]
    at = tuple(np.rint(made.grid.physical_to_index(cyst)).astype(int))
    weights = [max(float(c.weight[at]) for c in each if c.fixed[at] > 0.5) for each in (alike, volume)]
    sizes = [np.count_nonzero(gland.fixed_labels.data == label) for label in (5, 1)]
    assert weights[1] / weights[0] == pytest.approx(2 * sizes[0] / sum(sizes), rel=0.05)


CASES = {
    "no landmarks": ({"landmark_weight": 1.0}, {"landmarks": None}, "no landmarks to steer by"),
    "labels of one side": ({"label_weight": 1.0}, {"labels": ()}, "has no labels"),
    "a label of one side": ({"label_weight": 1.0, "steering_labels": (1, 99)}, {}, "no 99"),
    "no such rigid label": ({"rigid_labels": (77,)}, {}, "no 77"),
    "a label in both": ({"rigid_labels": (6,), "volume_labels": (6, 4)}, {}, "both name 6"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_steer_is_refused_with_what_to_do(name, sides):
    changes, without, words = CASES[name]
    fixed, moving = (replace(side, **without) for side in sides)
    with pytest.raises(InputError, match=words):
        check_steering(fixed, moving, parameters(**changes))


def test_labels_without_a_counterpart_are_refused(sides):
    fixed, moving = sides
    other = replace(
        moving, labels=moving.label_map.with_data(moving.label_map.data + 100 * (moving.label_map.data > 0))
    )
    with pytest.raises(InputError, match="no label in common"):
        check_steering(fixed, other, parameters(label_weight=1.0))


def test_too_many_landmarks_are_refused(sides):
    fixed, moving = sides
    many = Landmarks(np.repeat(fixed.landmarks.positions[:1], 3000, 0), ("",) * 3000)
    with pytest.raises(InputError, match="3000 landmarks"):
        check_steering(replace(fixed, landmarks=many), replace(moving, landmarks=many), parameters(landmark_weight=1.0))


def test_a_structure_of_a_voxel_cannot_be_kept(sides, gland):
    fixed, moving = sides
    data = fixed.label_map.data.copy()
    data[0, 0, 0] = 50
    with pytest.raises(InputError, match="label 50 is smaller"):
        problem((replace(fixed, labels=fixed.label_map.with_data(data)), moving), gland, rigid_labels=(50,))
