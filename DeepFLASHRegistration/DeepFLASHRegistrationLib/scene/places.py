# SPDX-License-Identifier: Apache-2.0
"""Where a result should be looked at: its largest change, its smallest determinant, its worst label."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import slicer

from ..report.views import rough_foreground
from .arrays import arrayFromImage
from .geometry import LPS_RAS, ijkToWorld
from .labels import labelsFromNode


@dataclass(frozen=True)
class Place:
    """A point in RAS mm, and what is there: a determinant, or the name of a label and its Dice."""

    ras: tuple[float, float, float]
    value: float
    name: str = ""


def largestChange(
    logJacobianVolume: slicer.vtkMRMLScalarVolumeNode, fixedVolume: slicer.vtkMRMLScalarVolumeNode
) -> Place | None:
    """Where tissue of the fixed image grew or shrank most; None if nothing was measured."""
    values = np.abs(_logarithms(logJacobianVolume, fixedVolume))
    return _at(logJacobianVolume, np.where(np.isfinite(values), values, -1.0))


def smallestDeterminant(
    logJacobianVolume: slicer.vtkMRMLScalarVolumeNode, fixedVolume: slicer.vtkMRMLScalarVolumeNode
) -> Place | None:
    """Where tissue is squeezed most, or folds (a determinant of NaN)."""
    values = _logarithms(logJacobianVolume, fixedVolume, folds=True)
    return _at(logJacobianVolume, np.where(np.isnan(values), np.inf, -values))


def worstLabel(labelsTable: slicer.vtkMRMLTableNode, segmentation: slicer.vtkMRMLNode) -> Place | None:
    """The middle of the propagated label of the smallest Dice; None where none was compared or none is left."""
    table = labelsTable.GetTable()
    names, after = (table.GetColumnByName(title) for title in ("Name", "Dice after"))
    if names is None or after is None:
        return None
    dice = {names.GetValue(row): float(after.GetValue(row)) for row in range(table.GetNumberOfRows())}
    labels = labelsFromNode(segmentation)
    numbers = {name: number for number, name in labels.names.items()}
    for name in sorted((name for name in dice if math.isfinite(dice[name])), key=dice.__getitem__):
        index = np.argwhere(labels.volume.data == numbers.get(name, 0)) if name in numbers else ()
        if len(index):
            middle = index[np.linalg.norm(index - index.mean(0), axis=1).argmin()]  # of the label's own voxels
            grid = labels.volume.grid
            point = grid.index_to_physical(middle)
            lps = point if grid.ndim == 3 else grid.lift(point) if grid.plane is not None else np.append(point, 0.0)
            return Place(tuple(float(x) for x in LPS_RAS[:3, :3] @ lps), dice[name], name)
    return None


def jump(scene: slicer.vtkMRMLScene, place: Place) -> None:
    """Shows a place in the middle of all slice views."""
    slicer.vtkMRMLSliceNode.JumpAllSlices(scene, *place.ras, slicer.vtkMRMLSliceNode.CenteredJumpSlice)


def _logarithms(
    logJacobianVolume: slicer.vtkMRMLScalarVolumeNode, fixedVolume: slicer.vtkMRMLScalarVolumeNode, folds: bool = False
) -> np.ndarray:
    """(k, j, i) logarithms of the determinant in the fixed image's object, 0 elsewhere (but folds, if wanted)."""
    values = arrayFromImage(logJacobianVolume.GetImageData())
    fixed = arrayFromImage(fixedVolume.GetImageData())
    if fixed.shape != values.shape:
        return values
    inside = rough_foreground(fixed)
    if folds:
        inside |= np.isnan(values)
    return np.where(inside, values, 0)


def _at(volume: slicer.vtkMRMLScalarVolumeNode, weight: np.ndarray) -> Place | None:
    """The voxel of the largest weight, with the determinant there."""
    if not weight.size:
        return None
    k, j, i = (int(n) for n in np.unravel_index(int(np.argmax(weight)), weight.shape))
    value = float(arrayFromImage(volume.GetImageData())[k, j, i])
    ras = (ijkToWorld(volume) @ (i, j, k, 1))[:3]
    return Place(tuple(float(x) for x in ras), math.exp(value) if math.isfinite(value) else math.nan)
