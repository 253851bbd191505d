# SPDX-License-Identifier: Apache-2.0
"""The layouts of the displays, known from the start."""

from __future__ import annotations

import slicer

from . import chart_view, side_by_side
from .views import addLayout


def addLayouts(scene: slicer.vtkMRMLScene) -> None:
    """Makes the layouts known before they are first shown.

    Slicer saves but the number of the layout: a scene that was saved while one of these was on would else be loaded
    into an empty window.
    """
    several = side_by_side.layout(("Axial",), ("Fixed", "Warped1", "Warped2"))
    for number, description in (chart_view.layout(), side_by_side.layout(), several):
        addLayout(scene, number, description)
