# SPDX-License-Identifier: Apache-2.0
"""Every button in every state (button_table.py): nothing raises, nothing is overwritten, what is greyed says why."""

import os
import signal
import sys
import tempfile
import unittest
from unittest import mock

import qt
import slicer
import vtk
from button_table import CHANGING, DELETED, HIDDEN, PRESSED, STATES, TABLE, Greyed
from DeepFLASHRegistrationLib.gui.torch_installation import torch_is_installed
from DeepFLASHRegistrationLib.scene.velocity import VELOCITY_ROLE
from window_driver import choosePair, click, makePair, spin, start, waitUntil

SHORT = {"preset": "fast", "iterations": [3, 2]}
LONG = {"preset": "fast", "iterations": [9000, 9000], "tolerance": 0.0}


class DeepFLASHRegistrationButtonsTest(unittest.TestCase):
    def setUp(self):
        if not torch_is_installed():
            self.skipTest("PyTorch is not installed in this Slicer")
        slicer.util.selectModule("DeepFLASHRegistration")
        self.raised, self.told, self.stamps = [], [], {}
        hook, sys.excepthook = sys.excepthook, lambda kind, error, trace: self.raised.append(repr(error))
        self.addCleanup(setattr, sys, "excepthook", hook)
        patch = mock.patch.object(slicer.util, "errorDisplay", lambda text, **_: self.told.append(text))
        patch.start()
        self.addCleanup(patch.stop)

    def tearDown(self):
        if self.raised or self.told:
            print("raised:", self.raised, "told:", self.told)
        slicer.modules.DeepFLASHRegistrationWidget.logic.close()

    # ------------------------------------------------------------------------------------------------- states

    @property
    def widget(self):
        return slicer.modules.DeepFLASHRegistrationWidget

    @property
    def ui(self):
        return self.widget.ui

    def _button(self, name):
        return getattr(self.ui, f"{name}Button")

    def _idle(self):
        waitUntil(lambda: self.widget.logic.current is None)
        spin(0.4)  # the inputs are looked at again, and this computer may be asked
        waitUntil(lambda: self.widget.logic.current is None)

    def _reach(self, state):
        """Brings the window into a state, from whatever it is in."""
        self.widget.logic.close()
        slicer.mrmlScene.Clear()
        slicer.util.selectModule("DeepFLASHRegistration")
        self._open()
        self.stamps = {}
        getattr(self, "_" + state.replace(" ", "_"))()
        spin(0.1)
        self._remember()
        self.assertEqual((self.raised, self.told), ([], []), f"on the way to: {state}")

    def _open(self):
        """Opens every section, so that all buttons can be seen."""
        for section in slicer.util.findChildren(self.widget.parent, className="ctkCollapsibleButton"):
            section.collapsed = False
        spin(0.1)

    def _no_volume(self):
        self._idle()

    def _one_volume(self):
        for node in makePair()[1:]:
            slicer.mrmlScene.RemoveNode(node)
        self._idle()

    def _same_volume_twice(self):
        self._pair()
        self.ui.movingVolumeSelector.setCurrentNode(self.ui.fixedVolumeSelector.currentNode())

    def _pair(self):
        self.nodes = makePair((20, 23, 20), 8.0)
        choosePair(self.ui, self.nodes)
        self._set(SHORT)
        self._idle()

    def _set(self, values):
        self.widget.form.change(values)
        self.widget.onParametersChanged()
        spin(0.05)

    def _begin(self):
        self._set(LONG)
        run = start(self.widget)
        waitUntil(lambda: len(run.history) > 1 or run.done)
        self.assertEqual(run.state, "running", run.error)
        return run

    def _hold(self):
        """As long as nobody looks at what the child says, nothing ends."""
        self.widget.logic._timer.stop()

    def _running(self):
        self._pair()
        self._begin()
        self._hold()

    def _cancelling(self):
        self._running()
        self.ui.registerButton.click()
        self.assertEqual(self.widget.runPanel.run.state, "cancelling")

    def _cancelled(self):
        self._pair()
        self._begin()
        click(self.ui.registerButton)
        self._idle()

    def _failed(self):
        self._pair()
        self._begin()
        self._kill()

    def _kill(self):
        run = self.widget.runPanel.run
        os.kill(self.widget.logic._runner.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        waitUntil(lambda: run.done)
        self._idle()
        self.assertEqual(run.state, "failed")
        self.assertEqual(len(self.told), 1)
        self.told.clear()

    def _done(self):
        self._pair()
        run = start(self.widget)
        waitUntil(lambda: run.done)
        self.assertEqual(run.state, "done", run.error)
        self._idle()
        click(self.ui.fadeButton)  # shown by itself; taken away, so that each display is pressed for itself

    def _refined(self):
        self._done()
        before = self.widget.runPanel.run
        click(self.ui.refineButton)
        waitUntil(lambda: self.widget.runPanel.run is not before and self.widget.runPanel.run.done)
        run = self.widget.runPanel.run
        self.assertEqual(run.state, "done", run.error)
        self._idle()
        if self.ui.fadeButton.checked:
            click(self.ui.fadeButton)

    def _running_again(self):
        self._done()
        self._begin()
        self._hold()

    def _failed_again(self):
        self._done()
        self._begin()
        self._kill()
        self._set(SHORT)

    def _other_pair(self):
        self._done()
        other = slicer.modules.volumes.logic().CloneVolume(slicer.mrmlScene, self.nodes[2], "other ball")
        self.ui.movingVolumeSelector.setCurrentNode(other)
        self._idle()

    def _second_scene(self):
        self._done()
        click(self.ui.jacobianButton)
        slicer.mrmlScene.Clear()
        self._pair()

    def _reloaded_while_running(self):
        self._running()
        run = self.widget.runPanel.run
        self.widget.onReload()
        self.assertTrue(run.done)
        self._open()
        self._set(SHORT)
        self._idle()

    def _reloaded_later(self):
        self._done()
        self.widget.onReload()
        self._open()
        self._idle()

    # ---------------------------------------------------------------------------------------------- the walk

    def _stampOf(self, node):
        image = node.GetImageData() if node.IsA("vtkMRMLVolumeNode") else None
        if node.IsA("vtkMRMLSegmentationNode"):
            return node.GetSegmentation().GetMTime()
        return image.GetMTime() if image is not None else node.GetMTime()

    def _remember(self):
        """Volumes and segmentations, and when what they hold was last changed."""
        for kind in ("vtkMRMLVolumeNode", "vtkMRMLSegmentationNode"):
            for node in slicer.util.getNodesByClass(kind):
                self.stamps.setdefault(node, self._stampOf(node))

    def _checkNothingOverwritten(self, where, but=()):
        for node, stamp in self.stamps.items():
            if node not in but and node.GetScene() is not None:
                self.assertEqual(self._stampOf(node), stamp, f"{where}: {node.GetName()} was changed")

    def _press(self, name, where):
        button, before = self._button(name), self._button(name).checked
        with tempfile.TemporaryDirectory() as folder:
            choose = mock.patch.object(self.widget.saving, "chooseFolder", lambda: folder)
            none = mock.patch.object(self.widget.template, "chooseFolder", lambda: "")
            with choose, none:
                click(button)
                if name not in CHANGING and not where.startswith(("running", "cancelling")):
                    self._idle()
        if button.checkable and button.enabled:
            self.assertNotEqual(button.checked, before, where)
            click(button)
            self.assertEqual(button.checked, before, where)

    def _check(self, name, expected, where):
        """Presses a button if it can be, and looks whether all is as expected."""
        button = self._button(name)
        if expected is HIDDEN:
            self.assertFalse(button.visible, where)
            return
        self.assertTrue(button.visible, where)
        if isinstance(expected, Greyed):
            self.assertFalse(button.enabled, where)
            self.assertIn(expected.word, button.toolTip, where)
            return
        self.assertTrue(button.enabled, f"{where}: {button.toolTip}")
        own = self._ownOutputs()
        self._press(name, where)
        self.assertEqual((self.raised, self.told), ([], []), where)
        self._checkNothingOverwritten(where, own if name in CHANGING else ())

    def _ownOutputs(self):
        """What this pair's next registration may write into: its own results."""
        node = self.widget._parameterNode
        outputs = vars(node.outputs()).values() if node else ()
        return [each for each in outputs if each is not None and not isinstance(each, str)]

    def _walk(self, state):
        self._reach(state)
        for name in [*(set(TABLE) - set(CHANGING)), *CHANGING]:
            if name in CHANGING and TABLE[name][state] is PRESSED:
                self._reach(state)
            self._check(name, TABLE[name][state], f"{state}, {name}")
            if name in CHANGING and TABLE[name][state] is PRESSED:
                self.widget.logic._timer.start()
                run = self.widget.runPanel.run
                if run is not None and not run.done and run.parameters.tolerance == 0.0:
                    self.widget.logic.cancel()
                self._idle()
                self.assertEqual((self.raised, self.told), ([], []), f"{state}, after {name}")

    def test_EveryButtonIsInTheTable(self):
        slicer.util.selectModule("DeepFLASHRegistration")
        buttons = {
            name.removesuffix("Button")
            for name, widget in vars(self.ui).items()
            if name.endswith("Button") and not name.endswith("CollapsibleButton")
        }
        self.assertEqual(buttons, set(TABLE))
        for name, row in TABLE.items():
            self.assertEqual(set(row), set(STATES), name)

    def test_WhatASlotRaisesIsSeen(self):
        def fail(*arguments):
            raise ValueError("on purpose")

        button = qt.QPushButton()
        button.connect("clicked()", fail)
        button.click()
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode")
        node.AddObserver(vtk.vtkCommand.ModifiedEvent, fail)
        node.Modified()
        self.assertEqual(len(self.raised), 2)
        self.raised.clear()

    def test_WhatWasDeletedIsMissedByNobody(self):
        asDone = False
        for name, greyed in DELETED.items():
            with self.subTest(deleted=name):
                if not asDone or name == "velocity":  # whose sequence has not been made yet
                    self.raised.clear()
                    self.told.clear()
                    self._reach("done")
                asDone = False
                shown = [each for each in greyed if self._button(each).checkable and each not in ("geodesic", "pair")]
                self._delete(name, [*shown, "grid"][0])
                for button in sorted(set(TABLE) - set(CHANGING)):
                    where = f"{name} deleted, {button}"
                    if button in greyed:
                        self.assertFalse(self._button(button).enabled, where)
                        self.assertNotEqual(self._button(button).toolTip, self._button(button).statusTip, where)
                    else:
                        self._check(button, TABLE[button]["done"], where)
                if "register" in greyed:
                    self.assertFalse(self.ui.registerButton.enabled)
                    continue
                run = start(self.widget)
                waitUntil(lambda run=run: run.done)
                self._idle()
                self.assertEqual((run.state, self.raised, self.told), ("done", [], []), run.error)
                if self.ui.fadeButton.checked:
                    click(self.ui.fadeButton)
                asDone = not name.startswith(("fixed", "moving"))

    def _delete(self, name, shown):
        """Deletes a node while something is shown of it, if anything can be."""
        self.assertIsNotNone(self._nodeCalled(name))
        click(self._button(shown))
        self._idle()
        slicer.mrmlScene.RemoveNode(self._nodeCalled(name))
        self._idle()
        self.assertIsNone(self._nodeCalled(name))
        self.assertEqual((self.raised, self.told), ([], []))
        self.stamps = {}
        self._remember()

    def _nodeCalled(self, name):
        node = self.widget._parameterNode
        if name == "velocity":
            return node.transform.GetNodeReference(VELOCITY_ROLE) if node.transform else None
        return getattr(node, name)


def _walkOf(state):
    return lambda self: self._walk(state)


for _state in STATES:
    _name = "test_" + "".join(word.title() for word in ["when", *_state.split()])
    setattr(DeepFLASHRegistrationButtonsTest, _name, _walkOf(_state))
