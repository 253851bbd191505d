# SPDX-License-Identifier: Apache-2.0
"""Something that is shown, or not."""

from __future__ import annotations

import slicer

from .changes import Changes


class Toggle:
    """Base of all displays: show, hide, and be as if nothing had been.

    Subclasses implement `_show`, changing nodes through `self.changes` and creating them through `self.temporary`.
    """

    # Displays that decide what the slice views show exclude each other (see Displays).
    usesLayers = False

    def __init__(self, scene: slicer.vtkMRMLScene) -> None:
        self.scene = scene
        self.changes = Changes()
        self.isShown = False
        self._temporary: list[slicer.vtkMRMLNode] = []

    def show(self) -> None:
        """Shows it; does nothing if it is shown already. If that fails, nothing is changed."""
        if self.isShown:
            return
        self.isShown = True
        try:
            self._show()
        except BaseException:
            self.hide()
            raise
        for display in self._temporaryDisplays():
            modifying = display.GetDisableModifiedEvent()
            display.SetDisableModifiedEvent(True)  # the views, which would draw it anew, have nothing to see of this
            display.SetSaveWithScene(False)
            display.SetDisableModifiedEvent(modifying)

    def _temporaryDisplays(self) -> list[slicer.vtkMRMLDisplayNode]:
        return [display for node in self._temporary for display in _displayNodes(node)]

    def hide(self) -> None:
        """Takes it away and restores what was there before; safe when the scene has been closed since."""
        if not self.isShown:
            return
        self.isShown = False
        self.changes.giveBack(butNot=[*self._temporary, *self._temporaryDisplays()])
        for node in reversed(self._temporary):
            displays = _displayNodes(node)
            self._remove(node)  # first: without it, its displays would be gone through part by part
            for display in displays:
                self._remove(display)
        self._temporary.clear()

    def temporary(self, className: str, name: str) -> slicer.vtkMRMLNode:
        """A node that lives while this is shown."""
        node = self.scene.CreateNodeByClass(className)
        node.UnRegister(None)  # CreateNodeByClass hands over a reference of its own
        node.SetName(self.scene.GenerateUniqueName(name))
        return self.keepTemporary(self.scene.AddNode(node))

    def keepTemporary(self, node: slicer.vtkMRMLNode) -> slicer.vtkMRMLNode:
        """Removes the node when this is hidden, and does not save it with the scene."""
        node.SetSaveWithScene(False)
        self._temporary.append(node)
        return node

    def _remove(self, node: slicer.vtkMRMLNode | None) -> None:
        if node is not None and node.GetScene() is not None:
            self.scene.RemoveNode(node)

    def _show(self) -> None:
        raise NotImplementedError


def _displayNodes(node: slicer.vtkMRMLNode) -> list[slicer.vtkMRMLDisplayNode]:
    count = node.GetNumberOfDisplayNodes() if node.IsA("vtkMRMLDisplayableNode") else 0
    return [node.GetNthDisplayNode(index) for index in range(count)]


class Displays:
    """Toggles by name; those that decide what the slice views show exclude each other.

    What lies over the volumes (a grid, outlines) needs the right ones below it: `ground`, itself a toggle, is shown
    while only such are.
    """

    def __init__(self, ground: Toggle | None = None) -> None:
        self.toggles: dict[str, Toggle] = {}
        self._ground = ground

    def show(self, name: str) -> None:
        """Shows one, and hides first what it cannot be shown together with."""
        wanted = self.toggles[name]
        if wanted.usesLayers:
            self._hideGround()
            for other in self.toggles.values():
                if other is not wanted and other.usesLayers:
                    other.hide()
        try:
            wanted.show()
        finally:
            self._settle()

    def hide(self, name: str) -> None:
        """Hides one."""
        self.toggles[name].hide()
        self._settle()

    def hideAll(self) -> None:
        """Hides all, e.g. because the scene is closed or another result is chosen."""
        for toggle in reversed(list(self.toggles.values())):
            toggle.hide()
        self._hideGround()

    def _settle(self) -> None:
        shown = [toggle for toggle in self.toggles.values() if toggle.isShown]
        if self._ground is not None and shown and not any(toggle.usesLayers for toggle in shown):
            self._ground.show()
        else:
            self._hideGround()

    def _hideGround(self) -> None:
        if self._ground is not None:
            self._ground.hide()
