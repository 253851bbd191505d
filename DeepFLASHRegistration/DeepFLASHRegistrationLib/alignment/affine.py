# SPDX-License-Identifier: Apache-2.0
"""Affine alignment: coarse to fine, from many starting rotations, by Gauss-Newton steps on the correlation.

The measure is the correlation of both images over the foreground of the fixed one, maximized exactly (the "enhanced
correlation coefficient" of Evangelidis & Psarakis, IEEE PAMI 30(10), 2008); for images of different contrast it is the
correlation ratio (Roche et al., MICCAI 1998), i.e. the variance of the moving image that is explained by any function
of the fixed image's intensity. Images are averaged along their own voxel axes, so that the result does not depend on
how they are stored, and sums are taken over fixed blocks in fixed order, so that it does not depend on the threads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ..imaging.volume import Volume
from ..support.errors import InputError
from .pyramid import BINS, LEVELS_MM, Pyramid, Sampler, mapped

KINDS = ("none", "centers", "rigid", "affine")

_BLOCK = 16_384
_GRAM = 1024  # products of this length are too small for the BLAS to use threads of its own, beside ours
_STARTS = 6
_SEARCH_STEP, _SEARCH_LIMIT = np.deg2rad(20.0), np.deg2rad(65.0)
_MIN_OVERLAP = 0.2
_LINEAR_ENOUGH = 0.9  # measured on brains: same contrast 0.97 to 1, T2- or FLAIR-like against T1 below 0.86
_STRETCH = 2.0  # an affine part that stretches or squeezes more than this is a failure, not anatomy


@dataclass(frozen=True, eq=False)
class AffineAlignment:
    """The result of `align`.

    Attributes:
        matrix: (d+1, d+1) homogeneous LPS mm, maps fixed points to moving points.
        similarity: correlation (-1..1) of the images after alignment, or the root of the correlation ratio (0..1)
            where the contrasts differ; over the fixed foreground and a rim around it.
        seconds: time taken.
        notes: what a user should know.
    """

    matrix: np.ndarray
    similarity: float
    seconds: float
    notes: tuple[str, ...] = ()


def align(
    fixed: Volume,
    moving: Volume,
    kind: str = "affine",
    *,
    fixed_mask: Volume | None = None,
    moving_mask: Volume | None = None,
    progress: Callable[[float], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    threads: int | None = None,
) -> AffineAlignment:
    """Finds the affine map that takes points of the fixed image to those of the moving image.

    Args:
        fixed, moving: images of the same dimension, on any grids, in any intensity units.
        kind: "none" (identity), "centers" (of the foregrounds), "rigid" or "affine".
        fixed_mask, moving_mask: what lies outside does not count; on any grids.
        progress: called with the fraction done, 0 to 1.
        cancelled: asked between steps; once true, the best map so far is returned.
        threads: default: all cores (at most 4). The result does not depend on it.

    Raises:
        InputError: different dimensions, or a mask that does not meet its image.
    """
    if kind not in KINDS:
        raise ValueError(f"Unknown alignment {kind!r}. Choose one of {', '.join(KINDS)}.")
    if fixed.ndim != moving.ndim:
        raise InputError(
            f"{fixed.name or 'fixed'} is {fixed.ndim}-D but {moving.name or 'moving'} is {moving.ndim}-D. "
            "Register images of the same dimension."
        )
    start = time.perf_counter()
    with ThreadPoolExecutor(threads or min(4, os.cpu_count() or 1)) as pool:
        search = _Search(
            Pyramid(fixed, fixed_mask),
            Pyramid(moving, moving_mask),
            pool,
            progress or (lambda fraction: None),
            cancelled or (lambda: False),
        )
        matrix, similarity, notes = search.run(kind)
    return AffineAlignment(matrix, similarity, time.perf_counter() - start, tuple(notes))


@dataclass
class _Fit:
    """Where the images stand at one map: score to be maximized, and the next step's normal equations."""

    score: float
    overlap: float
    gradient: np.ndarray
    hessian: np.ndarray


class _Search:
    """Maps are (d, d+1) matrices between LPS coordinates relative to both objects' centers."""

    def __init__(
        self,
        fixed: Pyramid,
        moving: Pyramid,
        pool: ThreadPoolExecutor,
        progress: Callable[[float], None],
        cancelled: Callable[[], bool],
    ) -> None:
        self.fixed, self.moving, self.pool = fixed, moving, pool
        self.progress, self.cancelled = progress, cancelled
        self.d = len(fixed.center)

    def run(self, kind: str) -> tuple[np.ndarray, float, list[str]]:
        d = self.d
        identity = np.eye(d, d + 1)
        notes: list[str] = []
        if kind in ("none", "centers"):
            if kind == "none":
                identity[:, d] = self.fixed.center - self.moving.center
            self._open(1)
            fit = self._evaluate(identity, "correlation", False)
            return self._matrix(identity), fit.score, self._overlap_notes(fit)
        self._open(0)
        maps = {m: self._coarse(m) for m in ("correlation", "ratio")}
        measure = "correlation"
        if not self._same_contrast(maps["ratio"]):
            measure = "ratio"
            notes.append("The images differ in contrast: aligned by the correlation ratio instead of the correlation.")
        self.progress(0.4)
        best, fit = self._refined(maps[measure], kind, measure, (0, 1, 2))
        if measure == "ratio":
            # Whether one image is a function of the other depends on which: try the other way round, keep the better.
            back = _Search(self.moving, self.fixed, self.pool, lambda fraction: None, self.cancelled)
            found, other = back._refined(_inverted(best), kind, measure, (1, 2))
            if other.score > fit.score:
                best, fit = _inverted(found), other
        if self.cancelled():
            notes.append("The alignment was cancelled; the best map so far is used.")
        stretches = np.linalg.svd(best[:, :d], compute_uv=False)
        if kind == "affine" and not (stretches.min() > 1 / _STRETCH and stretches.max() < _STRETCH):
            best, fit = self._refined(maps[measure], "rigid", measure, (0, 1, 2))
            notes.append(
                f"The affine alignment stretched by {stretches.max():.2g} and squeezed by "
                f"{stretches.min():.2g}, which is hardly right: the rigid alignment is used."
            )
        self.progress(1.0)
        return self._matrix(best), fit.score, notes + self._overlap_notes(fit)

    def _refined(self, found: np.ndarray, kind: str, measure: str, levels: tuple[int, ...]) -> tuple[np.ndarray, _Fit]:
        """The best map near `found`, from coarse to fine."""
        for level in levels:
            self._open(level)
            if kind == "affine" and level == 0:
                found, _ = self._climb(found, "similarity", measure)
            found, fit = self._climb(found, kind, measure)
            self.progress(0.4 + 0.15 * (level + 1))
            if self.cancelled():
                break
        return found, fit

    def _overlap_notes(self, fit: _Fit) -> list[str]:
        if fit.overlap >= 0.5:
            return []
        return [f"Only {100 * fit.overlap:.0f} % of {self.fixed.name} lies inside {self.moving.name} after alignment."]

    def _matrix(self, found: np.ndarray) -> np.ndarray:
        d = self.d
        matrix = np.eye(d + 1)
        matrix[:d, :d] = found[:, :d]
        matrix[:d, d] = found[:, d] + self.moving.center - found[:, :d] @ self.fixed.center
        return matrix

    def _open(self, level: int) -> None:
        points, self.values, self.bins = self.fixed.points(level)
        self.points = np.ascontiguousarray((points - self.fixed.center).T, dtype=np.float32)
        self.sampler = Sampler(self.moving, level)
        self.size = LEVELS_MM[level]
        self.reach = float(np.abs(self.points).max())

    def _coarse(self, measure: str) -> np.ndarray:
        """The best rigid map at the coarsest level, of those reached from the most promising starts."""
        starts = [np.concatenate([r, np.zeros((self.d, 1))], 1) for r in self._rotations()]
        as_stored = np.eye(self.d, self.d + 1)
        as_stored[:, -1] = self.fixed.center - self.moving.center
        starts.append(as_stored)
        scored = sorted(((self._evaluate(s, measure, False).score, -i) for i, s in enumerate(starts)), reverse=True)
        best = (-np.inf, as_stored)
        for _, i in scored[:_STARTS]:
            if self.cancelled():
                break
            found, fit = self._climb(starts[-i], "rigid", measure, 15)
            if fit.score > best[0]:
                best = (fit.score, found)
        return best[1]

    def _same_contrast(self, found: np.ndarray) -> bool:
        """Whether a rising line explains, inside the object, nearly what any function of the intensity explains.

        Background is left out: that objects are brighter than air correlates in any contrast.
        """
        sampled, valid = self.sampler(mapped(found, self.points), False)
        valid &= self.bins > 0
        f, m = self.values[valid].astype(np.float64), sampled[0, valid].astype(np.float64)
        if len(f) < 2 * BINS or min(f.std(), m.std()) < 1e-3:
            return True
        count, total = np.bincount(self.bins[valid]), np.bincount(self.bins[valid], m - m.mean())
        any_function = float((total[count > 0] ** 2 / count[count > 0]).sum() / (m.var() * m.size))
        line = float(np.corrcoef(f, m)[0, 1])
        return any_function < 0.05 or (line > 0 and line**2 > _LINEAR_ENOUGH * any_function)

    def _rotations(self) -> list[np.ndarray]:
        steps = np.arange(-int(_SEARCH_LIMIT / _SEARCH_STEP), int(_SEARCH_LIMIT / _SEARCH_STEP) + 1) * _SEARCH_STEP
        if self.d == 2:
            return [_rotation(np.array([a])) for a in np.arange(18) * _SEARCH_STEP]
        vectors = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
        turns = [_rotation(v) for v in vectors if np.linalg.norm(v) <= _SEARCH_LIMIT]
        # Heads of other orientation than the header says: quarter turns, and principal axes on principal axes.
        for first in np.concatenate([np.eye(3), -np.eye(3)]):
            for second in np.concatenate([np.eye(3), -np.eye(3)]):
                if first @ second == 0:
                    turns.append(np.stack([first, second, np.cross(first, second)], 1))
        ours, theirs = self.fixed.moments(), self.moving.moments()
        for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
            signed = theirs * [*signs, 1]
            turn = signed @ ours.T
            if np.linalg.det(turn) < 0:
                turn = (signed * [1, 1, -1]) @ ours.T
            turns.append(turn)
        return turns

    def _climb(self, found: np.ndarray, kind: str, measure: str, iterations: int = 40) -> tuple[np.ndarray, _Fit]:
        """Levenberg-Marquardt steps from `found` until they move no point by more than 1/100 voxel."""
        basis = _basis(kind, self.d)
        fit = self._evaluate(found, measure, True)
        damping = 1e-3
        for _ in range(iterations):
            if self.cancelled() or not np.isfinite(fit.score):
                break
            hessian = basis.T @ fit.hessian @ basis
            diagonal = np.diag(hessian)
            hessian = hessian + np.diag(damping * diagonal + 1e-12 * diagonal.max() + 1e-300)
            step = basis @ np.linalg.solve(hessian, basis.T @ fit.gradient)
            change = step.reshape(self.d, self.d + 1)
            move = np.abs(change[:, :-1]).sum() * self.reach + np.abs(change[:, -1]).max()
            tried = _composed(change, found, kind)
            trial = self._evaluate(tried, measure, True)
            if trial.score > fit.score:
                found, fit = tried, trial
                damping = max(damping / 10, 1e-7)
            else:
                damping *= 10
                if damping > 1e4:
                    break
            if move < self.size / 100:
                break
        return found, fit

    def _evaluate(self, found: np.ndarray, measure: str, derivatives: bool) -> _Fit:
        blocks = list(
            self.pool.map(
                lambda begin: self._block(slice(begin, begin + _BLOCK), found, measure, derivatives),
                range(0, self.points.shape[1], _BLOCK),
            )
        )
        gram = sum(b[0] for b in blocks)
        overlap = gram[0, 0] / self.points.shape[1]
        fit = None
        if overlap >= _MIN_OVERLAP and measure == "correlation":
            fit = _correlation(gram)
        elif overlap >= _MIN_OVERLAP:
            fit = _correlation_ratio(gram, sum(b[1] for b in blocks))
        unknowns = len(gram) - 3
        score, gradient, hessian = fit or (-np.inf, np.zeros(unknowns), np.eye(unknowns))
        return _Fit(float(score), overlap, gradient, hessian)

    def _block(
        self, part: slice, found: np.ndarray, measure: str, derivatives: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Of some points: the products of the rows below with each other, and for the ratio their sums per bin."""
        d = self.d
        points = mapped(found, self.points[:, part])
        sampled, valid = self.sampler(points, derivatives)
        n = points.shape[1]
        # Rows: 1, fixed value, [derivatives], moving value.
        rows = np.zeros((3 + derivatives * d * (d + 1), -(-n // _GRAM) * _GRAM), np.float32)
        rows[0, :n] = valid
        np.multiply(self.values[part], valid, out=rows[1, :n])
        np.multiply(sampled[0], valid, out=rows[-1, :n])
        if derivatives:
            # d/d(change) of value(point + change @ (point, 1)), row by row of change.
            first = 2
            for slope in sampled[1:] * valid:
                np.multiply(points, slope, out=rows[first : first + d, :n])
                rows[first + d, :n] = slope
                first += d + 1
        parts = rows.reshape(len(rows), -1, _GRAM).transpose(1, 0, 2)
        gram = (parts @ parts.transpose(0, 2, 1)).sum(0, dtype=np.float64)
        if measure == "correlation":
            return gram, None
        return gram, np.stack([np.bincount(self.bins[part], row[:n], BINS) for row in rows], 1)


def _correlation(gram: np.ndarray) -> tuple[float, np.ndarray, np.ndarray] | None:
    """Score, gradient and Hessian of the correlation, from the products of the rows of `_Search._block`.

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


def _correlation_ratio(gram: np.ndarray, sums: np.ndarray) -> tuple[float, np.ndarray, np.ndarray] | None:
    """The same for the root of the correlation ratio; sums: of the rows in each bin of the fixed image's intensity."""
    count, j = gram[0, 0], slice(2, -1)
    total = gram - np.outer(gram[0], gram[0]) / count
    kept = sums[:, 0] > 0
    within = gram - sums[kept].T @ (sums[kept] / sums[kept, :1])
    rest, whole = within[-1, -1], total[-1, -1]
    if whole <= 1e-9 * count:
        return None
    return np.sqrt(max(1 - rest / whole, 0)), total[j, -1] * rest / whole - within[j, -1], within[j, j]


def _rotation(vector: np.ndarray) -> np.ndarray:
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


def _basis(kind: str, d: int) -> np.ndarray:
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


def _inverted(found: np.ndarray) -> np.ndarray:
    """The inverse of a (d, d+1) map."""
    linear = np.linalg.inv(found[:, :-1])
    return np.concatenate([linear, -(linear @ found[:, -1])[:, None]], 1)


def _composed(change: np.ndarray, found: np.ndarray, kind: str) -> np.ndarray:
    """The map `found` followed by the small change; rotations stay rotations."""
    d = len(found)
    turn = change[:, :d]
    if kind in ("rigid", "similarity"):
        scale = 1 + np.trace(turn) / d
        anti = (turn - turn.T) / 2
        vector = np.array([anti[1, 0]]) if d == 2 else np.array([anti[2, 1], anti[0, 2], anti[1, 0]])
        linear = scale * _rotation(vector)
    else:
        linear = np.eye(d) + turn
    return np.concatenate([linear @ found[:, :d], (linear @ found[:, d] + change[:, d])[:, None]], 1)
