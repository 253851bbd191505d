# SPDX-License-Identifier: Apache-2.0
"""Fixed and warped in alternating cubes."""

from __future__ import annotations

import numpy as np
import slicer
import vtk

from ...support.errors import InputError
from ..appearance import copyLook
from ..arrays import arrayFromImage, emptyImage
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
        gain = np.float32(own.GetWindow() / (other.GetWindow() or 1.0))
        offset = np.float32(own.GetLevel() - gain * other.GetLevel())
        voxels = self.cubeMm / np.array(self.fixed.GetSpacing()[::-1])
        cubes = [np.floor(np.arange(size) / edge).astype(int) for size, edge in zip(fixed.shape, voxels, strict=True)]
        image = emptyImage((*fixed.shape, 1), np.dtype(np.float32))
        board, inPlane = arrayFromImage(image), cubes[1][:, None] + cubes[2]
        for k, layer in enumerate(cubes[0]):  # a slice at a time stays in the processor's cache
            board[k] = np.where((layer + inPlane) % 2, gain * warped[k] + offset, fixed[k])
        return image
