# SPDX-License-Identifier: Apache-2.0
"""The console API, without a main window."""

import importlib.metadata
import sys
import unittest

import slicer
from DeepFLASHRegistrationLib.cohorts.series_how import How
from DeepFLASHRegistrationLib.gui.torch_installation import torch_is_installed
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.scene.series import isOfShownItem
from DeepFLASHRegistrationLib.scene.velocity import fingerprint
from DeepFLASHRegistrationLib.support.errors import InputError
from window_driver import makePair, nodeNames, waitUntil

FAST = Parameters.from_preset("fast", iterations=(4, 3))


class DeepFLASHRegistrationConsoleTest(unittest.TestCase):
    def setUp(self):
        slicer.mrmlScene.Clear()
        self.logic = slicer.util.getModuleLogic("DeepFLASHRegistration")
        self.fixed, self.fixedSegmentation, self.moving, self.movingSegmentation, self.markups = makePair()

    def tearDown(self):
        self.logic.close()

    def _register(self, **arguments):
        if not torch_is_installed():
            self.skipTest("PyTorch is not installed in this Slicer")
        return self.logic.register(self.fixed, self.moving, **{"parameters": FAST, **arguments})

    def test_WithoutTorchOneIsToldHowToGetIt(self):
        if torch_is_installed():
            self.skipTest("PyTorch is installed in this Slicer")
        before = nodeNames()
        with self.assertRaisesRegex(RuntimeError, "PyTorch"):
            self.logic.register(self.fixed, self.moving)
        self.assertEqual(nodeNames(), before)

    def test_RegisterReturnsNodesAndNumbers(self):
        versions = {name: importlib.metadata.version(name) for name in ("numpy", "scipy", "SimpleITK")}
        events = []
        run = self._register(
            movingSegmentation=self.movingSegmentation,
            fixedSegmentation=self.fixedSegmentation,
            movingMarkups=self.markups,
            progressCallback=events.append,
        )
        self.assertEqual(run.state, "done")
        self.assertIn(run.verdict.level, ("good", "check"))
        self.assertGreater(run.metrics["similarity_after"], run.metrics["similarity_before"])
        self.assertEqual(
            run.nodes.segmentation.GetSegmentation().GetSegmentIDs(),
            self.movingSegmentation.GetSegmentation().GetSegmentIDs(),
        )
        self.assertEqual(run.nodes.markups.GetNumberOfControlPoints(), 2)
        self.assertTrue(events)
        self.assertNotIn("torch", sys.modules)
        self.assertEqual(versions, {name: importlib.metadata.version(name) for name in versions})

    def test_ARerunUpdatesTheSameNodes(self):
        first = self._register()
        before = nodeNames()
        again = self._register(outputs=first.nodes)
        self.assertEqual(nodeNames(), before)
        self.assertIs(again.nodes.transform, first.nodes.transform)

    def test_AResultIsRefinedAndThatIsUndone(self):
        first = self._register()
        before, velocity = nodeNames(), fingerprint(first.nodes.transform)
        run = self._register(refine=first.nodes.transform, outputs=first.nodes)
        self.assertIs(run.nodes.transform, first.nodes.transform)
        self.assertNotEqual(fingerprint(first.nodes.transform), velocity)
        run.undo()
        self.assertEqual(fingerprint(first.nodes.transform), velocity)
        self.assertEqual(nodeNames(), before)
        with self.assertRaisesRegex(InputError, "other volumes"):
            self.logic.register(self.moving, self.fixed, refine=first.nodes.transform)

    def test_ASequenceIsRegisteredAndItsTransformFollows(self):
        if not torch_is_installed():
            self.skipTest("PyTorch is not installed in this Slicer")
        sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "cine")
        for number, volume in enumerate((self.fixed, self.moving, self.fixed)):
            sequence.SetDataNodeAtValue(volume, str(number))
        run = self.logic.registerSequence(sequence, How(cyclic=True), parameters=FAST)
        self.assertEqual(run.nodes.warped.GetNumberOfDataNodes(), 3)
        run.nodes.browser.SetSelectedItemNumber(1)
        waitUntil(lambda: isOfShownItem(run.nodes.transform), 60)
        self.assertNotIn("torch", sys.modules)

    def test_AsynchronousOnRequest(self):
        ended = []
        run = self._register(waitForCompletion=False, completedCallback=ended.append)
        self.assertFalse(run.done)
        waitUntil(lambda: run.done)
        self.assertEqual(ended, [run])
        self.assertIsNone(run.error)

    def test_CancelLeavesTheSceneAsItWas(self):
        before = nodeNames()
        run = self._register(
            parameters=Parameters.from_preset("fine", iterations=(500, 500, 500), tolerance=0.0),
            waitForCompletion=False,
        )
        waitUntil(lambda: len(run.history) > 2)
        self.logic.cancel()
        waitUntil(lambda: run.done)
        self.assertEqual(run.state, "cancelled")
        self.assertEqual(nodeNames(), before)
        self.assertTrue(run.canBeKept)
        self.assertIsNotNone(self.logic.keep(run).warpedVolume)

    def test_ABatchGoesOnAfterAFailure(self):
        if not torch_is_installed():
            self.skipTest("PyTorch is not installed in this Slicer")
        good = {"fixedVolume": self.fixed, "movingVolume": self.moving, "parameters": FAST}
        runs = self.logic.registerBatch([good, {**good, "movingVolume": self.fixed}, good])
        self.assertEqual([run.state for run in runs], ["done", "failed", "done"])
        self.assertIsInstance(runs[1].error, InputError)

    def test_SettingsAreSavedWithTheScene(self):
        node = self.logic.getParameterNode()
        node.fixedVolume, node.wantModel, node.settings = self.fixed, False, '{"preset": "fine"}'
        path = f"{slicer.util.tempDirectory()}/scene.mrml"
        self.assertTrue(slicer.mrmlScene.WriteToMRB(path.replace(".mrml", ".mrb")))
        slicer.mrmlScene.Clear()
        slicer.util.loadScene(path.replace(".mrml", ".mrb"))
        node = self.logic.getParameterNode()
        self.assertEqual(node.fixedVolume.GetName(), "fixed ball")
        self.assertFalse(node.wantModel)
        self.assertEqual(node.values()["preset"], "fine")
