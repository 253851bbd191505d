# SPDX-License-Identifier: Apache-2.0
"""The transform of a series follows the item that its browser shows, a moment later."""

from __future__ import annotations

import logging
from typing import Any

import slicer
import vtk

from ..process.runner import Run
from ..scene.series import ItemTransformRun, behind, seriesTransforms
from ..scene.velocity import VELOCITY_ROLE
from ..support.errors import InputError
from .delayed import delayed
from .torch_installation import torch_is_installed

# Items that follow each other faster, as they are played, are passed over.
_MSEC = 300


class SeriesFollowing:
    """Looks after a scene for as long as it exists. What is shown when a scene is loaded is as it was saved."""

    def __init__(self, scene: slicer.vtkMRMLScene, logic: Any) -> None:
        """`logic` starts runs."""
        self._scene, self._logic = scene, logic
        self._timer = delayed(self._follow, _MSEC)
        self._looking = delayed(self._look, 0)
        self._tags: dict[vtk.vtkObject, list[int]] = {}
        for event in (scene.NodeAddedEvent, scene.EndImportEvent):
            self._observe(scene, event, self._looking)

    def start(self) -> None:
        """Looks whether something is to be followed; a moment after the last call."""
        self._timer.start()

    def close(self) -> None:
        """No longer."""
        for each, tags in self._tags.items():
            for tag in tags:
                each.RemoveObserver(tag)
        self._tags = {}
        self._timer.stop()
        self._looking.stop()

    def _observe(self, each: vtk.vtkObject, event: Any, timer: Any) -> None:
        self._tags.setdefault(each, []).append(each.AddObserver(event, lambda *_event: timer.start()))

    def _look(self) -> None:
        """Observes the velocities of what is shown."""
        velocities = [each.GetNodeReference(VELOCITY_ROLE) for each in seriesTransforms(self._scene)]
        for gone in [each for each in self._tags if each is not self._scene and each not in velocities]:
            for tag in self._tags.pop(gone):
                gone.RemoveObserver(tag)
        for each in velocities:
            if each not in self._tags:
                self._observe(each, vtk.vtkCommand.ModifiedEvent, self._timer)

    def _follow(self) -> None:
        if not torch_is_installed() or self._scene.IsClosing():
            return
        if self._logic.current is not None:
            self.start()  # later
            return
        transform = behind(self._scene)
        if transform is None:
            return
        try:
            self._logic.start(ItemTransformRun(transform), waitForCompletion=False).on_end(self._onEnd)
        except (InputError, RuntimeError) as error:
            logging.error("DeepFLASH: the transform %s does not follow: %s", transform.GetName(), error)

    def _onEnd(self, run: Run) -> None:
        if run.state == "done":
            self.start()  # there may be others
