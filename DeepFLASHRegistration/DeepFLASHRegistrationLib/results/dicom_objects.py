# SPDX-License-Identifier: Apache-2.0
"""A result as DICOM objects beside the series that it was computed from: registrations, and what was carried."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..imaging import io
from ..imaging.dicom.objects import package
from ..imaging.dicom.registrations import deformable_registration, spatial_registration, write_object
from ..imaging.dicom.segments import segmentation_object
from ..imaging.dicom.series import Series, read_series
from ..imaging.grid import Grid, stored, upright
from ..imaging.segmentation import Segmentation, is_segmentation, read_segmentation, segmentation_of
from ..problem.belonging import elsewhere
from ..problem.field import Field as OnDemand
from ..problem.spatial_map import SpatialMap
from ..registration.warping import warp_segmentation
from ..support.errors import InputError
from ..support.output_folder import check_output, whole_folder
from ..support.torch_device import resolve_device, torch_threads
from .bare_transform import Field
from .velocity import SUMMARY, load_result
from .written_maps import WrittenMaps

ALIGNMENT, DEFORMATION, SEGMENTATION = "alignment.dcm", "deformation.dcm", "segmentation.dcm"
FILES = (ALIGNMENT, DEFORMATION, SEGMENTATION)
# Of a lattice: by how many voxels what is interpolated may differ from the map at this percentage of the image's
# voxels, and what is aimed at; the edge of the cells of the first and of the finest, in voxels; its points at most.
_MOSTLY, _ALLOWED, _AIM, _COARSEST, _FINEST = 99, 0.1, 0.08, 8.0, 0.7
_MOST_POINTS = 1 << 23
_STRAIGHT = 1e-6  # of cosines
_RESTS = 1e-3  # mm; a map that differs less from its affine is one
_SLAB = 1 << 20  # voxels that are compared together


def write_dicom(
    result: str | os.PathLike,
    fixed: str | os.PathLike,
    moving: str | os.PathLike,
    folder: str | os.PathLike,
    labels: str | os.PathLike | None = None,
    *,
    force: bool = False,
    device: str = "auto",
    threads: int | None = None,
) -> list[str]:
    """Writes the DICOM objects of a result into a folder.

    They are: alignment.dcm, a Spatial Registration of the linear part; deformation.dcm, a Deformable Spatial
    Registration of the whole map, unless it is linear; segmentation.dcm, with labels.

    Args:
        result: folder written by save_result.
        fixed, moving: folders of the DICOM series that were registered, or files of them.
        labels: label map or segmentation of the moving image, to be carried to the fixed one.
        force: replace such files in the folder.
        device, threads: as in register().

    Returns:
        What was noticed.

    Raises:
        InputError: a file cannot be used, does not belong to the result, or a package is missing; nothing is written.
    """
    check_output(folder, FILES, force)
    saved = load_result(result)
    one, two = read_series(fixed), read_series(moving)
    for series, grid, side in ((one, saved.fixed_grid, "fixed"), (two, saved.moving_grid, "moving")):
        _check_image(series, grid, side, result)
    if labels is not None:
        package("highdicom", labels)  # before there is any work
    notes = [*_judged(Path(result)), *_patients(one, two)]
    drawn = None if labels is None else _labels(labels, saved.moving_grid, notes)
    with torch_threads(threads), whole_folder(folder, FILES, force) as temporary:
        deformation = saved.deformation.on(resolve_device(device))
        affine = saved.deformation.affine
        write_object(temporary / ALIGNMENT, spatial_registration(one, two, np.linalg.inv(affine)))
        if moves(deformation, one.grid, affine):
            lattice, vectors, (mostly, largest) = lattice_of(deformation, one.grid)
            write_object(temporary / DEFORMATION, deformable_registration(one, two, lattice, vectors))
            edges = " x ".join(f"{edge:.3g}" for edge in lattice.spacing[::-1])
            notes.append(
                f"{DEFORMATION}: its lattice has cells of {edges} mm; interpolated linearly between its points it "
                f"differs from the map of the result by at most {largest:.2g} mm at the voxels of the fixed image, by "
                f"at most {mostly:.2g} mm at {_MOSTLY} % of them"
            )
        else:
            notes.append(f"the map is linear: {ALIGNMENT} is all of it, and there is no {DEFORMATION}")
        if drawn is not None:
            field = _displacement(deformation, one.grid)
            found, said = segmentation_object(one, warp_segmentation(drawn, one.grid, field))
            write_object(temporary / SEGMENTATION, found)
            notes += said
    return notes


def _labels(path: str | os.PathLike, moving: Grid, notes: list[str]) -> Segmentation:
    """The labels of the moving image as a segmentation, with what is to be said of them added to notes."""
    found = read_segmentation(path) if is_segmentation(path) else segmentation_of(io.read_labels(path))
    for layer in found.layers:
        if layer.ndim != moving.ndim:
            raise InputError(f"{path}: has {layer.ndim} dimensions, the moving image {moving.ndim}. Pass its labels.")
        notes += layer.notes
        if layer.data.any():
            text, wrong = elsewhere(moving, layer, "the moving image")
            if wrong:
                raise InputError(text)
            notes += [text] if text else []
    return found


def moves(deformation: SpatialMap | WrittenMaps, grid: Grid, affine: np.ndarray) -> bool:
    """Whether a map is more than its affine within an image."""
    thin = grid.resampled(factor=np.maximum(1, np.array(grid.shape) // 32))
    points = thin.index_to_physical(np.moveaxis(np.indices(thin.shape), 0, -1).reshape(-1, 3))
    to = deformation.points(points, "fixed_to_moving")
    return bool(np.abs(points @ affine[:3, :3].T + affine[:3, 3] - to).max() > _RESTS)


def lattice_of(deformation: SpatialMap | WrittenMaps, grid: Grid) -> tuple[Grid, np.ndarray, tuple[float, float]]:
    """A map on a lattice along the patient's axes over an image, as coarse as it may be for what is interpolated
    linearly to differ by no more than a tenth of a voxel from the map, but for a hundredth of the voxels.

    It is no finer than the image's own voxels, or, where these are turned against the patient, somewhat finer.

    Args:
        deformation: the map.
        grid: of the fixed image.

    Returns:
        The lattice, whose axes are z, y, x; displacements (*lattice.shape, 3), LPS mm, fixed -> moving; and by how many
        mm what is interpolated differs at most from the map at 99 % of the image's voxels, and at all.
    """
    voxel, finest = float(grid.spacing.min()), _finest(grid)
    edge = _COARSEST * voxel
    while True:
        lattice = _over(grid, edge)
        last = lattice.size >= finest.size
        lattice = finest if last else lattice
        vectors = np.asarray(deformation.displacement(lattice, "fixed_to_moving"))
        field = Field(lattice, vectors, "")
        between = _between(lattice)
        off = _apart(field, between, deformation.displacement(between, "fixed_to_moving"), grid)[0]
        worst = float(np.percentile(off, _MOSTLY)) if off.size else 0.0
        if worst <= _AIM or last:
            off, mm = (np.concatenate(each) for each in zip(*_at_voxels(field, deformation, grid), strict=True))
            worst = float(np.percentile(off, _MOSTLY))
            if worst <= _ALLOWED or last:
                return lattice, vectors, (float(np.percentile(mm, _MOSTLY)), float(mm.max()))
        # What lines fall short of grows with the square of their length.
        edge *= float(np.clip((_AIM / worst) ** 0.5, 0.3, 0.85))


def _finest(grid: Grid) -> Grid:
    """The finest lattice over an image: its own voxels, where these lie along the patient's axes."""
    own = stored(grid, *upright(grid)).padded(1)
    if np.abs(own.direction - np.fliplr(np.eye(3))).max() < _STRAIGHT and own.size <= _MOST_POINTS:
        return own
    edge = _FINEST * grid.voxel_volume ** (1 / 3)
    size = np.ptp(grid.padded(1).corners(), axis=0)
    return _over(grid, max(edge, float(np.prod(size) / _MOST_POINTS) ** (1 / 3)))


def _over(grid: Grid, edge: float) -> Grid:
    """A lattice of cells of about that edge in mm over the field of view of a grid, with its axes z, y, x."""
    ends = grid.padded(1).corners()  # a voxel beyond, since rounding decides what lies on a border
    low, high = ends.min(0)[::-1], ends.max(0)[::-1]
    cells = np.ceil((high - low) / edge).astype(int)
    affine = np.eye(4)
    affine[:3, :3] = np.fliplr(np.eye(3)) * ((high - low) / cells)
    affine[:3, 3] = low[::-1]
    return Grid(tuple(cells + 1), affine)


def _between(lattice: Grid) -> Grid:
    """The middles of its cells, where what is interpolated is farthest from what is smooth."""
    affine = lattice.affine.copy()
    affine[:3, 3] = lattice.index_to_physical(np.full(3, 0.5))
    return Grid(tuple(n - 1 for n in lattice.shape), affine)


def _displacement(deformation: SpatialMap | WrittenMaps, grid: Grid) -> np.ndarray | OnDemand:
    """Of the whole map on an image, computed where it is looked at if it can be."""
    if isinstance(deformation, SpatialMap):
        return deformation.field(grid, "fixed_to_moving")
    return deformation.displacement(grid, "fixed_to_moving")


def _at_voxels(
    field: Field, deformation: SpatialMap | WrittenMaps, grid: Grid
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """As `_apart`, of the voxels of the image, some slices at a time."""
    exact = _displacement(deformation, grid)
    rows = max(1, _SLAB * grid.shape[0] // grid.size)
    for start in range(0, grid.shape[0], rows):
        part = exact[start : start + rows]
        affine = grid.affine.copy()
        affine[:3, 3] = grid.index_to_physical(np.array([start, 0, 0]))
        yield _apart(field, Grid(part.shape[:3], affine), part, grid)


def _apart(field: Field, where: Grid, exact: np.ndarray, image: Grid) -> tuple[np.ndarray, np.ndarray]:
    """By how much a field differs from the map at those points of a grid that lie in an image, each an array: in its
    voxels, along whichever axis, and in mm."""
    points = where.index_to_physical(np.moveaxis(np.indices(where.shape), 0, -1).reshape(-1, 3))
    inside = image.contains(points)
    points = points[inside]
    off = field.points(points, "fixed_to_moving") - points - np.asarray(exact).reshape(-1, 3)[inside]
    voxels = np.abs(off @ image.direction / image.spacing).max(-1)
    return voxels.astype(np.float32), np.linalg.norm(off, axis=1).astype(np.float32)


def _check_image(series: Series, grid: Grid, side: str, result: str | os.PathLike) -> None:
    """InputError unless a series is what was registered, or what that was converted from."""
    if grid.ndim != 3:
        raise InputError(f"{result}: is of two dimensions, which registrations in DICOM are not. Register volumes.")
    frame = grid.frame_of_reference
    if frame and frame != series.frame_of_reference:
        raise InputError(
            f"{series.path}: lies in the frame of reference {series.frame_of_reference}, but the {side} image of "
            f"{result} in {frame}. Pass the series that was registered."
        )
    own, other = series.grid.corners(), grid.corners()
    apart = np.linalg.norm(own[:, None] - other[None], axis=-1)
    if max(apart.min(0).max(), apart.min(1).max()) > 0.5 * float(grid.spacing.min()):
        raise InputError(
            f"{series.path}: covers another box than the {side} image of {result} (their corners lie up to "
            f"{apart.min(1).max():.3g} mm apart). Pass the series that was registered, or register it again."
        )


def _judged(result: Path) -> list[str]:
    """Notes where the verdict on a result is not good, and where its map folds."""
    try:
        values = json.loads((result / SUMMARY).read_text(encoding="utf-8"))
        level, folds = str(values["verdict"]["level"]), values["metrics"].get("folds_strict") or {}
        count = int(folds.get("count") or 0)
    except (OSError, LookupError, TypeError, AttributeError, ValueError):
        return [f"{result}: holds no verdict ({SUMMARY} is missing); look at the registration before you use it"]
    notes = []
    if level != "good":
        notes.append(f"{result}: was judged {level}; look at its report before you send this to an archive")
    if count:
        notes.append(f"{result}: its map folds at {count} voxels; what is carried there, a dose for example, is wrong")
    return notes


def _patients(fixed: Series, moving: Series) -> list[str]:
    one, two = (str(series.header.get("PatientID") or "") for series in (fixed, moving))
    if one == two:
        return []
    named = " and ".join(each or "one without ID" for each in (one, two))
    return [f"the images are of different patients ({named}); the objects are the first one's"]
