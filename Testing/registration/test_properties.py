# SPDX-License-Identifier: Apache-2.0
"""Errors of equivariance and of inverses, of maps given by formulas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from DeepFLASHRegistrationLib.registration.properties import (
    carried,
    equivariance_errors,
    inverse_errors,
    inverse_gradients,
    summarized,
)
from registration_pairs import bend, turn

POINTS = np.random.default_rng(0).uniform(-30, 30, (200, 3))


@dataclass(frozen=True)
class Formula:
    forth: Callable[[np.ndarray], np.ndarray]
    back: Callable[[np.ndarray], np.ndarray] = lambda points: points

    def points(self, points: np.ndarray, direction: str) -> np.ndarray:
        return (self.forth if direction == "fixed_to_moving" else self.back)(points)


def motion(degrees: float, shift: tuple[float, float, float]) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn(degrees), shift
    return matrix


def test_a_map_that_moves_along_has_no_error_and_a_bias_is_the_error() -> None:
    """W φ U⁻¹ of a bent φ: both moves turn and shift, differently."""
    u, w = motion(20, (3, -4, 5)), motion(-35, (10, 0, 2))
    bias = np.array([0.3, -0.4, 1.2])

    def moved(x: np.ndarray) -> np.ndarray:
        return carried(w, bend(carried(np.linalg.inv(u), x)))

    rest = Formula(bend)
    assert equivariance_errors(rest, Formula(moved), u, w, POINTS).max() < 1e-12
    biased = Formula(lambda x: moved(x) + bias)
    np.testing.assert_allclose(equivariance_errors(rest, biased, u, w, POINTS), 1.3)
    # It is no error of the map at rest that it is compared with: exchanged moves do not agree.
    assert equivariance_errors(rest, Formula(moved), w, u, POINTS).min() > 1


def test_what_does_not_come_back_is_the_inverse_error_and_its_derivative() -> None:
    """x/2 + c one way; back by the true inverse, by one that is off by a shift, and by one that is off by a factor."""
    c = np.array([1.0, 2.0, 3.0])
    there = Formula(lambda x: x / 2 + c, lambda y: 2 * (y - c))
    assert inverse_errors(there, None, POINTS).max() < 1e-12
    assert inverse_gradients(there, None, POINTS, 0.5).max() < 1e-10
    shifted = Formula(lambda y: 2 * (y - c) + [0, 3, 4])
    np.testing.assert_allclose(inverse_errors(there, shifted, POINTS), 5)
    assert inverse_gradients(there, shifted, POINTS, 0.5).max() < 1e-10
    scaled = Formula(lambda y: 2.2 * (y - c))
    np.testing.assert_allclose(inverse_errors(there, scaled, POINTS), 0.1 * np.linalg.norm(POINTS, axis=1))
    np.testing.assert_allclose(inverse_gradients(there, scaled, POINTS, 0.5), 0.1 * np.sqrt(3))


def test_figures_are_multiples_of_a_unit() -> None:
    found = summarized(np.arange(101.0), 4.0)
    assert found == pytest.approx({"mean": 12.5, "p95": 23.75, "max": 25.0})
