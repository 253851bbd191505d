# SPDX-License-Identifier: Apache-2.0
"""What a registration needs, told by its grids and parameters before it begins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..imaging.grid import Grid
from ..imaging.volume import Volume
from ..methods.stages import NEURAL_STEPS
from ..problem.deformation import lattice_shape
from ..problem.parameters import METHODS, Parameters
from ..problem.working import chosen_lengths, level_factors, level_modes, problem_grid
from ..support import memory
from ..support.errors import InputError
from .maps import field_grids

# By how much the box around a field that is turned into the moving image is larger: 1.2 times for two brains, 1.5 times
# for the phantom.
TURNED = 1.3
# Seconds of one thread of a computer of 2024, without its waiting, over pairs of 1 mm brains with the presets fast,
# default and fine (whose map may be damped, and is then computed twice); each computer learns its own ratio to them
# (process.remaining.learned).
_START, _PER_IMAGE_VOXEL, _ALIGNING = 1.0, 0.02e-6, 1.2
_PER_WORKING_VOXEL, _PER_CELL = 1.1e-6, 0.255e-6
_PER_POINT, _PER_FIELD_VOXEL, _PER_VOXEL_WRITTEN = 1.1e-6, 0.125e-6, 0.05e-6
_PER_ITERATION, _PER_PHASE = 0.02, 0.05  # however small the images
# What an unknown of LDDMM, of which each voxel has as many as a velocity components, takes of one in a band.
_WITHOUT_BAND = 0.4
# NePhi looks at points, however many voxels there are: their share of what FLASH takes for a cell, what the points take
# in unknowns of FLASH, and the seconds of a step.
_NEURAL_CELL, _NEURAL_UNKNOWNS, _PER_NEURAL_STEP = 0.25, 130_000, 0.11
_COARSER = [step / 4 for step in range(5, 33)]


def sizes(
    fixed: Grid,
    moving: Grid,
    inside: Volume,
    stages: Sequence[Parameters],
    labels: tuple[int, int] = (0, 0),
    channels: int = 0,
) -> memory.Sizes:
    """What the memory depends on.

    Args:
        fixed, moving: the images' grids.
        inside: the fixed object, as a mask on any grid; a coarse one will do.
        stages: the parameters in effect, one after the other (see `methods.stages.stages`).
        labels: voxels of the fixed and of the moving label map; 0 without.
        channels: further images of each side.

    Raises:
        InputError: the working grid would have too many voxels.
    """
    images = 1 + channels
    work = problem_grid(fixed, inside, stages[0])
    levels, points = [], 0
    for parameters in stages:
        sides, margin = 2 if parameters.symmetric else 1, chosen_lengths(fixed, inside, parameters).margin_mm
        for factors, modes in zip(level_factors(work, parameters), level_modes(work, parameters), strict=True):
            cells = math.prod(n // f for n, f in zip(work.shape, factors, strict=True))
            file = METHODS[parameters.method].file if parameters.dense else ""
            unknowns = fixed.ndim * (round(_WITHOUT_BAND * cells) if file == "lddmm" else math.prod(modes))
            if file == "nephi":
                cells, unknowns, sides = round(_NEURAL_CELL * cells), _NEURAL_UNKNOWNS, 1
            levels.append((cells, unknowns, sides * images))
            points = max(points, math.prod(lattice_shape(work.extent, modes, margin, work.spacing)))
    aligned = stages[0].initial_alignment in ("rigid", "affine")
    field = field_grids(fixed, np.eye(fixed.ndim + 1))[0].size
    fields = round(field * (1 + (TURNED if aligned else 1.0)) * fixed.ndim / 3)
    return memory.Sizes(
        images=images * (fixed.size + moving.size),
        fields=fields,
        working=images * work.size,
        levels=tuple(levels),
        points=points,
        fixed=fixed.size,
        labels=sum(labels),
        carried=fixed.size if labels[1] else 0,
    )


def seconds(found: memory.Sizes, stages: Sequence[Parameters]) -> dict[str, float]:
    """About how long each phase takes on a computer of reference, if no level ends before its last iteration.

    Args:
        found: what `sizes` says of the same stages.

    Returns:
        By phase, in order: those of `registration.progress.PHASES` between "start", until the first of them begins, and
        "write", from the end of the last until the result is where it is wanted.
    """
    iterations = [count + 1 for parameters in stages for count in parameters.iterations]
    neural = [each for each in stages if each.dense and METHODS[each.method].file == "nephi"]
    steps = NEURAL_STEPS * sum(sum(each.iterations) for each in neural)
    cells = sum(n * size * sides for n, (size, _, sides) in zip(iterations, found.levels, strict=True))
    return {
        "start": _START,
        "prepare": _PER_PHASE + _PER_IMAGE_VOXEL * found.images,
        "affine": _ALIGNING if stages[0].initial_alignment in ("rigid", "affine") else 0.0,
        "level": _PER_NEURAL_STEP * steps
        + _PER_ITERATION * sum(iterations)
        + _PER_WORKING_VOXEL * found.working
        + _PER_CELL * cells,
        "finish": _PER_PHASE + _PER_POINT * found.points + _PER_FIELD_VOXEL * found.fields,
        "write": _PER_PHASE + _PER_VOXEL_WRITTEN * found.fields,
    }


def fitting_spacing(
    fixed: Grid,
    moving: Grid,
    inside: Volume,
    stages: Sequence[Parameters],
    need: memory.Need,
    device: str,
    labels: tuple[int, int] = (0, 0),
    channels: int = 0,
) -> float | None:
    """The smallest working voxel in mm (in steps of a quarter of the present one) that lets a run fit; None if none
    does, or if it must stay as it is."""
    if len(stages) > 1 or METHODS[stages[0].method].needs_model:
        return None  # a model's own
    present = float(problem_grid(fixed, inside, stages[0]).spacing.min())
    for factor in _COARSER:
        spacing = float(f"{present * factor:.3g}")  # three digits, whatever its size
        try:
            found = sizes(fixed, moving, inside, [replace(stages[0], spacing_mm=spacing)], labels, channels)
        except (InputError, ValueError):
            return None
        host, on_device = memory.needed_bytes(found, device)
        if replace(need, host=host, device=on_device).fits:
            return spacing
    return None
