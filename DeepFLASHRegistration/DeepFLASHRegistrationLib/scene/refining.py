# SPDX-License-Identifier: Apache-2.0
"""Going on from a result in the scene: with landmarks or structures that were placed since, where it is wrong."""

from __future__ import annotations

import slicer

from ..problem.parameters import Parameters
from ..results.starts import Start, refining
from ..support.errors import InputError
from .checks import HINT, Check
from .geometry import gridFromVolume
from .inputs import Inputs
from .stamps import Stamps
from .translation import tr as _
from .velocity import DENSE_ATTRIBUTE, hasVelocity, savedResult


def cannotRefine(transform: slicer.vtkMRMLTransformNode | None, inputs: Inputs, parameters: Parameters) -> str:
    """Why a registration of these inputs cannot go on from a result, as far as that is seen at once; empty if it can.

    Args:
        transform: that of the result (OutputNodes.transform).
    """
    if transform is None or transform.GetScene() is None:
        return _("There is no result yet. Register first.")
    name = transform.GetName()
    if not hasVelocity(transform):
        if transform.GetAttribute(DENSE_ATTRIBUTE):
            return _("The map of {name} is no geodesic, from which FLASH could go on. Register as a geodesic.").format(
                name=name
            )
        return _("The scene holds no velocity for {name}. Register again.").format(name=name)
    roles = transform.GetFixedNodeReferenceRole(), transform.GetMovingNodeReferenceRole()
    if [transform.GetNodeReference(role) for role in roles] != [inputs.fixedVolume, inputs.movingVolume]:
        return _("{name} is the result of other volumes. Choose those, or register these first.").format(name=name)
    if parameters.method != "flash":
        return _("Only FLASH goes on from a result, not the method {method}. Choose the method flash.").format(
            method=parameters.method
        )
    return ""


def hints(transform: slicer.vtkMRMLTransformNode | None, inputs: Inputs, parameters: Parameters) -> list[Check]:
    """What would make no difference to a result that can be refined, though it was chosen."""
    if inputs.fixedMarkups is None or inputs.movingMarkups is None or parameters.landmark_weight:
        return []
    if cannotRefine(transform, inputs, parameters):
        return []
    text = _(
        "The landmarks of both volumes are compared, but do not steer: their weight is 0. Refine would not follow them."
    )
    return [Check("landmarks", HINT, text, {"landmark_weight": 1.0}, _("Let them steer"))]


def refinement(transform: slicer.vtkMRMLTransformNode, inputs: Inputs, parameters: Parameters) -> Start:
    """How a registration goes on from a result of the same volumes, in its alignment.

    Raises:
        InputError: it cannot, or one of the volumes has changed since.
    """
    if reason := cannotRefine(transform, inputs, parameters):
        raise InputError(reason)
    if inputs.initialTransform is not None:
        raise InputError(_("A result is refined in its own alignment. Leave the initial transform out."))
    for check in Stamps().changed(transform):
        raise InputError(check.text)
    saved = savedResult(transform)
    for volume, grid in ((inputs.fixedVolume, saved.fixed_grid), (inputs.movingVolume, saved.moving_grid)):
        if not gridFromVolume(volume).same_as(grid):
            raise InputError(
                _("{name} does not lie where it lay when it was registered. Move it back, or register again.").format(
                    name=volume.GetName()
                )
            )
    return refining(saved.deformation, transform.GetName(), parameters)
