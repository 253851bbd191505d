# SPDX-License-Identifier: Apache-2.0
"""The fixed image alone, below what is drawn over it."""

from __future__ import annotations

import slicer

from .framing import showInSlices
from .toggle import Toggle


class Ground(Toggle):
    """The fixed image in all slice views, and nothing else of volumes."""

    usesLayers = True

    def __init__(self, fixedVolume: slicer.vtkMRMLScalarVolumeNode) -> None:
        super().__init__(fixedVolume.GetScene())
        self.fixed = fixedVolume

    def _show(self) -> None:
        showInSlices(self.changes, self.scene, self.fixed)
