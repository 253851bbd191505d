# SPDX-License-Identifier: Apache-2.0
"""Point maps in files, as ITK means them: displacement fields and affine transforms, fixed to moving in LPS mm."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..support.errors import InputError
from .files import TRANSFORMS, atomic, is_folder, quiet, unreadable, unwritable
from .grid import Grid
from .io import write_image
from .nifti import INTENT_DISPLACEMENT, INTENT_VECTOR, is_nifti, write_nifti


def write_displacement_field(
    path: str | os.PathLike, grid: Grid, displacement: np.ndarray, target: Grid | None = None
) -> None:
    """Writes a displacement field that ITK (SimpleITK, ANTs, Slicer) applies as point -> point + displacement.

    In NIfTI, 3-D fields carry intent 1006 and, as that intent is defined, components along RAS: ITK 5.3 and newer turn
    them to LPS on reading. 2-D fields carry intent 1007 and LPS, because ITK 5.4 garbles 2-D fields of intent 1006.

    Args:
        path: .nii.gz, .nii, or another format of SimpleITK (.nrrd, .mha).
        grid: where the displacements are given.
        displacement: (*grid.shape, d) in LPS mm (x, y[, z]).
        target: for a 2-D grid with a plane: the grid whose plane the displaced points lie in (default: the same
            plane). The file is then 3-D with one slice and 3-D vectors, so that it also leads from slice to slice.

    Raises:
        InputError: unknown suffix, or a folder that does not exist or may not be written.
        ValueError: if the shapes disagree.
    """
    displacement = np.asarray(displacement)
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
        write_image(path, grid, displacement.astype(np.float32, copy=False), vector=True)
        return
    if grid.ndim == 3 and grid.shape[0] == 1:
        # ITK drops trailing axes of one slice from vector images, and with them the position of the slice.
        displacement = np.moveaxis(displacement, 0, 2)
        order = [1, 2, 0, 3]
        grid = Grid(tuple(grid.shape[a] for a in order[:3]), grid.affine[:, order])
    planes = np.empty((grid.ndim, *grid.shape), dtype=np.float32)
    for axis in range(grid.ndim):
        planes[axis] = displacement[..., axis]
    if grid.ndim == 3:
        np.negative(planes[:2], out=planes[:2])
    with atomic(path) as temporary:
        write_nifti(temporary, grid, planes, INTENT_DISPLACEMENT if grid.ndim == 3 else INTENT_VECTOR)


def read_displacement_field(path: str | os.PathLike) -> tuple[Grid, np.ndarray]:
    """Reads a displacement field as ITK means it.

    Returns:
        The grid and the displacements (*grid.shape, d), float32, in LPS mm (x, y[, z]). A 3-D file of one slice stays
        3-D, because its vectors may lead out of the slice.

    Raises:
        InputError: unreadable, or not one vector of d components per voxel.
    """
    path = Path(path)
    if is_folder(path):
        raise InputError(f"{path}: is a folder. Pass the file of a displacement field.")
    with quiet():
        try:
            image = sitk.ReadImage(str(path))
        except RuntimeError as error:
            raise unreadable(path, error) from error
    if image.GetDimension() not in (2, 3) or image.GetNumberOfComponentsPerPixel() != image.GetDimension():
        raise InputError(
            f"{path}: is {image.GetDimension()}-D with {image.GetNumberOfComponentsPerPixel()} components "
            "per voxel, no displacement field. Pass a file of as many components as dimensions."
        )
    try:
        return Grid.from_image(image), sitk.GetArrayFromImage(image).astype(np.float32, copy=False)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def read_affine(
    path: str | os.PathLike, ndim: int, fixed: Grid | None = None, moving: Grid | None = None
) -> np.ndarray:
    """Reads a linear ITK transform (.tfm, .txt, .mat, .h5; also composites of linear ones, also ANTs' .mat).

    Args:
        path: the file; like every ITK transform it maps fixed points to moving points.
        ndim: 2 or 3.
        fixed, moving: the grids, needed to reduce a 3-D transform to slices of 3-D space (ndim 2).

    Returns:
        (d+1, d+1) homogeneous LPS mm, fixed -> moving.

    Raises:
        InputError: unreadable, not linear, not invertible, or of another dimension.
    """
    path = Path(path)
    if is_folder(path):
        raise InputError(f"{path}: is a folder. Pass a transform file ({', '.join(TRANSFORMS)}).")
    try:
        with quiet():
            transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        raise InputError(
            f"{path}: is no ITK transform file. Save the transform as .tfm, .h5, .mat or .txt "
            "(ITK's format; matrices of FSL or FreeSurfer must be converted)."
        ) from error
    if not transform.IsLinear():
        raise InputError(f"{path}: holds a transform that is not linear. Pass a rigid or affine transform.")
    d = transform.GetDimension()
    matrix = np.eye(d + 1)
    matrix[:d, d] = transform.TransformPoint((0.0,) * d)
    # From far apart points, so that an offset of hundreds of mm costs no digit of the matrix.
    reach = 1024.0
    for axis in range(d):
        ends = [transform.TransformPoint(tuple(s * reach * (a == axis) for a in range(d))) for s in (1.0, -1.0)]
        matrix[:d, axis] = (np.array(ends[0]) - ends[1]) / (2 * reach)
    if d == 3 and ndim == 2 and fixed is not None and fixed.plane is not None:
        onto = moving if moving is not None and moving.plane is not None else fixed
        whole, matrix = matrix, np.eye(3)
        matrix[:2] = onto.plane[:3, :2].T @ (whole @ fixed.plane)[:3]
        matrix[:2, 2] -= onto.plane[:3, :2].T @ onto.plane[:3, 2]
    elif d != ndim:
        raise InputError(f"{path}: holds a {d}-D transform, but the images are {ndim}-D. Pass a {ndim}-D one.")
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-6:
        raise InputError(f"{path}: the transform is not invertible. Compute it again.")
    return matrix


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
    if path.suffix.lower() not in TRANSFORMS:
        raise InputError(f"{path}: unknown kind of transform file. Name it {', '.join(TRANSFORMS)}.")
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
        except RuntimeError as error:
            raise unwritable(path) from error
