# SPDX-License-Identifier: Apache-2.0
"""The pictures of README and tutorial, from a real run: into the folder DEEPFLASH_PICTURES, else into a temporary one.

DEEPFLASH_PICTURES=docs/images make test-slicer SLICER=… ARGS="--only DeepFLASHRegistrationPicturesTest"
"""

import os
import unittest
from pathlib import Path

import qt
import slicer
from DeepFLASHRegistrationLib.gui.torch_installation import torch_is_installed
from window_driver import click, spin, waitUntil

SIZE = (1500, 940)


class DeepFLASHRegistrationPicturesTest(unittest.TestCase):
    def setUp(self):
        if not torch_is_installed():
            self.skipTest("PyTorch is not installed in this Slicer")
        slicer.mrmlScene.Clear()
        self.folder = Path(os.environ.get("DEEPFLASH_PICTURES") or slicer.util.tempDirectory())
        self.folder.mkdir(parents=True, exist_ok=True)
        self.logic = slicer.util.getModuleLogic("DeepFLASHRegistration")

    def tearDown(self):
        self.logic.close()

    def _take(self, name):
        spin(1.0)
        slicer.util.forceRenderAllViews()
        spin(0.3)
        path = self.folder / f"{name}.png"
        window = slicer.util.mainWindow()
        pixmap = window.grab()
        # The views are drawn by OpenGL, of which a grabbed window may know nothing.
        painter = qt.QPainter(pixmap)
        manager = slicer.app.layoutManager()
        views = [manager.sliceWidget(view).sliceView() for view in manager.sliceViewNames()]
        views += [manager.threeDWidget(index).threeDView() for index in range(manager.threeDViewCount)]
        for view in views:
            if view.isVisibleTo(window):
                image = view.grab()
                painter.drawPixmap(view.mapTo(window, qt.QPoint(0, 0)), image)
        painter.end()
        self.assertTrue(pixmap.save(str(path)))
        self.assertGreater(path.stat().st_size, 20_000)
        print(f"picture {path}")

    def _scrollTo(self, widget):
        area = widget.parent()
        while area is not None and not hasattr(area, "ensureWidgetVisible"):
            area = area.parent()
        spin(0.2)
        area.verticalScrollBar().value = widget.mapTo(area.widget(), qt.QPoint(0, 0)).y()

    def test_Pictures(self):
        fixed, moving, fixedSegmentation, movingSegmentation, fixedPoints, movingPoints = self.logic.makeSample(
            seed=3, shape=(84, 96, 84), spacing_mm=2.0
        )
        for segmentation in (fixedSegmentation, movingSegmentation):
            segmentation.SetDisplayVisibility(False)
        window = slicer.util.mainWindow()
        window.resize(*SIZE)
        slicer.util.selectModule("DeepFLASHRegistration")
        widget = slicer.modules.DeepFLASHRegistrationWidget
        ui = widget.ui
        for dock in slicer.util.findChildren(window, name="PanelDockWidget"):
            window.resizeDocks([dock], [470], qt.Qt.Horizontal)
        slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        slicer.util.setSliceViewerLayers(background=fixed, fit=True)
        ui.fixedVolumeSelector.setCurrentNode(fixed)
        ui.movingVolumeSelector.setCurrentNode(moving)
        ui.movingSegmentationSelector.setCurrentNode(movingSegmentation)
        ui.fixedSegmentationSelector.setCurrentNode(fixedSegmentation)
        ui.movingMarkupsSelector.setCurrentNode(movingPoints)
        ui.fixedMarkupsSelector.setCurrentNode(fixedPoints)
        spin(1.0)
        self._take("choose")
        # What the Sample Data module shows: Resources/Icons/DeepFLASHHeads.png.
        view = slicer.app.layoutManager().sliceWidget("Red").sliceView().grab()
        view = view.scaled(260, 280, qt.Qt.KeepAspectRatioByExpanding, qt.Qt.SmoothTransformation)
        view.copy((view.width() - 260) // 2, 0, 260, 280).save(str(self.folder / "DeepFLASHHeads.png"))

        click(ui.registerButton)
        waitUntil(lambda: len(widget.runPanel.run.history) > 8 or not widget.runPanel.busy)
        self._take("running")
        waitUntil(lambda: not widget.runPanel.busy, 600)
        self.assertEqual(widget.runPanel.run.state, "done", widget.runPanel.run.error)
        print(f"registration: {widget.runPanel.run.seconds_passed:.1f} s")

        for name in ("sideBySide", "jacobian", "grid", "outlines"):
            click(getattr(ui, f"{name}Button"))
            self._scrollTo(ui.displayCollapsibleButton)
            self._take({"sideBySide": "side_by_side"}.get(name, name))
            click(getattr(ui, f"{name}Button"))
        click(ui.geodesicButton)
        waitUntil(lambda: not widget.runPanel.busy)
        ui.timeSlider.value = 0.5
        self._take("geodesic")
        click(ui.geodesicButton)
        self._scrollTo(ui.reportCollapsibleButton)
        self._take("report")
