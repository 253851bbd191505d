# SPDX-License-Identifier: Apache-2.0
"""The window, by real clicks: choose, register, look, cancel, fail, save and reload, close in between."""

import dataclasses
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import numpy as np
import qt
import slicer
import vtk
from DeepFLASHRegistrationLib.gui.keyboard import takesKeys
from DeepFLASHRegistrationLib.gui.models_dialog import ModelsDialog
from DeepFLASHRegistrationLib.gui.torch_installation import torch_is_installed
from DeepFLASHRegistrationLib.methods import trained_models
from DeepFLASHRegistrationLib.methods.consent import noncommercial_accepted
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.process import folders
from DeepFLASHRegistrationLib.scene.display.changes import placementOf
from DeepFLASHRegistrationLib.scene.display.side_by_side import SideBySide
from DeepFLASHRegistrationLib.scene.series import behind
from DeepFLASHRegistrationLib.scene.velocity import fingerprint
from DeepFLASHRegistrationLib.support import memory
from window_driver import (
    Turns,
    choose,
    choosePair,
    click,
    letterOf,
    makePair,
    makeTemplate,
    nodeNames,
    spin,
    start,
    waitUntil,
)

DISPLAYS = ("fade", "sideBySide", "flicker", "checkerboard", "grid", "jacobian", "outlines", "charts")
SECTIONS = ("carry", "method", "alignment", "series", "template", "outputs", "parameters")
# What one turn of the event loop may compute while a registration runs: a guard against work in the wrong place. On a
# machine that does nothing else it is 0.06 s, as figures.py measures; busy ones took 0.44 s.
LONGEST_TURN = float(os.environ.get("DEEPFLASH_LONGEST_TURN", "1.0"))


def _crops():
    """Two arrays like the mean of what the model hippocampus was trained on, voxels of 1 mm, as Slicer stores them."""
    mean = trained_models.load_model("hippocampus").mean_image
    step, data = float(mean.grid.spacing[0]), mean.gray.astype(np.float32)
    for axis, n in enumerate(mean.gray.shape):
        at = np.arange(0, n - 1, 1 / step)
        low = np.floor(at).astype(int)
        part = (at - low).reshape([-1 if a == axis else 1 for a in range(3)])
        data = np.take(data, low, axis) * (1 - part) + np.take(data, low + 1, axis) * part
    for seed in range(2):
        yield (data + np.random.default_rng(seed).normal(0, 10, data.shape)).astype(np.float32)


class DeepFLASHRegistrationWindowTest(unittest.TestCase):
    def setUp(self):
        slicer.mrmlScene.Clear()
        slicer.util.selectModule("DeepFLASHRegistration")
        # A scene that was loaded with something shown leaves its layout behind, as scenes of Slicer do.
        slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        self.pair = makePair()
        self.widget = slicer.modules.DeepFLASHRegistrationWidget
        self.ui = self.widget.ui
        for name in SECTIONS:  # other tests open them, and that is remembered
            getattr(self.ui, f"{name}CollapsibleButton").collapsed = True
        spin(0.3)

    def tearDown(self):
        self.widget.logic.close()

    @property
    def current(self):
        return self.widget.runPanel.run

    def _choose(self, preset="fast"):
        choosePair(self.ui, self.pair)
        choose(self.widget.form, "preset", preset)
        spin(0.5)

    def _needsTorch(self):
        if not torch_is_installed():
            self.skipTest("PyTorch is not installed in this Slicer")

    def _register(self):
        run = start(self.widget)
        waitUntil(lambda: run.done)
        self.assertEqual(run.state, "done", run.error)

    def _forLong(self):
        """A registration that does not end by itself."""
        self.widget.form.change({"iterations": [500, 500], "tolerance": 0.0})
        self.widget.onParametersChanged()
        start(self.widget)

    def test_TheButtonSaysWhatIsMissing(self):
        self.ui.fixedVolumeSelector.setCurrentNode(None)
        spin(0.1)
        self.assertFalse(self.ui.registerButton.enabled)
        self.assertIn("fixed", self.ui.registerButton.toolTip)
        self.assertTrue(self.ui.missingLabel.visible)
        self.assertIn(self.ui.missingLabel.text, self.ui.registerButton.toolTip)
        self._choose()
        self.assertTrue(self.ui.registerButton.enabled, self.ui.registerButton.toolTip)
        self.ui.movingVolumeSelector.setCurrentNode(self.pair[0])
        spin(0.1)
        self.assertIn("same", self.ui.registerButton.toolTip)

    def test_TheShortPath(self):
        """Of a scene of two volumes all that is left to do is to press Register; the rest is closed, and says what it
        holds beside the defaults."""
        qt.QSettings().remove("DeepFLASHRegistration/folds")
        self.widget.onReload()
        self.widget = slicer.modules.DeepFLASHRegistrationWidget
        self.ui = self.widget.ui
        waitUntil(lambda: self.ui.movingVolumeSelector.currentNode() is not None, 5)  # they came while it was shown
        self.assertIs(self.ui.fixedVolumeSelector.currentNode(), self.pair[0])
        self.assertIs(self.ui.movingVolumeSelector.currentNode(), self.pair[2])
        waitUntil(lambda: self.ui.registerButton.enabled, 5)
        sections = {name: getattr(self.ui, f"{name}CollapsibleButton") for name in SECTIONS}
        usual = {name: section.text for name, section in sections.items()}
        for section in sections.values():
            self.assertTrue(section.collapsed)
            self.assertNotIn(":", section.text)
        self.ui.movingSegmentationSelector.setCurrentNode(self.pair[3])
        self.ui.fixedMaskSelector.setCurrentNode(self.pair[1])
        self.ui.modelCheckBox.checked = False
        choose(self.widget.form, "similarity", "mi")
        self.widget.form.change({"sigma": 0.04})
        self.widget.onParametersChanged()
        spin(0.5)
        for name, words in (
            ("carry", "moving ball segmentation"),
            ("method", "Mutual information"),
            ("alignment", "fixed ball"),
            ("outputs", "without Model"),
            ("parameters", "Sigma 0.04"),
        ):
            self.assertIn(words, sections[name].text)
        self.addCleanup(setattr, sections["method"], "collapsed", True)
        sections["method"].collapsed = False
        self.assertEqual(sections["method"].text, usual["method"])  # what is open shows it itself
        self.widget.onReload()
        self.widget = slicer.modules.DeepFLASHRegistrationWidget
        self.ui = self.widget.ui
        spin(0.3)
        self.addCleanup(setattr, self.ui.methodCollapsibleButton, "collapsed", True)
        self.assertFalse(self.ui.methodCollapsibleButton.collapsed)
        self.assertTrue(self.ui.outputsCollapsibleButton.collapsed)

    def test_ContradictingParametersAreNamed(self):
        self._choose()
        self.widget.form.change({"iterations": [5]})
        self.widget.onParametersChanged()
        spin(0.1)
        self.assertIn("iterations", self.ui.registerButton.toolTip)
        self.assertFalse(self.ui.registerButton.enabled)

    def test_AModelPredicts(self):
        self._choose()
        models = self.widget.form.widgets["model"]
        self.assertFalse(models.enabled)
        choose(self.widget.form, "method", "deepflash")
        spin(0.1)
        self.assertTrue(models.enabled)
        self.assertEqual(self.widget.form.values()["model"], "auto")
        waitUntil(lambda: not self.ui.registerButton.enabled, 10)
        self.assertIn("No trained model fits", self.ui.registerButton.toolTip)
        self.assertIn("too coarse", models.itemData(models.findData("brain"), qt.Qt.ToolTipRole))
        flags = [models.model().flags(models.model().index(row, 0)) for row in range(models.count)]
        self.assertEqual([bool(each & qt.Qt.ItemIsEnabled) for each in flags], [True] + [False] * (models.count - 1))
        click(slicer.util.findChildren(self.ui.checksFrame, name="remedyButtonModel")[0])
        spin(0.5)
        self.assertEqual(self.widget.form.values()["method"], "flash")
        self.assertTrue(self.ui.registerButton.enabled, self.ui.registerButton.toolTip)
        choose(self.widget.form, "method", "deepflash")
        models.setCurrentText("hippocampus")  # as it is typed
        spin(0.1)
        self.assertEqual(self.widget.form.values()["model"], "hippocampus")
        choose(self.widget.form, "model", "hippocampus")
        spin(0.1)
        self.assertEqual(self.widget.form.values()["model"], "hippocampus")
        self.assertEqual(models.lineEdit().cursorPosition, 0)
        self.assertIn("share alike", self.widget.form.modelNote.text)
        waitUntil(lambda: any("was not made for" in each.text for each in self._checks()), 10)
        spin(0.3)
        for label in self._checks():
            self.assertGreaterEqual(label.height, label.heightForWidth(label.width), label.text)
        sentences = [models.itemData(k, qt.Qt.ToolTipRole) for k in range(1, models.count)]
        self.assertTrue(any(each.endswith(self.widget.form.modelNote.text) for each in sentences))
        for sentence in sentences:
            self.assertIn("License", sentence)
        self._needsTorch()
        self._register()
        self.assertNotEqual(self.ui.verdictLabel.text, "")
        # A head is no hippocampus, and that is said.
        self.assertIn("trained on", self.ui.verdictLabel.text)

    def _checks(self):
        labels = slicer.util.findChildren(self.ui.checksFrame, className="QLabel")
        return [label for label in labels if label.text and label.visible]

    def test_TheModelThatFitsIsFoundAndItsLicenseAskedAboutOnce(self):
        self._needsTorch()
        self._ownModels()
        placed = vtk.vtkMatrix4x4()
        for axis in range(2):
            placed.SetElement(axis, axis, -1)  # arrays run to the left and to the back
        pair = [slicer.util.addVolumeFromArray(data, placed, f"crop {n}") for n, data in enumerate(_crops())]
        self.ui.fixedVolumeSelector.setCurrentNode(pair[0])
        self.ui.movingVolumeSelector.setCurrentNode(pair[1])
        with Turns() as turns:
            choose(self.widget.form, "method", "deepflash")
            waitUntil(lambda: "crop 0" in str(self.widget.models._known), 60)
            spin(0.5)
        self.assertLess(turns.longest, LONGEST_TURN)
        self.assertEqual(self.widget.form.fittingModel, "hippocampus")
        self.assertIn("hippocampus fits both", self.widget.form.modelNote.text)
        self.assertTrue(self.ui.registerButton.enabled, self.ui.registerButton.toolTip)
        asked = []
        with mock.patch.object(slicer.util, "confirmYesNoDisplay", lambda text, **_: asked.append(text)):
            self._register()
            self.assertEqual(self.current.result.parameters.model, "hippocampus")
            self.assertEqual(asked, [])
            model = trained_models.load_model("hippocampus")
            figures = {"Dice, aligned": 0.1, "Dice, deepflash": 0.99}
            config = dataclasses.replace(model.config, name="restricted", noncommercial=True, held_out=figures)
            folder = trained_models.user_folder() / "restricted"
            trained_models.save_model(folder, config, model.arrays, model.mean_image)
            self.widget.form.models.reload()
            self.widget.checkNow()
            waitUntil(lambda: "restricted" in self.widget.models._known[1], 60)
            spin(0.5)
            self._register()
            self.assertEqual(self.current.result.parameters.model, "hippocampus")
            self._register()
            self.assertEqual(len(asked), 1)
        self.assertIn("restricted", asked[0])

    def _ownModels(self):
        """A folder of models of this test's own."""
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder, True)
        patch = mock.patch.dict(os.environ, {"DEEPFLASH_MODELS": str(Path(folder) / "models")})
        patch.start()
        self.addCleanup(self.widget.form.models.reload)
        self.addCleanup(patch.stop)
        return Path(folder)

    def test_AModelIsLookedAtInstalledAndRemoved(self):
        folder = self._ownModels()
        source = trained_models.BUNDLED / "brain"
        model = trained_models.load_model(source)
        trained_models.save_model(folder / "mine", dataclasses.replace(model.config, name="mine"), model.arrays)
        archive = shutil.make_archive(str(folder / "mine"), "zip", folder / "mine")
        dialog = ModelsDialog(slicer.util.mainWindow())
        self.addCleanup(dialog.widget.deleteLater)
        dialog.widget.show()
        spin(0.3)
        self.assertFalse(dialog.installButton.enabled)
        dialog.source.text = str(folder / "nothing.zip")
        click(dialog.lookButton)
        self.assertIn("no such folder or file", dialog.about.text)
        self.assertFalse(dialog.installButton.enabled)
        dialog.source.text = archive
        click(dialog.lookButton)
        for text in ("mine", "Apache-2.0", "MB", hashlib.sha256(Path(archive).read_bytes()).hexdigest()):
            self.assertIn(text, dialog.about.text)
        self.assertEqual(dialog.models.count, 0)
        click(dialog.installButton)
        self.assertIn("was installed", dialog.about.text)
        self.assertEqual(dialog.models.count, 1)
        self.widget.form.models.reload()
        self.assertGreaterEqual(self.widget.form.widgets["model"].findData("mine"), 0)
        dialog.models.setCurrentRow(0)
        with mock.patch.object(slicer.util, "confirmYesNoDisplay", lambda text, **_: True):
            click(dialog.removeButton)
        self.assertEqual(dialog.models.count, 0)
        self.assertFalse((folder / "models" / "mine").exists())
        click(dialog.consent)
        self.assertTrue(noncommercial_accepted())
        dialog.widget.close()

    def test_RegisterThenEveryDisplay(self):
        self._needsTorch()
        self._choose()
        with Turns() as turns:
            self._register()
            spin(1.0)  # the inputs are looked at again
        print(
            f"longest turn of the event loop: {1000 * turns.longest:.0f} ms; run: {self.current.seconds_passed:.1f} s, "
            f"of which child {self.current.seconds}"
        )
        self.assertLess(turns.longest, LONGEST_TURN)
        self.assertIn("Good", self.ui.verdictLabel.text.replace("Check", "Good"))
        level = self.current.verdict.level
        self.assertIn({"good": "Good", "check": "Check", "failed": "Failed"}[level], self.ui.statusLabel.text)
        # What was found shows itself: fixed below warped, whole, in linked views; and the user's views come back.
        fixed, warped = self.pair[0].GetID(), self.current.nodes.warpedVolume.GetID()
        composite = slicer.app.layoutManager().sliceWidget("Red").sliceLogic().GetSliceCompositeNode()
        self.assertTrue(self.ui.fadeButton.checked)
        self.assertEqual((composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID()), (fixed, warped))
        self.ui.fadeSlider.value = 1.0
        self.assertEqual(composite.GetForegroundOpacity(), 1.0)
        click(self.ui.fadeButton)
        self.assertFalse(self.ui.fadeSlider.enabled)
        layout = slicer.app.layoutManager().layout
        before = nodeNames()
        for name in DISPLAYS:
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
        browser = self.widget.displays.shown.browser
        self.ui.timeSlider.value = 0.5
        spin(0.2)
        self.assertEqual(browser.GetSelectedItemNumber(), 5)
        self.assertIsNone(self.pair[2].GetParentTransformNode())
        click(self.ui.geodesicButton)
        self.assertFalse(self.ui.geodesicButton.checked)

    def test_ViewsThatWereZoomedAndLinkedComeBackFromEveryLayout(self):
        self._needsTorch()
        self._choose()
        self._register()
        click(self.ui.fadeButton)
        manager = slicer.app.layoutManager()
        logics = [manager.sliceWidget(name).sliceLogic() for name in ("Red", "Green", "Yellow")]

        def state():
            composites = [logic.GetSliceCompositeNode() for logic in logics]
            linked = [(node.GetLinkedControl(), node.GetHotLinkedControl()) for node in composites]
            return linked, [placementOf(logic.GetSliceNode()) for logic in logics]

        red = logics[0].GetSliceNode()
        red.SetFieldOfView(*(size / 3 for size in red.GetFieldOfView()[:2]), red.GetFieldOfView()[2])
        for hot in (1, 0):
            for logic in logics:
                logic.GetSliceCompositeNode().SetLinkedControl(1)
                logic.GetSliceCompositeNode().SetHotLinkedControl(hot)
            spin(0.3)
            before = state()
            for names in (("charts",), ("sideBySide",), ("charts", "grid"), ("sideBySide", "charts", "jacobian")):
                for name in names:
                    click(getattr(self.ui, f"{name}Button"))
                    spin(0.2)
                for name in DISPLAYS:
                    if getattr(self.ui, f"{name}Button").checked:
                        click(getattr(self.ui, f"{name}Button"))
                spin(0.3)
                self.assertEqual(state(), before, names)

    def test_SideBySideShowsAPairThatLiesFarFromTheOrigin(self):
        fixed, moving = self.pair[0], self.pair[2]
        for volume in (fixed, moving):
            volume.SetOrigin(-160.0, -250.0, -260.0)
        slicer.util.setSliceViewerLayers(background=fixed, fit=True)
        spin(0.3)
        names = ("Red", "Green", "Yellow")
        offsets = [slicer.app.layoutManager().sliceWidget(name).mrmlSliceNode().GetSliceOffset() for name in names]
        # Views that were made earlier have settled already: these are new.
        for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
            if node.GetLayoutName().startswith("DeepFLASH"):
                slicer.mrmlScene.RemoveNode(node)
        display = SideBySide(fixed, moving)
        display.show()
        spin(0.3)
        for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
            if node.GetLayoutName().startswith("DeepFLASH"):
                usual = {"Axial": 0, "Coronal": 1, "Sagittal": 2}[node.GetOrientation()]
                self.assertAlmostEqual(node.GetSliceOffset(), offsets[usual], 3)
        display.hide()

    def test_NoTextMakesThePanelWider(self):
        sentence = "a sentence that is longer than the panel is wide, as those of a report are " * 3
        for label in (self.ui.verdictLabel, self.ui.statusLabel, self.ui.missingLabel, self.ui.readoutLabel):
            before = label.text
            label.text = sentence
            spin(0.2)
            self.assertLess(self.ui.reportCollapsibleButton.sizeHint.width(), 450)
            self.assertLess(self.ui.inputsCollapsibleButton.sizeHint.width(), 450)
            label.text = before

    def test_ValuesAreReadAndPlacesAreShown(self):
        self._needsTorch()
        self._choose()
        self._register()
        cursor = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        cursor.SetCursorPositionRAS([10.0, 5.0, 0.0])
        spin(0.1)
        self.assertRegex(self.ui.readoutLabel.text, r"Moved [0-9.]+ mm, [0-9.]+ mm of it.*\nvolume [+-]\d+ %.*; core")
        probe = slicer.util.findChild(slicer.util.mainWindow(), "DeepFLASHReadout")
        self.assertTrue(probe.visible)
        self.assertEqual(probe.text, self.ui.readoutLabel.text)
        self.assertEqual(qt.QToolTip.text(), probe.text)
        self.ui.besidePointerCheckBox.checked = False
        qt.QToolTip.hideText()
        spin(0.5)
        cursor.SetCursorPositionRAS([12.0, 5.0, 0.0])
        self.assertNotEqual(qt.QToolTip.text(), probe.text)
        self.ui.besidePointerCheckBox.checked = True
        red = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()
        for button, words in (
            (self.ui.changeButton, "volume"),
            (self.ui.squeezeButton, "volume"),
            (self.ui.worstLabelButton, "Dice"),
        ):
            if self.ui.fadeButton.checked:
                click(self.ui.fadeButton)
            red.SetSliceOffset(70.0)
            click(button)
            self.assertIn(words, self.ui.readoutLabel.text)
            self.assertNotEqual(red.GetSliceOffset(), 70.0)
            self.assertTrue(self.ui.fadeButton.checked)  # over other volumes the place would say nothing

    def test_ARerunUpdatesTheSameNodes(self):
        self._needsTorch()
        self._choose()
        self._register()
        before = nodeNames()
        self._register()
        self.assertEqual(nodeNames(), before)
        print(f"warm run: {self.current.seconds_passed:.1f} s, of which child {self.current.seconds}")

    def test_AResultIsRefinedByLandmarksAndThatIsUndone(self):
        self._needsTorch()
        self._choose()
        self.assertFalse(self.ui.refineButton.enabled or self.ui.undoButton.enabled)
        self._register()
        nodes, kept, before = self.current.nodes, nodeNames(), fingerprint(self.current.nodes.transform)
        verdict, warped = self.ui.verdictLabel.text, slicer.util.arrayFromVolume(self.current.nodes.warpedVolume).copy()
        fixedPoints = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "fixed points")
        fixedPoints.AddControlPoint(26, 4, 5, "one")
        fixedPoints.AddControlPoint(-16, 21, -5, "two")
        self.ui.fixedMarkupsSelector.setCurrentNode(fixedPoints)
        spin(0.5)
        click(slicer.util.findChildren(self.ui.checksFrame, name="remedyButtonLandmarks")[0])
        self.assertEqual(self.widget.form.parameters().landmark_weight, 1.0)
        waitUntil(lambda: not slicer.util.findChildren(self.ui.checksFrame, name="remedyButtonLandmarks"), 10)
        run = self.widget.runPanel.run
        click(self.ui.refineButton)
        waitUntil(lambda: self.widget.runPanel.run is not run and not self.widget.runPanel.busy)
        self.assertEqual(self.current.state, "done", self.current.error)
        self.assertEqual(self.current.metrics["steered"], ["landmarks"])
        self.assertIs(self.current.nodes.transform, nodes.transform)
        self.assertNotEqual(fingerprint(nodes.transform), before)
        click(self.ui.undoButton)
        spin(0.3)
        self.assertEqual(fingerprint(nodes.transform), before)
        self.assertTrue((slicer.util.arrayFromVolume(nodes.warpedVolume) == warped).all())
        self.assertEqual(self.ui.verdictLabel.text, verdict)
        self.assertEqual(nodeNames(), sorted([*kept, "fixed points"]))
        self.assertTrue(self.ui.refineButton.enabled)
        self.assertFalse(self.ui.undoButton.enabled)
        self.assertTrue(self.ui.saveButton.enabled)

    def test_APairIsPlacedByTwoClicksAndSteers(self):
        self._needsTorch()
        self._choose()
        self.ui.movingMarkupsSelector.setCurrentNode(None)
        self._register()
        before = nodeNames()
        mode = slicer.app.applicationLogic().GetInteractionNode()
        click(self.ui.pairButton)
        self.assertEqual(mode.GetCurrentInteractionMode(), mode.Place)
        click(self.ui.pairButton)  # given up
        spin(0.1)
        self.assertEqual(nodeNames(), before)
        self.assertFalse(self.ui.pairButton.checked)
        for place in ((20.0, 0.0, 0.0), (-20.0, 0.0, 0.0)):
            click(self.ui.pairButton)
            identifier = slicer.app.applicationLogic().GetSelectionNode().GetActivePlaceNodeID()
            line = slicer.mrmlScene.GetNodeByID(identifier)
            line.AddControlPoint(*place)
            line.AddControlPoint(place[0], 4.0, 0.0)
            mode.SwitchToViewTransformMode()
            spin(0.1)
        fixed, moving = self.ui.fixedMarkupsSelector.currentNode(), self.ui.movingMarkupsSelector.currentNode()
        self.assertEqual((fixed.GetNumberOfControlPoints(), moving.GetNumberOfControlPoints()), (2, 2))
        self.assertEqual(self.widget.form.parameters().landmark_weight, 1.0)
        waitUntil(lambda: self.ui.refineButton.enabled, 10)
        run = self.widget.runPanel.run
        click(self.ui.refineButton)
        waitUntil(lambda: self.widget.runPanel.run is not run and not self.widget.runPanel.busy)
        self.assertEqual(self.current.state, "done", self.current.error)
        distances = self.current.metrics["landmarks"]
        self.assertLess(distances["mean_after_mm"], 3.5)  # of the 4 mm by which they were off

    def _sequence(self):
        """A sequence of three items, and the volume that shows one of them."""
        sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "cine")
        for number, volume in enumerate((self.pair[0], self.pair[2], self.pair[0])):
            sequence.SetDataNodeAtValue(volume, str(number))
        browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "cine browser")
        browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
        spin(0.1)
        return sequence, browser, browser.GetProxyNode(sequence)

    def test_ASequenceIsChosenByItsItemRegisteredAndPlayed(self):
        self._needsTorch()
        self._choose()
        self.assertIn("sequence", self.ui.seriesButton.toolTip)
        sequence, browser, proxy = self._sequence()
        self.ui.movingVolumeSelector.setCurrentNode(proxy)
        waitUntil(lambda: self.ui.sequenceSelector.currentNode() is sequence, 10)
        self.ui.seriesCollapsibleButton.collapsed = False
        self.ui.seriesCyclicCheckBox.checked = True
        waitUntil(lambda: self.ui.seriesButton.enabled, 10)
        with Turns() as turns:
            click(self.ui.seriesButton)
            waitUntil(lambda: self.current is not None and self.current.done)
        run = self.current
        self.assertEqual(run.state, "done", run.error)
        self.assertLess(turns.longest, LONGEST_TURN)
        self.assertTrue(run.how.cyclic)
        self.assertEqual(run.nodes.warped.GetNumberOfDataNodes(), 3)
        self.assertIs(run.nodes.browser, browser)
        self.assertTrue(browser.GetPlaybackActive())
        self.assertIn("3 of 3 items", self.ui.statusLabel.text)
        browser.SetPlaybackActive(False)
        for item in (1, 2):
            browser.SetSelectedItemNumber(item)
            waitUntil(lambda: behind(slicer.mrmlScene) is None, 30)

    def test_AFixedMaskCountsForASequenceOfWhoseItemsItIsOne(self):
        self._needsTorch()
        self._choose()
        sequence, _browser, proxy = self._sequence()
        self.ui.sequenceSelector.setCurrentNode(sequence)
        self.ui.fixedMaskSelector.setCurrentNode(self.pair[1])
        self.assertIsNone(self.widget.series._mask())  # it belongs to another volume
        self.ui.fixedVolumeSelector.setCurrentNode(proxy)
        self.assertIs(self.widget.series._mask(), self.pair[1])

    def test_ATemplateIsLoadedAndASubjectShownAsItWasRegistered(self):
        self._needsTorch()
        self._choose()
        self.assertIn("Load one", self.ui.templateSubjectButton.toolTip)
        with tempfile.TemporaryDirectory() as folder:
            out = makeTemplate(Path(folder), self.pair)
            self.widget.template.chooseFolder = lambda: str(out)
            self.ui.templateCollapsibleButton.collapsed = False
            click(self.ui.templateLoadButton)
            template = self.widget.template.template
            self.assertEqual(template.segmentation.GetSegmentation().GetNumberOfSegments(), 2)
            view = self.ui.templateTableView
            self.assertEqual(view.model().rowCount(), 2)
            self.assertFalse(self.ui.templateSubjectButton.enabled)
            view.selectRow(0)
            self.widget.template.update()
            with Turns() as turns:
                click(self.ui.templateSubjectButton)
                waitUntil(lambda: self.current is not None and self.current.done)
            self.assertEqual(self.current.state, "done", self.current.error)
            self.assertLess(turns.longest, LONGEST_TURN)
            self.assertIs(self.ui.fixedVolumeSelector.currentNode(), template.volume)
            self.assertEqual(self.ui.movingVolumeSelector.currentNode().GetName(), view.model().item(0, 0).text())
            self.assertIs(self.ui.transformSelector.currentNode(), self.current.nodes.transform)
            self.assertTrue(self.ui.geodesicButton.enabled)
            self.assertGreater(self.current.metrics["mean_dice_after"], 0.9)
            # Another folder is no template, and leaves what is shown.
            self.widget.template.chooseFolder = lambda: folder
            said = []
            with mock.patch.object(slicer.util, "errorDisplay", lambda text, **_: said.append(text)):
                click(self.ui.templateLoadButton)
            self.assertIn("holds no template", said[0])
            self.assertIs(self.widget.template.template, template)
        slicer.mrmlScene.Clear()
        self.assertIsNone(self.widget.template.template)
        self.assertFalse(self.ui.templateTableView.visible)

    def test_OfACancelledSequenceWhatIsDoneIsKept(self):
        self._needsTorch()
        self._choose("default")
        sequence, _browser, _proxy = self._sequence()
        self.ui.sequenceSelector.setCurrentNode(sequence)
        self.ui.seriesCollapsibleButton.collapsed = False
        waitUntil(lambda: self.ui.seriesButton.enabled, 10)
        click(self.ui.seriesButton)
        waitUntil(lambda: self.current is not None and self.current.message.startswith("2 of"))
        click(self.ui.registerButton)
        waitUntil(lambda: self.current.done)
        self.assertEqual(self.current.state, "cancelled", self.current.error)
        self.assertEqual(self.current.nodes.warped.GetNumberOfDataNodes(), 1)
        self.assertIn("1 of 3 items", self.ui.statusLabel.text)

    def test_ADeletedNodeIsChosenNoMoreAndNoOtherInItsPlace(self):
        self._needsTorch()
        self._choose()
        self._register()
        nodes, kept = self.current.nodes, nodeNames()
        click(self.ui.checkerboardButton)
        for selector, node, buttons in (
            (self.ui.warpedVolumeSelector, nodes.warpedVolume, ("fade", "sideBySide", "flicker", "checkerboard")),
            (self.ui.logJacobianVolumeSelector, nodes.logJacobianVolume, ("jacobian",)),
            (self.ui.transformSelector, nodes.transform, ("grid", "geodesic")),
            (self.ui.inverseTransformSelector, nodes.inverseTransform, ()),
            (self.ui.segmentationSelector, nodes.segmentation, ("outlines",)),
            (self.ui.markupsSelector, nodes.markups, ()),
        ):
            self.assertIs(selector.currentNode(), node)
            slicer.mrmlScene.RemoveNode(node)
            spin(0.1)
            self.assertIsNone(selector.currentNode(), selector.objectName)
            for name in buttons:
                button = getattr(self.ui, f"{name}Button")
                self.assertFalse(button.enabled or button.checked, name)
        self.assertFalse(
            [node for node in slicer.util.getNodesByClass("vtkMRMLTextNode") if "velocity" in node.GetName()]
        )
        self.assertIs(self.ui.fixedVolumeSelector.currentNode(), self.pair[0])
        self._register()  # they are made anew, as they were called, and what was left is updated
        self.assertIs(self.current.nodes.metricsTable, nodes.metricsTable)
        self.assertEqual(nodeNames(), kept)
        slicer.mrmlScene.RemoveNode(self.pair[0])
        spin(0.1)
        self.assertIsNone(self.ui.fixedVolumeSelector.currentNode())
        self.assertFalse(self.ui.registerButton.enabled)

    def test_AResultIsAFolderThatIsDeletedAsAWhole(self):
        self._needsTorch()
        self._choose()
        hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
        self._register()
        first = self.current.nodes
        click(self.ui.jacobianButton)
        click(self.ui.jacobianButton)
        click(self.ui.geodesicButton)
        waitUntil(lambda: not self.widget.runPanel.busy)
        folder = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(first.transform))
        self.assertEqual(hierarchy.GetItemName(folder), "moving ball to fixed ball")
        # The pair the other way round has a folder of its own; back again, the first result is there again.
        self.ui.fixedVolumeSelector.setCurrentNode(self.pair[2])
        self.ui.movingVolumeSelector.setCurrentNode(self.pair[0])
        for name in ("movingSegmentation", "fixedSegmentation", "movingMarkups"):
            getattr(self.ui, f"{name}Selector").setCurrentNode(None)
        spin(0.2)
        self.assertIsNone(self.ui.transformSelector.currentNode())
        self._register()
        self.assertIsNot(self.current.nodes.transform, first.transform)
        self.assertFalse([name for name in nodeNames() if name.endswith(("_1", "_2"))])
        second = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(self.current.nodes.transform))
        self._choose()
        self.assertIs(self.ui.transformSelector.currentNode(), first.transform)
        for item in (folder, second):
            hierarchy.RemoveItem(item, True, True)
            spin(0.3)
        self.assertIsNone(self.ui.transformSelector.currentNode())
        names = [node.GetName() or "" for node in slicer.util.getNodesByClass("vtkMRMLNode")]
        self.assertFalse([name for name in names if " to " in name or "DeepFLASH determinant" in name], names)
        for kind in ("PlotSeries", "PlotChart", "Table", "Text", "TransformStorage", "Sequence", "SequenceBrowser"):
            self.assertFalse(slicer.util.getNodesByClass(f"vtkMRML{kind}Node"), kind)

    def test_TheTablesFitAreSortedAndCopied(self):
        self._needsTorch()
        self._choose()
        self._register()
        spin(0.3)
        view = self.ui.metricsTableView
        self.assertFalse(view.verticalHeader().visible)
        for each in (view, self.ui.labelsTableView):
            header = each.horizontalHeader()
            widths = [header.sectionSize(column) for column in range(header.count())]
            self.assertLessEqual(header.length(), each.viewport().width, widths)
            self.assertEqual(each.model().headerData(0, qt.Qt.Horizontal)[:5], "Label" if each is not view else "Quant")
        labels = self.ui.labelsTableView
        self.assertEqual({labels.model().index(row, 0).data() for row in range(2)}, {"shell", "core"})
        column = 2  # Dice after
        labels.sortByColumn(column, qt.Qt.AscendingOrder)
        dice = [float(labels.model().index(row, column).data()) for row in range(2)]
        self.assertEqual(dice, sorted(dice))
        labels.sortByColumn(column, qt.Qt.DescendingOrder)
        self.assertEqual([float(labels.model().index(row, column).data()) for row in range(2)], dice[::-1])
        labels.actions()[0].trigger()
        lines = [line.split("\t") for line in slicer.app.clipboard().text().splitlines()]
        self.assertEqual(lines[0][0], "Label")
        self.assertEqual([float(line[column]) for line in lines[1:]], dice[::-1])
        labels.selectRow(1)
        labels.actions()[0].trigger()
        self.assertEqual(len(slicer.app.clipboard().text().splitlines()), 2)

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

    def test_CancelInEveryPhase(self):
        self._needsTorch()
        self._choose()
        self._register()  # of a warm child no phase is over before it was seen
        before = nodeNames()
        for phase in ("prepare", "affine", "level", "finish"):
            waitUntil(lambda: not self.widget.machinePanel.asking)
            click(self.ui.registerButton, pause=0)
            run, clicked = self.current, []

            def cancel(event, run=run, phase=phase, clicked=clicked):
                if event.get("phase") == phase and not clicked:
                    clicked.append(event)
                    self.assertEqual(self.ui.registerButton.text, "&Cancel")
                    click(self.ui.registerButton, pause=0)

            run.on_event(cancel)
            waitUntil(lambda run=run: run.done)
            self.assertTrue(clicked, phase)
            self.assertEqual(run.state, "cancelled", phase)
            self.assertEqual(nodeNames(), before, phase)
            print(f"cancelled in phase {phase}: {run.seconds_passed:.2f} s, can be kept: {run.canBeKept}")

    def test_CancelWhileTheResultIsTakenIn(self):
        self._needsTorch()
        self._choose()
        before = nodeNames()
        waitUntil(lambda: not self.widget.machinePanel.asking)
        click(self.ui.registerButton, pause=0)
        run, runner = self.current, self.widget.logic._runner
        while runner._ending is None and not run.done:
            Turns.take()
        self.assertFalse(run.done)
        click(self.ui.registerButton, pause=0)
        waitUntil(lambda: run.done)
        self.assertEqual(run.state, "cancelled")
        self.assertEqual(nodeNames(), before)
        click(self.ui.keepButton)
        self.assertGreater(len(nodeNames()), len(before))

    def _onDiskOf(self, kilobytes):
        """From here on the private folders lie on a small disk of their own."""
        folder = slicer.util.tempDirectory()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder]
        if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
            self.skipTest("only root can make a small disk")
        self.addCleanup(subprocess.run, ["umount", "-l", folder], check=True)
        for module, name, value in ((folders, "_SHARED_MEMORY", Path(folder, "none")), (tempfile, "tempdir", folder)):
            self.addCleanup(setattr, module, name, getattr(module, name))
            setattr(module, name, value)

    def test_AFullDiskIsAMessageAndTheNextRunWorks(self):
        self._needsTorch()
        self._choose()
        waitUntil(lambda: not self.widget.machinePanel.asking)
        before = nodeNames()
        # Too small for what the child is given; then for what it finds.
        for kilobytes, what in ((300, "No room for the images"), (1600, "No room for the result")):
            self._onDiskOf(kilobytes)
            run = start(self.widget)
            waitUntil(lambda run=run: run.done)
            self.assertEqual(run.state, "failed")
            self.assertIn(what, str(run.error))
            self.assertIn(what, self.ui.statusLabel.text)
            self.assertEqual(nodeNames(), before)
            self.doCleanups()
        self._register()

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
        run = start(self.widget)
        slicer.util.selectModule("Data")
        waitUntil(lambda: run.done)
        self.assertEqual(run.state, "done", run.error)
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
        self.assertFalse(slicer.util.getNodesByClass("vtkMRMLSequenceNode"))  # computed anew from the velocity
        self.assertTrue(self.ui.saveButton.enabled)
        folder = Path(slicer.util.tempDirectory())
        waitUntil(lambda: not self.widget.machinePanel.asking)
        self.assertTrue(self.widget.runPanel.start(self.widget.saving.run(str(folder))))
        waitUntil(lambda: not self.widget.runPanel.busy)
        self.assertEqual(self.current.state, "done", self.current.error)
        self.assertTrue((folder / "report.html").is_file())
        for name in (
            "fade",
            "sideBySide",
            "flicker",
            "checkerboard",
            "grid",
            "jacobian",
            "outlines",
            "charts",
            "geodesic",
        ):
            button = getattr(self.ui, f"{name}Button")
            click(button)
            waitUntil(lambda: not self.widget.runPanel.busy)
            self.assertTrue(button.checked, name)
            click(button)
            self.assertFalse(button.checked, name)

    def test_ASceneSavedWhileSomethingIsShownIsLoadedWithItsViews(self):
        self._needsTorch()
        self._choose()
        self._register()
        click(self.ui.sideBySideButton)
        path = f"{slicer.util.tempDirectory()}/shown.mrb"
        self.assertTrue(slicer.util.saveScene(path))
        slicer.mrmlScene.Clear()
        slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        slicer.util.loadScene(path)
        spin(0.6)
        names = slicer.app.layoutManager().sliceViewNames()
        shown = [name for name in names if slicer.app.layoutManager().sliceWidget(name).visible]
        self.assertEqual(len([name for name in shown if name.startswith("DeepFLASH")]), 6)
        self.assertTrue(self.ui.registerButton.enabled, self.ui.registerButton.toolTip)

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

    def test_TooLittleMemoryIsToldWithARemedy(self):
        self._choose()
        self.assertTrue(self.ui.parametersCollapsibleButton.collapsed)
        node = self.ui.fixedVolumeSelector.currentNode()
        # Just too little: less and less is free, until it does not suffice.
        voxels = 2 * node.GetImageData().GetNumberOfPoints()
        enough = 1.02 * memory.needed_bytes(memory.Sizes(voxels, 2 * voxels, 0, ((0, 0, 1),), 0))[0]
        self.addCleanup(setattr, memory, "free_bytes", memory.free_bytes)
        for part in range(1000, 950, -1):
            memory.free_bytes = lambda part=part: int(part / 1000 * enough / memory.USABLE_FRACTION)
            self.widget.checkNow()
            if slicer.util.findChildren(self.ui.checksFrame, name="remedyButtonMemory"):
                break
        click(slicer.util.findChildren(self.ui.checksFrame, name="remedyButtonMemory")[0])
        self.assertGreater(self.widget.form.parameters().spacing_mm, 0)
        waitUntil(lambda: not slicer.util.findChildren(self.ui.checksFrame, name="remedyButtonMemory"), 10)

    def test_MemoryOfAGpuIsLookedAtThoughParametersWereNeverOpened(self):
        self._needsTorch()
        self._choose()
        waitUntil(lambda: self.widget.logic.machine.devices is not None)
        self.assertTrue(self.ui.parametersCollapsibleButton.collapsed)
        self.assertEqual(self.widget.logic.machine.devices[0]["name"], "cpu")
        gpu = {"name": "cuda", "title": "a small GPU", "free": memory.DEVICE_BASE_BYTES}
        self.widget.logic.machine.devices = [self.widget.logic.machine.devices[0], gpu]
        self.widget.checkNow()
        self.assertIn(
            "GPU", " ".join(label.text for label in slicer.util.findChildren(self.ui.checksFrame, className="QLabel"))
        )
        self.widget.logic.machine.devices = None

    def test_RegisterPressedAtOnceWaitsForTheAnswerOnDevices(self):
        self._needsTorch()
        self._choose()
        self.widget.logic.close()
        self.widget.machinePanel._asked = float("-inf")
        self.widget.checkNow()
        self.assertTrue(self.widget.machinePanel.asking)
        before = self.current
        click(self.ui.registerButton, pause=0)
        click(self.ui.registerButton, pause=0)  # impatient
        self.assertIs(self.current, before)
        waitUntil(lambda: self.current is not before)
        run = self.current
        waitUntil(lambda: run.done)
        self.assertEqual(run.state, "done", run.error)

    def test_TheSampleIsMadeByItsTileAndRegisters(self):
        self._needsTorch()
        slicer.util.selectModule("SampleData")
        spin(0.5)
        tiles = slicer.util.findChildren(slicer.util.mainWindow(), className="QToolButton")
        tile = next(tile for tile in tiles if tile.text == "DeepFLASHHeads")
        for section in slicer.util.findChildren(
            slicer.modules.sampledata.widgetRepresentation(), className="ctkCollapsibleGroupBox"
        ):
            section.collapsed = False
        before = nodeNames()
        click(tile)
        waitUntil(lambda: len(nodeNames()) >= len(before) + 6)
        slicer.util.selectModule("DeepFLASHRegistration")
        volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        fixed, moving = [volume for volume in volumes if volume.GetName() not in before]
        self.ui.fixedVolumeSelector.setCurrentNode(fixed)
        self.ui.movingVolumeSelector.setCurrentNode(moving)
        self.widget.form.change({"preset": "fast", "iterations": [4, 2]})
        self.widget.onParametersChanged()
        spin(0.5)
        self._register()

    def test_CopyAsPythonGivesACallThatCompiles(self):
        self._choose()
        self.ui.reportCollapsibleButton.collapsed = False
        click(self.ui.copyPythonButton)
        text = slicer.app.clipboard().text()
        compile(text, "copied", "exec")
        self.assertIn("moving ball", text)

    def test_EverythingCanBeReachedByKeyboard(self):
        for name, widget in vars(self.ui).items():
            if name.endswith(("Button", "Selector", "CheckBox", "SpinBox", "Slider")) and hasattr(
                widget, "focusPolicy"
            ):
                # A node selector is reached through the combo box in it, a slider through its spin box.
                self.assertTrue(any(map(takesKeys, [widget, *slicer.util.findChildren(widget)])), name)

    def test_UnderlinedLettersLeadToTheirWidgets(self):
        window = slicer.util.mainWindow()
        menus = {letterOf(action.text) for action in window.menuBar().actions()}
        root = self.ui.registerButton.parent()
        for section in slicer.util.findChildren(root, className="ctkCollapsibleButton"):
            self.addCleanup(setattr, section, "collapsed", section.collapsed)
            section.collapsed = False
        spin(0.2)
        model = self.widget.form.widgets["model"]
        for each in (
            self.ui.fadeSlider,
            self.ui.gridSpacingSlider,
            self.ui.jacobianOpacitySlider,
            self.ui.timeSlider,
            model,
        ):
            self.addCleanup(setattr, each, "enabled", each.enabled)
            each.enabled = True
        labels = [label for label in slicer.util.findChildren(root, className="QLabel") if label.buddy() is not None]
        self.assertGreater(len(labels), 20)
        for label in labels:
            label.buddy().setFocus()
            focused = window.focusWidget()
            self.assertIn(focused, [label.buddy(), *slicer.util.findChildren(label.buddy())], label.text)
            self.assertTrue(takesKeys(focused), label.text)
        section = self.ui.inputsCollapsibleButton
        always = [label for label in labels if section.isAncestorOf(label)] + [
            self.ui.registerButton,
            self.ui.logButton,
        ]
        letters = [letterOf(each.text) for each in always]
        self.assertEqual(len(letters), 4)
        self.assertEqual(len(set(letters) - {""} - menus), len(letters), letters)

    def test_ParametersAreShownByTheirOneDefinition(self):
        form, shown = self.widget.form, 0
        for each in dataclasses.fields(Parameters):
            widget = form.widgets[each.name]
            self.assertIn(each.metadata["help"], widget.toolTip)
            if each.metadata["choices"] and each.type == "str":  # of several, they are written
                shownChoices = {widget.itemData(n): widget.itemText(n) for n in range(widget.count)}
                self.assertEqual(shownChoices, each.metadata["titles"])
            labels = slicer.util.findChildren(self.ui.registerButton.parent(), className="QLabel")
            shown += f"{each.metadata['label']}:" in [label.text.replace("&", "") for label in labels]
        self.assertEqual(shown, len(dataclasses.fields(Parameters)))
