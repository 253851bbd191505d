# SPDX-License-Identifier: Apache-2.0
"""What landmarks tell everywhere: against the normal equations solved by hand, and with landmarks that are wrong."""

from __future__ import annotations

import numpy as np
import pytest
from DeepFLASHRegistrationLib.problem.kriging import Covariance, krige, matern

RADIUS = 50.0


def smooth(points):
    x, y, z = points.T / 40
    return np.stack([4 * np.sin(x + 0.3), 3 * np.cos(y - z), 2 * np.sin(x + y)], 1)


def places(n, seed=0):
    return np.random.default_rng(seed).uniform(-45, 45, (n, 3))


def test_the_covariance_is_that_of_matern_of_order_five_halves():
    r = np.linspace(0, 60, 7)
    x = np.sqrt(5) * r / 20
    expected = (1 + x + x**2 / 3) * np.exp(-x)
    assert matern(np.zeros((1, 3)), np.c_[r, 0 * r, 0 * r], 20.0)[0] == pytest.approx(expected, abs=1e-12)
    # Its spectrum: a Bessel function of order 5/2, as scipy knows it.
    special = pytest.importorskip("scipy.special")
    general = 2 ** (1 - 2.5) / special.gamma(2.5) * x[1:] ** 2.5 * special.kv(2.5, x[1:])
    assert expected[1:] == pytest.approx(general, rel=1e-9)


def test_the_map_and_its_variance_solve_the_normal_equations():
    points = places(12)
    values, trust = smooth(points), np.linspace(0.5, 3, 12)
    found = krige(points, values, trust, RADIUS)
    at = places(30, 1)
    mapped, variance = found(at)
    joint = np.concatenate([points, at])
    covariance = found.covariance(joint, joint)
    here = covariance[:12, :12] + np.diag(trust**2)
    there = covariance[12:, :12]
    assert mapped == pytest.approx(there @ np.linalg.solve(here, values), abs=1e-9)
    left = covariance[12:, 12:] - there @ np.linalg.solve(here, there.T)
    assert variance == pytest.approx(np.diag(left), abs=1e-8)


def test_what_the_others_expect_is_what_kriging_without_it_finds():
    points = places(9)
    values, trust = smooth(points), np.full(9, 1.5)
    found = krige(points, values, trust, RADIUS)
    for i in range(9):
        others = np.delete(np.arange(9), i)
        k = found.covariance(points, points)
        guess = k[i, others] @ np.linalg.solve(k[np.ix_(others, others)] + np.diag(trust[others] ** 2), values[others])
        assert found.expected_mm[i] == pytest.approx(np.linalg.norm(values[i] - guess), rel=1e-6)


def test_many_exact_landmarks_tell_the_displacement_between_them():
    points = places(300)
    found = krige(points, smooth(points), np.full(300, 0.01), RADIUS)
    at = places(50, 2) * 0.8
    mapped, variance = found(at)
    off = np.linalg.norm(mapped - smooth(at), axis=1)
    assert off.mean() < 0.3
    # And no less surely than it is true.
    assert np.mean(off**2 / 3 < 9 * variance) > 0.95


def test_far_from_all_landmarks_hardly_more_is_told_than_before():
    points = places(10) * 0.1
    found = krige(points, smooth(points), np.full(10, 1.0), RADIUS)
    far = np.array([[2000.0, 0, 0]])
    assert found(far)[1] > 0.5 * found.covariance.variance(far)


def test_the_covariance_is_a_field_and_a_linear_map():
    """Drawn many times: a line's slope and a field of unit correlation at a point."""
    covariance = Covariance(30.0, 2.0, 5.0, np.array([1.0, 2.0, 3.0]), RADIUS)
    a, b = places(3), places(4, 1)
    offset = (a - covariance.middle) @ (b - covariance.middle).T / RADIUS**2
    assert covariance(a, b) == pytest.approx(4 * matern(a, b, 30.0) + 25 * (1 + offset), rel=1e-9)
    assert covariance.variance(a) == pytest.approx(np.diag(covariance(a, a)), rel=1e-9)


def test_a_linear_map_is_found_from_few_landmarks():
    points, at = places(10), places(50, 2)
    turn = np.array([[0.02, -0.05, 0], [0.05, -0.03, 0.02], [0, 0.02, 0.04]])
    found = krige(points, points @ turn.T + 2, np.full(10, 0.5), RADIUS)
    assert np.linalg.norm(found(at)[0] - (at @ turn.T + 2), axis=1).mean() < 0.7


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [8, 10, 25])
def test_a_landmark_that_is_far_off_is_set_aside(seed, count):
    rng = np.random.default_rng(seed)
    points = places(count, seed)
    values = smooth(points) + rng.normal(0, 2, (count, 3))
    trust = np.full(count, 2.0)
    right = krige(points, values, trust, RADIUS)
    assert right.wrong.sum() == 0
    off = rng.normal(size=3)
    values[3] += 30 * off / np.linalg.norm(off)
    found = krige(points, values, trust, RADIUS)
    assert found.wrong.tolist() == [i == 3 for i in range(count)]
    assert found.expected_mm[3] > 18
    # What is left is what would have been found without it.
    kept = np.arange(count) != 3
    without = krige(points[kept], values[kept], trust[kept], RADIUS)
    assert found(points)[0] == pytest.approx(without(points)[0], abs=1e-9)


def test_two_that_are_wrong_are_set_aside_and_no_three_of_four_are_judged():
    points, trust = places(12, 5), np.full(12, 2.0)
    values = smooth(points)
    values[[2, 7]] += [[25, 0, 0], [0, -28, 5]]
    assert np.flatnonzero(krige(points, values, trust, RADIUS).wrong).tolist() == [2, 7]
    few = krige(points[:4], values[:4], trust[:4], RADIUS)
    assert not few.wrong.any()


def test_a_single_landmark_moves_its_surroundings():
    found = krige(np.zeros((1, 2)), np.array([[3.0, 1.0]]), np.array([1.0]), RADIUS)
    near, far = found(np.array([[0.0, 0.0], [200.0, 0.0]]))[0]
    assert near == pytest.approx([3.0, 1.0], rel=0.4)
    assert np.abs(far).max() < 3.0
    assert np.isnan(found.expected_mm).all()
