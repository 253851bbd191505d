# SPDX-License-Identifier: Apache-2.0
"""What an output was made from, as references of its node, which are saved with the scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import slicer

from .hierarchy import isResult, parentOf
from .inputs import Inputs
from .outputs import NEW, OutputNodes

_FIXED, _MOVING, _SOURCE = "DeepFLASH.fixed", "DeepFLASH.moving", "DeepFLASH.source"
_OUTPUT = "DeepFLASH.output"  # which of OutputNodes
# The input that an output is a version of, where that is not the moving volume.
_SOURCES = {"segmentation": "movingSegmentation", "markups": "movingMarkups", "model": "movingModel"}


def markOutputs(nodes: OutputNodes, inputs: Inputs) -> None:
    """Remembers in each output node what it was made from."""
    for name, node, source in _pairs(nodes, inputs):
        if source is not None:
            node.SetAttribute(_OUTPUT, name)
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


def resultOf(inputs: Inputs) -> OutputNodes:
    """The newest result of these inputs in the scene, as outputs to update; NEW for what it does not hold."""
    found: dict[int, OutputNodes] = {}
    if inputs.fixedVolume is not None and inputs.movingVolume is not None:
        scene = inputs.fixedVolume.GetScene()
        for node in (scene.GetNthNode(index) for index in range(scene.GetNumberOfNodes())):
            name = node.GetAttribute(_OUTPUT)
            if name in OutputNodes.__dataclass_fields__ and not foreignOutputs(OutputNodes(**{name: node}), inputs):
                setattr(found.setdefault(parentOf(node), OutputNodes()), name, node)
    folders = [item for item in found if isResult(inputs.fixedVolume.GetScene(), item)]
    return found[max(folders)] if folders else OutputNodes()


def settledOutputs(outputs: OutputNodes, inputs: Inputs, pairChanged: bool, taken: Sequence[Any] = ()) -> OutputNodes:
    """The outputs to write to after inputs were chosen.

    Those of another pair become NEW; and when it is another pair than before, its newest result is updated by the next
    run instead of piling up a second one. A result with a node that is `taken` is left alone.
    """
    changes: dict[str, Any] = dict.fromkeys(foreignOutputs(outputs, inputs), NEW)
    if pairChanged:
        known = resultOf(inputs)
        nodes = [getattr(known, each.name) for each in fields(known) if getattr(known, each.name) != NEW]
        if not any(node is other for node in nodes for other in taken):
            for each in fields(known):
                if (changes.get(each.name) or getattr(outputs, each.name)) == NEW:
                    changes[each.name] = getattr(known, each.name)
    return replace(outputs, **changes)


def _pairs(nodes: OutputNodes, inputs: Inputs) -> list[tuple[str, slicer.vtkMRMLNode, slicer.vtkMRMLNode | None]]:
    found = []
    for each in fields(nodes):
        node = getattr(nodes, each.name)
        if node is not None and node != NEW:
            found.append((each.name, node, getattr(inputs, _SOURCES.get(each.name, "movingVolume"))))
    return found
