# SPDX-License-Identifier: Apache-2.0
"""Affine alignment: coarse to fine, from many starting rotations, by Gauss-Newton steps on the correlation.

The measure is the correlation of both images over the foreground of the fixed one, maximized exactly (the "enhanced
correlation coefficient" of Evangelidis & Psarakis, IEEE PAMI 30(10), 2008); for images of different contrast it is the
correlation ratio (Roche et al., MICCAI 1998), i.e. the variance of the moving image that is explained by any function
of the fixed image's intensity. Images are averaged along their own voxel axes, so that the result does not depend on
how they are stored.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ..imaging.volume import Volume
from ..support.errors import InputError
from ..support.torch_device import is_cuda
from .comparison import Comparing, Comparison, Points
from .pyramid import BINS, LEVELS_MM, Pyramid
from .starts import mirrored_along, mirrored_starts, size_ratio, turned_by, turned_starts, upright_starts
from .steps import basis, composed, correlation, correlation_ratio, explained_by_rising, inverted

KINDS = ("none", "centers", "rigid", "affine")

_STARTS, _UPRIGHT, _REFINED = 6, 3, 3  # how many starts are climbed from, and how many of these to affine
_MIN_OVERLAP = 0.2
_SAME = 0.15  # in radii: maps nearer to each other are one
# What turns the object by more than this against the headers must explain more than the best that does not: its
# evidence counts by so much.
_TURNED, _TRUST = np.deg2rad(50.0), 0.85
# Any function explains more than a line does: where both measures lead elsewhere, the ratio counts by so much.
_FEWER = 0.9
# Mirrored objects must explain much more, and not be hopeless from the start: by this much less of the measure.
_MIRRORED, _HOPELESS = 0.65, 0.25
_WAYS = ("left to right", "front to back", "upside down")
_LINEAR_ENOUGH = 0.9  # measured on brains: same contrast 0.97 to 1, T2- or FLAIR-like against T1 below 0.86
# Of one contrast, if through a curve or blurred by neighbors that lie elsewhere, above 0.98; T1 against T2 below 0.6.
_RISING = 0.95
_PLAINLY = 0.5  # what is explained of the other image by one that is plainly aligned
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
    masks: tuple[Volume | None, Volume | None] = (None, None),
    progress: Callable[[float], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    threads: int | None = None,
    device: str = "cpu",
) -> AffineAlignment:
    """Finds the affine map that takes points of the fixed image to those of the moving image.

    Args:
        fixed, moving: images of the same dimension, on any grids, in any intensity units.
        kind: "none" (identity), "centers" (of the foregrounds), "rigid" or "affine".
        masks: of the fixed and of the moving image; what lies outside does not count; on any grids.
        progress: called with the fraction done, 0 to 1.
        cancelled: asked between steps, by one thread at a time; once true, the best map so far is returned.
        threads: default: all cores (at most 4). The result does not depend on it.
        device: a torch device; images are compared on it if it is a CUDA GPU, and else on the CPU.

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
            *pool.map(Pyramid, (fixed, moving), masks),
            _comparing(device, pool),
            progress or (lambda fraction: None),
            _one_by_one(cancelled or (lambda: False)),
        )
        matrix, similarity, notes = search.run(kind)
    return AffineAlignment(matrix, similarity, time.perf_counter() - start, tuple(notes))


def align_nearby(fixed: Pyramid, moving: Pyramid) -> np.ndarray:
    """The rigid map, as that of `align`, near one that lays the objects' centers on each other and turns nothing, or
    by half about an axis of space; in any contrast, and in a part of the time."""
    d = len(fixed.center)
    with ThreadPoolExecutor(1) as pool:
        search = _Search(fixed, moving, _comparing("cpu", pool), lambda fraction: None, lambda: False)
        search._open(0)
        climbed = []
        for signs in itertools.product((1.0, -1.0), repeat=d):
            if np.prod(signs) > 0:
                climbed.append(search._climb(np.diag(signs) @ np.eye(d, d + 1), "rigid", "ratio", 15))
        found, _ = max(climbed, key=lambda each: each[1].score)
        search._open(1)
        return search._matrix(search._climb(found, "rigid", "ratio")[0])


def align_upright(fixed: Volume, moving: Volume, kind: str, threads: int | None = None) -> np.ndarray:
    """The map, as that of `align`, that is reached from the one that lays the objects' centers on each other and turns
    nothing: for images whose objects look alike from several sides, such as a structure's distance from its surface."""
    with ThreadPoolExecutor(threads or min(4, os.cpu_count() or 1)) as pool:
        pyramids = pool.map(Pyramid, (fixed.upright(), moving.upright()), (None, None))
        search = _Search(*pyramids, _comparing("cpu", pool), lambda fraction: None, lambda: False)
        found = np.eye(search.d, search.d + 1)
        for level in range(len(LEVELS_MM)):
            search._open(level)
            for each in dict.fromkeys(("rigid", kind)):
                climbed, _ = search._climb(found, each, "correlation")
                if np.isfinite(search._distortion(climbed)):
                    found = climbed
        return search._matrix(found)


def _one_by_one(ask: Callable[[], bool]) -> Callable[[], bool]:
    """The same question, which several threads may ask."""
    lock = threading.Lock()

    def asked() -> bool:
        with lock:
            return ask()

    return asked


def _comparing(device: str, pool: ThreadPoolExecutor) -> Callable[[Pyramid, Pyramid, int], Comparing]:
    """What compares two images at a level: a GPU, or the CPU, which is faster without torch."""
    if not is_cuda(device):
        return lambda fixed, moving, level: Comparison(fixed, moving, level, pool)
    from .device_comparison import DeviceComparison

    return lambda fixed, moving, level: DeviceComparison(Points.of(fixed, level), moving, level, device)


@dataclass
class _Fit:
    """Where the images stand at one map: score to be maximized, and the next step's normal equations."""

    score: float
    overlap: float
    gradient: np.ndarray
    hessian: np.ndarray


@dataclass
class _Candidate:
    """A map, what it was before it could stretch, its score, and how much speaks for it."""

    map: np.ndarray
    unstretched: np.ndarray
    score: float
    evidence: float


class _Search:
    """Maps are (d, d+1) matrices between LPS coordinates relative to both objects' centers."""

    def __init__(
        self,
        fixed: Pyramid,
        moving: Pyramid,
        compare: Callable[[Pyramid, Pyramid, int], Comparing],
        progress: Callable[[float], None],
        cancelled: Callable[[], bool],
    ) -> None:
        self.fixed, self.moving, self.compare = fixed, moving, compare
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
        found, measure = self._coarse(kind)
        if measure == "ratio":
            what = "are not proportional" if self._rising(found.map) else "differ in contrast"
            notes.append(f"The images {what}: aligned by the correlation ratio instead of the correlation.")
        notes += self._mirror_notes(found, kind, measure)
        self.progress(0.4)
        best, fit = self._refined(found.map, kind, measure, (0, 1, 2))
        if measure == "ratio":
            # Whether one image is a function of the other depends on which: try the other way round, keep the better.
            back = _Search(self.moving, self.fixed, self.compare, lambda fraction: None, self.cancelled)
            other_map, other = back._refined(inverted(best), kind, measure, (1, 2))
            if other.score > fit.score:
                best, fit = inverted(other_map), other
        if self.cancelled():
            notes.append("The alignment was cancelled; the best map so far is used.")
        stretch = self._distortion(best)
        if kind == "affine" and stretch > _STRETCH:
            best, fit = self._refined(found.unstretched, "rigid", measure, (0, 1, 2))
            what = f"stretched or squeezed by a factor of {stretch:.2g}" if np.isfinite(stretch) else "mirrored"
            notes.append(f"The affine alignment {what}, which is hardly right: the rigid alignment is used.")
        self.progress(1.0)
        return self._matrix(best), fit.score, notes + self._overlap_notes(fit)

    def _distortion(self, found: np.ndarray) -> float:
        """By which factor a map stretches or squeezes, at most; what the objects' sizes ask for apart. Infinite for one
        that mirrors, on the way to which something is squeezed to nothing."""
        if np.linalg.det(found[:, : self.d]) <= 0:
            return np.inf
        stretches = np.linalg.svd(found[:, : self.d], compute_uv=False)
        return min(max(stretches.max() / r, r / stretches.min()) for r in (1.0, size_ratio(self.fixed, self.moving)))

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

    def _mirror_notes(self, found: _Candidate, kind: str, measure: str) -> list[str]:
        """What to say if mirrored objects agree better, or as well where nothing is turned; nothing is mirrored."""
        starts = mirrored_starts(found.map)
        scores = [self._evaluate(start, measure, False).score for start in starts]
        if self.cancelled() or max(scores) < found.score - _HOPELESS:
            return []
        other, _ = self._climb(starts[int(np.argmax(scores))], "rigid", measure, 15)
        other, fit = self._climb(other, kind, measure, 15)
        mirrored, turn = self._candidate(other, other, fit), turned_by(found.map)
        way = f" ({_WAYS[mirrored_along(other)]})" if self.d == 3 else ""
        what = "Nothing was mirrored: check the orientation in its header."
        if mirrored.evidence * _MIRRORED > found.evidence:
            return [
                f"{self.moving.name} looks like a mirror image of {self.fixed.name}{way}: mirrored it would agree much "
                f"better ({fit.score:.2f} instead of {found.score:.2f}). {what}"
            ]
        if turn > _TURNED > turned_by(other) and mirrored.evidence > found.evidence:
            return [
                f"{self.moving.name} was turned by {np.rad2deg(turn):.0f} degrees against its header; a mirror image"
                f"{way} that is not turned would agree as well ({fit.score:.2f}, here {found.score:.2f}). {what}"
            ]
        return []

    def _overlap_notes(self, fit: _Fit) -> list[str]:
        # Of all of the fixed image little may lie inside a mask of the moving one, however well they are aligned.
        if fit.overlap >= 0.5 or (self.moving.masked and not self.fixed.masked):
            return []
        return [f"Only {100 * fit.overlap:.0f} % of {self.fixed.name} lies inside {self.moving.name} after alignment."]

    def _matrix(self, found: np.ndarray) -> np.ndarray:
        d = self.d
        matrix = np.eye(d + 1)
        matrix[:d, :d] = found[:, :d]
        matrix[:d, d] = found[:, d] + self.moving.center - found[:, :d] @ self.fixed.center
        return matrix

    def _open(self, level: int) -> None:
        self.compared = self.compare(self.fixed, self.moving, level)
        self.points = self.compared.points
        self.count = self.points.places.shape[1]
        self.size = LEVELS_MM[level] * self.fixed.scale
        self.reach = float(np.abs(self.points.places).max())

    def _coarse(self, kind: str) -> tuple[_Candidate, str]:
        """The best map at the coarsest level, and the measure by which it is to be refined."""
        rigid = kind == "rigid"
        upright = upright_starts(self.fixed, self.moving, rigid)
        turned = turned_starts(self.fixed, self.moving, rigid)
        scores = np.array([self._scored(*sums) for sums in self.compared.many(upright + turned)])
        found = self._candidates(kind, "correlation", upright, turned, scores[:, 0])
        best = found[0]
        if self._scores(best.map)[1] >= scores[:, 1].max() and self._same_contrast(best.map, _PLAINLY):
            return best, "correlation"
        other = self._candidates(kind, "ratio", upright, turned, scores[:, 1], tuple(c.map for c in found))[0]
        if self._apart(best.map, other.map) < _SAME:
            same = self._same_contrast(other.map)
        else:
            same = best.evidence > _FEWER * other.evidence
        return (best, "correlation") if same else (other, "ratio")

    def _candidates(
        self,
        kind: str,
        measure: str,
        upright: list[np.ndarray],
        turned: list[np.ndarray],
        scores: np.ndarray,
        more: tuple[np.ndarray, ...] = (),
    ) -> list[_Candidate]:
        """What is reached from the most promising starts, the best first; those of the headers are always among them.

        scores: of the upright and the turned starts; more: maps found otherwise.
        """
        n = len(upright)
        # As stored and center on center first, whatever their score.
        chosen = [0, 1, *sorted(range(2, n), key=lambda i: -scores[i])[:_UPRIGHT]]
        starts = [upright[i] for i in chosen]
        starts += [turned[i] for i in sorted(range(len(turned)), key=lambda i: -scores[n + i])[:_STARTS]]
        first = "rigid" if kind == "rigid" else "similarity"

        def climb(start: np.ndarray) -> _Candidate | None:
            if self.cancelled():
                return None
            found, fit = self._climb(start, "rigid", measure, 10)
            return self._candidate(found, found, fit)

        climbed = [found for found in self.compared.each(climb, [*starts, *more]) if found]
        climbed = self._distinct(climbed) or [_Candidate(starts[0], starts[0], -np.inf, -np.inf)]
        if kind == "rigid" or self.cancelled():
            return climbed
        kept = climbed[:_REFINED]
        kept += [c for c in climbed[_REFINED:] if turned_by(c.map) <= _TURNED][:2]

        def refine(candidate: _Candidate) -> _Candidate:
            similar, _ = self._climb(candidate.map, first, measure, 15)
            found, fit = self._climb(similar, "affine", measure, 15)
            if self._distortion(found) > _STRETCH:
                found, fit = similar, self._evaluate(similar, measure, False)
            return self._candidate(found, similar, fit)

        return self._distinct(self.compared.each(refine, kept))

    def _candidate(self, found: np.ndarray, unstretched: np.ndarray, fit: _Fit) -> _Candidate:
        """A map with the evidence for it: the information that it gives of one image by the other, of what is seen."""
        evidence = -np.sqrt(fit.overlap) * np.log(1 - min(max(fit.score, 0) ** 2, 1 - 1e-12))
        if turned_by(found) > _TURNED:
            evidence *= _TRUST
        return _Candidate(found, unstretched, fit.score, float(evidence))

    def _distinct(self, candidates: list[_Candidate]) -> list[_Candidate]:
        """The candidates, best first; of those that are nearly the same, the one of the best score."""
        kept: list[list[_Candidate]] = []
        for candidate in sorted(candidates, key=lambda c: -c.evidence):
            for group in kept:
                if self._apart(candidate.map, group[0].map) < _SAME:
                    group.append(candidate)
                    break
            else:
                kept.append([candidate])
        return [max(group, key=lambda c: c.score) for group in kept]

    def _apart(self, first: np.ndarray, second: np.ndarray) -> float:
        """How far apart two maps take the points of the object (root mean square), in its radii."""
        change = first - second
        turn = np.sum(change[:, :-1] ** 2) * self.fixed.radius**2 / self.d
        return float(np.sqrt(turn + np.sum(change[:, -1] ** 2)) / self.fixed.radius)

    def _scores(self, found: np.ndarray) -> tuple[float, float]:
        """Correlation, and root of the correlation ratio."""
        return self._scored(*self.compared.products(found, "ratio", False))

    def _scored(self, gram: np.ndarray, sums: np.ndarray) -> tuple[float, float]:
        if gram[0, 0] < _MIN_OVERLAP * self.count:
            return -np.inf, -np.inf
        fits = correlation(gram), correlation_ratio(gram, sums)
        return tuple(-np.inf if fit is None else float(fit[0]) for fit in fits)

    def _same_contrast(self, found: np.ndarray, least: float = 0.05) -> bool:
        """Whether a rising line explains, inside the object, nearly what any function of the intensity explains.

        Background is left out: that objects are brighter than air correlates in any contrast. Where no function of the
        intensity explains `least` of the other image, it cannot be told.
        """
        f, m, count, total = self._inside(found)
        if len(f) < 2 * BINS or min(f.std(), m.std()) < 1e-3:
            return True
        any_function = float((total**2 / count).sum() / (m.var() * m.size))
        line = float(np.corrcoef(f, m)[0, 1])
        if any_function < least:
            return least < _PLAINLY
        return line > 0 and line**2 > _LINEAR_ENOUGH * any_function

    def _rising(self, found: np.ndarray) -> bool:
        """Whether a function that never falls explains nearly what any function of the intensity explains."""
        _, _, count, total = self._inside(found)
        if not len(count):
            return True
        return explained_by_rising(count, total) > _RISING * float((total**2 / count).sum())

    def _inside(self, found: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Of the points inside the object: fixed and moving values; of the bins that occur: number of points, and sum
        of the moving values less their mean."""
        sampled, valid = self.compared.sampled(found)
        _, values, bins = self.points
        valid = valid & (bins > 0)
        f, m = values[valid].astype(np.float64), sampled[valid].astype(np.float64)
        count = np.bincount(bins[valid])
        total = np.bincount(bins[valid], m - m.mean() if len(m) else m)
        return f, m, count[count > 0], total[count > 0]

    def _climb(self, found: np.ndarray, kind: str, measure: str, iterations: int = 40) -> tuple[np.ndarray, _Fit]:
        """Levenberg-Marquardt steps from `found` until they move no point by more than 1/100 voxel."""
        allowed = basis(kind, self.d)
        fit = self._evaluate(found, measure, True)
        damping = 1e-3
        for _ in range(iterations):
            if self.cancelled() or not np.isfinite(fit.score):
                break
            hessian = allowed.T @ fit.hessian @ allowed
            diagonal = np.diag(hessian)
            hessian = hessian + np.diag(damping * diagonal + 1e-12 * diagonal.max() + 1e-300)
            step = allowed @ np.linalg.solve(hessian, allowed.T @ fit.gradient)
            change = step.reshape(self.d, self.d + 1)
            move = np.abs(change[:, :-1]).sum() * self.reach + np.abs(change[:, -1]).max()
            tried = composed(change, found, kind)
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
        gram, sums = self.compared.products(found, measure, derivatives)
        overlap = gram[0, 0] / self.count
        fit = None
        if overlap >= _MIN_OVERLAP:
            fit = correlation(gram) if measure == "correlation" else correlation_ratio(gram, sums)
        unknowns = len(gram) - 3
        score, gradient, hessian = fit or (-np.inf, np.zeros(unknowns), np.eye(unknowns))
        return _Fit(float(score), overlap, gradient, hessian)
