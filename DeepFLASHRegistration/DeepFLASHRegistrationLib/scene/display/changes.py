# SPDX-License-Identifier: Apache-2.0
"""Changes of nodes that can be taken back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer

from ..geometry import arrayFromVtkMatrix

_SETTERS = {
    "TransformNodeID": "SetAndObserveTransformNodeID",
    "ColorNodeID": "SetAndObserveColorNodeID",
}


def placementOf(sliceNode: slicer.vtkMRMLSliceNode) -> tuple[float, ...]:
    """Where a slice view looks: the 16 elements of its matrix, its field of view (3) and its origin (3)."""
    matrix = arrayFromVtkMatrix(sliceNode.GetSliceToRAS())
    return (*matrix.ravel().tolist(), *sliceNode.GetFieldOfView(), *sliceNode.GetXYZOrigin())


def _place(sliceNode: slicer.vtkMRMLSliceNode, *placement: float) -> None:
    modifying = sliceNode.StartModify()
    sliceNode.GetSliceToRAS().DeepCopy(placement[:16])
    sliceNode.SetFieldOfView(*placement[16:19])
    sliceNode.SetXYZOrigin(*placement[19:])
    sliceNode.UpdateMatrices()
    sliceNode.EndModify(modifying)


# What no single Get and Set of a node covers.
_COMPOUND = {
    "WindowLevel": (lambda node: (node.GetWindow(), node.GetLevel()), lambda node, *value: node.SetWindowLevel(*value)),
    "Placement": (placementOf, _place),
}


class Changes:
    """Sets properties of nodes, and gives back what they were.

    A property that someone else has changed in the meantime keeps that newer value: it is what the user wants now.
    """

    def __init__(self) -> None:
        self._changes: dict[tuple[str, str], _Change] = {}

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
        put(*value)
        self._changes[identity] = _Change(node, get, put, before, _plain(get()))

    def giveBack(self) -> None:
        """Restores everything, the newest first."""
        for change in reversed(list(self._changes.values())):
            scene = change.node.GetScene()
            if scene is None or _plain(change.get()) != change.after:
                continue
            before = change.before
            if isinstance(before, str) and before.startswith("vtkMRML") and scene.GetNodeByID(before) is None:
                before = None  # the node that was shown is gone
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
