# SPDX-License-Identifier: Apache-2.0
"""The mean of affine maps, against SciPy and cases solved by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from DeepFLASHRegistrationLib.alignment.mean_pose import exponential, logarithm, mean_pose
from DeepFLASHRegistrationLib.support.errors import InputError


def affine(rng: np.random.Generator, turn: float = 0.5, mm: float = 80.0) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = scipy.linalg.expm(rng.normal(0, turn, (3, 3)))
    matrix[:3, 3] = rng.normal(0, mm, 3)
    return matrix


def shift(*mm: float) -> np.ndarray:
    matrix = np.eye(len(mm) + 1)
    matrix[:-1, -1] = mm
    return matrix


def turned(degrees: float) -> np.ndarray:
    a = np.deg2rad(degrees)
    return np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])


@pytest.mark.parametrize("seed", range(5))
def test_logarithm_and_exponential_are_scipys(seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = affine(rng)
    expected = scipy.linalg.logm(matrix).real
    np.testing.assert_allclose(logarithm(matrix), expected, atol=1e-8 * np.abs(expected).max())
    np.testing.assert_allclose(exponential(expected), matrix, atol=1e-10 * np.abs(matrix).max())


def test_a_shift_has_a_logarithm_though_no_eigenvectors() -> None:
    np.testing.assert_allclose(logarithm(shift(300.0, -7.0, 1e-3)), shift(300.0, -7.0, 1e-3) - np.eye(4), atol=1e-9)


def test_means_that_are_known() -> None:
    np.testing.assert_allclose(mean_pose([shift(2, 4), shift(6, -2), shift(1, 1)]), shift(3, 1), atol=1e-9)
    np.testing.assert_allclose(mean_pose([turned(10), turned(40), turned(100)]), turned(50), atol=1e-9)
    stretched = [np.diag([s, 1.0, 1.0]) for s in (0.5, 2.0, 8.0)]
    np.testing.assert_allclose(mean_pose(stretched), np.diag([2.0, 1.0, 1.0]), atol=1e-9)


def test_the_middle_does_not_depend_on_the_first_image_nor_on_the_order() -> None:
    """From any first image the maps differ by one affine, and so does their mean: seen from it poses are alike."""
    rng = np.random.default_rng(3)
    maps = [affine(rng, 0.15, 30.0) for _ in range(6)]
    poses = [each @ np.linalg.inv(mean_pose(maps)) for each in maps]
    np.testing.assert_allclose(np.mean([scipy.linalg.logm(each).real for each in poses], axis=0), 0, atol=1e-8)
    other = affine(rng, 0.15, 30.0)
    seen = [each @ other for each in reversed(maps)]
    again = [each @ np.linalg.inv(mean_pose(seen)) for each in seen]
    np.testing.assert_allclose(again[::-1], poses, atol=1e-7)


@pytest.mark.parametrize("wrong", [turned(180), np.diag([-1.0, 1.0, 1.0])])
def test_poses_without_a_middle_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(InputError, match="have no mean: some lie turned by half"):
        mean_pose([np.eye(3), np.eye(3), wrong])
