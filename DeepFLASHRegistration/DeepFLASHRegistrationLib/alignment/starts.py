# SPDX-License-Identifier: Apache-2.0
"""Where the search for an alignment starts: (d, d+1) maps between coordinates relative to both objects' centers."""

from __future__ import annotations

import numpy as np

from .pyramid import Pyramid

_STEP, _LIMIT = np.deg2rad(20.0), np.deg2rad(65.0)
# Radii that differ by less are no reason to start from another size.
_SAME_SIZE = 0.12


def size_ratio(fixed: Pyramid, moving: Pyramid) -> float:
    """How much larger the moving object is than the fixed one; 1 if about as large."""
    ratio = moving.radius / fixed.radius
    return 1.0 if abs(np.log(ratio)) < _SAME_SIZE else ratio


def upright_starts(fixed: Pyramid, moving: Pyramid, rigid: bool) -> list[np.ndarray]:
    """Maps that keep the orientation of the headers: as stored, center on center, and end on end along each axis where
    an object may be cut off; also scaled by the ratio of the objects' sizes, unless rigid."""
    d = len(fixed.center)
    stored = np.eye(d, d + 1)
    stored[:, d] = fixed.center - moving.center
    centered = np.eye(d, d + 1)
    starts = [stored, centered]
    ratio = size_ratio(fixed, moving)
    sizes = [1.0] if rigid or ratio == 1 else [1.0, ratio, float(np.sqrt(ratio))]
    for size in sizes[1:]:
        starts += [size * centered]
    if np.any(fixed.open) or np.any(moving.open):
        ours, theirs = fixed.box(), moving.box()
        for size in sizes[:2]:
            for axis in range(d):
                for a, b in zip(ours, theirs, strict=True):
                    start = size * centered
                    start[axis, d] = b[axis] - size * a[axis]
                    starts.append(start)
    return starts


def turned_starts(fixed: Pyramid, moving: Pyramid, rigid: bool) -> list[np.ndarray]:
    """Maps that take the center to the center and turn: finely about what the headers say, by quarter turns, and
    principal axes on principal axes; of the objects' own sizes, and of equal ones unless rigid."""
    d = len(fixed.center)
    ratio = size_ratio(fixed, moving)
    sizes = [1.0] if rigid or ratio == 1 else [1.0, ratio]
    return [np.concatenate([size * turn, np.zeros((d, 1))], 1) for size in sizes for turn in _turns(fixed, moving)]


def mirrored_starts(found: np.ndarray) -> list[np.ndarray]:
    """What a map becomes, and what center on center becomes, if the fixed object is mirrored along an axis of space."""
    d = len(found)
    return [start * mirror for mirror in _mirrors(d) for start in (found, np.eye(d, d + 1))]


def mirrored_along(found: np.ndarray) -> int:
    """The axis of space along which a map mirrors, so that it turns least apart from that."""
    return int(np.argmin([turned_by(found * mirror) for mirror in _mirrors(len(found))]))


def turned_by(found: np.ndarray) -> float:
    """The angle in radians by which a map turns; one that mirrors, apart from mirroring along an axis of space."""
    d = len(found)
    if np.linalg.det(found[:, :d]) < 0:
        return min(turned_by(found * mirror) for mirror in _mirrors(d))
    u, _, v = np.linalg.svd(found[:, :d])
    trace = float(np.trace(u @ v))
    return float(np.arccos(np.clip((trace - (d - 2)) / 2, -1, 1)))


def _mirrors(d: int) -> np.ndarray:
    """(d, d+1): for each axis, what the columns of a map are multiplied by."""
    return 1 - 2 * np.eye(d, d + 1)


def rotation(vector: np.ndarray) -> np.ndarray:
    """Rotation matrix of a rotation vector (Rodrigues); of one angle in 2-D."""
    angle = float(np.linalg.norm(vector))
    if len(vector) == 1:
        c, s = np.cos(vector[0]), np.sin(vector[0])
        return np.array([[c, -s], [s, c]])
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def _turns(fixed: Pyramid, moving: Pyramid) -> list[np.ndarray]:
    steps = np.arange(-int(_LIMIT / _STEP), int(_LIMIT / _STEP) + 1) * _STEP
    if len(fixed.center) == 2:
        return [rotation(np.array([a])) for a in np.arange(18) * _STEP]
    vectors = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    turns = [rotation(v) for v in vectors if np.linalg.norm(v) <= _LIMIT]
    # Heads of other orientation than the header says: quarter turns, and principal axes on principal axes.
    for first in np.concatenate([np.eye(3), -np.eye(3)]):
        for second in np.concatenate([np.eye(3), -np.eye(3)]):
            if first @ second == 0:
                turns.append(np.stack([first, second, np.cross(first, second)], 1))
    ours, theirs = fixed.moments(), moving.moments()
    for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        signed = theirs * [*signs, 1]
        turn = signed @ ours.T
        if np.linalg.det(turn) < 0:
            turn = (signed * [1, 1, -1]) @ ours.T
        turns.append(turn)
    return turns
