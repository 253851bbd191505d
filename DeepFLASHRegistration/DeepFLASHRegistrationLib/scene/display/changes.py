# SPDX-License-Identifier: Apache-2.0
"""Changes of nodes that can be taken back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import slicer

from ..geometry import arrayFromVtkMatrix

_SETTERS = {"TransformNodeID": "SetAndObserveTransformNodeID"}


def placementOf(sliceNode: slicer.vtkMRMLSliceNode) -> tuple[float, ...]:
    """Where a slice view looks: the 16 elements of its matrix, the height of its field of view and its origin (3).

    The width follows from the height and the pixels of the view: Slicer changes it whenever the view is resized, as it
    is when another layout is chosen, so that it says nothing of what someone wants to see.
    """
    matrix = arrayFromVtkMatrix(sliceNode.GetSliceToRAS())
    return (*matrix.ravel().tolist(), sliceNode.GetFieldOfView()[1], *sliceNode.GetXYZOrigin())


def _place(sliceNode: slicer.vtkMRMLSliceNode, *placement: float) -> None:
    modifying = sliceNode.StartModify()
    sliceNode.GetSliceToRAS().DeepCopy(placement[:16])
    width, height = (max(size, 1) for size in sliceNode.GetDimensions()[:2])
    extent = placement[16]
    sliceNode.SetFieldOfView(extent * width / height, extent, sliceNode.GetFieldOfView()[2])
    sliceNode.SetXYZOrigin(*placement[17:])
    sliceNode.UpdateMatrices()
    sliceNode.EndModify(modifying)


def _color(display: slicer.vtkMRMLDisplayNode, identifier: str | None) -> None:
    if identifier:
        display.SetAndObserveColorNodeID(identifier)
    else:  # what it had is gone, and without any it cannot be shown
        display.SetDefaultColorMap()


# What no single Get and Set of a node covers.
_COMPOUND = {
    "ColorNodeID": (lambda node: node.GetColorNodeID(), _color),
    "WindowLevel": (lambda node: (node.GetWindow(), node.GetLevel()), lambda node, *value: node.SetWindowLevel(*value)),
    "Placement": (placementOf, _place),
}


class Changes:
    """Sets properties of nodes, and gives back what they were.

    A property that someone else has changed in the meantime keeps that newer value: it is what the user wants now.
    """

    def __init__(self) -> None:
        self._changes: dict[tuple[str, str], _Change] = {}
        self._held: dict[slicer.vtkMRMLNode, int] | None = None

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is set inside is told once for each node, at the end: views draw anew only then, not at each change."""
        if self._held is not None:  # within another one
            yield
            return
        self._held = {}
        try:
            yield
        finally:
            held, self._held = self._held, None
            for node, modifying in held.items():
                node.EndModify(modifying)

    def _hold(self, node: slicer.vtkMRMLNode) -> None:
        if self._held is not None and node not in self._held:
            self._held[node] = node.StartModify()

    def set(self, node: slicer.vtkMRMLNode, name: str, *value: Any, key: Any = ()) -> None:
        """Calls node.Set<name>(*key, *value), remembering node.Get<name>(*key) from before the first such call.

        "WindowLevel" of display nodes and "Placement" of slice nodes (see placementOf) are set as a whole.
        """

        def get() -> Any:
            return _COMPOUND[name][0](node) if name in _COMPOUND else getattr(node, f"Get{name}")(*key)

        def put(*wanted: Any) -> None:
            if name in _COMPOUND:
                _COMPOUND[name][1](node, *wanted)
            else:
                getattr(node, _SETTERS.get(name, f"Set{name}"))(*key, *wanted)

        identity = (node.GetID(), f"{name}{key}")
        known = self._changes.get(identity)
        before = known.before if known is not None else _plain(get())
        self._hold(node)
        put(*value)
        self._changes[identity] = _Change(node, get, put, before, _plain(get()))

    def giveBack(self, butNot: Sequence[slicer.vtkMRMLNode] = ()) -> None:
        """Restores everything, the newest first. `butNot`: nodes that go now, so that it would be in vain."""
        with self.together():
            for change in reversed(list(self._changes.values())):
                scene = change.node.GetScene()
                if scene is None or change.node in butNot or _plain(change.get()) != change.after:
                    continue
                before = change.before
                if isinstance(before, str) and before.startswith("vtkMRML") and scene.GetNodeByID(before) is None:
                    before = None  # the node that was shown is gone
                self._hold(change.node)
                change.put(*before if isinstance(before, tuple) else (before,))
        self._changes.clear()


class _Change:
    def __init__(
        self, node: slicer.vtkMRMLNode, get: Callable[[], Any], put: Callable[..., None], before: Any, after: Any
    ) -> None:
        self.node, self.get, self.put, self.before, self.after = node, get, put, before, after


def _plain(value: Any) -> Any:
    """A value that does not follow the node: VTK's vectors as tuples."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return tuple(value[index] for index in range(len(value) if hasattr(value, "__len__") else value.GetSize()))
