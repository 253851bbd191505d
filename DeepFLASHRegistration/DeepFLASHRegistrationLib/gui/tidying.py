# SPDX-License-Identifier: Apache-2.0
"""What a deleted result leaves behind is removed, a moment later."""

from __future__ import annotations

import slicer

from ..scene.companions import removeOrphans
from .delayed import delayed


class Tidying:
    """Looks after a scene for as long as it exists."""

    def __init__(self, scene: slicer.vtkMRMLScene) -> None:
        self._scene = scene
        # Not at once: Slicer may be in the middle of removing a whole folder.
        self._timer = timer = delayed(self._tidy, msec=0)
        self._tag = scene.AddObserver(slicer.vtkMRMLScene.NodeRemovedEvent, lambda *_: timer.start())

    def close(self) -> None:
        """No longer."""
        self._scene.RemoveObserver(self._tag)
        self._timer.stop()

    def _tidy(self) -> None:
        if not self._scene.IsClosing() and not self._scene.IsBatchProcessing():
            removeOrphans(self._scene)
