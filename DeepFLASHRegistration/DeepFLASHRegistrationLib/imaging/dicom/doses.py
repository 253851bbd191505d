# SPDX-License-Identifier: Apache-2.0
"""A radiation dose that was carried to an image, as DICOM (RT Dose; PS3.3, C.8.8.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...support.errors import InputError
from ..grid import Grid
from .elements import RT_DOSE
from .registrations import decimal, new_object
from .series import Series

if TYPE_CHECKING:
    from pydicom import Dataset

_MOST = 2**16 - 1  # of what is stored: of 80 Gy steps of 1.2 mGy, far below what planning or interpolation knows
# What a dose says of how it was found, and of the plan, which holds wherever it is carried.
_KEPT = (
    "DoseUnits", "DoseType", "DoseSummationType", "DoseComment", "TissueHeterogeneityCorrection", "NormalizationPoint",
    "ReferencedRTPlanSequence",
)  # fmt: skip


def dose_object(series: Series, dose: Dataset, grid: Grid, values: np.ndarray, rigid: bool) -> Dataset:
    """A dose that was carried to an image, on the part of a grid where there is any.

    Args:
        series: the image, in whose study and frame of reference it is.
        dose: what was carried, with its units and its plan.
        grid: whose first axis runs along the normal of the others, as DICOM has it.
        values: (*grid.shape), in the unit of the dose.
        rigid: whether it was carried by a rigid map.

    Raises:
        InputError: there is none, or it is negative somewhere.
    """
    if values.min() < 0:
        raise InputError(
            f"{series.path}: a dose with negative values is not written as DICOM. Name the output .nii.gz."
        )
    if not values.any():
        raise InputError(f"{series.path}: no dose reaches it. Check that dose and transform belong to it.")
    ends = [np.flatnonzero(values.any(tuple(a for a in range(3) if a != axis)))[[0, -1]] for axis in range(3)]
    values = values[tuple(slice(first, last + 1) for first, last in ends)]
    found = new_object(series, RT_DOSE, "RTDOSE", "DeepFLASH: dose")
    for name in ("ContentDate", "ContentTime"):
        delattr(found, name)
    for name in _KEPT:
        if name in dose:
            setattr(found, name, dose[name].value)
    found.SpatialTransformOfDose = "RIGID" if rigid else "NON_RIGID"
    found.ReferencedSpatialRegistrationSequence = []
    found.OperatorsName = ""
    found.ImagePositionPatient = [decimal(v) for v in grid.index_to_physical(np.array([first for first, _ in ends]))]
    found.ImageOrientationPatient = [decimal(v) for v in grid.direction[:, [2, 1]].T.ravel()]
    found.PixelSpacing, found.SliceThickness = [decimal(v) for v in grid.spacing[1:]], decimal(grid.spacing[0])
    found.NumberOfFrames, found.Rows, found.Columns = values.shape
    found.FrameIncrementPointer = 0x3004000C
    found.GridFrameOffsetVector = [decimal(k * grid.spacing[0]) for k in range(len(values))]
    found.SamplesPerPixel, found.PhotometricInterpretation, found.PixelRepresentation = 1, "MONOCHROME2", 0
    found.BitsAllocated, found.BitsStored, found.HighBit = 16, 16, 15
    scaling = float(decimal(float(values.max()) / _MOST * (1 + 1e-6)))  # rounded, it must not take the largest beyond
    found.DoseGridScaling = decimal(scaling)
    found.PixelData = np.rint(values / np.float64(scaling)).astype("<u2").tobytes()
    found["PixelData"].VR = "OW"
    return found
