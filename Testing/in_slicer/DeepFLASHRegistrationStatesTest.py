# SPDX-License-Identifier: Apache-2.0
"""What the window says is so: of time, of cancelling, of failures, and nothing of what is not chosen any more."""

import logging
import os
import signal
import unittest
from unittest import mock

import qt
import slicer
from DeepFLASHRegistrationLib.gui.torch_installation import torch_is_installed
from DeepFLASHRegistrationLib.gui.verdict_words import colorOf
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from window_driver import click, makePair, spin, start, waitUntil

PACE = "DeepFLASHRegistration/pace"


class Errors(logging.Handler):
    """What is logged as an error."""

    def __init__(self):
        super().__init__(logging.ERROR)
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())


class DeepFLASHRegistrationStatesTest(unittest.TestCase):
    def setUp(self):
        if not torch_is_installed():
            self.skipTest("PyTorch is not installed in this Slicer")
        slicer.mrmlScene.Clear()
        slicer.util.selectModule("DeepFLASHRegistration")
        self.widget = slicer.modules.DeepFLASHRegistrationWidget
        self.ui, self.panel = self.widget.ui, self.widget.runPanel
        for section in slicer.util.findChildren(self.widget.parent, className="ctkCollapsibleButton"):
            section.collapsed = False
        self.fixed, fixedSegmentation, self.moving, movingSegmentation, _ = makePair((20, 23, 20), 8.0)
        self.ui.fixedVolumeSelector.setCurrentNode(self.fixed)
        self.ui.movingVolumeSelector.setCurrentNode(self.moving)
        self.ui.movingSegmentationSelector.setCurrentNode(movingSegmentation)
        self.ui.fixedSegmentationSelector.setCurrentNode(fixedSegmentation)
        self._set({"preset": "fast", "iterations": [3, 2]})

    def tearDown(self):
        self.widget.logic.close()

    def _set(self, values):
        self.widget.form.change(values)
        self.widget.onParametersChanged()
        self._idle()

    def _idle(self):
        waitUntil(lambda: self.widget.logic.current is None)
        spin(0.4)
        waitUntil(lambda: self.widget.logic.current is None)

    def _done(self):
        run = start(self.widget)
        waitUntil(lambda: run.done)
        self.assertEqual(run.state, "done", run.error)
        self._idle()
        return run

    def _long(self):
        self._set({"iterations": [500, 500], "tolerance": 0.0})
        run = start(self.widget)
        waitUntil(lambda: len(run.history) > 2 or run.done)
        self.assertEqual(run.state, "running", run.error)
        return run

    def _other(self):
        other = slicer.modules.volumes.logic().CloneVolume(slicer.mrmlScene, self.moving, "other ball")
        self.ui.movingVolumeSelector.setCurrentNode(other)

    def test_CancellingSaysWhatGoesOnAndForHowLong(self):
        run = self._long()
        self.widget.logic._timer.stop()  # nothing is heard from here on
        click(self.ui.registerButton)
        self.assertEqual(run.state, "cancelling")
        self.assertRegex(self.ui.progressBar.format, r"Cancelling - Level .* - about \d+ (s|min) left")
        self.assertIn("press again", self.ui.statusLabel.text)
        self.assertLess(run.seconds_left, 1.5 * run._remaining._pace() * run.expected["finish"] + 2)
        self.widget.logic._timer.start()
        waitUntil(lambda: run.done)
        self.assertIn("can be kept", self.ui.statusLabel.text)
        self.assertFalse(self.ui.progressBar.visible)

    def test_TimeLeftIsToldFromTheStartAndWhileNothingIsHeard(self):
        run = start(self.widget)
        self.assertRegex(self.ui.progressBar.format, r"about \d+ (s|min) left")
        self.widget.logic._timer.stop()
        told = set()
        for _ in range(5):
            spin(0.6)
            told.add(round(run.seconds_left, 1))
        self.assertGreater(len(told), 1)
        self.widget.logic._timer.start()
        waitUntil(lambda: run.done)

    def test_TheComputerLearnsHowLongItTakes(self):
        settings = qt.QSettings()
        self.addCleanup(settings.setValue, PACE, settings.value(PACE))
        settings.remove(PACE)
        first = self._done()
        for _ in range(2):
            again = self._done()
        self.assertNotEqual(again.pace, first.pace)
        wrong = [abs(sum(run.expected.values()) / run.seconds_passed - 1) for run in (first, again)]
        print(f"expected and taken: first {sum(first.expected.values()):.1f} and {first.seconds_passed:.1f} s, third "
              f"{sum(again.expected.values()):.1f} and {again.seconds_passed:.1f} s")  # fmt: skip
        self.assertLess(wrong[1], 2.0)
        self.assertEqual(self.widget.logic.machine.pace(again.kind), self.widget.logic.machine.pace("fine/flash/auto"))

    def test_KeptIsSaid(self):
        run = self._long()
        click(self.ui.registerButton)
        waitUntil(lambda: run.done)
        self._idle()
        self.assertIn("can be kept", self.ui.statusLabel.text)
        click(self.ui.keepButton)
        self._idle()
        self.assertIn("best so far was kept", self.ui.statusLabel.text)
        self.assertNotIn("Nothing was changed", self.ui.statusLabel.text)
        self.assertFalse(self.ui.keepButton.visible)
        self.assertTrue(self.ui.saveButton.enabled)
        self.assertIs(self.ui.warpedVolumeSelector.currentNode(), run.nodes.warpedVolume)

    def _showsNothing(self):
        ui = self.ui
        for label in (ui.statusLabel, ui.convergenceLabel, ui.keepButton, ui.progressBar):
            self.assertFalse(label.visible, label.objectName)
        self.assertEqual((ui.statusLabel.text, ui.readoutLabel.text), ("", ""))
        self.assertIn("no result", ui.verdictLabel.text)
        self.assertFalse(ui.metricsTableView.visible or ui.labelsTableView.visible)
        self.assertFalse(any(button.checked for button in (ui.fadeButton, ui.jacobianButton, ui.chartsButton)))

    def _showsSomething(self):
        click(self.ui.changeButton)
        for label in (self.ui.statusLabel, self.ui.convergenceLabel, self.ui.metricsTableView):
            self.assertTrue(label.visible, label.objectName)
        self.assertNotEqual(self.ui.readoutLabel.text, "")

    def test_NothingOfThePreviousPair(self):
        self._done()
        self._showsSomething()
        self._other()
        self._idle()
        self._showsNothing()

    def test_NothingOfThePreviousScene(self):
        self._done()
        self._showsSomething()
        slicer.mrmlScene.Clear()
        self._idle()
        self._showsNothing()

    def test_NothingOfARunThatEndedWithItsScene(self):
        run = self._long()
        slicer.mrmlScene.Clear()
        waitUntil(lambda: run.done)
        self._idle()
        self._showsNothing()

    def test_NothingOfOtherSettings(self):
        self._done()
        self._showsSomething()
        self.ui.parameterNodeSelector.addNode()
        self._idle()
        self._showsNothing()

    def test_TheBestSoFarOfAnotherPairIsNotOffered(self):
        run = self._long()
        click(self.ui.registerButton)
        waitUntil(lambda: run.done)
        self.assertTrue(self.ui.keepButton.visible)
        self._other()
        self._idle()
        self._showsNothing()

    def test_AResultOfWhatIsNotChosenAnyMoreIsNamedAndNotTaken(self):
        run = start(self.widget)
        self._other()
        waitUntil(lambda: run.done)
        self._idle()
        self.assertEqual(run.state, "done", run.error)
        self.assertIn("moving ball", self.ui.statusLabel.text)
        self.assertIsNone(self.ui.warpedVolumeSelector.currentNode())
        self.assertIn("no result", self.ui.verdictLabel.text)

    def test_AResultThatCameWhileAnotherModuleWasOpenIsChosen(self):
        run = start(self.widget)
        slicer.util.selectModule("Data")
        waitUntil(lambda: run.done)
        slicer.util.selectModule("DeepFLASHRegistration")
        self._idle()
        self.assertIs(self.ui.warpedVolumeSelector.currentNode(), run.nodes.warpedVolume)
        self.assertIn("Done", self.ui.statusLabel.text)

    def test_AnErrorIsToldOnceWhenTheRunHasEnded(self):
        run = self._long()
        told, errors = [], Errors()
        logging.getLogger().addHandler(errors)
        self.addCleanup(logging.getLogger().removeHandler, errors)

        def display(text, **_):
            told.append((text, run.state, self.panel.busy, self.ui.registerButton.text, self.ui.progressBar.visible))

        ended = []
        with mock.patch.object(slicer.util, "errorDisplay", display):
            run.on_end(lambda run: ended.append(len(told)))
            os.kill(self.widget.logic._runner.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
            waitUntil(lambda: told)
            self._idle()
        self.assertEqual(told, [(str(run.error), "failed", False, "&Register", False)])
        self.assertEqual(ended, [0])  # who waits for the end does not wait for the dialog
        self.assertEqual(errors.texts, [])
        self.assertIn("Failed", self.ui.statusLabel.text)

    def test_WhyRegisterIsGreyedStandsInThePanelOnce(self):
        self.ui.movingVolumeSelector.setCurrentNode(self.fixed)
        self._idle()
        self.assertTrue(self.ui.missingLabel.visible)
        self.assertIn("same", self.ui.missingLabel.text)
        self.ui.movingVolumeSelector.setCurrentNode(self.moving)
        self.ui.fixedMaskSelector.setCurrentNode(
            slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn nothing")
        )
        self._idle()
        self.assertFalse(self.ui.registerButton.enabled)
        texts = [label.text for label in slicer.util.findChildren(self.ui.checksFrame, className="QLabel")]
        self.assertEqual(sum("drawn nothing" in text for text in texts), 1)
        self.assertFalse(self.ui.missingLabel.visible)  # it stands above the button
        self.assertIn("drawn nothing", self.ui.registerButton.toolTip)

    def test_WhatIsChosenIsLookedAtAgainWhenItChanges(self):
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "bent")
        self.moving.SetAndObserveTransformNodeID(transform.GetID())
        self.ui.initialTransformSelector.setCurrentNode(
            slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "initial")
        )
        self._idle()
        self.assertTrue(self.ui.registerButton.enabled, self.ui.registerButton.toolTip)
        transform.SetAndObserveTransformToParent(slicer.vtkOrientedBSplineTransform())
        self._idle()
        self.assertFalse(self.ui.registerButton.enabled)
        self.assertIn("bent", self.ui.registerButton.toolTip)
        self.moving.SetAndObserveTransformNodeID(None)
        self._idle()
        self.assertTrue(self.ui.registerButton.enabled)
        self.ui.initialTransformSelector.currentNode().SetAndObserveTransformNodeID(transform.GetID())
        self._idle()
        self.assertIn("initial", self.ui.registerButton.toolTip)
        # And not again and again when nothing changes.
        looked = []
        self.widget.checkTimer.connect("timeout()", lambda: looked.append(1))
        spin(1.5)
        self.assertEqual(looked, [])

    def test_AResultOfAnImageThatChangedSaysSo(self):
        self._done()
        self.assertFalse(self._saysThatItChanged())
        voxels = slicer.util.arrayFromVolume(self.moving)
        before = float(voxels[5, 5, 5])
        for value, says in ((before + 1, True), (before, False)):
            voxels[5, 5, 5] = value
            slicer.util.arrayFromVolumeModified(self.moving)
            self._idle()
            self.assertEqual(self._saysThatItChanged(), says)

    def _saysThatItChanged(self):
        texts = [label.text for label in slicer.util.findChildren(self.ui.checksFrame, className="QLabel")]
        return any(f"{self.moving.GetName()} is not as it was" in text for text in texts)

    def test_WhileTheConsoleComputesTheWindowSaysSo(self):
        told = []
        with mock.patch.object(slicer.util, "errorDisplay", lambda text, **_: told.append(text)):
            run = self.widget.logic.register(
                self.fixed,
                self.moving,
                parameters=Parameters.from_preset("fast", iterations=(500, 500), tolerance=0.0),
                waitForCompletion=False,
            )
            click(self.ui.registerButton)
            self.assertIn("Something else", self.ui.statusLabel.text)
            self.widget.logic.cancel(now=True)
            waitUntil(lambda: run.done)
            self._idle()
        self.assertEqual(told, [])
        self._done()

    def test_TheVerdictIsReadOnTheLightAndOnTheDarkTheme(self):
        usual = qt.QPalette(slicer.app.palette())
        self.addCleanup(slicer.app.setPalette, usual)

        def luminance(color):
            channels = color.redF(), color.greenF(), color.blueF()
            linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
            return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear))

        for background in ("#efefef", "#353535"):
            palette = qt.QPalette(usual)
            palette.setColor(qt.QPalette.Window, qt.QColor(background))
            slicer.app.setPalette(palette)
            there = luminance(qt.QColor(background))
            for level in ("good", "check", "failed"):
                low, high = sorted((there, luminance(qt.QColor(colorOf(level)))))
                self.assertGreater((high + 0.05) / (low + 0.05), 4.5, (level, background))  # WCAG 2, level AA

    def test_AFailureNobodyWaitsForIsLogged(self):
        errors = Errors()
        logging.getLogger().addHandler(errors)
        self.addCleanup(logging.getLogger().removeHandler, errors)
        run = self.widget.logic.register(
            self.fixed,
            self.moving,
            parameters=Parameters.from_preset("fast", iterations=(500, 500), tolerance=0.0),
            waitForCompletion=False,
        )
        waitUntil(lambda: len(run.history) > 1)
        os.kill(self.widget.logic._runner.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        waitUntil(lambda: run.done)
        self.assertEqual(len(errors.texts), 1)
        self.assertIn(str(run.error), errors.texts[0])
