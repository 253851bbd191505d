# SPDX-License-Identifier: Apache-2.0
"""Carrying images, labels, points and surfaces over with a saved result."""

from __future__ import annotations

import os

import numpy as np

from ..imaging.files import POINTS, SURFACES
from ..imaging.volume import Volume
from ..registration.register import in_plane, resolve_device, torch_threads
from ..support.errors import InputError
from .folder import load_result

# Any .json is taken for landmarks, so that a wrong one is refused as such.
_LANDMARKS = (*POINTS, ".json")


def carry(
    result: str | os.PathLike,
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    to: str = "fixed",
    time: float = 1.0,
    reference: str | os.PathLike | None = None,
    labels: bool = False,
    interpolation: str = "linear",
    device: str = "auto",
    threads: int | None = None,
) -> None:
    """Reads a file, carries it to the fixed or the moving image's space, and writes it.

    Args:
        result: folder written by save_result, or its velocity.safetensors.
        source: image, label map, landmarks or surface, in the space it shall leave; told apart by the suffix.
        output: file of the same kind.
        to: "fixed" or "moving".
        time: 0 (affine alone) to 1 (the whole geodesic).
        reference: image whose grid an image or label map takes (default: that of the fixed or moving image); what it
            shows does not matter.
        labels: the source is a label map.
        interpolation: "linear", "cubic" or "nearest", for images.
        device, threads: as in register().

    Raises:
        InputError: a file cannot be used; nothing is written.
    """
    from ..imaging import io, points, surfaces
    from ..registration.warping import warp, warp_labels

    if not 0 <= time <= 1:
        raise InputError(f"The time must lie between 0 (affine alone) and 1 (whole geodesic), not {time}.")
    saved = load_result(result)
    deformation = saved.deformation.on(resolve_device(device))
    name = str(source).lower()
    pointwise = name.endswith(_LANDMARKS + SURFACES)
    if pointwise and (labels or reference is not None):
        raise InputError(f"{source}: a reference image or labels only make sense for images. Leave them out.")
    grids = saved.moving_grid, saved.fixed_grid
    origin, target = grids if to == "fixed" else grids[::-1]
    # Points move with the tissue; images are resampled: each point of the new grid asks where it came from.
    outwards, inwards = (
        ("moving_to_fixed", "fixed_to_moving") if to == "fixed" else ("fixed_to_moving", "moving_to_fixed")
    )

    def moved(found: np.ndarray) -> np.ndarray:
        flat = in_plane(found, origin)
        if flat.shape[1] != origin.ndim:
            raise InputError(
                f"{source}: has {found.shape[1]}-D points, but the result is {origin.ndim}-D. Pass "
                f"{origin.ndim}-D points."
            )
        result = deformation.points(flat, outwards, time)
        if flat.shape[1] == found.shape[1]:
            return result
        if origin.plane is None:
            return np.c_[result, found[:, 2]]
        # What lies beside the slice stays as far beside it.
        onto = target if target.plane is not None else origin
        return onto.lift(result) + ((found - origin.plane[:3, 2]) @ origin.normal)[:, None] * onto.normal

    with torch_threads(threads):
        if name.endswith(_LANDMARKS):
            found, names = points.read_points(source)
            points.write_points(output, moved(found), names, like=source)
        elif name.endswith(SURFACES):
            surfaces.write_surface(output, moved(surfaces.read_surface(source)), like=source)
        else:
            volume = (io.read_labels if labels else io.read_volume)(source)
            grid = target if reference is None else io.read_grid(reference)
            for path, ndim in ((source, volume.ndim), (reference, grid.ndim)):
                if ndim != target.ndim:
                    raise InputError(
                        f"{path}: has {ndim} dimensions, the result {target.ndim}. Pass an image of "
                        f"{target.ndim} dimensions."
                    )
            field = deformation.displacement(grid, inwards, time)
            if labels:
                data = warp_labels(volume, grid, field)
            else:
                data = warp(volume, grid, field, outside=float(volume.data.min()), interpolation=interpolation)
            io.write_volume(output, Volume(grid, data))
