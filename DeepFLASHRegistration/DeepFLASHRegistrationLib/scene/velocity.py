# SPDX-License-Identifier: Apache-2.0
"""The velocity of a result in the scene: from it the map can be computed again, at any time and on any grid.

It is kept as a text node (up to about a MB) that the transform refers to, saved with the scene like any other node. The
text is that of the bytes of velocity.safetensors in a result folder, base64: one format, one reader, one checksum. It
holds besides how the result came about, so that its report can be made again.
"""

from __future__ import annotations

import base64
import binascii
import tempfile
import zlib
from pathlib import Path
from typing import Any

import slicer

from ..results.velocity import VELOCITY, SavedResult, load_result, write_velocity
from ..support.errors import InputError
from .translation import tr as _

VELOCITY_ROLE = "DeepFLASH.velocity"
# Of a transform whose map is no geodesic.
DENSE_ATTRIBUTE = "DeepFLASH.dense"


def velocityText(result: Any) -> str:
    """The velocity of a registration.result.Result as text."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / VELOCITY
        write_velocity(path, result, history=True)
        return base64.b64encode(path.read_bytes()).decode("ascii")


def hasVelocity(transform: slicer.vtkMRMLTransformNode | None) -> bool:
    """Whether a transform's geodesic can be computed from what is in the scene."""
    return transform is not None and transform.GetNodeReference(VELOCITY_ROLE) is not None


def fingerprint(transform: slicer.vtkMRMLTransformNode) -> str:
    """Equal for equal velocities; empty without one."""
    return (
        f"{zlib.crc32(transform.GetNodeReference(VELOCITY_ROLE).GetText().encode()):08x}"
        if hasVelocity(transform)
        else ""
    )


def savedResult(transform: slicer.vtkMRMLTransformNode) -> SavedResult:
    """The geodesic of a result's transform, and the grids it was found on.

    Raises:
        InputError: it is not in the scene, or damaged.
    """
    if not hasVelocity(transform) and transform.GetAttribute(DENSE_ATTRIBUTE):
        raise InputError(
            _(
                "The map of {transform} is no geodesic: there is no way to it in time, and nothing from which it could "
                "be computed anew. Register again as a geodesic."
            ).format(transform=transform.GetName())
        )
    if not hasVelocity(transform):
        raise InputError(
            _("The scene holds no velocity for {transform}. Register again.").format(transform=transform.GetName())
        )
    node = transform.GetNodeReference(VELOCITY_ROLE)
    try:
        content = base64.b64decode(node.GetText(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(
            _("{name} holds no velocity ({error}). Register again.").format(name=node.GetName(), error=error)
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / VELOCITY
        path.write_bytes(content)
        try:
            return load_result(path)
        except InputError as error:
            raise InputError(
                _("{name} holds no velocity of this program. Register again.").format(name=node.GetName())
            ) from error
