# SPDX-License-Identifier: Apache-2.0
"""Fixed and warped in turns at the same place."""

from __future__ import annotations

import slicer

from .framing import showInSlices
from .toggle import Toggle
from .views import setForegroundOpacity


class Flicker(Toggle):
    """Shows the fixed image; each `step` switches between it and the warped one. A timer (or a person) steps."""

    usesLayers = True

    def __init__(
        self, fixedVolume: slicer.vtkMRMLScalarVolumeNode, warpedVolume: slicer.vtkMRMLScalarVolumeNode
    ) -> None:
        super().__init__(fixedVolume.GetScene())
        self.fixed, self.warped = fixedVolume, warpedVolume
        self.showsWarped = False

    def _show(self) -> None:
        self.showsWarped = False
        showInSlices(self.changes, self.scene, self.fixed, self.warped, 0.0)

    def step(self) -> None:
        """Shows the other image; does nothing while hidden."""
        if not self.isShown:
            return
        self.showsWarped = not self.showsWarped
        setForegroundOpacity(self.changes, self.scene, 1.0 if self.showsWarped else 0.0)
