# SPDX-License-Identifier: Apache-2.0
"""Properties that a method's maps should have, whatever the images: that they move along with these, that exchanging
the images inverts them, and that they do not fold.

With φ the map from the fixed image B to the moving image A, and both moved rigidly, B by U and A by W (what lay at x
lies at Ux), the map should become W φ U⁻¹: [U, U] equivariance if both move alike, [W, U] if they do not (Greer et al.:
CARL, CVPR 2025).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Map(Protocol):
    """A map in both directions, such as a SpatialMap or what was read of a result."""

    def points(self, points: np.ndarray, direction: str) -> np.ndarray: ...


def there(of: Map, points: np.ndarray) -> np.ndarray:
    """Points (n, d) LPS mm of the fixed image in the moving one."""
    return of.points(points, "fixed_to_moving")


def carried(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (n, d) moved by a matrix (d+1, d+1)."""
    return points @ matrix[:-1, :-1].T + matrix[:-1, -1]


def equivariance_errors(rest: Map, moved: Map, fixed: np.ndarray, moving: np.ndarray, points: np.ndarray) -> np.ndarray:
    """How far ``moved``, found of images that were moved, leads from where ``rest``, moved along, does.

    Args:
        fixed, moving: U and W, (d+1, d+1) LPS mm.
        points: of the fixed image at rest, (n, d) LPS mm.

    Returns:
        ‖φ'(Ux) − Wφ(x)‖ (n,) in mm.
    """
    return np.linalg.norm(there(moved, carried(fixed, points)) - carried(moving, there(rest, points)), axis=-1)


def round_trips(rest: Map, exchanged: Map | None, points: np.ndarray) -> np.ndarray:
    """Where points of the fixed image come back, (n, d): by the map of the exchanged images, or by its own inverse."""
    moved = there(rest, points)
    return rest.points(moved, "moving_to_fixed") if exchanged is None else there(exchanged, moved)


def inverse_errors(rest: Map, exchanged: Map | None, points: np.ndarray) -> np.ndarray:
    """By how much points come back elsewhere, (n,) in mm; see `round_trips`."""
    return np.linalg.norm(round_trips(rest, exchanged, points) - points, axis=-1)


def inverse_gradients(rest: Map, exchanged: Map | None, points: np.ndarray, step: float) -> np.ndarray:
    """The Frobenius norm of the derivative of the inverse error, ‖D(φ_BA∘φ_AB) − I‖ (n,), by central differences of
    ±``step`` mm: what GradICON makes small (Tian et al., CVPR 2023)."""
    total = np.zeros(len(points))
    for axis in range(points.shape[1]):
        shift = np.zeros(points.shape[1])
        shift[axis] = step
        up, down = (round_trips(rest, exchanged, points + sign * shift) for sign in (1, -1))
        total += np.square((up - down - 2 * shift) / (2 * step)).sum(-1)
    return np.sqrt(total)


def summarized(values: np.ndarray, unit: float = 1.0) -> dict[str, float]:
    """Mean, 95th percentile and maximum of values (n,), as multiples of a unit."""
    values = values / unit
    return {"mean": float(values.mean()), "p95": float(np.quantile(values, 0.95)), "max": float(values.max())}
