# SPDX-License-Identifier: Apache-2.0
"""What a map does to structures that were to stay as they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..imaging.resampling import nearest
from ..problem.field import Field
from ..problem.parameters import Parameters
from ..problem.subject import Subject
from ..support.torch_device import as_tensor
from .maps import Maps
from .metrics import map_points

# Pairs of points whose distances are looked at; and points among which they are drawn.
_PAIRS, _POINTS = 20_000, 50_000


def kept_figures(fixed: Subject, maps: Maps, forth: Field, parameters: Parameters) -> dict[str, Any]:
    """Of each structure that was to be kept, by its label: its kind; if rigid, by how many percent the distances of its
    points change, on average and at most in 95 % of them; if it was to keep its volume, by how many percent that
    changes."""
    rigid, volume = parameters.rigid_labels, parameters.volume_labels
    if not rigid and not volume:
        return {}
    found = {}
    for label in rigid:
        points = _points(fixed, label)
        change = 100 * distance_changes(points, map_points(points, forth, forth.grid))
        mean, p95 = float(change.mean()), float(np.percentile(change, 95))
        found[str(label)] = {"kind": "rigid", "mean_percent": mean, "p95_percent": p95}
    there = nearest(fixed.label_map, fixed.grid) if volume else None
    for label in volume:
        inside = as_tensor(there == label).to(maps.determinant.device)
        change = 100 * (float(maps.determinant[inside].double().mean()) - 1) if inside.any() else float("nan")
        found[str(label)] = {"kind": "volume", "percent": change}
    return {"kept": found}


def distance_changes(points: np.ndarray, mapped: np.ndarray) -> np.ndarray:
    """Relative changes of the distances of pairs of points (n, d) mm, drawn at random but always alike, that a map
    takes to ``mapped``."""
    rng = np.random.default_rng(0)
    one, other = rng.integers(len(points), size=(2, _PAIRS))
    one, other = one[one != other], other[one != other]
    before = np.linalg.norm(points[one] - points[other], axis=1)
    return np.abs(np.linalg.norm(mapped[one] - mapped[other], axis=1) / before - 1)


def _points(fixed: Subject, label: int) -> np.ndarray:
    at = np.argwhere(fixed.label_map.data == label)
    points = fixed.label_map.grid.index_to_physical(at[:: max(1, len(at) // _POINTS)])
    return points[fixed.grid.contains(points)]
