# SPDX-License-Identifier: Apache-2.0
"""The working grid of a problem, and the voxels and bands of its levels: what is known before any voxel is compared."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..imaging.grid import Grid, stored, upright
from ..imaging.size import scale
from ..imaging.volume import Volume
from ..imaging.working_grid import working_grid
from ..support.errors import InputError
from .parameters import Parameters

# Of an adult's brain: the unit in which alpha and c mean what was published (voxels of 128^3 brains), the window of the
# local correlation, and the margin.
_UNIT_MM, _WINDOW_MM, _MARGIN_MM = 1.25, 7.0, 12.0
# A length of few voxels means nothing: the unit is at least 0.6 of them, and the others grow with it.
_SMALLEST = 0.48  # times the finest spacing in mm


@dataclass(frozen=True)
class Lengths:
    """In mm: the unit in which the metric's lengths count, the window of the local correlation, and the margin."""

    unit_mm: float
    window_mm: float
    margin_mm: float


def chosen_lengths(fixed: Grid, inside: Volume, parameters: Parameters) -> Lengths:
    """The lengths of a problem: what the parameters state, and else what follows from the size of the fixed object.

    Args:
        fixed: the fixed image's grid. Window and margin are at most a quarter of its longest edge.
        inside: its object, as a mask on any grid.
    """
    times = max(scale(inside.grid, inside.data), _SMALLEST * float(fixed.spacing.min()))
    largest = float(fixed.extent.max()) / 4
    return Lengths(
        _UNIT_MM * times,
        min(parameters.window_mm or _WINDOW_MM * times, largest),
        min(parameters.margin_mm or _MARGIN_MM * times, largest),
    )


def problem_grid(fixed: Grid, inside: Volume, parameters: Parameters, multiple: int = 1, name: str = "") -> Grid:
    """The grid on which a problem is solved.

    Args:
        fixed: the fixed image's grid.
        inside: its object, as a mask on any grid.
        multiple: of what every level has a multiple of voxels along each axis.
        name: what messages call the fixed image.

    Raises:
        InputError: it would have too many voxels.
    """
    if parameters.spacing_mm and float(fixed.extent.max()) > 32_767 * parameters.spacing_mm:
        raise InputError(
            f"A working voxel of {parameters.spacing_mm:g} mm is too small for {name or 'the fixed image'}. Choose a "
            "larger one, or 0 to let it be chosen."
        )
    grid = working_grid(
        fixed,
        spacing_mm=parameters.spacing_mm or None,
        margin_mm=chosen_lengths(fixed, inside, parameters).margin_mm,
        max_voxels=parameters.max_voxels,
        mask=inside,
    )
    # Sampling on voxels and stepping along axes tell directions apart, if slightly; storage must not choose them.
    grid = stored(grid, *upright(grid))
    multiples = [math.lcm(*(f[a] * multiple for f in level_factors(grid, parameters))) for a in range(grid.ndim)]
    missing = [-n % m for n, m in zip(grid.shape, multiples, strict=True)]
    needed = [n + m for n, m in zip(grid.shape, missing, strict=True)]
    if not 0 < math.prod(needed) <= 16 * parameters.max_voxels:
        raise InputError(
            f"A working grid of {' x '.join(map(str, needed))} voxels is too large. Choose a larger "
            "working voxel (or 0 to let it be chosen), and resolutions of which one divides the next."
        )
    return grid.padded([m // 2 for m in missing], [m - m // 2 for m in missing])


def level_factors(grid: Grid, parameters: Parameters) -> list[tuple[int, ...]]:
    """Voxels of the working grid that are averaged along each axis, per level."""
    finest = float(grid.spacing.min())
    # Blocks that are averaged stay about cubic in mm on anisotropic grids.
    return [tuple(max(1, round(r * finest / h)) for h in grid.spacing) for r in parameters.resolutions]


def level_modes(grid: Grid, parameters: Parameters) -> list[tuple[int, ...]]:
    """Frequencies of the velocity along each axis, per level."""
    longest = float(grid.extent.max())
    found = []
    for n, factors in zip(parameters.bands, level_factors(grid, parameters), strict=True):
        cells = np.array(grid.shape) // np.array(factors)
        # Same shortest wavelength along every axis, and never below four of the level's voxels.
        wanted = np.minimum(n * grid.extent / longest, cells / 2)
        found.append(tuple(max(3, 2 * round((float(w) - 1) / 2) + 1) for w in wanted))
    return found
