# SPDX-License-Identifier: Apache-2.0
"""What one step of the alignment is made of: the measures with their derivatives, and the maps that a step may reach.

Maps are (d, d+1) matrices.
"""

from __future__ import annotations

import numpy as np

from .starts import rotation


def correlation(gram: np.ndarray) -> tuple[float, np.ndarray, np.ndarray] | None:
    """Score, gradient and Hessian of the correlation, from the products of the rows of the search (see `affine`).

    None if one of the images is constant there.
    """
    count, j = gram[0, 0], slice(2, -1)
    total = gram - np.outer(gram[0], gram[0]) / count
    ff, mm, fm = total[1, 1], total[-1, -1], total[1, -1]
    if min(ff, mm) <= 1e-9 * count:
        return None
    gain = max(fm / mm, 1e-3 * np.sqrt(ff / mm))  # uphill also from a negative correlation
    away = total[j, -1]
    return fm / np.sqrt(ff * mm), (total[j, 1] - away * fm / mm) / gain, total[j, j] - np.outer(away, away) / mm


def correlation_ratio(gram: np.ndarray, sums: np.ndarray) -> tuple[float, np.ndarray, np.ndarray] | None:
    """The same for the root of the correlation ratio; sums: of the rows in each bin of the fixed image's intensity."""
    count, j = gram[0, 0], slice(2, -1)
    total = gram - np.outer(gram[0], gram[0]) / count
    kept = sums[:, 0] > 0
    within = gram - sums[kept].T @ (sums[kept] / sums[kept, :1])
    rest, whole = within[-1, -1], total[-1, -1]
    if whole <= 1e-9 * count:
        return None
    return np.sqrt(max(1 - rest / whole, 0)), total[j, -1] * rest / whole - within[j, -1], within[j, j]


def explained_by_rising(count: np.ndarray, total: np.ndarray) -> float:
    """The sum of squares that a function that never falls explains (by pooling adjacent violators, Ayer et al. 1955).

    Args:
        count, total: number of the points in each bin, and the sum of their values, whose mean is 0 over all bins.
    """
    pools: list[list[float]] = []
    for n, sum_ in zip(count, total, strict=True):
        pools.append([float(n), float(sum_)])
        while len(pools) > 1 and pools[-2][1] * pools[-1][0] > pools[-1][1] * pools[-2][0]:
            n_last, sum_last = pools.pop()
            pools[-1] = [pools[-1][0] + n_last, pools[-1][1] + sum_last]
    return sum(sum_**2 / n for n, sum_ in pools)


def basis(kind: str, d: int) -> np.ndarray:
    """(d * (d+1), n) columns that span the changes allowed to a (d, d+1) matrix."""
    changes = []
    for a in range(d):
        for b in range(d + 1):
            change = np.zeros((d, d + 1))
            if kind == "affine" or b == d:
                change[a, b] = 1
            elif a < b:
                change[a, b], change[b, a] = 1, -1
            else:
                continue
            changes.append(change.ravel())
    if kind == "similarity":
        changes.append(np.eye(d, d + 1).ravel())
    return np.stack(changes, 1)


def inverted(found: np.ndarray) -> np.ndarray:
    """The inverse of a (d, d+1) map."""
    linear = np.linalg.inv(found[:, :-1])
    return np.concatenate([linear, -(linear @ found[:, -1])[:, None]], 1)


def composed(change: np.ndarray, found: np.ndarray, kind: str) -> np.ndarray:
    """The map `found` followed by the small change; rotations stay rotations."""
    d = len(found)
    turn = change[:, :d]
    if kind in ("rigid", "similarity"):
        scale = 1 + np.trace(turn) / d
        anti = (turn - turn.T) / 2
        vector = np.array([anti[1, 0]]) if d == 2 else np.array([anti[2, 1], anti[0, 2], anti[1, 0]])
        linear = scale * rotation(vector)
    else:
        linear = np.eye(d) + turn
    return np.concatenate([linear @ found[:, :d], (linear @ found[:, d] + change[:, d])[:, None]], 1)
