# SPDX-License-Identifier: Apache-2.0
"""How nodes look."""

from __future__ import annotations

import slicer


def copyLook(source: slicer.vtkMRMLDisplayableNode, target: slicer.vtkMRMLDisplayableNode) -> None:
    """Makes `target` look like `source` does now: colors, opacity, of volumes window and level."""
    target.CreateDefaultDisplayNodes()
    here, there = source.GetDisplayNode(), target.GetDisplayNode()
    if here is None:
        return
    there.CopyContent(here)
    if here.GetColorNodeID():  # a reference, which is no content
        there.SetAndObserveColorNodeID(here.GetColorNodeID())
    if here.IsA("vtkMRMLScalarVolumeDisplayNode"):
        there.AutoWindowLevelOff()  # first: turning it off later would not undo what it computes
        there.SetWindowLevel(here.GetWindow(), here.GetLevel())
