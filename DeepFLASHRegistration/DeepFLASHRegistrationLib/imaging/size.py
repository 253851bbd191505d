# SPDX-License-Identifier: Apache-2.0
"""How large an object is, which all lengths follow that nobody states: a mouse is registered as a man is.

Such lengths are written down in mm of an adult's brain, where they were found, and multiplied by the object's scale.
"""

from __future__ import annotations

import numpy as np

from .grid import Grid

# Root mean square distance of a brain's points from their center: 56.3 mm in the mean of 15 adults (53 to 60).
BRAIN_RADIUS_MM = 56.0


def radius_mm(grid: Grid, inside: np.ndarray) -> float:
    """Root mean square distance of an object's points from their center, in mm; of a single voxel, its own.

    Neither how the image is stored nor a few stray voxels change it.

    Args:
        grid: the object's grid.
        inside: where it is, nonzero, of the grid's shape; if nowhere, all of the grid counts.
    """
    inside = inside != 0
    if not inside.any():
        inside = np.ones(grid.shape, dtype=bool)
    count = np.count_nonzero(inside)
    square = float((grid.spacing**2).sum()) / 12
    for axis, h in enumerate(grid.spacing):
        profile = inside.sum(axis=tuple(a for a in range(grid.ndim) if a != axis), dtype=np.float64)
        place = np.arange(len(profile)) * h
        middle = profile @ place / count
        square += float(profile @ (place - middle) ** 2) / count
    return float(np.sqrt(square))


def scale(grid: Grid, inside: np.ndarray) -> float:
    """How many times as large as an adult's brain an object is; see `radius_mm`."""
    return radius_mm(grid, inside) / BRAIN_RADIUS_MM
