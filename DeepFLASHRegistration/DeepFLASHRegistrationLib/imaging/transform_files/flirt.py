# SPDX-License-Identifier: Apache-2.0
"""Matrices of FSL FLIRT (.mat): text of 4 x 4 numbers, moving to fixed, in FSL's own millimeters."""

from __future__ import annotations

import numpy as np

from ...support.errors import InputError
from ..grid import Grid


def is_text_matrix(content: bytes) -> bool:
    """Whether the content is nothing but 16 numbers in 4 lines."""
    try:
        rows = [[float(cell) for cell in line.split()] for line in content.decode("ascii").splitlines() if line.strip()]
    except ValueError:
        return False
    return len(rows) == 4 and all(len(row) == 4 for row in rows)


def read_flirt(content: bytes, fixed: Grid, moving: Grid) -> tuple[np.ndarray, list[str]]:
    """Reads a matrix that FLIRT wrote with -omat, of the moving image (-in) and the fixed one (-ref).

    FLIRT's coordinates are voxel numbers times the voxel size, from the first voxel of the stored array; the first axis
    is counted from its other end in an image whose axes are right-handed in RAS (FSL calls it neurological). They know
    neither origin nor direction of an image, so the matrix says nothing without both grids
    (https://fsl.fmrib.ox.ac.uk/fsl/docs, FLIRT user guide; M. Jenkinson on the FSL list, 27 July 2009).

    Args:
        content: the file's; is_text_matrix holds.
        fixed, moving: the grids of the files that FLIRT had (3-D, or slices of 3-D space).

    Returns:
        (4, 4) LPS mm, fixed -> moving, and notes.

    Raises:
        InputError: no affine matrix, or an image without a place in 3-D space.
    """
    matrix = np.array(content.split(), dtype=np.float64).reshape(4, 4)
    if not np.isfinite(matrix).all() or np.abs(matrix[3] - (0, 0, 0, 1)).max() > 1e-6:
        raise InputError("its last row is not 0 0 0 1, or a number is not finite. Compute it again with FLIRT.")
    if abs(np.linalg.det(matrix)) < 1e-9:
        raise InputError("the matrix is not invertible. Compute it again.")
    to_fixed, to_moving = (_to_physical(_in_space(grid)) for grid in (fixed, moving))
    result = to_moving @ np.linalg.inv(matrix) @ np.linalg.inv(to_fixed)
    note = (
        "was read as a matrix of FSL FLIRT, from the moving image to the fixed one, which holds for these two files "
        "only as FLIRT had them; a matrix of Greedy or c3d looks the same: convert that one to ITK's format first"
    )
    return result, [note]


def _in_space(grid: Grid) -> Grid:
    if grid.ndim == 3:
        return grid
    if grid.plane is None:
        raise InputError("is a matrix of 3-D space, but the images are 2-D. Pass a 2-D transform of ITK.")
    return grid.lifted()


def _to_physical(grid: Grid) -> np.ndarray:
    """(4, 4), FSL's coordinates of an image -> LPS mm."""
    index_to_lps = grid.affine[:, [2, 1, 0, 3]]  # of (i, j, k, 1), the first stored axis first
    spacing = grid.spacing[::-1]
    index_to_fsl = np.diag([*spacing, 1.0])
    if np.linalg.det(index_to_lps[:3, :3]) > 0:  # the sign in RAS is the same: two axes change theirs
        index_to_fsl[0, 0] = -spacing[0]
        index_to_fsl[0, 3] = (grid.shape[2] - 1) * spacing[0]
    return index_to_lps @ np.linalg.inv(index_to_fsl)
