# SPDX-License-Identifier: Apache-2.0
"""What comes with the nodes of a result and is of no use without them: it goes when they go.

Slicer removes what a user deletes, and leaves what that referred to: how it was displayed and stored, the velocity of a
transform, the series and the tables of a chart.
"""

from __future__ import annotations

import slicer

from .hierarchy import removeEmptyResults
from .sequence import removeLostGeodesics

_COMPANION = "DeepFLASH.companion"


def markCompanion(node: slicer.vtkMRMLNode) -> None:
    """This node is of no use if no other refers to it."""
    node.SetAttribute(_COMPANION, "1")


def markDisplayAndStorage(node: slicer.vtkMRMLNode) -> None:
    """Neither are the nodes that say how this one is displayed and stored."""
    if node.IsA("vtkMRMLStorableNode"):
        for index in range(node.GetNumberOfStorageNodes()):
            markCompanion(node.GetNthStorageNode(index))
    if node.IsA("vtkMRMLDisplayableNode"):
        for index in range(node.GetNumberOfDisplayNodes()):
            markCompanion(node.GetNthDisplayNode(index))


def removeOrphans(scene: slicer.vtkMRMLScene) -> None:
    """Removes companions that no node refers to any more, geodesics of transforms that are gone, and empty folders."""
    removeLostGeodesics(scene)
    while True:
        nodes = [scene.GetNthNode(index) for index in range(scene.GetNumberOfNodes())]
        orphans = [node for node in nodes if node.GetAttribute(_COMPANION)]
        if orphans:
            known = _referenced(nodes)
            orphans = [node for node in orphans if node.GetID() not in known]
        if not orphans:
            break
        for node in orphans:
            scene.RemoveNode(node)
    removeEmptyResults(scene)


def _referenced(nodes: list[slicer.vtkMRMLNode]) -> set[str]:
    """IDs of the nodes that others refer to."""
    found = set()
    for node in nodes:
        roles: list[str] = []
        node.GetNodeReferenceRoles(roles)
        for role in roles:
            for index in range(node.GetNumberOfNodeReferences(role)):
                found.add(node.GetNthNodeReferenceID(role, index))
        if node.IsA("vtkMRMLDisplayNode"):  # the one reference to a companion that has no role
            found.add(node.GetColorNodeID())
    return found
