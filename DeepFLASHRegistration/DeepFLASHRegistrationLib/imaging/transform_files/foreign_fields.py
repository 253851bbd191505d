# SPDX-License-Identifier: Apache-2.0
"""Fields of other programs that look like a displacement field of ITK and mean something else."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...support.errors import InputError
from ..grid import Grid
from ..image_files.nifti_reading import stated_intent

# fnirt_file_reader.h and nifti1.h: a field in FSL's scaled voxels, and coefficients of splines.
_OF_FSL = (2006, 2007, 2008, 2009, 2016, 2017)
_OF_NIFTYREG = b"NREG_TRANS"
_FEW, _SAMPLE = 4, 20_000


def refuse_named(path: Path) -> None:
    """InputError if the header of a NIfTI file names FSL's FNIRT or NiftyReg."""
    code, name = stated_intent(path)
    if code in _OF_FSL:
        raise InputError(
            f"{path}: is a warp of FSL's FNIRT, in FSL's own coordinates. Convert it to one of ITK: wb_command "
            "-convert-warpfield -from-fnirt FIELD SOURCE -to-itk OUT."
        )
    if name.startswith(_OF_NIFTYREG):
        raise InputError(
            f"{path}: is a field of NiftyReg, of positions or displacements in RAS mm. Convert it to displacements of "
            "ITK, in LPS mm."
        )


def refuse_positions(path: Path, grid: Grid, values: np.ndarray) -> None:
    """InputError if the field of a file holds where points go, in RAS mm, instead of by how much.

    Read as displacements, positions u = (-x, -y, z) + what is small take every point to the line x = y = 0, which no
    map of anatomy does.

    Args:
        values: (*grid.shape, d), as they were read.
    """
    if min(grid.shape) < _FEW:
        return
    chosen = np.arange(0, grid.size, max(1, grid.size // _SAMPLE))
    points = grid.index_to_physical(np.stack(np.unravel_index(chosen, grid.shape), -1))
    found = values.reshape(-1, grid.ndim)[chosen].astype(np.float64)
    good = np.isfinite(found).all(1)
    if good.sum() < 100:
        return
    slope = np.linalg.lstsq(points[good] - points[good].mean(0), found[good] - found[good].mean(0), rcond=None)[0].T
    if np.abs(slope - np.diag([-1, -1, 1][: grid.ndim])).max() < 0.3:
        raise InputError(
            f"{path}: holds where points go instead of by how much (as SPM's y_ files and the deformation fields of "
            "NiftyReg do). Convert it to displacements of ITK, in LPS mm."
        )
