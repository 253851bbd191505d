# SPDX-License-Identifier: Apache-2.0
"""The window, by real clicks: choose, register, look, cancel, fail, save and reload, close in between."""

import os
import signal
import unittest

import qt
import slicer
import vtk
from DeepFLASHRegistrationLib.torch_installation import torch_is_installed
from window_driver import click, makePair, nodeNames, spin, waitUntil

# What one turn of the event loop may take while a registration runs; machines for tests are slow.
LONGEST_BLOCK = float(os.environ.get("DEEPFLASH_LONGEST_BLOCK", "0.5"))


class DeepFLASHRegistrationWindowTest(unittest.TestCase):
    def setUp(self):
        slicer.mrmlScene.Clear()
        slicer.util.selectModule("DeepFLASHRegistration")
        self.pair = makePair()
        self.widget = slicer.modules.DeepFLASHRegistrationWidget
        self.ui = self.widget.ui
        spin(0.3)

    def tearDown(self):
        self.widget.logic.close()

    @property
    def current(self):
        return self.widget.runPanel.run

    def _choose(self, preset="fast"):
        fixed, fixedSegmentation, moving, movingSegmentation, markups = self.pair
        ui = self.ui
        ui.fixedVolumeSelector.setCurrentNode(fixed)
        ui.movingVolumeSelector.setCurrentNode(moving)
        ui.movingSegmentationSelector.setCurrentNode(movingSegmentation)
        ui.fixedSegmentationSelector.setCurrentNode(fixedSegmentation)
        ui.movingMarkupsSelector.setCurrentNode(markups)
        self.widget.form.widgets["preset"].setCurrentText(preset)
        spin(0.5)

    def _needsTorch(self):
        if not torch_is_installed():
            self.skipTest("PyTorch is not installed in this Slicer")

    def _register(self):
        click(self.ui.registerButton)
        longest = waitUntil(lambda: not self.widget.runPanel.busy)
        self.assertEqual(self.current.state, "done", self.current.error)
        return longest

    def _forLong(self):
        """A registration that does not end by itself."""
        self.widget.form.change({"iterations": [500, 500], "tolerance": 0.0})
        self.widget.onParametersChanged()
        click(self.ui.registerButton)
        self.assertTrue(self.widget.runPanel.busy)

    def test_TheButtonSaysWhatIsMissing(self):
        self.ui.fixedVolumeSelector.setCurrentNode(None)
        spin(0.1)
        self.assertFalse(self.ui.registerButton.enabled)
        self.assertIn("fixed", self.ui.registerButton.toolTip)
        self._choose()
        self.assertTrue(self.ui.registerButton.enabled, self.ui.registerButton.toolTip)
        self.ui.movingVolumeSelector.setCurrentNode(self.pair[0])
        spin(0.1)
        self.assertIn("same", self.ui.registerButton.toolTip)

    def test_ContradictingParametersAreNamed(self):
        self._choose()
        self.widget.form.change({"iterations": [5]})
        self.widget.onParametersChanged()
        spin(0.1)
        self.assertIn("iterations", self.ui.registerButton.toolTip)
        self.assertFalse(self.ui.registerButton.enabled)

    def test_RegisterThenEveryDisplay(self):
        self._needsTorch()
        self._choose()
        longest = self._register()
        print(
            f"longest block of the event loop: {1000 * longest:.0f} ms; run: {self.current.seconds_passed:.1f} s, "
            f"of which child {self.current.seconds}"
        )
        self.assertLess(longest, LONGEST_BLOCK)
        self.assertIn("Good", self.ui.verdictLabel.text.replace("Check", "Good"))
        layout = slicer.app.layoutManager().layout
        before = nodeNames()
        for name in ("sideBySide", "flicker", "checkerboard", "grid", "jacobian", "outlines", "charts"):
            button = getattr(self.ui, f"{name}Button")
            click(button)
            self.assertTrue(button.checked, name)
            spin(0.3)
            click(button)
            self.assertFalse(button.checked, name)
            self.assertEqual(slicer.app.layoutManager().layout, layout, name)
        self.assertEqual(nodeNames(), before)
        click(self.ui.geodesicButton)
        waitUntil(lambda: not self.widget.runPanel.busy)
        self.assertTrue(self.ui.geodesicButton.checked)
        moving = self.pair[2]
        self.assertIsNotNone(moving.GetParentTransformNode())
        self.ui.timeSlider.value = 0.5
        spin(0.2)
        click(self.ui.geodesicButton)
        self.assertIsNone(moving.GetParentTransformNode())

    def test_ARerunUpdatesTheSameNodes(self):
        self._needsTorch()
        self._choose()
        self._register()
        before = nodeNames()
        self._register()
        self.assertEqual(nodeNames(), before)
        print(f"warm run: {self.current.seconds_passed:.1f} s, of which child {self.current.seconds}")

    def test_CancelThenKeepTheBest(self):
        self._needsTorch()
        self._choose()
        before = nodeNames()
        self._forLong()
        waitUntil(lambda: len(self.current.history) > 2)
        click(self.ui.registerButton)
        waitUntil(lambda: not self.widget.runPanel.busy)
        self.assertEqual(self.current.state, "cancelled")
        self.assertEqual(nodeNames(), before)
        self.assertTrue(self.ui.keepButton.visible)
        click(self.ui.keepButton)
        self.assertGreater(len(nodeNames()), len(before))

    def test_CancelAtOnce(self):
        self._needsTorch()
        self._choose()
        before = nodeNames()
        self._forLong()
        click(self.ui.registerButton)
        waitUntil(lambda: not self.widget.runPanel.busy)
        self.assertEqual(self.current.state, "cancelled")
        self.assertEqual(nodeNames(), before)

    def test_AKilledChildIsAMessageAndTheNextRunWorks(self):
        self._needsTorch()
        self._choose()
        before = nodeNames()
        self._forLong()
        waitUntil(lambda: len(self.current.history) > 0)
        os.kill(self.widget.logic._runner.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        waitUntil(lambda: not self.widget.runPanel.busy)
        self.assertEqual(self.current.state, "failed")
        self.assertEqual(nodeNames(), before)
        self._choose("default")
        self._choose("fast")
        self._register()

    def test_TheSceneIsClosedDuringARun(self):
        self._needsTorch()
        self._choose()
        self._forLong()
        waitUntil(lambda: len(self.current.history) > 0)
        run = self.current
        slicer.mrmlScene.Clear()
        waitUntil(lambda: run.done)
        self.assertEqual(run.state, "cancelled")
        self.assertFalse(self.ui.registerButton.enabled)

    def test_AnotherModuleIsOpenedDuringARun(self):
        self._needsTorch()
        self._choose()
        click(self.ui.registerButton)
        slicer.util.selectModule("Data")
        waitUntil(lambda: not self.widget.runPanel.busy)
        self.assertEqual(self.current.state, "done", self.current.error)
        slicer.util.selectModule("DeepFLASHRegistration")
        spin(0.3)
        self.assertFalse(self.ui.registerButton.text.startswith("&Cancel"))

    def test_TheModuleIsReloadedDuringARun(self):
        self._needsTorch()
        self._choose()
        self._forLong()
        waitUntil(lambda: len(self.current.history) > 0)
        run = self.current
        self.widget.onReload()
        self.assertTrue(run.done)
        self.widget = slicer.modules.DeepFLASHRegistrationWidget
        self.ui = self.widget.ui
        spin(0.3)
        self.assertIs(self.ui.fixedVolumeSelector.currentNode(), self.pair[0])

    def test_ASavedSceneShowsTheResultAgain(self):
        self._needsTorch()
        self._choose()
        self._register()
        verdict = self.ui.verdictLabel.text
        path = f"{slicer.util.tempDirectory()}/scene.mrb"
        self.assertTrue(slicer.util.saveScene(path))
        slicer.mrmlScene.Clear()
        spin(0.3)
        slicer.util.loadScene(path)
        slicer.util.selectModule("Data")
        slicer.util.selectModule("DeepFLASHRegistration")
        spin(0.6)
        self.assertEqual(self.ui.fixedVolumeSelector.currentNode().GetName(), "fixed ball")
        self.assertEqual(self.widget.form.parameters().preset, "fast")
        self.assertEqual(self.ui.verdictLabel.text, verdict)
        click(self.ui.jacobianButton)
        self.assertTrue(self.ui.jacobianButton.checked)
        click(self.ui.jacobianButton)

    def test_SeveralSettingsInOneScene(self):
        self._choose("fast")
        first = self.ui.parameterNodeSelector.currentNode()
        second = self.ui.parameterNodeSelector.addNode()
        spin(0.3)
        self.assertIs(self.ui.parameterNodeSelector.currentNode(), second)
        self.assertEqual(self.widget.form.parameters().preset, "default")
        self.ui.parameterNodeSelector.setCurrentNode(first)
        spin(0.3)
        self.assertEqual(self.widget.form.parameters().preset, "fast")
        self.assertIs(self.ui.fixedVolumeSelector.currentNode(), self.pair[0])

    def test_ARemedyChangesTheParameters(self):
        self._choose()
        self.widget.form.change({"initial_alignment": "none"})
        self.widget.onParametersChanged()
        away = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        matrix = vtk.vtkMatrix4x4()
        matrix.SetElement(0, 3, 900.0)
        away.SetMatrixTransformToParent(matrix)
        self.pair[2].SetAndObserveTransformNodeID(away.GetID())
        self.widget.checkNow()
        self.assertFalse(self.ui.registerButton.enabled)
        click(slicer.util.findChildren(self.ui.checksFrame, className="QPushButton")[0])
        spin(0.5)
        self.assertEqual(self.widget.form.parameters().initial_alignment, "affine")
        self.assertTrue(self.ui.registerButton.enabled, self.ui.registerButton.toolTip)

    def test_CopyAsPythonGivesACallThatCompiles(self):
        self._choose()
        self.ui.reportCollapsibleButton.collapsed = False
        click(self.ui.copyPythonButton)
        text = slicer.app.clipboard().text()
        compile(text, "copied", "exec")
        self.assertIn("moving ball", text)

    def test_EverythingCanBeReachedByKeyboard(self):
        for name, widget in vars(self.ui).items():
            if name.endswith(("Button", "Selector")) and hasattr(widget, "focusPolicy"):
                # A node selector is reached through the combo box in it.
                reached = [widget, *slicer.util.findChildren(widget, className="ctkComboBox")]
                self.assertTrue(any(each.focusPolicy & qt.Qt.TabFocus for each in reached), name)
