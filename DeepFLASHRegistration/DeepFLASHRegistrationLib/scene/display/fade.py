# SPDX-License-Identifier: Apache-2.0
"""The warped image over the fixed one, as much of it as wanted."""

from __future__ import annotations

import slicer

from .framing import showInSlices
from .toggle import Toggle
from .views import setForegroundOpacity, userComposites


class Fade(Toggle):
    """Fixed below, warped above it, in linked slice views; what a result is first looked at with."""

    usesLayers = True

    def __init__(
        self,
        fixedVolume: slicer.vtkMRMLScalarVolumeNode,
        warpedVolume: slicer.vtkMRMLScalarVolumeNode,
        opacity: float = 0.5,
    ) -> None:
        """`opacity`: of the warped volume, 0 to 1."""
        super().__init__(fixedVolume.GetScene())
        self.fixed, self.warped, self.opacity = fixedVolume, warpedVolume, opacity

    def setOpacity(self, opacity: float) -> None:
        """Shows more or less of the warped volume, also while shown."""
        self.opacity = opacity
        if self.isShown:
            setForegroundOpacity(self.changes, self.scene, opacity)

    def _show(self) -> None:
        showInSlices(self.changes, self.scene, self.fixed, self.warped, self.opacity)
        for composite in userComposites(self.scene):
            self.changes.set(composite, "LinkedControl", 1)
