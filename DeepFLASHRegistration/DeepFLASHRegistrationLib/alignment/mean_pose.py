# SPDX-License-Identifier: Apache-2.0
"""The mean of affine maps: what lies in the middle of several poses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..support.errors import InputError

# Of a matrix: how near the identity it is brought by square roots before its logarithm's series is summed.
_NEAR, _TERMS, _MOST_ROOTS = 0.1, 16, 40
# A turn of about a half, 175°, might as well lead the other way around.
_HALF_A_TURN = 3.05
_ROUNDING, _MOST_STEPS = 1e-11, 200


def logarithm(matrix: np.ndarray) -> np.ndarray:
    """The principal logarithm of a matrix (n, n), by square roots and a series.

    Raises:
        ValueError: it has none that is real: it mirrors, or turns by half.
    """
    if np.abs(np.angle(np.linalg.eigvals(matrix))).max() > _HALF_A_TURN:
        raise ValueError("The matrix turns by half, or mirrors.")
    root, doublings = np.array(matrix, dtype=np.float64), 0
    identity = np.eye(len(root))
    while np.abs(root - identity).max() > _NEAR:
        if doublings == _MOST_ROOTS:
            raise ValueError("The matrix has no real logarithm.")
        root, doublings = _square_root(root), doublings + 1
    # log X = 2 artanh((X − 1)(X + 1)⁻¹).
    power = quotient = (root - identity) @ np.linalg.inv(root + identity)
    total, square = np.zeros_like(root), quotient @ quotient
    for term in range(_TERMS):
        total += 2 / (2 * term + 1) * power
        power = power @ square
    return 2.0**doublings * total


def exponential(matrix: np.ndarray) -> np.ndarray:
    """The exponential of a matrix (n, n), by squaring and a series."""
    halvings = max(0, int(np.ceil(np.log2(max(np.abs(matrix).sum(), 1e-300) / _NEAR))))
    small, total = matrix / 2.0**halvings, np.eye(len(matrix))
    power = np.eye(len(matrix))
    for term in range(1, _TERMS):
        power = power @ small / term
        total = total + power
    for _ in range(halvings):
        total = total @ total
    return total


def mean_pose(maps: Sequence[np.ndarray]) -> np.ndarray:
    """The affine M, of the space from which all the maps (d+1, d+1) lead, for which the logarithms of map @ M⁻¹ have
    the mean zero: seen from there, the poses that the maps lead to lie around the identity.

    Raises:
        InputError: the maps differ by about half a turn, or mirror each other, so that none lies in the middle.
    """
    middle = np.array(maps[0], dtype=np.float64)
    try:
        for _ in range(_MOST_STEPS):
            back = np.linalg.inv(middle)
            step = np.mean([logarithm(each @ back) for each in maps], axis=0)
            middle = exponential(step) @ middle
            if np.abs(step).max() < _ROUNDING * max(1.0, float(np.abs(middle).max())):
                return middle
    except (ValueError, np.linalg.LinAlgError):
        pass
    raise InputError(
        "The subjects' poses have no mean: some lie turned by half against others, or mirrored. Check the headers of "
        "the images, or bring them into one pose first."
    )


def _square_root(matrix: np.ndarray) -> np.ndarray:
    """By Denman and Beavers' iteration."""
    one, other = matrix, np.eye(len(matrix))
    for _ in range(_MOST_STEPS):
        following = (one + np.linalg.inv(other)) / 2
        other = (other + np.linalg.inv(one)) / 2
        if not np.isfinite(following).all():
            break
        done = np.abs(following - one).max() <= 1e-15 * np.abs(following).max()
        one = following
        if done:
            break
    if not np.abs(one @ one - matrix).max() <= 1e-9 * np.abs(matrix).max():
        raise ValueError("The matrix has no real square root.")
    return one
