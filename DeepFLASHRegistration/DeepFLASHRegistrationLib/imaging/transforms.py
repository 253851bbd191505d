# SPDX-License-Identifier: Apache-2.0
"""Point maps in files, as ITK means them: displacement fields and affine transforms, fixed to moving in LPS mm."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..support.errors import InputError
from ..support.side_by_side import side_by_side
from .files import ITK_TRANSFORMS, TRANSFORMS, atomic, is_folder, quiet, read_bytes, unwritable
from .grid import Grid
from .image_files.itk_isolated import read_isolated
from .image_files.nifti import INTENT_DISPLACEMENT, INTENT_VECTOR, is_nifti, rounded, write_vectors
from .image_files.nifti_reading import read_vectors
from .io import named, write_image
from .transform_files.flirt import is_text_matrix, read_flirt
from .transform_files.foreign_fields import refuse_named, refuse_positions
from .transform_files.itk_affine import dense_dimension, read_itk
from .transform_files.lta import read_lta
from .transform_files.registration_object import read_spatial, registration_kind
from .transform_files.xfm import read_xfm

_LARGEST_TRANSFORM = 64 << 20
_ROWS = 8  # slices of a field that are written together


def write_displacement_field(
    path: str | os.PathLike,
    grid: Grid,
    displacement: np.ndarray,
    target: Grid | None = None,
    step_mm: float | None = None,
) -> None:
    """Writes a displacement field that ITK (SimpleITK, ANTs, Slicer) applies as point -> point + displacement.

    In NIfTI, 3-D fields carry intent 1006 and, as that intent is defined, components along RAS: ITK 5.3 and newer turn
    them to LPS on reading. 2-D fields carry intent 1007 and LPS, because ITK 5.4 garbles 2-D fields of intent 1006.

    Args:
        path: .nii.gz, .nii, or another format of SimpleITK (.nrrd, .mha).
        grid: where the displacements are given.
        displacement: (*grid.shape, d) in LPS mm (x, y[, z]), of which a few slices are taken at a time.
        target: for a 2-D grid with a plane: the grid whose plane the displaced points lie in (default: the same
            plane). The file is then 3-D with one slice and 3-D vectors, so that it also leads from slice to slice.
        step_mm: components are rounded to multiples of it; of a power of two, NIfTI shrinks to a third.

    Raises:
        InputError: unknown suffix, or a folder that does not exist or may not be written.
        ValueError: if the shapes disagree.
    """
    if displacement.shape != (*grid.shape, grid.ndim):
        raise ValueError(
            f"A field on a grid of shape {grid.shape} has shape {(*grid.shape, grid.ndim)}, not {displacement.shape}."
        )
    if grid.plane is not None:
        index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), -1)
        points = grid.index_to_physical(index)
        lifted = (target if target is not None and target.plane is not None else grid).lift(points + displacement)
        displacement = np.expand_dims(lifted - grid.lift(points), grid.slice_axis)
        grid = grid.lifted()
    if not is_nifti(path):
        displacement = np.asarray(displacement, dtype=np.float32)
        write_image(path, grid, displacement if step_mm is None else rounded(displacement, step_mm), vector=True)
        return
    if grid.ndim == 3 and grid.shape[0] == 1:
        # ITK drops trailing axes of one slice from vector images, and with them the position of the slice.
        displacement = np.moveaxis(displacement[:], 0, 2)
        order = [1, 2, 0, 3]
        grid = Grid(tuple(grid.shape[a] for a in order[:3]), grid.affine[:, order])
    slabs = side_by_side(
        lambda start: _components(displacement[start : start + _ROWS], step_mm), range(0, grid.shape[0], _ROWS)
    )
    with atomic(path) as temporary:
        write_vectors(temporary, grid, slabs, INTENT_DISPLACEMENT if grid.ndim == 3 else INTENT_VECTOR)


def _components(displacement: np.ndarray, step_mm: float | None) -> np.ndarray:
    """Slices (rows, ..., d) of a field by component, (d, rows, ...), as they lie in NIfTI."""
    d = displacement.shape[-1]
    planes = np.empty((d, *displacement.shape[:-1]), dtype=np.float32)
    for row, values in enumerate(displacement):  # slice by slice, which stays in a processor's cache
        for axis in range(d):
            component = values[..., axis]
            if step_mm is not None:
                component = rounded(component, step_mm)
            # In RAS the first two components have the other sign; 0 is without one in what was rounded.
            planes[axis, row] = np.float32(0) - component if d == 3 and axis < 2 else component
    return planes


def read_displacement_field(path: str | os.PathLike) -> tuple[Grid, np.ndarray]:
    """Reads a displacement field as ITK means it.

    Returns:
        The grid and the displacements (*grid.shape, d), float32, in LPS mm (x, y[, z]). A 3-D file of one slice stays
        3-D, because its vectors may lead out of the slice.

    Raises:
        InputError: unreadable, not one vector of d components per voxel, or a field of FSL, NiftyReg or SPM.
    """
    path = Path(path)
    if is_folder(path):
        raise InputError(f"{path}: is a folder. Pass the file of a displacement field.")
    refuse_named(path)
    with named(path):
        grid, vectors = read_vectors(path) or _read_by_itk(path)
    if vectors.ndim != grid.ndim + 1 or vectors.shape[-1] != grid.ndim:
        raise InputError(
            f"{path}: is {vectors.ndim - 1}-D with {vectors.shape[-1]} components per voxel, no displacement field. "
            "Pass a file of as many components as dimensions."
        )
    refuse_positions(path, grid, vectors)
    return grid, vectors


def _read_by_itk(path: Path) -> tuple[Grid, np.ndarray]:
    image = read_isolated(path)
    vectors = image.array.reshape(*image.size[::-1], image.components)
    return Grid.from_image(image), vectors.astype(np.float32, copy=False)


def nonlinear_dimension(path: str | os.PathLike) -> int:
    """How many dimensions the transform of ITK in a file has if it is not linear, else 0; InputError for no file."""
    path = Path(path)
    if not path.name.lower().endswith(ITK_TRANSFORMS) or is_folder(path):
        return 0
    if path.stat().st_size > _LARGEST_TRANSFORM:
        return 3  # no linear one is that large, nor one of two dimensions
    return dense_dimension(read_bytes(path, _LARGEST_TRANSFORM))


def read_affine(
    path: str | os.PathLike, ndim: int, fixed: Grid | None = None, moving: Grid | None = None
) -> np.ndarray:
    """The matrix of read_affine_with_notes."""
    return read_affine_with_notes(path, ndim, fixed, moving)[0]


def read_affine_with_notes(
    path: str | os.PathLike, ndim: int | None, fixed: Grid | None = None, moving: Grid | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Reads a linear transform: ITK's (.tfm, .txt, .mat, .h5; also composites of linear ones, also ANTs' .mat), FSL
    FLIRT's (.mat), FreeSurfer's (.lta), MINC's (.xfm) or DICOM's (a Spatial Registration).

    Args:
        path: the file. Those of ITK map fixed points to moving points, all others the moving image to the fixed one;
            DICOM's says by its frames of reference which image is which.
        ndim: 2 or 3; None for the file's own.
        fixed, moving: the grids, needed for a matrix of FLIRT, to compare with those in an .lta, and to reduce a 3-D
            transform to slices of 3-D space (ndim 2).

    Returns:
        (d+1, d+1) homogeneous LPS mm, fixed -> moving, and notes on what was assumed.

    Raises:
        InputError: unreadable, not linear, not invertible, or of another dimension.
    """
    path = Path(path)
    if is_folder(path):
        raise InputError(f"{path}: is a folder. Pass a transform file ({', '.join(TRANSFORMS)}).")
    kind = registration_kind(path)
    if kind == "deformable":
        raise InputError(f"{path}: holds a deformation, no linear transform. --method transform takes it.")
    content = b"" if kind else read_bytes(path, _LARGEST_TRANSFORM)
    try:
        matrix, notes = read_spatial(path, fixed, moving) if kind else _parsed(path, content, fixed, moving)
        d = len(matrix) - 1
        if d == 3 and ndim == 2 and fixed is not None and fixed.plane is not None:
            onto = moving if moving is not None and moving.plane is not None else fixed
            whole, matrix = matrix, np.eye(3)
            matrix[:2] = onto.plane[:3, :2].T @ (whole @ fixed.plane)[:3]
            matrix[:2, 2] -= onto.plane[:3, :2].T @ onto.plane[:3, 2]
        elif d != (ndim or d):
            raise InputError(f"holds a {d}-D transform, but the images are {ndim}-D. Pass a {ndim}-D one.")
        if not np.isfinite(matrix).all() or not 1e-6 < abs(np.linalg.det(matrix)) < 1e6:
            raise InputError("the transform is not invertible. Compute it again.")
        if np.linalg.det(matrix) < 0:
            notes.append(
                "mirrors (its determinant is negative), as where left and right were exchanged: unless that is meant, "
                "the header of one of the images was wrong when it was computed"
            )
        if fixed is not None and moving is not None and not _meet(matrix, fixed, moving):
            notes.append(
                "takes no part of the fixed image into the moving one: check that it belongs to these images, and was "
                "not computed the other way round"
            )
    except InputError as error:
        raise InputError(str(error) if str(error).startswith(f"{path}: ") else f"{path}: {error}") from error
    return matrix, tuple(f"{path}: {note}" for note in notes)


def _parsed(path: Path, content: bytes, fixed: Grid | None, moving: Grid | None) -> tuple[np.ndarray, list[str]]:
    """The matrix (3 or 4 rows), LPS mm, fixed -> moving, and notes; InputError without the file's name."""
    suffix = path.suffix.lower()
    if suffix == ".lta":
        return read_lta(content, fixed, moving)
    if suffix == ".xfm":
        return read_xfm(content)
    if not is_text_matrix(content):
        return read_itk(path, content), []
    if suffix != ".mat":
        raise InputError("is a bare matrix, of which nobody knows what it means. If it is FSL FLIRT's, name it .mat.")
    if fixed is None or moving is None:
        raise InputError(
            "is a matrix of FSL FLIRT, which has no meaning without the grids of both images. Pass them "
            "(deepflash apply: --reference, and with points and surfaces --source)."
        )
    return read_flirt(content, fixed, moving)


def _meet(matrix: np.ndarray, fixed: Grid, moving: Grid) -> bool:
    """Whether an affine takes some of the spread points of one grid into the other one."""
    for one, other, linear in ((fixed, moving, matrix), (moving, fixed, np.linalg.inv(matrix))):
        if other.contains(spread_points(one) @ linear[:-1, :-1].T + linear[:-1, -1]).any():
            return True
    return False


def spread_points(grid: Grid) -> np.ndarray:
    """(9**d, d) LPS mm of 9 points per axis over the field of view of a grid, up to its voxels' outer faces."""
    ticks = [np.linspace(-0.5, n - 0.5, 9) for n in grid.shape]
    return grid.index_to_physical(np.stack(np.meshgrid(*ticks, indexing="ij"), -1).reshape(-1, grid.ndim))


def write_affine(
    path: str | os.PathLike, matrix: np.ndarray, fixed: Grid | None = None, moving: Grid | None = None
) -> None:
    """Writes an affine point map as an ITK transform file (.tfm, .txt, .mat, .h5).

    Args:
        path: the file.
        matrix: (d+1, d+1) homogeneous LPS mm, fixed -> moving.
        fixed, moving: the grids; if they are slices of 3-D space, a 3-D transform is written that maps the fixed
            slice on the moving one.

    Raises:
        InputError: unknown suffix, or a folder that does not exist or may not be written.
    """
    path = Path(path)
    if path.suffix.lower() not in ITK_TRANSFORMS:
        raise InputError(f"{path}: unknown kind of transform file. Name it {', '.join(ITK_TRANSFORMS)}.")
    matrix = np.asarray(matrix, dtype=np.float64)
    d = len(matrix) - 1
    if d == 2 and fixed is not None and fixed.plane is not None:
        onto = moving if moving is not None and moving.plane is not None else fixed
        project = np.zeros((3, 4))
        project[:2, :3] = fixed.plane[:3, :2].T
        project[2, 3] = 1
        across = np.outer(onto.normal, fixed.normal)
        whole = onto.plane @ matrix @ project
        whole[:3, :3] += across
        whole[:3, 3] -= across @ fixed.plane[:3, 2]
        matrix, d = whole, 3
    transform = sitk.AffineTransform(d)
    transform.SetMatrix(matrix[:d, :d].ravel().tolist())
    transform.SetTranslation(matrix[:d, d].tolist())
    with atomic(path) as temporary:
        try:
            with quiet():
                sitk.WriteTransform(transform, str(temporary))
                # On a full disk the writer leaves a part of the file, or none of it, and says nothing.
                sitk.ReadTransform(str(temporary))
        except RuntimeError as error:
            raise unwritable(path) from error
