# SPDX-License-Identifier: Apache-2.0
"""Whether two registered images agree better than images that do not belong together could.

That a similarity rose by being maximized proves nothing: unrelated images rise too. So the same pair is fitted again on
few cells, once as it lies and once with the moving image turned by half about the middle of the object, where nothing
can lie right: what is reached there is the floor. What lies right stands above it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..imaging.grid import Grid
from ..problem.deformation import Deformation, border_window
from ..problem.parameters import Parameters
from ..problem.problem import Problem, settings
from ..support.torch_device import as_tensor, is_cuda

if TYPE_CHECKING:
    from torch import Tensor

    from ..geodesics.objective import Level, Pair

# Cells of the fits, their iterations, bands along the longest axis, and cells by which windows reach.
_CELLS, _ITERATIONS, _MODES, _RADIUS = 8000, 6, 15, 2
# The metric of a coarsest level with the presets' α (6) and its growth (3 for each of two levels).
_ALPHA = 54.0
# Mutual information below it is of the order of what so few cells show by chance.
_BY_CHANCE = 0.1
# A mirrored image must agree better than the image itself by this share to be said to.
_MIRRORED = 0.15
# Before anything is fitted it may agree worse by this share: the middle of the working grid is not that of the object.
_HOPELESS = 0.1
# Fewer cells than these inside both objects say nothing.
_LEAST = 60
_AXES = ("left-right", "front-back", "head-foot")


@dataclass(frozen=True)
class _Cells:
    """A pair on few cells, on the device of the deformation: where they lie, and what the fits share."""

    grid: Grid
    device: str
    pair: Pair
    level: Level
    problem: Problem
    parameters: Parameters
    deformation: Deformation


def agreement(problem: Problem, parameters: Parameters, deformation: Deformation) -> dict[str, Any]:
    """How well the images of a problem agree, and what they reach where nothing can lie right.

    Args:
        problem: the images on the working grid.
        parameters: whose similarity was minimized.
        deformation: the result.

    Returns:
        reached, floor: the similarity that was minimized, 0..1, as the result lies and turned by half; information,
        information_floor: mutual information likewise, which is not what was minimized (unless it was); share: by how
        much of what is possible both stand above their floors, on average; turned: the axis of the half turn; mirrored:
        the axis along which the mirrored moving image agrees better, or "". Empty where too little is seen of both.
    """
    cells = _cells(problem, parameters, deformation)
    at_rest = _at_rest(cells)
    here = _measured(cells, cells.pair, at_rest)
    if here is None:
        return {}
    fitted = _measured(cells, cells.pair, _fit(cells, cells.pair))
    given = _measured(cells, cells.pair, _displacement(cells, deformation))
    turns = {axes: _flipped(cells.pair, axes) for axes in itertools.combinations(range(cells.grid.ndim), 2)}
    floor, turn = _best(cells, turns)
    if fitted is None or given is None or floor is None:
        return {}
    # As good as a fit of the same budget, and no better: that a finer one overfits more is no merit.
    reached = tuple(min(a, b) for a, b in zip(fitted, given, strict=True))
    found = {
        "reached": reached[0],
        "floor": floor[0],
        "information": reached[1],
        "information_floor": floor[1],
        "share": share(reached, floor),
        "turned": _axis_of_turn(cells.grid, turn),
        "mirrored": "",
    }
    mirrors = {(a,): _flipped(cells.pair, (a,)) for a in range(cells.grid.ndim)}
    seen = {axes: _measured(cells, pair, at_rest) for axes, pair in mirrors.items()}
    promising = {a: pair for a, pair in mirrors.items() if seen[a] is not None and share(seen[a], here) > -_HOPELESS}
    if promising:
        other, axes = _best(cells, promising)
        if other is not None and share(other, reached) > _MIRRORED:
            found["mirrored"] = _axis(cells.grid, axes[0])
    return found


def share(reached: tuple[float, float], floor: tuple[float, float]) -> float:
    """By how much of what is possible (similarity, information) stand above a floor, on average; below it, negative.

    Perfect similarity is 1; information has no such end, so that there the part of it that exceeds the floor counts.
    """
    similarity = (reached[0] - floor[0]) / max(1 - floor[0], 1e-6)
    information = (reached[1] - floor[1]) / max(reached[1], floor[1], _BY_CHANCE)
    return float(np.clip(similarity, -1, 1) + information) / 2


def _cells(problem: Problem, parameters: Parameters, deformation: Deformation) -> _Cells:
    """The problem averaged over blocks of its working voxels, about cubic in mm."""
    import torch.nn.functional as F

    from ..geodesics.objective import Pair

    d = problem.grid.ndim
    edge = float(np.prod(problem.grid.extent) / _CELLS) ** (1 / d)
    factors = tuple(max(1, round(edge / h)) for h in problem.grid.spacing)
    missing = [-n % f for n, f in zip(problem.grid.shape, factors, strict=True)]
    grid = problem.grid.padded([0] * d, missing)
    pool = F.avg_pool3d if d == 3 else F.avg_pool2d

    device = deformation.device if is_cuda(deformation.device) else "cpu"
    # As F.pad has them: the last axis first.
    padding = [n for more in reversed(missing) for n in (0, more)]

    def reduced(values: np.ndarray | None, beyond: str = "constant") -> Tensor | None:
        if values is None:
            return None
        values = as_tensor(values).to(device).float()[None, None]
        return pool(F.pad(values, padding, mode=beyond) if any(missing) else values, factors)[0, 0]

    images = (reduced(image, "replicate") for image in (problem.fixed, problem.moving))
    rest = (problem.fixed_mask, problem.moving_mask, problem.fixed_view, problem.moving_view)
    pair = Pair(*images, *map(reduced, rest), tuple(float(x) for x in grid.extent / problem.unit_mm))
    return _Cells(grid.blocks(factors), device, pair, _level(pair), problem, parameters, deformation)


def _level(pair: Pair) -> Level:
    from ..geodesics.band import Band, Metric
    from ..geodesics.objective import Level

    shape, longest = pair.fixed.shape, max(pair.lengths)
    wanted = [min(_MODES * a / longest, n / 2) for a, n in zip(pair.lengths, shape, strict=True)]
    band = Band(tuple(max(3, 2 * round((w - 1) / 2) + 1) for w in wanted), pair.lengths)
    metric = Metric(_ALPHA, 2.0, 1.0, None)
    step = min(a / n for a, n in zip(pair.lengths, shape, strict=True))
    return Level((1,) * len(shape), band, metric, (_RADIUS,) * len(shape), _ITERATIONS, step * 0.999)


def _at_rest(cells: _Cells) -> Tensor:
    return cells.pair.fixed.new_zeros(cells.grid.ndim, *cells.grid.shape)


def _fit(cells: _Cells, pair: Pair) -> Tensor:
    """The displacement that FLASH finds on the cells, in cells."""
    from ..geodesics.search.flash import minimize

    problem, level = cells.problem, cells.level
    similarity = replace(settings(cells.parameters), symmetric=False, integrator="multistep", steps=0)
    # The verdict's limits were measured with this search.
    similarity = replace(similarity, band_limited_map=False, tolerance=1e-3, search="lbfgs")
    margin = problem.margin_mm / problem.unit_mm
    found = minimize(
        pair, [level], similarity, None, lambda lattice: border_window(lattice, pair.lengths, margin, cells.device)
    )
    geodesic = Deformation(
        domain=cells.grid,
        unit_mm=problem.unit_mm,
        velocity=found.velocity.cpu().numpy(),
        alpha=level.metric.alpha,
        power=level.metric.power,
        gamma=level.metric.gamma,
        metric_step=None,
        affine=np.eye(cells.grid.ndim + 1),
        margin_mm=problem.margin_mm,
        device=cells.device,
    )
    return _displacement(cells, geodesic)


def _displacement(cells: _Cells, deformation: Deformation) -> Tensor:
    """A deformation without its affine at the cells, (d, *shape), in cells."""
    import torch

    d = cells.grid.ndim
    # The deformation keeps its own map of the whole, which one without the affine would have to follow anew.
    field = deformation.field(cells.grid, "fixed_to_moving", settled=not is_cuda(cells.device))
    whole = field.tensor(slice(None)).to(cells.device).double().flatten(1)
    index = torch.stack(_indices(cells)).double().flatten(1)
    there, back, to_index = (
        torch.from_numpy(matrix[:d].copy()).to(cells.device)
        for matrix in (cells.grid.affine, np.linalg.inv(deformation.affine), cells.grid.inverse_affine)
    )
    x = there[:, :d] @ index + there[:, d:]
    alone = back[:, :d] @ (x + whole) + back[:, d:] - x
    return (to_index[:, :d] @ alone).float().view(d, *cells.grid.shape)


def _indices(cells: _Cells) -> tuple[Tensor, ...]:
    import torch

    return torch.meshgrid(*(torch.arange(n, device=cells.device) for n in cells.grid.shape), indexing="ij")


def _measured(cells: _Cells, pair: Pair, displacement: Tensor) -> tuple[float, float] | None:
    """(similarity, information) inside both objects, in what is seen of both; None if that is too little.

    The outlines are left out, and windows do not look at them: that two objects have been brought onto each other says
    nothing about what is in them.
    """
    import torch

    from ..geodesics.sampling import sample_linear
    from ..geodesics.similarities import box_sum, make_similarity

    shape = cells.grid.shape
    index = (torch.stack(_indices(cells)).float() + displacement).flatten(1).t()

    def warped(values: Tensor) -> Tensor:
        return sample_linear(values, index, 0.0).reshape(shape)

    image, inside = warped(pair.moving), warped(pair.moving_mask)
    both = (pair.fixed_mask > 0.5) & (inside > 0.5)
    views = [pair.fixed_view, None if pair.moving_view is None else warped(pair.moving_view)]
    seen = torch.ones_like(inside)
    for view in views:
        if view is not None:
            seen = seen * (view > 0.5)
    reach = (1,) * len(shape)
    inner = (box_sum(1 - (both & (seen > 0)).float(), reach) == 0).float()
    if float(inner.sum()) < _LEAST:
        return None
    radius = cells.level.radius
    name = {"mi": "lncc"}.get(cells.parameters.similarity, cells.parameters.similarity)
    likeness = make_similarity(name, pair.fixed, inner, radius, inner)
    information = make_similarity("mi", pair.fixed, inner, radius)
    return 1 - float(likeness(image)), 1 - float(information(image))


def _flipped(pair: Pair, axes: tuple[int, ...]) -> Pair:
    """The moving image mirrored along array axes about the middle of the working grid; along two, turned by half."""
    import torch

    def flip(values: Tensor | None) -> Tensor | None:
        return None if values is None else torch.flip(values, axes)

    return replace(
        pair, moving=flip(pair.moving), moving_mask=flip(pair.moving_mask), moving_view=flip(pair.moving_view)
    )


def _best(cells: _Cells, poses: dict[tuple[int, ...], Pair]) -> tuple[tuple[float, float] | None, tuple[int, ...]]:
    """What the pose that agrees best at rest reaches when fitted, and which it is."""
    scores = {axes: _measured(cells, pair, _at_rest(cells)) for axes, pair in poses.items()}
    known = {axes: sum(score) for axes, score in scores.items() if score is not None}
    if not known:
        return None, ()
    axes = max(known, key=known.get)
    return _measured(cells, poses[axes], _fit(cells, poses[axes])), axes


def _axis(grid: Grid, axis: int) -> str:
    """An array axis in words."""
    if grid.ndim == 2:
        return "vertical" if axis == 0 else "horizontal"
    return _AXES[int(np.argmax(np.abs(grid.direction[:, axis])))]


def _axis_of_turn(grid: Grid, axes: tuple[int, ...]) -> str:
    """The axis about which two axes are turned, in words; "" in a plane."""
    if grid.ndim == 2 or not axes:
        return ""
    return _axis(grid, 3 - sum(axes))
