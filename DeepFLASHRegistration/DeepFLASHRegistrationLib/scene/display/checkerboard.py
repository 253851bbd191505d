# SPDX-License-Identifier: Apache-2.0
"""Fixed and warped in alternating cubes."""

from __future__ import annotations

import numpy as np
import slicer
import vtk

from ...support.errors import InputError
from ..appearance import copyLook
from ..arrays import arrayFromImage, imageFromArray
from ..translation import tr as _
from .framing import showInSlices
from .toggle import Toggle


class Checkerboard(Toggle):
    """A board over the fixed grid; warped intensities are mapped so that both images keep their window and level."""

    usesLayers = True

    def __init__(
        self,
        fixedVolume: slicer.vtkMRMLScalarVolumeNode,
        warpedVolume: slicer.vtkMRMLScalarVolumeNode,
        cubeMm: float | None = None,
    ) -> None:
        """`cubeMm`: edge of the cubes, default an eighth of the longest side of the image."""
        super().__init__(fixedVolume.GetScene())
        self.fixed, self.warped = fixedVolume, warpedVolume
        self._cubeMm = cubeMm

    @property
    def cubeMm(self) -> float:
        """Edge of the cubes in mm."""
        if self._cubeMm:
            return self._cubeMm
        return float((np.array(self.fixed.GetImageData().GetDimensions()) * self.fixed.GetSpacing()).max() / 8)

    def _show(self) -> None:
        if self.fixed.GetImageData().GetDimensions() != self.warped.GetImageData().GetDimensions():
            raise InputError(
                _("{warped} is not on the grid of {fixed}. Choose the warped volume of this registration.").format(
                    warped=self.warped.GetName(), fixed=self.fixed.GetName()
                )
            )
        board = self.temporary("vtkMRMLScalarVolumeNode", "checkerboard")
        board.CopyOrientation(self.fixed)
        board.SetAndObserveTransformNodeID(self.fixed.GetTransformNodeID())
        board.SetAndObserveImageData(self._image())
        copyLook(self.fixed, board)
        showInSlices(self.changes, self.scene, board)

    def _image(self) -> vtk.vtkImageData:
        fixed, warped = (arrayFromImage(node.GetImageData()) for node in (self.fixed, self.warped))
        own, other = self.fixed.GetDisplayNode(), self.warped.GetDisplayNode()
        gain = own.GetWindow() / (other.GetWindow() or 1.0)
        voxels = self.cubeMm / np.array(self.fixed.GetSpacing()[::-1])
        cubes = np.ix_(
            *[np.floor(np.arange(size) / edge).astype(int) for size, edge in zip(fixed.shape, voxels, strict=True)]
        )
        likeFixed = own.GetLevel() + gain * (warped - other.GetLevel())
        return imageFromArray(np.where(sum(cubes) % 2, likeFixed, fixed).astype(np.float32))
