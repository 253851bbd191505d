# SPDX-License-Identifier: Apache-2.0
"""Where nodes stand in the subject hierarchy."""

from __future__ import annotations

import slicer


def placeBeside(node: slicer.vtkMRMLNode, neighbor: slicer.vtkMRMLNode) -> None:
    """Puts a node under the parent (study, folder) that `neighbor` has in the subject hierarchy."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    if hierarchy is None:
        return
    invalid = hierarchy.GetInvalidItemID()
    item = hierarchy.GetItemByDataNode(neighbor)
    parent = hierarchy.GetItemParent(item) if item != invalid else hierarchy.GetSceneItemID()
    own = hierarchy.GetItemByDataNode(node)
    if own == invalid:
        hierarchy.CreateItem(parent, node)
    else:
        hierarchy.SetItemParent(own, parent)
