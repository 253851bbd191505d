# SPDX-License-Identifier: Apache-2.0
"""Maps of several steps, each linear or a displacement field, as composites of ITK (.h5) and as X5 (.x5)."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from ...support.errors import InputError
from ..files import atomic, quiet, unwritable
from ..grid import Grid

COMPOSITES = (".h5", ".x5")
# A linear map, (d+1, d+1) homogeneous, or a grid and the displacements on it, (*grid.shape, d); LPS mm. Beyond its grid
# a field rests.
Step = np.ndarray | tuple[Grid, np.ndarray]
_LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def write_composite(path: str | os.PathLike, steps: Sequence[Step]) -> None:
    """Writes a map of points, to resample images by: through the first step first.

    .h5 is a composite of ITK in doubles, as antsApplyTransforms, SimpleITK and 3D Slicer apply it. .x5 is the format of
    BIDS' proposal for transforms, a chain of steps in RAS mm, written by nitransforms.

    Raises:
        InputError: another suffix; a folder that does not exist or may not be written; .x5 without nitransforms, or of
            other than 3-D steps.
    """
    if os.fspath(path).lower().endswith(".x5"):
        _write_x5(path, steps)
    elif os.fspath(path).lower().endswith(".h5"):
        _write_itk(path, steps)
    else:
        raise InputError(f"{path}: a map of several steps is written as {' or '.join(COMPOSITES)}. Name it so.")


def _write_itk(path: str | os.PathLike, steps: Sequence[Step]) -> None:
    # ITK applies the last one first.
    transform = sitk.CompositeTransform([_of_itk(step) for step in reversed(steps)])
    with atomic(path) as temporary:
        try:
            with quiet():
                sitk.WriteTransform(transform, str(temporary))
        except RuntimeError as error:
            raise unwritable(path) from error


def _of_itk(step: Step) -> sitk.Transform:
    if isinstance(step, tuple):
        grid, field = step
        image = sitk.GetImageFromArray(np.asarray(field, dtype=np.float64), isVector=True)
        return sitk.DisplacementFieldTransform(grid.apply_to(image))
    d = len(step) - 1
    transform = sitk.AffineTransform(d)
    transform.SetMatrix(np.asarray(step, dtype=np.float64)[:d, :d].ravel().tolist())
    transform.SetTranslation(np.asarray(step, dtype=np.float64)[:d, d].tolist())
    return transform


def check_x5() -> None:
    """InputError unless chains can be written as X5."""
    if importlib.util.find_spec("nitransforms") is None or importlib.util.find_spec("nitransforms.io.x5") is None:
        raise InputError(
            "X5 is written by the package nitransforms, which is not there, or too old: pip install 'nitransforms>=25'"
        )


def _write_x5(path: str | os.PathLike, steps: Sequence[Step]) -> None:
    check_x5()
    from nitransforms.manip import TransformChain

    if any((step[0].ndim if isinstance(step, tuple) else len(step) - 1) != 3 for step in steps):
        raise InputError(f"{path}: X5 holds 3-D maps only. Name it .h5.")
    with atomic(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        TransformChain([_of_nitransforms(step) for step in steps]).to_filename(temporary, fmt="X5")


def _of_nitransforms(step: Step) -> object:
    from nibabel import Nifti1Image
    from nitransforms.linear import Affine
    from nitransforms.nonlinear import DenseFieldTransform

    if isinstance(step, tuple):
        grid, field = step
        ras = np.asarray(field, dtype=np.float64) * np.diag(_LPS_RAS)[:3]
        return DenseFieldTransform(Nifti1Image(ras, _LPS_RAS @ grid.affine))
    return Affine(_LPS_RAS @ step @ _LPS_RAS)
