# SPDX-License-Identifier: Apache-2.0
"""Where nodes stand in the subject hierarchy: a result has a folder of its own, which is deleted as a whole."""

from __future__ import annotations

from collections.abc import Iterable

import slicer

_RESULT = "DeepFLASH.result"  # attribute of the folders made here


def hierarchyOf(scene: slicer.vtkMRMLScene) -> slicer.vtkMRMLSubjectHierarchyNode | None:
    """The subject hierarchy of a scene."""
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)


def parentOf(node: slicer.vtkMRMLNode) -> int:
    """The item that a node lies in (study, folder); the scene's where it has none."""
    hierarchy = hierarchyOf(node.GetScene())
    item = hierarchy.GetItemByDataNode(node)
    return hierarchy.GetItemParent(item) if item != hierarchy.GetInvalidItemID() else hierarchy.GetSceneItemID()


def placeIn(node: slicer.vtkMRMLNode, parent: int) -> None:
    """Puts a node into an item."""
    hierarchy = hierarchyOf(node.GetScene())
    own = hierarchy.GetItemByDataNode(node)
    if own == hierarchy.GetInvalidItemID():
        hierarchy.CreateItem(parent, node)
    else:
        hierarchy.SetItemParent(own, parent)


def resultFolder(nodes: Iterable[slicer.vtkMRMLNode], neighbor: slicer.vtkMRMLNode, name: str) -> tuple[int, bool]:
    """The folder of the result that one of these nodes belongs to, or a new one beside a neighbor; and whether it is
    new. A name that is taken there gets a number."""
    hierarchy = hierarchyOf(neighbor.GetScene())
    for node in nodes:
        parent = parentOf(node)
        if hierarchy.HasItemAttribute(parent, _RESULT):
            return parent, False
    beside = parentOf(neighbor)
    if hierarchy.HasItemAttribute(beside, _RESULT):  # the fixed image is itself a result
        beside = hierarchy.GetItemParent(beside)
    siblings: list[int] = []
    hierarchy.GetItemChildren(beside, siblings, False)
    # Nodes may be called as they like, and a new transform is called as its pair.
    taken = {hierarchy.GetItemName(item) for item in siblings if hierarchy.GetItemDataNode(item) is None}
    unique, count = name, 1
    while unique in taken:
        count += 1
        unique = f"{name} ({count})"
    folder = hierarchy.CreateFolderItem(beside, unique)
    hierarchy.SetItemAttribute(folder, _RESULT, "1")
    return folder, True


def isResult(scene: slicer.vtkMRMLScene, item: int) -> bool:
    """Whether an item is the folder of a result."""
    return hierarchyOf(scene).HasItemAttribute(item, _RESULT)


def removeEmptyResults(scene: slicer.vtkMRMLScene) -> None:
    """Removes the folders of results that hold no node any more."""
    hierarchy = hierarchyOf(scene)
    for item in _below(hierarchy, hierarchy.GetSceneItemID()):
        if hierarchy.HasItemAttribute(item, _RESULT):
            nodes = [hierarchy.GetItemDataNode(child) for child in _below(hierarchy, item)]
            # Without Slicer's window the items of removed nodes stay.
            if not any(node is not None and node.GetScene() is scene for node in nodes):
                hierarchy.RemoveItem(item, False, True)


def _below(hierarchy: slicer.vtkMRMLSubjectHierarchyNode, item: int) -> list[int]:
    items: list[int] = []
    hierarchy.GetItemChildren(item, items, True)
    return items
