# SPDX-License-Identifier: Apache-2.0
"""The linear map that landmarks tell, though some of them may be wrong.

A map of few landmarks at a time, chosen at random but always alike, is judged by the median of all distances (least
median of squares; Rousseeuw 1984); from the best one on, distances count as Geman and McClure (1987) let them, which
all but ignores those far beyond the others.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

# What a kind needs at least, in landmarks, for d axes; and how flat their cloud may be along its thinnest axis, as part
# of its longest.
_NEEDS = {"affine": lambda d: 2 * (d + 1), "similarity": lambda d: d + 1, "rigid": lambda d: d, "shift": lambda d: 1}
_FLAT = {"affine": 0.1, "similarity": 0.02, "rigid": 0.02}
_STRETCH = 3.0  # of one axis beside another
_TRIES = 400
_STEPS = 30
# Times the trust or the median distance, beyond which a distance hardly counts.
_BEYOND = 3.0


def kind_for(fixed: np.ndarray, moving: np.ndarray, kind: str) -> str:
    """The richest kind of map, none richer than asked for ("rigid", "affine"), that landmarks (n, d) can tell."""
    n, d = fixed.shape
    order = ["affine", "similarity", "rigid"] if kind == "affine" else ["rigid"]
    spreads = [np.linalg.svd(each - each.mean(0), compute_uv=False) for each in (fixed, moving)]
    for each in order:
        # A turn is told by points on a plane, but not on a line; an affine by none but points all around.
        axis = d - 1 if each == "affine" else d - 2
        flat = any(len(s) <= axis or s[axis] <= _FLAT[each] * max(s[0], 1e-12) for s in spreads)
        if n >= _NEEDS[each](d) and not flat:
            return each
    return "shift"


def from_landmarks(fixed: np.ndarray, moving: np.ndarray, trust: np.ndarray, kind: str) -> tuple[np.ndarray, str]:
    """The map (d+1, d+1) LPS mm, fixed -> moving, that landmarks (n, d) tell, and of which kind it is.

    Args:
        trust: (n,) mm, the standard deviation of each along each axis.
        kind: "rigid" or "affine", which few landmarks do not tell; see `kind_for`.
    """
    d, told = fixed.shape[1], kind_for(fixed, moving, kind)
    first = "rigid" if told == "affine" else told
    best = rigid = _start(fixed, moving, trust, first)
    for each in dict.fromkeys((first, told)):
        rigid = best
        for _ in range(_STEPS):
            off = np.linalg.norm(fixed @ best[:, :d].T + best[:, d] - moving, axis=1) / trust
            scale = _BEYOND * max(1.0, float(np.median(off)))
            weight = 1 / (trust * (1 + (off / scale) ** 2)) ** 2
            now = _weighted(fixed, moving, weight, each)
            still = np.allclose(now, best, rtol=0, atol=1e-9)
            best = now
            if still:
                break
    # What mirrors, or stretches beyond anatomy, is a mistake in the landmarks.
    stretches = np.linalg.svd(best[:, :d], compute_uv=False)
    if told == "affine" and not (np.linalg.det(best[:, :d]) > 0 and stretches[0] < _STRETCH * stretches[-1]):
        best, told = rigid, "rigid"
    matrix = np.eye(d + 1)
    matrix[:d] = best
    return matrix, told


def mirrored(fixed: np.ndarray, moving: np.ndarray) -> bool:
    """Whether landmarks lie to each other as an image and its mirror image do, so far as they tell."""
    if kind_for(fixed, moving, "affine") != "affine":
        return False
    x, y = fixed - fixed.mean(0), moving - moving.mean(0)
    return bool(np.linalg.det(np.linalg.lstsq(x, y, rcond=None)[0]) < 0)


def _start(fixed: np.ndarray, moving: np.ndarray, trust: np.ndarray, kind: str) -> np.ndarray:
    n, d = fixed.shape
    size = _NEEDS[kind](d)
    if n <= size:
        return _weighted(fixed, moving, 1 / trust**2, kind)
    if math.comb(n, size) <= _TRIES:
        chosen = [list(each) for each in itertools.combinations(range(n), size)]
    else:
        rng = np.random.default_rng(0)
        chosen = [rng.choice(n, size, replace=False) for _ in range(_TRIES)]
    chosen.append(np.arange(n))

    def median(found: np.ndarray) -> float:
        return float(np.median(np.linalg.norm(fixed @ found[:, :d].T + found[:, d] - moving, axis=1) / trust))

    return min((_weighted(fixed[i], moving[i], 1 / trust[i] ** 2, kind) for i in chosen), key=median)


def _weighted(fixed: np.ndarray, moving: np.ndarray, weight: np.ndarray, kind: str) -> np.ndarray:
    """The map (d, d+1) of a kind of the least weighted squares; of a similarity and a turn after Umeyama (1991)."""
    d, part = fixed.shape[1], weight / weight.sum()
    here, there = part @ fixed, part @ moving
    x, y = fixed - here, moving - there
    if kind == "shift":
        turn = np.eye(d)
    elif kind == "affine":
        turn = np.linalg.lstsq(x * np.sqrt(part)[:, None], y * np.sqrt(part)[:, None], rcond=None)[0].T
    else:
        u, s, v = np.linalg.svd((y * part[:, None]).T @ x)
        signs = np.ones(d)
        signs[-1] = np.sign(np.linalg.det(u @ v))
        turn = u * signs @ v
        if kind == "similarity":
            turn = turn * float((s * signs).sum() / max((part * (x * x).sum(1)).sum(), 1e-30))
    return np.concatenate([turn, (there - turn @ here)[:, None]], 1)
