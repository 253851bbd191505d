# SPDX-License-Identifier: Apache-2.0
"""What an output was made from, as references of its node, which are saved with the scene."""

from __future__ import annotations

from dataclasses import fields

import slicer

from .inputs import Inputs
from .outputs import NEW, OutputNodes

_FIXED, _MOVING, _SOURCE = "DeepFLASH.fixed", "DeepFLASH.moving", "DeepFLASH.source"
# The input that an output is a version of, where that is not the moving volume.
_SOURCES = {"segmentation": "movingSegmentation", "markups": "movingMarkups", "model": "movingModel"}


def markOutputs(nodes: OutputNodes, inputs: Inputs) -> None:
    """Remembers in each output node what it was made from."""
    for _, node, source in _pairs(nodes, inputs):
        if source is not None:
            node.SetNodeReferenceID(_FIXED, inputs.fixedVolume.GetID())
            node.SetNodeReferenceID(_MOVING, inputs.movingVolume.GetID())
            node.SetNodeReferenceID(_SOURCE, source.GetID())


def foreignOutputs(nodes: OutputNodes, inputs: Inputs) -> list[str]:
    """Names of the outputs that were made from other inputs: to write into them would lose another result."""
    found = []
    for name, node, source in _pairs(nodes, inputs):
        known = {_FIXED: inputs.fixedVolume, _MOVING: inputs.movingVolume, _SOURCE: source}
        # A scene of an earlier version has fewer of these references.
        made = [role for role in known if node.GetNodeReferenceID(role) is not None]
        if any(node.GetNodeReference(role) is not known[role] for role in made):
            found.append(name)
    return found


def _pairs(nodes: OutputNodes, inputs: Inputs) -> list[tuple[str, slicer.vtkMRMLNode, slicer.vtkMRMLNode | None]]:
    found = []
    for each in fields(nodes):
        node = getattr(nodes, each.name)
        if node is not None and node != NEW:
            found.append((each.name, node, getattr(inputs, _SOURCES.get(each.name, "movingVolume"))))
    return found
