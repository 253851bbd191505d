# SPDX-License-Identifier: Apache-2.0
"""What an output was made from, as references of its node, which are saved with the scene."""

from __future__ import annotations

from dataclasses import fields

import slicer

from .inputs import Inputs
from .outputs import NEW, OutputNodes

_FIXED, _SOURCE = "DeepFLASH.fixed", "DeepFLASH.source"
# The input that an output is a version of, where that is not the moving volume.
_SOURCES = {"segmentation": "movingSegmentation", "markups": "movingMarkups", "model": "movingModel"}


def markOutputs(nodes: OutputNodes, inputs: Inputs) -> None:
    """Remembers in each output node what it was made from."""
    for _, node, source in _pairs(nodes, inputs):
        if source is not None:
            node.SetNodeReferenceID(_FIXED, inputs.fixedVolume.GetID())
            node.SetNodeReferenceID(_SOURCE, source.GetID())


def foreignOutputs(nodes: OutputNodes, inputs: Inputs) -> list[str]:
    """Names of the outputs that were made from other inputs: to write into them would lose another result."""
    found = []
    for name, node, source in _pairs(nodes, inputs):
        own = (node.GetNodeReference(_FIXED), node.GetNodeReference(_SOURCE))
        if node.GetNodeReferenceID(_SOURCE) is not None and (own[0] is not inputs.fixedVolume or own[1] is not source):
            found.append(name)
    return found


def _pairs(nodes: OutputNodes, inputs: Inputs) -> list[tuple[str, slicer.vtkMRMLNode, slicer.vtkMRMLNode | None]]:
    found = []
    for each in fields(nodes):
        node = getattr(nodes, each.name)
        if node is not None and node != NEW:
            found.append((each.name, node, getattr(inputs, _SOURCES.get(each.name, "movingVolume"))))
    return found
