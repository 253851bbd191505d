# SPDX-License-Identifier: Apache-2.0
"""The files of a result, its report among them, also of one that was loaded with its scene."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import slicer

from ..process.runner import Run
from ..support.errors import InputError
from .inputs import Inputs
from .runs import RegistrationRun, SaveRun
from .translation import tr as _
from .velocity import hasVelocity, savedResult


def reportRun(
    registration: RegistrationRun | None,
    inputs: Inputs,
    transform: slicer.vtkMRMLTransformNode | None,
    folder: str,
) -> Run | None:
    """What writes the files of the result that is shown; None if there is no result of these inputs.

    Args:
        registration: the last one of this session.
        inputs: those that are chosen.
        transform: the result's transform.
    """
    if registration is not None and registration.nodes is not None:
        there = registration.inputs
        same = there.fixedVolume is inputs.fixedVolume and there.movingVolume is inputs.movingVolume
        if same and transform in (None, registration.nodes.transform):
            return SaveRun(registration, folder)
    if not hasVelocity(transform) or inputs.fixedVolume is None or inputs.movingVolume is None:
        return None
    roles = (transform.GetFixedNodeReferenceRole(), transform.GetMovingNodeReferenceRole())
    pair = [transform.GetNodeReference(role) for role in roles]
    return SaveAgainRun(inputs, transform, folder) if pair == [inputs.fixedVolume, inputs.movingVolume] else None


class SaveAgainRun(Run):
    """As SaveRun, of a result that is but in the scene: computed again from its velocity. `value` is the report's path.

    Segmentations, masks and landmarks are those of the inputs.
    """

    task = "save_again"

    def __init__(
        self, inputs: Inputs, transform: slicer.vtkMRMLTransformNode, folder: str, force: bool = False
    ) -> None:
        super().__init__()
        self._inputs, self._transform, self._folder, self._force = inputs, transform, folder, force

    def arguments(self) -> dict[str, Any]:
        """The velocity, its history, the subjects and where to.

        Raises:
            InputError: the scene does not hold what is needed.
        """
        saved = savedResult(self._transform)
        if saved.history is None or saved.parameters is None:
            raise InputError(
                _(
                    "{name} was made by an earlier version, which did not keep all that a report needs. Register again."
                ).format(name=self._transform.GetName())
            )
        names = [each.name for each in fields(saved.deformation) if each.init and each.name != "device"]
        # What the registration started from is known; and it may have been of a kind that another method takes.
        subjects = RegistrationRun(replace(self._inputs, initialTransform=None)).arguments()
        return {
            "velocity": {name: getattr(saved.deformation, name) for name in names},
            "parameters": saved.parameters,
            "history": saved.history,
            "grids": (saved.fixed_grid, saved.moving_grid),
            "fixed": subjects["fixed"],
            "moving": subjects["moving"],
            "folder": self._folder,
            "force": self._force,
        }
