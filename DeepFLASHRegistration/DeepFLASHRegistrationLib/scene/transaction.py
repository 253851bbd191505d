# SPDX-License-Identifier: Apache-2.0
"""All or nothing: changes of the scene that are taken back if one of them fails."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

import slicer
import vtk


class Transaction:
    """Creates nodes and lends nodes for change; on an exception new nodes vanish and lent ones are as before.

    Lent nodes must get new data objects (SetAndObserve...), never be written into: what is kept of them is shallow. As
    long as a transaction is held, so is what its nodes were, and `undo` takes back what it did.

    >>> with Transaction(scene) as transaction:
    ...     node = transaction.create("vtkMRMLScalarVolumeNode", "warped")
    ...     transaction.lend(chosen).SetAndObserveImageData(image)
    """

    def __init__(self, scene: slicer.vtkMRMLScene) -> None:
        self.scene = scene
        self.created: list[slicer.vtkMRMLNode] = []
        self._before: set[str] = set()
        self._new: list[slicer.vtkMRMLNode] = []
        self._lent: dict[str, _Kept] = {}
        self._undo: list[Callable[[], None]] = []

    def __enter__(self) -> Transaction:
        self._before = _nodeIds(self.scene)
        return self

    def create(self, className: str, name: str) -> slicer.vtkMRMLNode:
        """A new node of the scene; the name is made unique."""
        # Slicer's own unique names count names up that were taken once, also if they are free again.
        free = self.scene.GetFirstNodeByName(name) is None
        node = self.scene.AddNewNodeByClass(className, name if free else self.scene.GenerateUniqueName(name))
        self.created.append(node)
        return node

    def lend(self, node: slicer.vtkMRMLNode) -> slicer.vtkMRMLNode:
        """The node, for changing it; its content, references, attributes and display come back on failure."""
        nodes = [node]
        if node.IsA("vtkMRMLDisplayableNode"):
            nodes += [node.GetNthDisplayNode(index) for index in range(node.GetNumberOfDisplayNodes())]
        for each in nodes:
            if each is not None and each.GetID() not in self._lent:
                self._lent[each.GetID()] = _Kept(each)
        return node

    def onFailure(self, undo: Callable[[], None]) -> None:
        """Called on failure, after new nodes have vanished: for what is no node."""
        self._undo.append(undo)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Also what came along with the nodes made here: display nodes, color tables; but the hierarchy is the scene's.
        new = [self.scene.GetNodeByID(each) for each in sorted(_nodeIds(self.scene) - self._before)]
        self._new = [each for each in new if not each.IsA("vtkMRMLSubjectHierarchyNode")]
        if kind is not None:
            self._takeBack(list(self._lent.values()))

    def undo(self) -> None:
        """Takes back what was done, at any time after its end. How nodes are displayed stays as it is by now, and what
        was removed from the scene stays removed."""
        self._takeBack([kept for kept in self._lent.values() if not kept.node.IsA("vtkMRMLDisplayNode")])

    def _takeBack(self, lent: list[_Kept]) -> None:
        for kept in reversed(lent):
            kept.giveBack()
        for node in self._new:
            if node.GetScene() is self.scene:
                self.scene.RemoveNode(node)
        for undo in self._undo:
            undo()


class _Kept:
    """What a node was."""

    def __init__(self, node: slicer.vtkMRMLNode) -> None:
        self.node = node
        self.voxels = None
        if not node.HasCopyContent():  # label map volumes
            matrix = vtk.vtkMatrix4x4()
            node.GetIJKToRASMatrix(matrix)
            self.voxels = (node.GetImageData(), matrix)
        else:
            self.content = node.CreateNodeInstance()
            self.content.UnRegister(None)  # CreateNodeInstance hands over a reference of its own
            self.content.CopyContent(node, False)
        self.attributes = {name: node.GetAttribute(name) for name in node.GetAttributeNames()}
        self.references = {
            role: [node.GetNthNodeReferenceID(role, index) for index in range(node.GetNumberOfNodeReferences(role))]
            for role in _roles(node)
        }

    def giveBack(self) -> None:
        node = self.node
        if node.GetScene() is None:
            return
        modifying = node.StartModify()
        if self.voxels is not None:
            node.SetAndObserveImageData(self.voxels[0])
            node.SetIJKToRASMatrix(self.voxels[1])
        else:
            node.CopyContent(self.content, False)
        for name in set(node.GetAttributeNames()) - set(self.attributes):
            node.RemoveAttribute(name)
        for name, value in self.attributes.items():
            node.SetAttribute(name, value)
        for role in set(_roles(node)) | set(self.references):
            wanted = self.references.get(role, [])
            for index, identifier in enumerate(wanted):
                if node.GetNthNodeReferenceID(role, index) != identifier:
                    node.SetNthNodeReferenceID(role, index, identifier)
            for index in range(node.GetNumberOfNodeReferences(role) - 1, len(wanted) - 1, -1):
                node.RemoveNthNodeReferenceID(role, index)
        node.EndModify(modifying)


def _roles(node: slicer.vtkMRMLNode) -> list[str]:
    roles: list[str] = []
    node.GetNodeReferenceRoles(roles)
    return roles


def _nodeIds(scene: slicer.vtkMRMLScene) -> set[str]:
    return {scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())}
