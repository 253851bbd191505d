# SPDX-License-Identifier: Apache-2.0
"""Carrying images, labels, points and surfaces over with a saved result."""

from __future__ import annotations

import os
from pathlib import Path

from .imaging.errors import InputError
from .imaging.volume import Volume
from .registration import resolve_device, torch_threads
from .results import load_result

_POINTS = (".fcsv", ".mrk.json", ".json", ".csv")
_SURFACES = (".vtk", ".vtp", ".ply", ".stl")


def carry(result: str | os.PathLike, source: str | os.PathLike, output: str | os.PathLike, *, to: str = "fixed",
          time: float = 1.0, reference: str | os.PathLike | None = None, labels: bool = False,
          interpolation: str = "linear", device: str = "auto", threads: int | None = None) -> None:
    """Reads a file, carries it to the fixed or the moving image's space, and writes it.

    Args:
        result: folder written by save_result, or its velocity.safetensors.
        source: image, label map, landmarks or surface, in the space it shall leave; told apart by the suffix.
        output: file of the same kind.
        to: "fixed" or "moving".
        time: 0 (affine alone) to 1 (the whole geodesic).
        reference: image whose grid an image or label map takes (default: that of the fixed or moving image).
        labels: the source is a label map.
        interpolation: "linear", "cubic" or "nearest", for images.
        device, threads: as in register().

    Raises:
        InputError: a file cannot be used; nothing is written.
    """
    from .imaging import io, points, surfaces
    from .warping import warp, warp_labels

    if not 0 <= time <= 1:
        raise InputError(f"The time must lie between 0 and 1, not {time}.")
    saved = load_result(result)
    deformation = saved.deformation.on(resolve_device(device))
    name = str(source).lower()
    with torch_threads(threads):
        if name.endswith(_POINTS):
            # Points move with the tissue: out of the space they lie in.
            found, names = points.read_points(source)
            if found.shape[1] != saved.fixed_grid.ndim:
                raise InputError(f"{source}: has {found.shape[1]}-D points, the result is {saved.fixed_grid.ndim}-D.")
            moved = deformation.points(found, "moving_to_fixed" if to == "fixed" else "fixed_to_moving", time)
            points.write_points(output, moved, names, like=source)
        elif name.endswith(_SURFACES):
            vertices = surfaces.read_surface(source)
            moved = deformation.points(vertices, "moving_to_fixed" if to == "fixed" else "fixed_to_moving", time)
            surfaces.write_surface(output, moved, like=source)
        else:
            volume = (io.read_labels if labels else io.read_volume)(source)
            grid = saved.fixed_grid if to == "fixed" else saved.moving_grid
            if reference is not None:
                grid = io.read_volume(reference).grid
            if not volume.ndim == grid.ndim == saved.fixed_grid.ndim:
                raise InputError(f"{source}: has {volume.ndim} dimensions, the result {saved.fixed_grid.ndim}.")
            # Images are resampled: each point of the new grid asks where it came from.
            field = deformation.displacement(grid, "fixed_to_moving" if to == "fixed" else "moving_to_fixed", time)
            if labels:
                data = warp_labels(volume, grid, field)
            else:
                data = warp(volume, grid, field, outside=float(volume.data.min()), interpolation=interpolation)
            io.write_volume(Path(output), Volume(grid, data))
