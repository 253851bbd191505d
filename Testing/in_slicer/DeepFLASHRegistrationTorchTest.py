# SPDX-License-Identifier: Apache-2.0
"""The window in a Slicer without torch: nothing asks for it but Register. Where torch is installed it is hidden."""

import importlib.metadata
import sys
import unittest
from importlib.machinery import PathFinder
from types import ModuleType
from unittest import mock

import slicer
from DeepFLASHRegistrationLib.gui.torch_installation import TORCH_REQUIREMENT, torch_is_installed
from window_driver import click, makePair, nodeNames, spin

FOUND = PathFinder.find_spec


def withoutTorch(name, path=None, target=None):
    """What the path finder says where torch is not installed."""
    return None if name.partition(".")[0] == "torch" else FOUND(name, path, target)


def extension(install):
    """A module PyTorchUtils whose installTorch has the parameters of SlicerPyTorch's."""

    class PyTorchUtilsLogic:
        def installTorch(
            self,
            askConfirmation=False,
            forceComputationBackend=None,
            torchVersionRequirement=None,
            torchvisionVersionRequirement=None,
        ):
            return install(
                askConfirmation, forceComputationBackend, torchVersionRequirement, torchvisionVersionRequirement
            )

    module = ModuleType("PyTorchUtils")
    module.PyTorchUtilsLogic = PyTorchUtilsLogic
    return module


class DeepFLASHRegistrationTorchTest(unittest.TestCase):
    def setUp(self):
        self._patch(mock.patch.object(PathFinder, "find_spec", withoutTorch))
        self.assertNotIn("torch", sys.modules)
        self.assertFalse(torch_is_installed())
        self.versions = {name: importlib.metadata.version(name) for name in ("numpy", "scipy", "SimpleITK")}
        self.messages = []
        self._patch(mock.patch.object(slicer.util, "errorDisplay", lambda text, **_: self.messages.append(text)))
        slicer.mrmlScene.Clear()
        slicer.util.selectModule("DeepFLASHRegistration")
        fixed, _, moving, _, _ = makePair()
        self.widget = slicer.modules.DeepFLASHRegistrationWidget
        self.widget.ui.fixedVolumeSelector.setCurrentNode(fixed)
        self.widget.ui.movingVolumeSelector.setCurrentNode(moving)
        spin(0.5)
        self.before = nodeNames()
        self.assertEqual(self.messages, [])
        self.assertIsNone(self.widget.logic._runner.pid)

    def tearDown(self):
        self.assertEqual(nodeNames(), self.before)
        self.assertNotIn("torch", sys.modules)
        versions = {name: importlib.metadata.version(name) for name in self.versions}
        self.assertEqual(versions, self.versions)
        self.widget.logic.close()

    def _patch(self, patch):
        patch.start()
        self.addCleanup(patch.stop)

    def _pressWith(self, module):
        with mock.patch.dict(sys.modules, {"PyTorchUtils": module}):
            click(self.widget.ui.registerButton)
        self.assertFalse(self.widget.runPanel.busy)

    def test_WithoutTheExtensionOneIsToldHowToGetIt(self):
        self._pressWith(None)
        self.assertEqual(len(self.messages), 1)
        self.assertIn("Extensions Manager", self.messages[0])

    def test_TheExtensionIsAskedToAsk(self):
        asked = []
        self._pressWith(extension(lambda *arguments: asked.append(arguments)))
        self.assertEqual(asked, [(True, None, TORCH_REQUIREMENT, None)])
        self.assertEqual(self.messages, [])  # who declines need not be told

    def test_AFailedInstallationIsTold(self):
        def fail(*arguments):
            raise OSError("no network")

        self._pressWith(extension(fail))
        self.assertEqual(len(self.messages), 1)
        self.assertIn("no network", self.messages[0])

    def test_OpeningEverySectionAsksForNothing(self):
        for section in slicer.util.findChildren(self.widget.parent, className="ctkCollapsibleButton"):
            self.addCleanup(setattr, section, "collapsed", section.collapsed)
            section.collapsed = False
        spin(0.5)
        self.assertEqual(self.messages, [])
        self.assertIsNone(self.widget.logic._runner.pid)
