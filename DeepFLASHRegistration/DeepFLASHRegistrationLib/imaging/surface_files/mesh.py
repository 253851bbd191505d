# SPDX-License-Identifier: Apache-2.0
"""A surface as all of its formats can hold it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ...support.errors import InputError


@dataclass(frozen=True, eq=False)
class Mesh:
    """Vertices, polygons between them, and values at them.

    Attributes:
        points: (n, 3) float64 LPS mm.
        corners: the vertices of all polygons, one polygon after the other, int64.
        offsets: (m + 1,) where each polygon begins in `corners`, and where the last one ends.
        arrays: by name, (n,) or (n, c) values at the vertices.
        notes: what was assumed on reading.

    Raises:
        InputError: a polygon has a vertex that does not exist, or a coordinate is not finite.
    """

    points: np.ndarray
    corners: np.ndarray
    offsets: np.ndarray
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.points):
            raise InputError("holds no surface that can be read. Save it again as polygons.")
        if not np.isfinite(self.points).all():
            raise InputError("has vertices that are not finite numbers. Save it again.")
        if len(self.corners) and not (self.corners.min() >= 0 and self.corners.max() < len(self.points)):
            raise InputError("has polygons with vertices that do not exist. Save it again.")
        if (np.diff(self.offsets) < 0).any() or self.offsets[0] != 0 or self.offsets[-1] != len(self.corners):
            raise InputError("has polygons that overlap in the file. Save it again.")

    def triangles(self) -> np.ndarray:
        """(t, 3) vertices of the triangles that the polygons fall into, seen from the first corner of each."""
        sizes = np.diff(self.offsets)
        parts = []
        for size in np.unique(sizes[sizes > 2]):
            starts = self.offsets[:-1][sizes == size]
            for second in range(1, size - 1):
                parts.append(self.corners[starts[:, None] + [0, second, second + 1]])
        return np.concatenate(parts) if parts else np.zeros((0, 3), dtype=np.int64)


def triangle_mesh(triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners and offsets of triangles (t, 3)."""
    return np.ascontiguousarray(triangles, dtype=np.int64).ravel(), np.arange(0, 3 * len(triangles) + 1, 3)


def summed_normals(points: np.ndarray, triangles: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """Unit normals of groups of triangle corners: the mean over their triangles, by area.

    Args:
        points: (n, 3).
        triangles: (t, 3) vertices.
        groups: (t, 3) which normal each corner belongs to; the vertices themselves for smooth surfaces.
        count: number of normals.

    Returns:
        (count, 3); 0 where there is no triangle.
    """
    a, b, c = (points[triangles[:, i]] for i in range(3))
    normals = np.cross(b - a, c - a)
    result = np.zeros((count, 3))
    for corner in range(3):
        np.add.at(result, groups[:, corner], normals)
    length = np.linalg.norm(result, axis=1, keepdims=True)
    return result / np.where(length > 0, length, 1)
