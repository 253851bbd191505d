# SPDX-License-Identifier: Apache-2.0
"""A chart in a plot view."""

from __future__ import annotations

import slicer

from .toggle import Toggle
from .views import nodesOfClass


class ChartDisplay(Toggle):
    """Slicer's conventional layout with a plot view that shows the chart."""

    usesLayers = True  # it takes the layout, as others do

    def __init__(self, chart: slicer.vtkMRMLPlotChartNode) -> None:
        super().__init__(chart.GetScene())
        self.chart = chart

    def _show(self) -> None:
        layout = self.scene.GetFirstNodeByClass("vtkMRMLLayoutNode")
        if layout is None:
            raise RuntimeError("There are no views to show a chart in.")
        self.changes.set(layout, "ViewArrangement", slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalPlotView)
        for view in nodesOfClass(self.scene, "vtkMRMLPlotViewNode"):
            self.changes.set(view, "PlotChartNodeID", self.chart.GetID())
