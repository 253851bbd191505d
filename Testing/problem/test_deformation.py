# SPDX-License-Identifier: Apache-2.0
"""The geodesic in physical space: fields on any grid, at any time, in both directions, and points."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import registration_pairs as pairs
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.problem.deformation import Deformation
from DeepFLASHRegistrationLib.registration.metrics import map_points
from registration_pairs import Registered

DIRECTIONS = ("fixed_to_moving", "moving_to_fixed")

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def deformation(registered: Registered) -> Deformation:
    return registered.result.deformation


@pytest.fixture(scope="module")
def points(registered: Registered) -> np.ndarray:
    """Points of the fixed object, off the voxels' centers."""
    fixed = registered.fixed
    index = np.argwhere(fixed.data > 0.3 * fixed.data.max())
    rng = np.random.default_rng(0)
    index = index[rng.choice(len(index), 500, replace=False)]
    return fixed.grid.index_to_physical(index + rng.uniform(-0.5, 0.5, index.shape))


def flat_deformation(band_limited: bool = False) -> Deformation:
    """A 2-D deformation of up to 6 mm, with an affine."""
    rng = np.random.default_rng(5)
    velocity = np.zeros((2, 9, 9), np.float32)
    velocity[:, :5, :5] = rng.normal(size=(2, 5, 5)) * 0.9 / (1 + np.add.outer(np.arange(5), np.arange(5)))
    affine = np.array([[0.9, -0.3, 12.0], [0.35, 1.0, -7.0], [0.0, 0.0, 1.0]])
    return Deformation(
        domain=pairs.box((60, 70), 2.0),
        unit_mm=1.25,
        velocity=velocity,
        alpha=6.0,
        power=2.0,
        gamma=1.0,
        metric_step=2.0 / 1.25 if band_limited else None,
        affine=affine,
        margin_mm=12.0,
        band_limited=band_limited,
    )


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_time_zero_is_the_affine(deformation: Deformation, points: np.ndarray, direction: str) -> None:
    affine = deformation.affine if direction == "fixed_to_moving" else np.linalg.inv(deformation.affine)
    expected = points @ affine[:3, :3].T + affine[:3, 3]
    assert np.allclose(deformation.points(points, direction, 0.0), expected, atol=1e-9)
    grid = pairs.box((5, 6, 7), (3, 4, 5), pairs.turn(30))
    field = deformation.displacement(grid, direction, 0.0)
    assert field.dtype == np.float32
    at = pairs.places(grid)
    assert np.allclose(at + field, at @ affine[:3, :3].T + affine[:3, 3], atol=1e-4)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_no_velocity_is_the_affine_at_any_time(deformation: Deformation, points: np.ndarray, direction: str) -> None:
    still = dataclasses.replace(deformation, velocity=np.zeros_like(deformation.velocity))
    assert np.allclose(still.points(points, direction), deformation.points(points, direction, 0.0), atol=1e-9)
    grid = pairs.box((5, 6, 7), 9.0)
    assert np.array_equal(still.displacement(grid, direction), deformation.displacement(grid, direction, 0.0))


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("turned", [False, True])
def test_fields_agree_with_points_followed_one_by_one(
    deformation: Deformation, points: np.ndarray, direction: str, turned: bool
) -> None:
    """On grids parallel to the domain and on oblique ones alike."""
    where = points if direction == "fixed_to_moving" else deformation.points(points, "fixed_to_moving")
    center = (where.min(0) + where.max(0)) / 2
    axes = pairs.turn(37, (1, 0, 2)) @ np.eye(3)[:, ::-1] if turned else None
    grid = pairs.box((66, 66, 66), 2.2, axes, center)
    field = deformation.displacement(grid, direction)
    error = np.linalg.norm(map_points(where, field, grid) - deformation.points(where, direction), axis=1)
    assert np.isfinite(error).all()
    assert error.mean() < 0.05
    assert error.max() < 0.4


@pytest.mark.parametrize("time", [0.3, 1.0])
def test_points_there_and_back(deformation: Deformation, points: np.ndarray, time: float) -> None:
    """The two directions integrate the same geodesic; at t = 1 they undo each other."""
    there = deformation.points(points, "fixed_to_moving", time)
    back = deformation.points(there, "moving_to_fixed", time)
    assert np.linalg.norm(back - points, axis=1).mean() < 0.04


def test_the_deformation_grows_along_the_geodesic(deformation: Deformation, points: np.ndarray) -> None:
    inverse = np.linalg.inv(deformation.affine)
    sizes = []
    for time in (0.0, 0.25, 0.5, 1.0):
        moved = deformation.points(points, "moving_to_fixed", time)
        still = points @ inverse[:3, :3].T + inverse[:3, 3]
        sizes.append(np.linalg.norm(moved - still, axis=1).mean())
    assert sizes[0] == 0
    # A geodesic has constant speed: where it has come grows in proportion to the time.
    assert sizes[1] == pytest.approx(0.25 * sizes[3], rel=0.25)
    assert sizes[2] == pytest.approx(0.5 * sizes[3], rel=0.15)


def test_half_the_geodesic_of_the_velocity_is_the_geodesic_of_half_the_velocity(
    deformation: Deformation, points: np.ndarray
) -> None:
    half = dataclasses.replace(deformation, velocity=0.5 * deformation.velocity)
    for direction in DIRECTIONS:
        a, b = deformation.points(points, direction, 0.5), half.points(points, direction, 1.0)
        assert np.abs(a - b).max() < 1e-3


def test_the_energy_is_kept_along_the_geodesic(deformation: Deformation) -> None:
    shooting, _ = deformation._shooting()
    trajectory = deformation._trajectory(1.0)
    start, end = (float(shooting.energy(trajectory.velocities[i])) for i in (0, -1))
    assert start > 0
    assert end == pytest.approx(start, rel=0.01)


def test_where_and_how_a_grid_lies_does_not_change_its_values(deformation: Deformation) -> None:
    """The same point in grids of any storage, of any extent, has the same displacement."""
    grid = pairs.box((24, 20, 22), (3.0, 4.0, 3.5), None, (2.0, -3.0, 1.0))
    for direction in DIRECTIONS:
        whole = deformation.displacement(grid, direction)
        part = grid.padded([-5, -3, -4], [-2, -6, -1])
        assert np.allclose(deformation.displacement(part, direction), whole[5:-2, 3:-6, 4:-1], atol=2e-5)
        for order, flip in pairs.storages(3)[::7]:
            matrix = np.eye(4)
            for axis in flip:
                matrix[axis, axis], matrix[axis, 3] = -1, grid.shape[axis] - 1
            stored = Grid(tuple(grid.shape[a] for a in order), (grid.affine @ matrix)[:, [*order, 3]])
            again = deformation.displacement(stored, direction)
            expected = np.flip(whole, flip).transpose(*order, 3)
            # Storage against the domain's axes is interpolated another way.
            assert np.abs(again - expected).max() < 0.3
            assert np.abs(again - expected).mean() < 0.01


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_far_away_only_the_affine_is_left(deformation: Deformation, direction: str) -> None:
    center = (1e4, -2e4, 3e4)
    for axes in (None, pairs.turn(40)):
        grid = pairs.box((3, 4, 5), 10.0, axes, center)
        field = deformation.displacement(grid, direction)
        assert np.allclose(field, deformation.displacement(grid, direction, 0.0), atol=1e-2)
    far = np.array([center])
    assert np.allclose(deformation.points(far, direction), deformation.points(far, direction, 0.0), atol=1e-6)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_deformation_ends_smoothly_at_the_domain(deformation: Deformation, direction: str) -> None:
    """Neither wrapped around nor cut off."""
    across = deformation.domain
    index = np.stack(
        np.meshgrid(
            *[[(n - 1) / 2] for n in across.shape[:2]], np.arange(-8, across.shape[2] + 8, 0.25), indexing="ij"
        ),
        -1,
    ).reshape(-1, 3)
    line = across.index_to_physical(index)
    line = line if direction == "fixed_to_moving" else line @ deformation.affine[:3, :3].T + deformation.affine[:3, 3]
    moved = deformation.points(line, direction) - deformation.points(line, direction, 0.0)
    beyond = (index[:, 2] < -0.5) | (index[:, 2] > across.shape[2] - 0.5)
    assert np.abs(moved[beyond]).max() < 1e-6
    assert np.linalg.norm(np.diff(moved, axis=0), axis=1).max() < 0.5 * np.linalg.norm(line[1] - line[0])


def test_no_points(deformation: Deformation) -> None:
    for direction in DIRECTIONS:
        assert deformation.points(np.zeros((0, 3)), direction).shape == (0, 3)


@pytest.mark.parametrize("band_limited", [False, True])
def test_2d(band_limited: bool) -> None:
    deformation = flat_deformation(band_limited)
    grid = pairs.box((80, 90), 1.3)
    points = pairs.places(pairs.box((12, 12), 6.0)).reshape(-1, 2)
    there = deformation.points(points, "fixed_to_moving")
    flat = points @ deformation.affine[:2, :2].T + deformation.affine[:2, 2]
    assert 1 < np.linalg.norm(there - flat, axis=1).max() < 12
    field = deformation.displacement(grid, "fixed_to_moving")
    assert np.abs(map_points(points, field, grid) - there).max() < 0.1
    back = deformation.points(there, "moving_to_fixed")
    assert np.linalg.norm(back - points, axis=1).max() < (0.6 if band_limited else 0.1)
    onto = pairs.box((100, 110), 1.5, None, there.mean(0))
    inverse = deformation.displacement(onto, "moving_to_fixed")
    assert np.abs(map_points(there, inverse, onto) - back).max() < 0.1


def test_the_jacobian_of_points_is_that_of_the_field(deformation: Deformation, registered: Registered) -> None:
    """By finite differences of points followed one by one, affine included, against the result's own."""
    result = registered.result
    fixed = registered.fixed
    index = np.argwhere(fixed.data > 0.5 * fixed.data.max())
    index = index[np.random.default_rng(4).choice(len(index), 150, replace=False)]
    at = fixed.grid.index_to_physical(index)
    h = 3.2
    columns = [
        (deformation.points(at + h * e, "fixed_to_moving") - deformation.points(at - h * e, "fixed_to_moving"))
        / (2 * h)
        for e in np.eye(3)
    ]
    determinant = np.linalg.det(np.stack(columns, -1))
    assert np.abs(np.log(determinant) - result.log_jacobian.data[tuple(index.T)]).mean() < 0.02


@pytest.mark.parametrize("band_limited", [False, True])
def test_run_backwards_from_its_end_a_geodesic_is_its_own_inverse(band_limited: bool) -> None:
    """What begins at the fixed image with minus the end velocity is the same geodesic, as long in its metric."""
    forth = dataclasses.replace(flat_deformation(band_limited), affine=np.eye(3))
    back = dataclasses.replace(forth, velocity=-forth.end_velocity())
    np.testing.assert_allclose(-back.end_velocity(), forth.velocity, atol=2e-3 * np.abs(forth.velocity).max())
    assert back.length() == pytest.approx(forth.length(), rel=1e-2)
    grid = pairs.box((30, 35), 4.0)
    there = forth.displacement(grid, "fixed_to_moving")
    assert np.linalg.norm(there, axis=-1).max() > 2
    error = np.linalg.norm(back.displacement(grid, "moving_to_fixed") - there, axis=-1)
    assert error.mean() < 0.02
    assert error.max() < 0.3


def test_the_length_is_the_root_of_the_energy_over_the_domain() -> None:
    """Of one cosine, whose integral is known."""
    still = flat_deformation()
    velocity = np.zeros_like(still.velocity)
    velocity[0, 0, 0] = 0.5
    alone = dataclasses.replace(still, velocity=velocity)
    double = dataclasses.replace(still, velocity=2 * velocity)
    assert double.length() == pytest.approx(2 * alone.length(), rel=1e-6)
    # A constant of 0.5: L is gamma ** power = 1, and the mean of v² over the box is 0.25 times what the band calls 1.
    volume = float(np.prod(still.domain.extent / still.unit_mm))
    values = alone._shooting()[0].product(alone._shooting()[1]).numpy()
    assert alone.length() == pytest.approx(np.sqrt((values**2).sum(0).mean() * volume), rel=1e-5)
