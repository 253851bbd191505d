# SPDX-License-Identifier: Apache-2.0
"""The charts of a result, below the slices."""

from __future__ import annotations

import slicer

from .framing import showInSlices
from .toggle import Toggle
from .views import OWN_VIEW, nodesOfClass, showLayout

_LAYOUT = 63852  # any number that no other layout has
_SLICES = (
    ("Red", "Axial", "R", "#F34A33"),
    ("Green", "Coronal", "G", "#6EB04B"),
    ("Yellow", "Sagittal", "Y", "#EDD54C"),
)


class ChartDisplay(Toggle):
    """The fixed image in the user's slice views, and below them a plot view for each chart."""

    usesLayers = True

    def __init__(
        self, fixedVolume: slicer.vtkMRMLScalarVolumeNode, *charts: slicer.vtkMRMLPlotChartNode | None
    ) -> None:
        """`charts`: at least one; what is None is left out."""
        super().__init__(fixedVolume.GetScene())
        self.fixed, self.charts = fixedVolume, [chart for chart in charts if chart is not None]

    def _show(self) -> None:
        showInSlices(self.changes, self.scene, self.fixed)
        showLayout(self.changes, self.scene, *layout(len(self.charts)))
        views = {view.GetLayoutName(): view for view in nodesOfClass(self.scene, "vtkMRMLPlotViewNode")}
        for index, chart in enumerate(self.charts):
            self.changes.set(views[_viewName(index)], "PlotChartNodeID", chart.GetID())


def layout(plotCount: int = 2) -> tuple[int, str]:
    """Number and description of the layout."""
    slices = "".join(
        f'<item><view class="vtkMRMLSliceNode" singletontag="{name}">'
        f'<property name="orientation" action="default">{orientation}</property>'
        f'<property name="viewlabel" action="default">{label}</property>'
        f'<property name="viewcolor" action="default">{color}</property></view></item>'
        for name, orientation, label, color in _SLICES
    )
    plots = "".join(
        f'<item><view class="vtkMRMLPlotViewNode" singletontag="{_viewName(index)}">'
        f'<property name="viewlabel" action="default">P{index + 1}</property></view></item>'
        for index in range(plotCount)
    )
    rows = "".join(f'<item splitSize="500"><layout type="horizontal">{row}</layout></item>' for row in (slices, plots))
    return _LAYOUT, f'<layout type="vertical" split="true">{rows}</layout>'


def _viewName(index: int) -> str:
    return f"{OWN_VIEW}Plot{index + 1}"
