# SPDX-License-Identifier: Apache-2.0
"""The moving image on its way along the geodesic."""

from __future__ import annotations

import slicer

from ...support.errors import InputError
from ..appearance import copyLook
from ..sequence import proxyTransform
from ..translation import tr as _
from .framing import showInSlices
from .toggle import Toggle


class GeodesicDisplay(Toggle):
    """The moving image's voxels under the geodesic's transform: scrubbing t deforms them.

    A temporary node shares the voxels. So nothing is copied, and the moving volume itself stays where it is: a
    non-linear parent would keep it from being registered again, and would be saved with the scene.
    """

    usesLayers = True

    def __init__(
        self,
        browser: slicer.vtkMRMLSequenceBrowserNode,
        fixedVolume: slicer.vtkMRMLScalarVolumeNode,
        movingVolume: slicer.vtkMRMLScalarVolumeNode,
    ) -> None:
        """`browser`: from writeGeodesicSequence for these volumes."""
        super().__init__(fixedVolume.GetScene())
        self.browser, self.fixed, self.moving = browser, fixedVolume, movingVolume

    def _show(self) -> None:
        transform = proxyTransform(self.browser)
        if transform is None:
            raise InputError(
                _("{browser} has no steps any more. Show the geodesic again.").format(browser=self.browser.GetName())
            )
        node = self.temporary("vtkMRMLScalarVolumeNode", f"{self.moving.GetName()} on its way")
        node.CopyOrientation(self.moving)
        node.SetAndObserveImageData(self.moving.GetImageData())
        copyLook(self.moving, node)
        node.SetAndObserveTransformNodeID(transform.GetID())
        # On the fixed image, so that fading between the two is a matter of the views' own slider.
        showInSlices(self.changes, self.scene, self.fixed, node, 1.0)

    @property
    def time(self) -> float:
        """The t that is shown."""
        sequence = self.browser.GetMasterSequenceNode()
        return float(sequence.GetNthIndexValue(self.browser.GetSelectedItemNumber()))

    def setTime(self, time: float) -> None:
        """Selects the sequence's item nearest to t in 0 ... 1."""
        sequence = self.browser.GetMasterSequenceNode()
        times = [float(sequence.GetNthIndexValue(index)) for index in range(sequence.GetNumberOfDataNodes())]
        self.browser.SetSelectedItemNumber(min(range(len(times)), key=lambda index: abs(times[index] - time)))
