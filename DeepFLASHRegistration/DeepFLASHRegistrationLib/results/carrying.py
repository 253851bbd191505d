# SPDX-License-Identifier: Apache-2.0
"""Carrying images, labels, points and surfaces over with a saved result."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from ..imaging.files import POINTS, SURFACES
from ..imaging.volume import Volume
from ..support.errors import InputError
from ..support.torch_device import resolve_device, torch_threads
from .velocity import SavedResult, load_result

# Any .json is taken for landmarks, so that a wrong one is refused as such.
_LANDMARKS = (*POINTS, ".json")


@dataclass(frozen=True)
class Carrying:
    """How something is carried over.

    Attributes:
        to: "fixed" or "moving", the space it shall lie in.
        time: 0 (affine alone) to 1 (the whole geodesic).
        reference: image whose grid an image or label map takes (default: that of the fixed or moving image); what it
            shows does not matter.
        labels: it is a label map.
        interpolation: "linear", "cubic" or "nearest", for images.
    """

    to: str = "fixed"
    time: float = 1.0
    reference: str | os.PathLike | None = None
    labels: bool = False
    interpolation: str = "linear"

    def __post_init__(self) -> None:
        if not 0 <= self.time <= 1:
            raise InputError(f"The time must lie between 0 (affine alone) and 1 (whole geodesic), not {self.time}.")


def carry(
    result: str | os.PathLike,
    source: str | os.PathLike,
    output: str | os.PathLike,
    how: Carrying,
    *,
    device: str = "auto",
    threads: int | None = None,
) -> None:
    """Reads a file, carries it to the fixed or the moving image's space, and writes it.

    Args:
        result: folder written by save_result, or its velocity.safetensors.
        source: image, label map, landmarks or surface, in the space it shall leave; told apart by the suffix.
        output: file of the same kind.
        how: where to, and as what.
        device, threads: as in register().

    Raises:
        InputError: a file cannot be used; nothing is written.
    """
    from ..imaging import points, surfaces

    way = _Way(load_result(result), how, resolve_device(device))
    name = str(source).lower()
    if name.endswith(_LANDMARKS + SURFACES) and (how.labels or how.reference is not None):
        raise InputError(f"{source}: a reference image or labels only make sense for images. Leave them out.")
    with torch_threads(threads):
        if name.endswith(_LANDMARKS):
            found, names = points.read_points(source)
            points.write_points(output, way.moved(found, source), names, like=source)
        elif name.endswith(SURFACES):
            surfaces.write_surface(output, way.moved(surfaces.read_surface(source), source), like=source)
        else:
            way.resample(source, output)


class _Way:
    """From the space that something leaves to the one it enters."""

    def __init__(self, saved: SavedResult, how: Carrying, device: str):
        self.how = how
        self.deformation = saved.deformation.on(device)
        to_fixed = how.to == "fixed"
        grids = saved.moving_grid, saved.fixed_grid
        self.origin, self.target = grids if to_fixed else grids[::-1]
        # Points move with the tissue; images are resampled: each point of the new grid asks where it came from.
        directions = "moving_to_fixed", "fixed_to_moving"
        self.outwards, self.inwards = directions if to_fixed else directions[::-1]

    def moved(self, found: np.ndarray, source: str | os.PathLike) -> np.ndarray:
        """Points (N, d), or (N, 3) also of a slice, where they go."""
        origin, target = self.origin, self.target
        flat = origin.in_plane(found)
        if flat.shape[1] != origin.ndim:
            raise InputError(
                f"{source}: has {found.shape[1]}-D points, but the result is {origin.ndim}-D. Pass "
                f"{origin.ndim}-D points."
            )
        result = self.deformation.points(flat, self.outwards, self.how.time)
        if flat.shape[1] == found.shape[1]:
            return result
        if origin.plane is None:
            return np.c_[result, found[:, 2]]
        # What lies beside the slice stays as far beside it.
        onto = target if target.plane is not None else origin
        return onto.lift(result) + ((found - origin.plane[:3, 2]) @ origin.normal)[:, None] * onto.normal

    def resample(self, source: str | os.PathLike, output: str | os.PathLike) -> None:
        """Reads an image or label map and writes it as it appears in the other space."""
        from ..imaging import io
        from ..registration.warping import warp, warp_labels

        how, target = self.how, self.target
        volume = (io.read_labels if how.labels else io.read_volume)(source)
        grid = target if how.reference is None else io.read_grid(how.reference)
        for path, ndim in ((source, volume.ndim), (how.reference, grid.ndim)):
            if ndim != target.ndim:
                raise InputError(
                    f"{path}: has {ndim} dimensions, the result {target.ndim}. Pass an image of "
                    f"{target.ndim} dimensions."
                )
        field = self.deformation.displacement(grid, self.inwards, how.time)
        if how.labels:
            data = warp_labels(volume, grid, field)
        else:
            data = warp(volume, grid, field, outside=float(volume.data.min()), interpolation=how.interpolation)
        io.write_volume(output, Volume(grid, data))
