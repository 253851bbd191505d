# SPDX-License-Identifier: Apache-2.0
"""The linear map that landmarks tell: exact where it can be, of a kind that they can tell, in spite of wrong ones."""

from __future__ import annotations

import numpy as np
import pytest
from DeepFLASHRegistrationLib.alignment.landmarks import from_landmarks, kind_for, mirrored


def cloud(n, d, seed=0):
    return np.random.default_rng(seed).uniform(-40, 40, (n, d)) + 100


def rotation(d, degrees):
    matrix = np.eye(d)
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix[:2, :2] = [[c, -s], [s, c]]
    if d == 3:
        matrix = matrix @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    return matrix


def made(d, linear, shift=7.0):
    matrix = np.eye(d + 1)
    matrix[:d, :d], matrix[:d, d] = linear, shift
    return matrix


def carried(matrix, points):
    d = points.shape[1]
    return points @ matrix[:d, :d].T + matrix[:d, d]


@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize("kind", ["rigid", "affine"])
def test_an_exact_map_is_found(d, kind):
    linear = rotation(d, 50) if kind == "rigid" else rotation(d, 20) @ np.diag(np.linspace(0.8, 1.3, d))
    points = cloud(12, d)
    truth = made(d, linear)
    found, told = from_landmarks(points, carried(truth, points), np.full(12, 2.0), kind)
    assert told == kind
    assert found == pytest.approx(truth, abs=1e-6)


def told_of(points, kind):
    return kind_for(points, points, kind)


@pytest.mark.parametrize("d", [2, 3])
def test_few_landmarks_tell_a_poorer_map(d):
    assert told_of(cloud(1, d), "affine") == "shift"
    assert told_of(cloud(d - 1, d), "affine") in ("shift", "rigid")
    assert told_of(cloud(d, d), "affine") == "rigid"
    assert told_of(cloud(d + 1, d), "affine") == "similarity"
    assert told_of(cloud(2 * d + 2, d), "affine") == "affine"
    assert told_of(cloud(2 * d + 2, d), "rigid") == "rigid"


def test_landmarks_of_a_plane_tell_a_turn_and_those_of_a_line_none():
    plane = cloud(12, 3)
    plane[:, 2] = 5
    assert told_of(plane, "affine") == "similarity"
    line = np.outer(np.arange(12.0), [1, 2, 3])
    assert told_of(line, "affine") == "shift"
    truth = made(3, rotation(3, 40))
    found, _ = from_landmarks(plane, carried(truth, plane), np.full(12, 1.0), "rigid")
    assert found == pytest.approx(truth, abs=1e-6)


def test_nothing_is_mirrored_though_it_would_fit_better():
    points = cloud(10, 3)
    moving = points * [-1, 1, 1]
    for kind in ("rigid", "affine"):
        found, told = from_landmarks(points, moving, np.full(10, 1.0), kind)
        assert told == "rigid"
        assert np.linalg.det(found[:3, :3]) == pytest.approx(1.0)
    assert mirrored(points, moving)
    assert not mirrored(points, points @ rotation(3, 170))


def test_landmarks_that_coincide_tell_a_shift():
    points = cloud(10, 3)
    found, told = from_landmarks(points, np.repeat(points[:1], 10, 0), np.full(10, 1.0), "affine")
    assert told == "shift"
    assert found[:3, :3] == pytest.approx(np.eye(3))


@pytest.mark.parametrize("wrong", [1, 3])
@pytest.mark.parametrize("kind", ["rigid", "affine"])
def test_wrong_landmarks_hardly_count(wrong, kind):
    rng = np.random.default_rng(wrong)
    points = cloud(12, 3)
    truth = made(3, rotation(3, 15))
    moving = carried(truth, points) + rng.normal(0, 1, points.shape)
    without, _ = from_landmarks(points[wrong:], moving[wrong:], np.full(12 - wrong, 1.0), kind)
    moving[:wrong] += 60
    found, _ = from_landmarks(points, moving, np.full(12, 1.0), kind)
    inside = cloud(200, 3, 9)
    apart = np.linalg.norm(carried(found, inside) - carried(truth, inside), axis=1).mean()
    least = np.linalg.norm(carried(without, inside) - carried(truth, inside), axis=1).mean()
    assert apart < 1.5 * least + 0.1


def test_a_landmark_counts_by_its_trust():
    points = cloud(8, 3)
    moving = points.copy()
    moving[4:] += [3.0, 0, 0]
    found, _ = from_landmarks(points, moving, np.array([0.1] * 4 + [10.0] * 4), "rigid")
    assert carried(found, points)[:4] == pytest.approx(points[:4], abs=0.02)
    found, _ = from_landmarks(points, moving, np.array([10.0] * 4 + [0.1] * 4), "rigid")
    assert carried(found, points)[4:] == pytest.approx(moving[4:], abs=0.02)
