# SPDX-License-Identifier: Apache-2.0
"""Node selectors that choose nothing of their own accord."""

from __future__ import annotations

from functools import partial
from typing import Any

import slicer


def keepFromJumping(root: Any) -> None:
    """Makes the node selectors below a widget forget a node that is removed from the scene.

    When the current row of a QComboBox vanishes, it makes the row that followed it, or the last one, the current one;
    so qMRMLNodeComboBox, built on it, chooses another node, which then becomes an input, or an output to write over.
    """
    for selector in slicer.util.findChildren(root, className="qMRMLNodeComboBox"):
        if selector.noneEnabled:
            selector.connect("nodeAboutToBeRemoved(vtkMRMLNode*)", partial(_forget, selector))


def _forget(selector: Any, node: slicer.vtkMRMLNode) -> None:
    if node is selector.currentNode():
        selector.setCurrentNode(None)
