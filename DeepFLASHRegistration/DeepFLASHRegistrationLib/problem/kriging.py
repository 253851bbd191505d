# SPDX-License-Identifier: Apache-2.0
"""The displacement that a few landmarks tell everywhere, and how surely.

Kriging (Gaussian process regression; Rasmussen & Williams 2006, chapters 2 and 5) with a Matérn covariance of order
5/2; landmarks that the others contradict are set aside.

A landmark's position is known to within its trust, a standard deviation per axis in mm. Its displacement is a linear
map of about the size that an alignment leaves, and a Matérn field. How far that reaches, and how much it varies, is
chosen as what predicts each landmark best from the others; a wrong one counts in that no more than a landmark that may
lie anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Of the object's radius: distances over which displacements are alike; and which is likely, where the few landmarks do
# not tell, within a factor.
_REACHES = (0.35, 0.5, 0.7, 1.0, 1.4)
_LIKELY, _WITHIN = 0.6, 2.0
# Standard deviations of the displacement, of the object's radius, likely and possible.
_SPREADS = (0.03, 0.05, 0.08, 0.12, 0.2)
# Standard deviation of the linear part, of the object's radius, at its middle and for each radius from there.
_LINEAR = 0.1
# How many landmarks are wrong, before any is known; at most so many are set aside.
_WRONG, _MOST_WRONG = 0.05, 0.34
_FEW = 4  # of which none can be told to be wrong
_ROUNDS = 4
_CHUNK = 1 << 14


@dataclass(frozen=True, eq=False)
class Kriging:
    """A displacement known at points.

    Attributes:
        points: (n, d) mm, those that count.
        trust: (n,) mm, their standard deviations per axis.
        wrong: (N,) bool, of all that were given: set aside, because the others contradict them.
        contradictory: whether more are doubtful than can be set aside.
        expected_mm: (N,) how far each lies from where the others expect it; nan of a single one.
        covariance: of the displacement.
    """

    points: np.ndarray
    trust: np.ndarray
    wrong: np.ndarray
    contradictory: bool
    expected_mm: np.ndarray
    covariance: Covariance
    _weights: np.ndarray
    _inverse: np.ndarray

    def __call__(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """At points (m, d): the expected displacement (m, d) and the variance of each of its components (m,), mm²."""
        values, variance = np.empty((len(at), self._weights.shape[1])), np.empty(len(at))
        for start in range(0, len(at), _CHUNK):
            part = slice(start, start + _CHUNK)
            k = self.covariance(at[part], self.points)
            values[part] = k @ self._weights
            told = np.einsum("ij,jk,ik->i", k, self._inverse, k, optimize=True)
            variance[part] = self.covariance.variance(at[part]) - told
        return values, np.maximum(variance, 0.0)


@dataclass(frozen=True, eq=False)
class Covariance:
    """Of each component of a displacement, between points in mm: a Matérn field of that reach and standard deviation
    (spread), and a linear map about a middle, of a standard deviation there and at every radius from there."""

    reach_mm: float
    spread_mm: float
    linear_mm: float
    middle: np.ndarray
    radius_mm: float

    def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """(n, m) between points (n, d) and (m, d), mm²."""
        a, b = a - self.middle, b - self.middle
        line = 1 + a @ b.T / self.radius_mm**2
        return self.spread_mm**2 * matern(a, b, self.reach_mm) + self.linear_mm**2 * line

    def variance(self, a: np.ndarray) -> np.ndarray:
        """(n,) at points (n, d), mm²."""
        return self.spread_mm**2 + self.linear_mm**2 * (1 + ((a - self.middle) ** 2).sum(1) / self.radius_mm**2)


def matern(a: np.ndarray, b: np.ndarray, reach: float) -> np.ndarray:
    """Correlations (n, m) of a Matérn field of order 5/2 between points (n, d) and (m, d)."""
    square = np.maximum((a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T, 0)
    r = np.sqrt(5 * square) / reach
    return (1 + r + r * r / 3) * np.exp(-r)


def krige(points: np.ndarray, displacement: np.ndarray, trust: np.ndarray, radius_mm: float) -> Kriging:
    """Fits the displacement (N, d) mm known at points (N, d) mm to within ``trust`` (N,) mm, in an object of that
    root mean square radius."""
    wrong, most = np.zeros(len(points), dtype=bool), int(_MOST_WRONG * len(points)) if len(points) > _FEW else 0
    for _ in range(_ROUNDS):
        covariance = _chosen(points[~wrong], displacement[~wrong], trust[~wrong], radius_mm)
        _, doubt = _from_the_others(points, displacement, trust, covariance, wrong)
        worst = np.argsort(-doubt)[:most]
        now = np.zeros_like(wrong)
        now[[i for i in worst if doubt[i] > 0.5]] = True
        if (now == wrong).all():
            break
        wrong = now
    expected, doubt = _from_the_others(points, displacement, trust, covariance, wrong)
    kept = ~wrong
    inverse = np.linalg.inv(covariance(points[kept], points[kept]) + np.diag(trust[kept] ** 2))
    contradictory = bool(most) and np.count_nonzero(doubt > 0.5) > most
    weights = inverse @ displacement[kept]
    return Kriging(points[kept], trust[kept], wrong, contradictory, expected, covariance, weights, inverse)


def _chosen(points: np.ndarray, values: np.ndarray, trust: np.ndarray, radius: float) -> Covariance:
    """The covariance by which each landmark is predicted best from the others: of the largest sum of log densities, of
    which a wrong landmark adds no less than one that may lie anywhere."""
    best, found, middle = -np.inf, None, points.mean(0)
    for reach in _REACHES:
        likely = -0.5 * (np.log(reach / _LIKELY) / np.log(_WITHIN)) ** 2
        for spread in _SPREADS:
            covariance = Covariance(reach * radius, spread * radius, _LINEAR * radius, middle, radius)
            inverse = np.linalg.inv(covariance(points, points) + np.diag(trust**2))
            score = likely + np.logaddexp(*_densities(inverse @ values, np.diag(inverse), radius)).sum()
            if found is None or score > best:
                best, found = score, covariance
    return found


def _densities(weighted: np.ndarray, diagonal: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Log densities (n,) of each landmark given the others (leaving one out: Rasmussen & Williams, eq. 5.12), if it is
    right and if it is wrong, each with how likely that is."""
    d = weighted.shape[1]
    variance = 1 / diagonal
    square = (weighted * variance[:, None]) ** 2
    right = -0.5 * (square.sum(1) / variance + d * np.log(2 * np.pi * variance))
    return right + np.log(1 - _WRONG), np.full(len(diagonal), np.log(_WRONG) - d * np.log(radius))


def _from_the_others(
    points: np.ndarray, values: np.ndarray, trust: np.ndarray, covariance: Covariance, wrong: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of each landmark how far it lies from where those that are not wrong expect it, and how likely it is wrong."""
    kept, radius = np.flatnonzero(~wrong), covariance.radius_mm
    inverse = np.linalg.inv(covariance(points[kept], points[kept]) + np.diag(trust[kept] ** 2))
    off, doubt = np.full(len(points), np.nan), np.zeros(len(points))
    weighted, diagonal = inverse @ values[kept], np.diag(inverse)
    if len(kept) > 1:
        off[kept] = np.linalg.norm(weighted / diagonal[:, None], axis=1)
        right, apart = _densities(weighted, diagonal, radius)
        doubt[kept] = np.exp(apart - np.logaddexp(right, apart))
    for i in np.flatnonzero(wrong):
        k = covariance(points[i : i + 1], points[kept])[0]
        left = values[i] - k @ weighted
        variance = covariance.variance(points[i : i + 1]) - k @ inverse @ k + trust[i] ** 2
        off[i] = float(np.linalg.norm(left))
        right, apart = _densities((left / variance)[None], 1 / variance, radius)
        doubt[i] = float(np.exp(apart - np.logaddexp(right, apart))[0])
    return off, doubt
