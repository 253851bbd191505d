# SPDX-License-Identifier: Apache-2.0
"""The color table of the Jacobian determinant."""

from __future__ import annotations

import math

import slicer

from ..companions import markCompanion

_NAME = "DeepFLASH determinant"
_STEPS = 32  # colors between two named ones
_NAMED = 9
# Shrinking blue, growing red, equally bright at equal factors; white where nothing changes.
_BLUE, _WHITE, _RED = (0.02, 0.19, 0.58), (1.0, 1.0, 1.0), (0.60, 0.02, 0.05)
FOLD_COLOR = (1.0, 0.0, 1.0)
_LIMITS = (1.25, 1.5, 2.0, 4.0, 8.0)


def limitFor(largest: float) -> float:
    """The factor of volume change that the colors shall reach, given the largest |log determinant| of interest."""
    return next((limit for limit in _LIMITS if math.log(limit) >= largest), _LIMITS[-1])


def colorAt(logDeterminant: float, limit: float) -> tuple[float, float, float]:
    """RGB in 0 ... 1 of a log determinant, when the colors reach factor `limit`."""
    position = max(-1.0, min(1.0, logDeterminant / math.log(limit)))
    end = _RED if position > 0 else _BLUE
    return tuple(white + (color - white) * abs(position) for white, color in zip(_WHITE, end, strict=True))


def determinantColors(scene: slicer.vtkMRMLScene, limit: float) -> slicer.vtkMRMLColorTableNode:
    """The scene's color table for log determinants from -log(limit) to log(limit); made or updated.

    Nine of its colors are named, by the determinant: they are the labels of a legend.
    """
    node = scene.GetFirstNode(_NAME, "vtkMRMLColorTableNode")
    if node is None:
        node = slicer.vtkMRMLColorTableNode()
        node.SetName(_NAME)
        node.SetTypeToUser()
        node.SetAttribute("Category", "User Generated")
        node = scene.AddNode(node)
        markCompanion(node)
    count = (_NAMED - 1) * _STEPS + 1
    modifying = node.StartModify()
    node.SetNumberOfColors(count)
    for index in range(count):
        position = 2 * index / (count - 1) - 1
        logDeterminant = position * math.log(limit)
        node.SetColor(index, *colorAt(logDeterminant, limit), 1.0)
        named = index % _STEPS == 0
        node.SetColorName(index, f"{round(math.exp(logDeterminant), 2):g}" if named else "")
        node.SetColorDefined(index, named)
    node.EndModify(modifying)
    return node


def completeColors(scene: slicer.vtkMRMLScene) -> None:
    """Makes the table of a loaded scene whole again: Slicer's files keep but the named colors, the others are clear."""
    node = scene.GetFirstNode(_NAME, "vtkMRMLColorTableNode")
    if node is not None and node.GetNumberOfColors():
        try:
            limit = float(node.GetColorName(node.GetNumberOfColors() - 1))
        except ValueError:  # no table of this version
            return
        if limit > 1:
            determinantColors(scene, limit)
