# SPDX-License-Identifier: Apache-2.0
"""The window that compares methods: chosen, run, cancelled, shown; nothing raises, nothing finished is lost."""

import os
import sys
import unittest
from unittest import mock

import qt
import slicer
from DeepFLASHRegistrationLib.gui.torch_installation import torch_is_installed
from DeepFLASHRegistrationLib.problem.parameters import METHODS
from window_driver import choosePair, click, makePair, spin, start, waitUntil


class DeepFLASHRegistrationCompareTest(unittest.TestCase):
    def setUp(self):
        if not torch_is_installed():
            self.skipTest("PyTorch is not installed in this Slicer")
        slicer.util.selectModule("DeepFLASHRegistration")
        self.widget.logic.close()
        slicer.mrmlScene.Clear()
        self.raised, self.told = [], []
        hook, sys.excepthook = sys.excepthook, lambda kind, error, trace: self.raised.append(repr(error))
        self.addCleanup(setattr, sys, "excepthook", hook)
        patch = mock.patch.object(slicer.util, "errorDisplay", lambda text, **_: self.told.append(text))
        patch.start()
        self.addCleanup(patch.stop)
        environment = mock.patch.dict(os.environ)
        environment.start()
        self.addCleanup(environment.stop)
        os.environ.pop("DEEPFLASH_PEERS", None)
        self.addCleanup(setattr, self.widget.logic.machine, "peers", self.widget.logic.machine.peers)
        self.widget.logic.machine.peers = ""
        for section in slicer.util.findChildren(self.widget.parent, className="ctkCollapsibleButton"):
            section.collapsed = False
        self.nodes = makePair((20, 23, 20), 8.0)
        choosePair(self.ui, self.nodes)
        self._set({"preset": "fast", "iterations": [3, 2]})
        self._idle()

    def tearDown(self):
        self.dialog.close()
        self.widget.logic.close()
        self.assertEqual((self.raised, self.told), ([], []))

    @property
    def widget(self):
        return slicer.modules.DeepFLASHRegistrationWidget

    @property
    def ui(self):
        return self.widget.ui

    @property
    def dialog(self):
        return self.widget.comparing.dialog

    def _set(self, values):
        self.widget.form.change(values)
        self.widget.onParametersChanged()
        spin(0.05)

    def _idle(self):
        waitUntil(lambda: self.widget.logic.current is None)
        spin(0.4)
        waitUntil(lambda: self.widget.logic.current is None)

    def _open(self, *names):
        click(self.ui.compareButton)
        self.assertTrue(self.dialog.widget.visible)
        for row in range(self.dialog.list.count):
            item = self.dialog.list.item(row)
            if item.flags() & qt.Qt.ItemIsEnabled:
                chosen = item.data(qt.Qt.UserRole) in names
                item.setCheckState(qt.Qt.Checked if chosen else qt.Qt.Unchecked)
        self.assertEqual(tuple(self.dialog._chosen()), names)

    def _compare(self, *names):
        self._open(*names)
        click(self.dialog.startButton)
        waitUntil(lambda: not self.dialog.busy)
        spin(0.1)

    def _verdicts(self):
        lines = self.dialog.table.text().split("\n")
        return [line.split("\t")[:2] for line in lines[1:]]

    def test_MethodsAreRunOneAfterTheOtherAndShown(self):
        self._compare("fast", "default")
        self.assertEqual([each.state for each in self.dialog.comparison.methods], ["done", "done"])
        self.assertEqual([line[0] for line in self._verdicts()], ["fast", "default"])
        self.assertTrue(self.dialog.view.visible)
        fast, default = (each.nodes for each in self.dialog.comparison.methods)
        self.dialog.view.selectRow(1)
        click(self.dialog.showButton)
        spin(0.2)
        self.assertIs(self.widget._parameterNode.warpedVolume, default.warpedVolume)
        self.assertTrue(self.ui.fadeButton.checked)
        self.dialog.view.selectRow(0)
        click(self.dialog.showButton)
        spin(0.2)
        self.assertIs(self.widget._parameterNode.transform, fast.transform)
        click(self.dialog.sideBySideButton)
        spin(0.5)
        shown = {
            node.GetBackgroundVolumeID()
            for node in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
            if node.GetLayoutName().startswith("DeepFLASH")
        }
        volumes = (self.nodes[0], fast.warpedVolume, default.warpedVolume)
        self.assertTrue({volume.GetID() for volume in volumes} <= shown, shown)
        click(self.dialog.sideBySideButton)
        # A registration afterwards leaves what was compared as it is.
        stamp = fast.warpedVolume.GetImageData().GetMTime()
        run = start(self.widget)
        waitUntil(lambda: run.done)
        self.assertEqual(run.state, "done", run.error)
        self.assertIsNot(run.nodes.warpedVolume, fast.warpedVolume)
        self.assertEqual(fast.warpedVolume.GetImageData().GetMTime(), stamp)
        self._idle()

    def test_WhatIsMissingCannotBeChosenAndSaysWhy(self):
        self._open("fast")
        items = [self.dialog.list.item(row) for row in range(self.dialog.list.count)]
        greyed = {each.data(qt.Qt.UserRole): each.toolTip() for each in items if not each.flags() & qt.Qt.ItemIsEnabled}
        untrained = {"icon:auto", "constricon:auto", "carl:auto", "unigradicon:auto", "unicarl:auto"}
        self.assertEqual(set(greyed), {"ants", "greedy", *untrained})
        for method in untrained:
            self.assertIn("no trained model", greyed.pop(method))
        self.assertTrue(all("Name a Python" in text for text in greyed.values()), greyed)
        self.widget.logic.machine.peers = sys.executable + ".none"
        self._compare("fast", "greedy")
        self.assertEqual([line[1] for line in self._verdicts()], [self._verdicts()[0][1], "no result"])
        self.assertIn("is no program", self.dialog.status.text)
        self._open()
        self.assertFalse(self.dialog.startButton.enabled)
        self.assertIn("at least one", self.dialog.startButton.toolTip)

    def test_CancelledWhatIsFinishedStays(self):
        self._open("fast", "default", "fine")
        click(self.dialog.startButton)
        waitUntil(lambda: self.dialog.comparison.methods[1].state == "running")
        click(self.dialog.startButton)
        self.assertEqual(self.dialog.comparison.methods[2].state, "cancelled")
        waitUntil(lambda: not self.dialog.busy)
        spin(0.1)
        first, second, _third = self.dialog.comparison.methods
        self.assertEqual((first.state, first.nodes is not None), ("done", True))
        self.assertIn(second.state, ("cancelled", "done"))  # it may have been done in that moment
        self.assertEqual(self.dialog.startButton.text, "Compare")

    def test_AClosedSceneEndsIt(self):
        self._open("fast", "default")
        click(self.dialog.startButton)
        waitUntil(lambda: self.widget.logic.current is not None)
        slicer.mrmlScene.Clear()
        self._idle()
        self.assertFalse(self.dialog.busy)
        self.assertFalse(self.dialog.widget.visible)

    def test_EveryMethodHasASentence(self):
        for name, method in METHODS.items():
            if name == "flash" or not method.needs_model:
                self._set({"method": name})
                self.assertIn(method.sentence, self.widget.form.methodNote.text)
                self.assertIn(method.citation, self.widget.form.methodNote.text)
                row = slicer.util.findChildren(self.widget.parent, name="peersPythonLineEdit")[0]
                self.assertEqual(row.visible, method.peer, name)
        self._set({"method": "transform"})
        self._idle()
        self.assertFalse(self.ui.registerButton.enabled)
        self.assertIn("initial transform", self.ui.registerButton.toolTip)

    def test_APictureOfIt(self):
        """For whoever wants to look at it: DEEPFLASH_PICTURE names a file."""
        path = os.environ.get("DEEPFLASH_PICTURE", "")
        if not path:
            self.skipTest("no picture is wanted")
        self._compare("fast", "default", "lddmm")
        click(self.dialog.sideBySideButton)
        self.dialog.view.selectRow(1)
        spin(1)
        self.dialog.widget.grab().save(path)
        slicer.util.mainWindow().grab().save(path.replace(".png", "-main.png"))
