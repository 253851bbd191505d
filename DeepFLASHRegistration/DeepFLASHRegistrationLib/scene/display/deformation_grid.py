# SPDX-License-Identifier: Apache-2.0
"""The deformation as a grid that was straight in the moving image."""

from __future__ import annotations

import numpy as np
import slicer
import vtk

from ..arrays import imageFromArray
from ..fields import AFFINE_ATTRIBUTE, INVERSE_ROLE, transformedPoints
from ..geometry import ijkToWorld, vtkMatrixFrom
from .toggle import Toggle

_LINES = 25  # across the longest side
_SAMPLES = 64  # of the displayed displacement, per axis
_INVERTED_SAMPLES = 40  # where each must be found by iteration
_MARGIN = 0.25  # of the image's size, so that lines which come from outside are shown
_COARSER_IN_SPACE = 2
_COLOR = (1.0, 0.85, 0.1)


class DeformationGrid(Toggle):
    """Grid lines over the slices and in 3-D: straight lines of the (affinely aligned) moving image, carried along.

    Slicer draws such grids from a transform's to-parent side, which of a registration is its numerical inverse: slow,
    and with a large affine part the lines are carried out of view. This shows a transform of its own instead: the
    deformation without the affine part, from the exact inverse.
    """

    def __init__(
        self,
        transformNode: slicer.vtkMRMLTransformNode,
        fixedVolume: slicer.vtkMRMLVolumeNode,
        spacingMm: float | None = None,
    ) -> None:
        """`spacingMm`: between lines; default by the image's extent."""
        super().__init__(fixedVolume.GetScene())
        self.transform, self.fixed = transformNode, fixedVolume
        self._spacingMm = spacingMm
        self._node: slicer.vtkMRMLTransformNode | None = None

    @property
    def spacingMm(self) -> float:
        """mm between lines."""
        return self._spacingMm or defaultSpacing(self.fixed)

    def setSpacing(self, spacingMm: float) -> None:
        """Changes the distance of the lines, also while shown."""
        self._spacingMm = spacingMm
        if self.isShown:
            self._applySpacing()

    def _show(self) -> None:
        # Slicer colors grids by displacement in mm, on a fixed scale; lines of one color show the shape.
        colors = self.temporary("vtkMRMLProceduralColorNode", f"{self.transform.GetName()} grid color")
        for displacement in (0.0, 1.0):
            colors.GetColorTransferFunction().AddRGBPoint(displacement, *_COLOR)
        node = self._node = self.temporary("vtkMRMLTransformNode", f"{self.transform.GetName()} grid")
        node.SetAndObserveTransformToParent(self._deformation())
        node.CreateDefaultDisplayNodes()
        node.AddAndObserveDisplayNodeID(self.scene.AddNewNodeByClass("vtkMRMLTransformDisplayNode").GetID())
        slices, space = self._displays()
        self._applySpacing()
        for display in (slices, space):
            modifying = display.StartModify()
            display.SetVisualizationMode(slicer.vtkMRMLTransformDisplayNode.VIS_MODE_GRID)
            display.SetAndObserveColorNodeID(colors.GetID())
            display.SetAndObserveRegionNode(self.fixed)  # slices use their own field of view, 3-D this one
            display.SetVisibility2D(display is slices)
            display.SetVisibility3D(display is space)
            display.SetVisibility(True)
            display.EndModify(modifying)

    def _displays(self) -> tuple[slicer.vtkMRMLTransformDisplayNode, slicer.vtkMRMLTransformDisplayNode]:
        """For slices, and for 3-D: there, as many lines would hide each other, and take long to make."""
        return self._node.GetNthDisplayNode(0), self._node.GetNthDisplayNode(1)

    def _applySpacing(self) -> None:
        slices, space = self._displays()
        for display, spacing in ((slices, self.spacingMm), (space, _COARSER_IN_SPACE * self.spacingMm)):
            modifying = display.StartModify()
            display.SetGridSpacingMm(spacing)
            display.SetGridResolutionMm(spacing / 5)
            display.SetGridLineDiameterMm(spacing / 15)
            display.EndModify(modifying)

    def _deformation(self) -> slicer.vtkOrientedGridTransform:
        """x -> moving_to_fixed(affine(x)), sampled around the fixed image."""
        matrix = ijkToWorld(self.fixed)
        size = np.maximum(np.array(self.fixed.GetImageData().GetDimensions()), 1)
        spacing = np.linalg.norm(matrix[:3, :3], axis=0)
        directions = matrix[:3, :3] / spacing
        extent = size * spacing * (1 + 2 * _MARGIN)
        movingToFixed, most = self._movingToFixed()
        step = np.maximum(extent / most, spacing)
        samples = np.ceil(extent / step).astype(int) + 1
        middle = (matrix @ (*((size - 1) / 2), 1))[:3]
        origin = middle - directions @ (step * (samples - 1) / 2)
        index = np.stack(np.meshgrid(*[np.arange(n) for n in samples[::-1]], indexing="ij"), -1)[..., ::-1]
        points = (index * step).reshape(-1, 3) @ directions.T + origin
        affine = self._affine()
        moved = transformedPoints(movingToFixed, points @ affine[:3, :3].T + affine[:3, 3])
        image = imageFromArray((moved - points).reshape(*samples[::-1], 3), components=True)
        image.SetSpacing(step)
        image.SetOrigin(origin)
        grid = slicer.vtkOrientedGridTransform()
        grid.SetDisplacementGridData(image)
        grid.SetGridDirectionMatrix(vtkMatrixFrom(directions))
        return grid

    def _affine(self) -> np.ndarray:
        text = self.transform.GetAttribute(AFFINE_ATTRIBUTE)
        return np.array([float(value) for value in text.split()]).reshape(4, 4) if text else np.eye(4)

    def _movingToFixed(self) -> tuple[vtk.vtkAbstractTransform, int]:
        """The map, and at how many points per axis it can be had in reasonable time."""
        inverse = self.transform.GetNodeReference(INVERSE_ROLE)
        if inverse is not None:
            return inverse.GetTransformFromParent(), _SAMPLES
        return self.transform.GetTransformToParent(), _INVERTED_SAMPLES


def defaultSpacing(volume: slicer.vtkMRMLVolumeNode) -> float:
    """mm between lines that suit an image: about 25 lines across, rounded to 1, 2 or 5 times a power of ten."""
    extent = (np.array(volume.GetImageData().GetDimensions()) * volume.GetSpacing()).max()
    wanted = extent / _LINES
    power = 10.0 ** np.floor(np.log10(wanted))
    return float(min((1.0, 2.0, 5.0, 10.0), key=lambda factor: abs(np.log(factor * power / wanted))) * power)
