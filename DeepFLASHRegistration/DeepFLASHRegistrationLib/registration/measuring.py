# SPDX-License-Identifier: Apache-2.0
"""The figures of a result: what `metrics` measures, applied to a registration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..imaging.grid import Grid
from ..imaging.resampling import nearest
from ..imaging.volume import Volume
from ..problem.field import Field
from ..problem.known_transform import KnownTransform
from ..problem.parameters import Parameters
from ..problem.problem import Problem
from ..problem.subject import Subject, corresponding
from ..support.side_by_side import side_by_side
from ..support.torch_device import as_tensor, is_cuda
from . import metrics as m
from .agreement import agreement
from .carried import FIXED_OBJECT, INSIDE, OBJECT, SEEN, Carried
from .channels import channel_figures
from .kept import kept_figures
from .maps import Maps
from .verdict import SMALLEST_LABEL_VOXELS
from .voxelwise import determinant_statistics, portions, similarities

if TYPE_CHECKING:
    from torch import Tensor

# A difference of maps that is none.
_NOTHING_MM = 0.01


def measured(
    fixed: Subject, moving: Subject, carried: Carried, maps: Maps, problem: Problem, parameters: Parameters
) -> dict[str, Any]:
    """Result.metrics. What the moving image does not show counts in none of them but in the share of it.

    Args:
        fixed, moving: checked subjects.
        carried: what the maps make of the moving image; if it shows nothing of the object at all, that is passed over
            from then on.
        maps: where they come from, on whose device the figures are taken.
        problem, parameters: what was solved, and how.
    """

    def figures() -> dict[str, Any]:
        found = _figures(fixed, moving, carried, maps, problem)
        steered = [
            name
            for name, by in (("landmarks", "landmark_weight"), ("labels", "label_weight"))
            if getattr(parameters, by)
        ]
        kept = kept_figures(fixed, maps, maps.fixed_to_moving, parameters)
        channels = channel_figures(problem, parameters, maps.deformation)
        return {**found, **channels, **kept, **({"steered": steered} if steered else {})}

    jobs = (figures, lambda: {"agreement": agreement(problem, parameters, maps.deformation)})
    # Each is a long row of short operations, of which a processor does one row as fast as several do; a GPU is one.
    beside = map if is_cuda(str(carried.seen.device)) else side_by_side
    first, second = beside(lambda job: job(), jobs)
    return first | second


def _figures(fixed: Subject, moving: Subject, carried: Carried, maps: Maps, problem: Problem) -> dict[str, Any]:
    """All of `measured` but the agreement."""
    grid, device = fixed.grid, carried.seen.device
    forth, back = maps.fixed_to_moving, maps.moving_to_fixed
    at = m.grid_indices(grid, problem.foreground)
    probes = as_tensor(grid.index_to_physical(at)).to(device)
    mapped = probes + forth.inner(grid).look(as_tensor(at).to(device))
    forth.forget()  # of large fields one at a time
    visible = _contained(mapped, moving.grid)
    hits = 1 - int(visible.count_nonzero()) / len(visible) if len(visible) else float("nan")
    object_ = as_tensor(problem.foreground).to(device)
    if not hits:
        carried.seen |= SEEN
    inside = _of_bit(carried.seen, SEEN).logical_and_(object_)
    size = int(inside.count_nonzero())
    if not size:
        carried.seen |= SEEN
        inside = object_
        size = int(inside.count_nonzero())
    image = as_tensor(fixed.image.data).to(device)
    before, after = similarities(image, [carried.before, carried.after], inside)
    found: dict[str, Any] = {
        "similarity_before": before,
        "similarity_after": after,
        **_pose(problem.affine),
        "voxel_mm": float(grid.voxel_volume ** (1 / fixed.ndim)),
        "object_mm": float((np.count_nonzero(problem.foreground) * grid.voxel_volume) ** (1 / fixed.ndim)),
        "ndim": fixed.ndim,
    }
    found.update(determinant_statistics(maps.determinant, inside))
    count = sum(int((maps.folded[part] & inside[part]).count_nonzero()) for part in portions(inside))
    found["folds_strict"] = {"count": count, "percent": 100.0 * count / size}
    if not visible.any():
        visible[:] = True
    found["inverse_error_mm"] = m.inverse_error(probes[visible], mapped[visible], back, back.grid)
    back.forget()
    found["border_hits"] = hits
    found["cut"] = _cut(fixed, moving, maps, hits)
    found["largest_displacement_mm"] = float((mapped - probes).square().sum(-1).amax().sqrt())
    found["overlap"] = _overlap(fixed, moving, carried.seen)
    found.update(_of_labels(fixed, moving, carried))
    slack = 0.02 * found["object_mm"]
    found.update(_of_landmarks(fixed, moving, forth, maps.deformation.affine, slack, problem.steering.wrong))
    return found


def _contained(points: Tensor, grid: Grid) -> Tensor:
    """As Grid.contains."""
    to_index, inside = grid.inverse_affine.tolist(), True
    for row, n in zip(to_index, grid.shape, strict=False):
        index = row[-1]
        for weight, along in zip(row, points.T, strict=False):
            index = index + weight * along
        inside = (index >= -0.5) & (index <= n - 0.5) & inside
    return inside


def difference(maps: Maps, known: KnownTransform, grid: Grid, inside: np.ndarray) -> dict[str, float]:
    """How far a result lies from the map that it was made of, over the object of the fixed grid: mean, p95 and max in
    mm."""
    points = m.grid_points(grid, inside)
    to, there = known.moved(points)
    found = m.map_points(points, maps.fixed_to_moving, maps.fixed_to_moving.grid)
    errors = m.point_errors(found[there], to[there])
    return {name: errors[name] for name in ("mean", "p95", "max")}


def difference_note(found: Mapping[str, float], name: str) -> str:
    """The same in words."""
    if found["max"] < _NOTHING_MM:
        return f"{name}: the result differs from it by less than {_NOTHING_MM:g} mm"
    return (
        f"{name}: the result differs from it by {found['mean']:.2f} mm on average, by {found['p95']:.2f} mm at most in "
        f"95 % of the object, and by {found['max']:.2f} mm somewhere"
    )


def _pose(affine: np.ndarray) -> dict[str, float]:
    """By how many degrees the alignment turns against the headers, and by which factor it scales lengths (≥ 1)."""
    d = len(affine) - 1
    u, stretches, v = np.linalg.svd(affine[:d, :d])
    turn = u @ v
    # Of a plane the angle itself, of space that about the axis of the turn.
    cosine = turn[0, 0] if d == 2 else (np.trace(turn) - 1) / 2
    scale = float(np.prod(stretches) ** (1 / d))
    return {"turn_degrees": float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))), "scale": max(scale, 1 / scale)}


def _cut(fixed: Subject, moving: Subject, maps: Maps, hits: float) -> dict[str, Any]:
    """Which part of the object in question lies outside the other image's field of view: of the fixed mask, else of
    the fixed labels, else of the moving ones, else of the fixed image's foreground."""
    forth, back = maps.fixed_to_moving, maps.moving_to_fixed

    def outside(volume: Volume, field: Field, other: Grid) -> float:
        points = m.grid_points(volume.grid, volume.data != 0, 50_000)
        return m.border_hits(m.map_points(points, field, field.grid), other) if len(points) else 0.0

    if fixed.mask is not None:
        return {"what": "mask", "part": outside(fixed.mask, forth, moving.grid)}
    if fixed.label_map is not None:
        return {"what": "labels", "part": outside(fixed.label_map, forth, moving.grid)}
    if moving.label_map is not None:
        return {"what": "labels", "part": outside(moving.label_map, back, fixed.grid)}
    return {"what": "foreground", "part": hits}


def _of_bit(seen: Tensor, bit: int) -> Tensor:
    import torch

    return (seen & bit).ne_(0).view(torch.bool)


def _overlap(fixed: Subject, moving: Subject, seen: Tensor) -> float:
    """Dice of both foregrounds where both are seen; inside the masks where there are any. A mask of one side only
    holds for both."""
    inside = None if fixed.inside is None else as_tensor(fixed.inside).to(seen.device)
    both = total = 0
    for part in portions(seen):
        first, second = (seen[part] & (SEEN | bit) == SEEN | bit for bit in (FIXED_OBJECT, OBJECT))
        masks = [None if inside is None else inside[part], None if moving.inside is None else seen[part] & INSIDE != 0]
        own = [mask if mask is not None else other for mask, other in zip(masks, reversed(masks), strict=True)]
        for shown, mask in zip((first, second), own, strict=True):
            if mask is not None:
                shown &= mask
        both += int((first & second).count_nonzero())
        total += int(first.count_nonzero()) + int(second.count_nonzero())
    return 2.0 * both / total if total else float("nan")


def _of_labels(fixed: Subject, moving: Subject, carried: Carried) -> dict[str, Any]:
    labels, own, device = moving.label_map, fixed.label_map, carried.seen.device
    if labels is None:
        return {}
    voxel = fixed.grid.voxel_volume
    volumes = m.label_volumes(as_tensor(labels.data).to(device), labels.grid.voxel_volume)
    found: dict[str, Any] = {}
    if own is None:
        warped = m.label_volumes(carried.labels, voxel)
    else:
        there = as_tensor(nearest(own, fixed.grid)).to(device)
        found["dice"] = m.label_table(there, carried.labels_before, carried.labels, voxel, volumes)
        warped = {label: row["volume_warped_mm3"] for label, row in found["dice"].items()}
        before, after = m.mean_dice(found["dice"])
        if np.isfinite(after):  # else no label is in both, which says nothing of the registration
            found["mean_dice_before"], found["mean_dice_after"] = before, after
    smallest = SMALLEST_LABEL_VOXELS * labels.grid.voxel_volume
    return {"volume_change": m.volume_change(volumes, warped, smallest), **found}


def _of_landmarks(
    fixed: Subject, moving: Subject, forth: Field, affine: np.ndarray, slack: float, wrong: tuple[bool, ...]
) -> dict[str, Any]:
    pairs = corresponding(fixed.landmarks, moving.landmarks)
    if pairs is None:
        return {}
    at_fixed, at_moving = pairs.fixed, pairs.moving
    d = fixed.ndim
    before = at_fixed @ affine[:d, :d].T + affine[:d, d]
    mapped = m.map_points(at_fixed, forth, forth.grid)
    after = m.landmark_errors(mapped, at_moving)
    first = m.landmark_errors(before, at_moving)
    return {
        "landmarks": {
            "names": list(pairs.names),
            "before_mm": first.tolist(),
            "after_mm": after.tolist(),
            "mean_before_mm": float(first.mean()),
            "mean_after_mm": float(after.mean()),
            "nearer_another": m.nearer_another(mapped, at_moving, slack),
            **({"steered": [bool(each) for each in pairs.steers & ~np.array(wrong)]} if wrong else {}),
        }
    }
