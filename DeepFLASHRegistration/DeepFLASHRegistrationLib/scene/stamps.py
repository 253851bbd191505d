# SPDX-License-Identifier: Apache-2.0
"""Whether the images of a result are still what was registered."""

from __future__ import annotations

import json
import zlib

import numpy as np
import slicer
import vtk

from .arrays import arrayFromImage
from .checks import WARNING, Check
from .geometry import arrayFromVtkMatrix
from .translation import tr as _

STAMPS_ATTRIBUTE = "DeepFLASH.Images"
_SAME_PLACE = 1e-3  # mm: files round where voxels lie


class Stamps:
    """What tells images from what they were: a checksum of the voxels, and where they lie without their parents.

    Checksums are remembered as long as the voxels are not modified.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, int, int]] = {}

    def of(self, volume: slicer.vtkMRMLScalarVolumeNode) -> dict[str, object]:
        """The stamp of a volume."""
        image, matrix = volume.GetImageData(), vtk.vtkMatrix4x4()
        volume.GetIJKToRASMatrix(matrix)
        now = image.GetAddressAsString(""), image.GetMTime()
        known = self._known.get(volume.GetID())
        if known is None or known[:2] != now:
            known = *now, zlib.crc32(np.ascontiguousarray(arrayFromImage(image)))
            self._known[volume.GetID()] = known
        return {"voxels": known[2], "place": arrayFromVtkMatrix(matrix).ravel().tolist()}

    def changed(self, transform: slicer.vtkMRMLTransformNode | None) -> list[Check]:
        """What to say of a result, given its transform, whose images are not what they were."""
        text = transform.GetAttribute(STAMPS_ATTRIBUTE) if transform is not None else None
        found = []
        for role, before in json.loads(text).items() if text else ():
            volume = transform.GetNodeReference(role)
            image = volume.GetImageData() if volume is not None else None
            if image is None or image.GetPointData().GetScalars() is None or _same(self.of(volume), before):
                continue
            text = _(
                "{name} is not as it was when it was registered: the result that is shown is of what it was. Register "
                "again."
            ).format(name=volume.GetName())
            found.append(Check("result", WARNING, text))
        return found


def _same(now: dict[str, object], before: dict[str, object]) -> bool:
    return now["voxels"] == before["voxels"] and np.allclose(now["place"], before["place"], atol=_SAME_PLACE)


def keepStamps(transform: slicer.vtkMRMLTransformNode, fixed: dict[str, object], moving: dict[str, object]) -> None:
    """Keeps with the transform of a result what its images were."""
    roles = transform.GetFixedNodeReferenceRole(), transform.GetMovingNodeReferenceRole()
    transform.SetAttribute(STAMPS_ATTRIBUTE, json.dumps(dict(zip(roles, (fixed, moving), strict=True))))
