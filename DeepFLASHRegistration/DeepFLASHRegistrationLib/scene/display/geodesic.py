# SPDX-License-Identifier: Apache-2.0
"""The moving image on its way along the geodesic."""

from __future__ import annotations

import slicer

from ..sequence import proxyTransform
from .toggle import Toggle
from .views import showInSlices


class GeodesicDisplay(Toggle):
    """Puts the moving volume under the geodesic's transform: scrubbing t deforms it, without a copy of it."""

    usesLayers = True

    def __init__(
        self,
        browser: slicer.vtkMRMLSequenceBrowserNode,
        fixedVolume: slicer.vtkMRMLScalarVolumeNode,
        movingVolume: slicer.vtkMRMLScalarVolumeNode,
    ) -> None:
        """`browser`: from createGeodesicSequence for these volumes."""
        super().__init__(fixedVolume.GetScene())
        self.browser, self.fixed, self.moving = browser, fixedVolume, movingVolume

    def _show(self) -> None:
        self.changes.set(self.moving, "TransformNodeID", proxyTransform(self.browser).GetID())
        # On the fixed image, so that fading between the two is a matter of the views' own slider.
        showInSlices(self.changes, self.scene, self.fixed, self.moving, 1.0)

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
