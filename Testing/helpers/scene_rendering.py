# SPDX-License-Identifier: Apache-2.0
"""Views without a window: what qMRMLLayoutManager does in Slicer, done for off-screen slice and 3-D views."""

import functools
from xml.etree import ElementTree

import numpy as np
import slicer
import vtk
from trame_slicer.core import SlicerApp
from trame_slicer.views import AbstractView, SliceView, ThreeDView
from trame_slicer.views.render_scheduler import NoScheduleRendering
from vtk.util.numpy_support import vtk_to_numpy

SIZE = 240


@functools.cache  # one for all tests of a process: its logics cannot be taken down and set up again
def makeApp() -> SlicerApp:
    app = SlicerApp()
    app.layout_logic = slicer.vtkMRMLLayoutLogic()
    app.layout_logic.SetMRMLScene(app.scene)
    app.sequences_logic = app.register_module_logic(slicer.vtkSlicerSequencesLogic(), logic_name="Sequences")
    # trame-slicer has the base class of this logic only, which knows no color legends.
    app.color_legend_logic = slicer.vtkSlicerColorLogic()
    app.color_legend_logic.SetMRMLApplicationLogic(app.app_logic)
    app.color_legend_logic.SetMRMLScene(app.scene)
    app.transform_logic = app.register_module_logic(slicer.vtkSlicerTransformLogic(), logic_name="Transforms")
    return app


class LayoutSliceView(SliceView):
    """A slice view of the node that the layout has made for it (the base class would use one outside the scene)."""

    def set_scene(self, scene) -> None:
        AbstractView.set_scene(self, scene)
        self._logic.SetMRMLScene(scene)
        node = next(node for node in slicer_nodes(scene, "vtkMRMLSliceNode") if node.GetLayoutName() == self.name)
        self._logic.SetSliceNode(node)
        self.set_view_node(node)


class Room:
    """A scene, its layout, and the views of the layout that is on."""

    def __init__(self, app: SlicerApp) -> None:
        self.app = app
        self.scene = self.app.scene
        self.logic = self.app.app_logic
        self.views = {}
        self.layoutNode = self.app.layout_logic.GetLayoutNode()
        self.layoutNode.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._onLayout(), -1.0)
        self.reset()

    def reset(self) -> None:
        self.layoutNode.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView)
        self._onLayout()
        for name in ("Red", "Green", "Yellow"):
            self.views[name].get_view_node().SetOrientationToDefault()

    def shown(self) -> list[str]:
        """Layout names of the slice views that are on."""
        description = self.layoutNode.GetCurrentLayoutDescription() or "<layout/>"
        return [
            view.get("singletontag")
            for view in ElementTree.fromstring(description).iter("view")
            if view.get("class") == "vtkMRMLSliceNode"
        ]

    def _onLayout(self) -> None:
        shown = self.shown()
        for name in shown:
            if name not in self.views:
                view = LayoutSliceView(self.scene, self.logic, name, scheduled_render_strategy=NoScheduleRendering())
                view.render_window().SetMultiSamples(0)
                view.render_window().SetSize(SIZE, SIZE)
                view.interactor().UpdateSize(SIZE, SIZE)
                view._update_slice_size()
                self.views[name] = view
        for name, view in self.views.items():
            view.get_view_node().SetMappedInLayout(name in shown)

    def composite(self, name: str):
        return self.views[name]._logic.GetSliceCompositeNode()

    def show(self, background, foreground=None) -> None:
        """As a user would: these volumes in the three usual views, fitted."""
        for name in ("Red", "Green", "Yellow"):
            self.composite(name).SetBackgroundVolumeID(background.GetID())
            self.composite(name).SetForegroundVolumeID(foreground.GetID() if foreground else None)
            self.views[name].fit_view_to_content()

    def picture(self, name: str) -> np.ndarray:
        """(rows, columns, 3) uint8 of a view; row 0 at the bottom, so that [y, x] are Slicer's XY coordinates."""
        view = self.views[name] if isinstance(name, str) else name
        view.render()
        return pictureOf(view.render_window())

    def pictures(self) -> dict[str, np.ndarray]:
        return {name: self.picture(name) for name in self.shown()}

    def pixel(self, name: str, ras) -> tuple[int, int]:
        """(row, column) of the pixel that shows a RAS point."""
        matrix = vtk.vtkMatrix4x4()
        vtk.vtkMatrix4x4.Invert(self.views[name].get_view_node().GetXYToRAS(), matrix)
        x, y, *_ = matrix.MultiplyPoint((*ras, 1.0))
        return round(y), round(x)

    def threeD(self):
        """A 3-D view, framed on what is visible."""
        if "3D" not in self.views:
            view = ThreeDView(self.scene, self.logic, "3D", scheduled_render_strategy=NoScheduleRendering())
            view.render_window().SetMultiSamples(0)
            view.render_window().SetSize(SIZE, SIZE)
            self.views["3D"] = view
        return self.views["3D"]

    def close(self) -> None:
        for view in self.views.values():
            view.finalize()


def slicer_nodes(scene, className: str) -> list:
    return [
        node for node in (scene.GetNthNode(index) for index in range(scene.GetNumberOfNodes())) if node.IsA(className)
    ]


class ChartPicture:
    """A plot chart node drawn by VTK's own chart, with what Slicer's plot view takes from the nodes.

    Attributes:
        picture: (rows, columns, 3) int, row 0 at the bottom.
    """

    def __init__(self, chartNode, size=(420, 300)) -> None:
        self.chart = vtk.vtkChartXY()
        types = slicer.vtkMRMLPlotSeriesNode
        for index in range(chartNode.GetNumberOfPlotSeriesNodes()):
            node = chartNode.GetNthPlotSeriesNode(index)
            bars = node.GetPlotType() == types.PlotTypeScatterBar
            plot = self.chart.AddPlot(vtk.vtkChart.BAR if bars else vtk.vtkChart.LINE)
            plot.SetInputData(node.GetTableNode().GetTable(), node.GetXColumnName(), node.GetYColumnName())
            plot.SetWidth(node.GetLineWidth())
            plot.GetPen().SetLineType(vtk.vtkPen.NO_PEN if bars else vtk.vtkPen.SOLID_LINE)
            plot.SetColorF(*node.GetColor())
            plot.SetLabel(node.GetName())
        self.chart.SetTitle(chartNode.GetTitle())
        self.chart.SetShowLegend(chartNode.GetLegendVisibility())
        for axis, title in (
            (vtk.vtkAxis.BOTTOM, chartNode.GetXAxisTitle()),
            (vtk.vtkAxis.LEFT, chartNode.GetYAxisTitle()),
        ):
            self.chart.GetAxis(axis).SetTitle(title)
        view = vtk.vtkContextView()
        view.GetRenderWindow().SetOffScreenRendering(True)
        view.GetRenderWindow().SetMultiSamples(0)
        view.GetRenderWindow().SetSize(*size)
        view.GetRenderer().SetBackground(1, 1, 1)
        view.GetScene().AddItem(self.chart)
        view.Render()
        self.picture = pictureOf(view.GetRenderWindow())

    def pixel(self, x: float, y: float) -> tuple[int, int]:
        """(row, column) of a point of the chart."""
        place = []
        for axis, value in ((self.chart.GetAxis(vtk.vtkAxis.LEFT), y), (self.chart.GetAxis(vtk.vtkAxis.BOTTOM), x)):
            low, high = axis.GetMinimum(), axis.GetMaximum()
            start, end = axis.GetPoint1(), axis.GetPoint2()
            along = 1 if axis.GetPosition() == vtk.vtkAxis.LEFT else 0
            place.append(round(start[along] + (value - low) / (high - low) * (end[along] - start[along])))
        return place[0], place[1]


def pictureOf(window) -> np.ndarray:
    """(rows, columns, 3) int of a render window, row 0 at the bottom."""
    reader = vtk.vtkWindowToImageFilter()
    reader.SetInput(window)
    reader.ReadFrontBufferOff()
    reader.Update()
    image = reader.GetOutput()
    width, height, _ = image.GetDimensions()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, -1)[..., :3].astype(int)
