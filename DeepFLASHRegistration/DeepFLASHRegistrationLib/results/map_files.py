# SPDX-License-Identifier: Apache-2.0
"""The map of a saved result as a file of its own, computed from its velocity: for programs that know no velocities."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np

from ..imaging.grid import Grid
from ..imaging.io import read_grid
from ..imaging.transform_files.composite import COMPOSITES, check_x5, write_composite
from ..imaging.transforms import write_displacement_field
from ..problem.deformation import Deformation
from ..support.errors import InputError
from ..support.torch_device import resolve_device, torch_threads
from .bare_transform import is_transform
from .carrying import Carrying
from .rounding import field_step
from .through import Through, through
from .velocity import load_result


def write_map(
    result: str | os.PathLike,
    output: str | os.PathLike,
    how: Carrying,
    *,
    device: str = "auto",
    threads: int | None = None,
) -> None:
    """Writes the map by which images are resampled onto the fixed or the moving one, `how.to`.

    Args:
        result: folder written by save_result, or its velocity.safetensors.
        output: .h5 or .x5, the affine and a field on the fixed image's grid, one after the other, so that beyond the
            field the affine goes on; or a displacement field of both on the target's grid (.nii.gz, .nrrd, .mha).
        how: where to, at which time, and on whose grid (`reference`: of the field).
        device, threads: as in register().

    Raises:
        InputError: there is no velocity, the suffix is unknown, or the images are slices of 3-D space and the file is
            none for them; nothing is written.
    """
    suffix = os.fspath(output).lower()
    if is_transform(result):
        raise InputError(f"{result}: is a transform, not a result with a velocity. Name an INPUT to carry over.")
    if how.labels or how.origin is not None:
        raise InputError(f"{output}: without INPUT the map itself is written. Leave out --labels and --source.")
    saved, composite = load_result(result), suffix.endswith(COMPOSITES)
    if how.through is not None:
        if composite:
            raise InputError(f"{output}: of two results only one field of both can be written. Name it .nii.gz.")
        saved = through(saved, load_result(how.through), (str(result), str(how.through)))
    deformation, time = saved.deformation, how.time
    if not isinstance(deformation, (Deformation, Through)):
        raise InputError(f"{result}: its map is no geodesic, and lies there as displacement fields already. Use those.")
    forth = how.to == "fixed"
    direction = "fixed_to_moving" if forth else "moving_to_fixed"
    if how.reference is not None:
        grid = read_grid(how.reference)
    else:
        grid = saved.fixed_grid if forth or composite else saved.moving_grid
    if grid.ndim != saved.fixed_grid.ndim:
        raise InputError(f"{how.reference}: has {grid.ndim} dimensions, the result {saved.fixed_grid.ndim}.")
    if composite and grid.plane is not None:
        raise InputError(f"{output}: of slices of 3-D space only a field can be written. Name it .nii.gz.")
    if suffix.endswith(".x5"):
        check_x5()
    deformation = deformation.on(resolve_device(device))
    with torch_threads(threads):
        if composite:
            write_composite(output, _steps(deformation, grid, forth, time))
            return
        target = saved.moving_grid if forth else saved.fixed_grid
        if isinstance(deformation, Through):
            write_displacement_field(output, grid, deformation.displacement(grid, direction), target)
            return
        # Points lie between voxels; images are resampled at them.
        field = deformation.field(grid, direction, time, between=not forth)
        write_displacement_field(output, grid, field, target, field_step(field, grid, None))


def _steps(deformation: Deformation, grid: Grid, forth: bool, time: float) -> list[object]:
    """The map as a field and an affine, in the order in which points go through them. Both ways the field lies in the
    fixed image's space: x -> A(x + u(x)), and back y -> z + w(z) with z = A⁻¹y."""
    affine = deformation.affine
    still = replace(deformation, affine=np.eye(grid.ndim + 1))
    if forth:
        return [(grid, still.displacement(grid, "fixed_to_moving", time)), affine]
    back = np.asarray(still.field(grid, "moving_to_fixed", time, between=True))
    return [np.linalg.inv(affine), (grid, back)]
