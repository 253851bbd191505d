# SPDX-License-Identifier: Apache-2.0
"""The copied console call does what the window would do."""

from types import SimpleNamespace

import slicer
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.scene.as_python import pythonCall
from DeepFLASHRegistrationLib.scene.outputs import OutputNodes
from module_nodes import FIXED, addPair, ball
from scene_synthetic import addVolume


def _called(text, scene, monkeypatch):
    """The arguments with which the text calls register."""
    calls = []

    def register(**arguments):
        calls.append(arguments)
        return SimpleNamespace(verdict=SimpleNamespace(level="good"), metrics={})

    def getNode(pattern):
        nodes = [scene.GetNthNode(index) for index in range(scene.GetNumberOfNodes())]
        return next(node for node in nodes if pattern in (node.GetName(), node.GetID()))

    monkeypatch.setattr(
        slicer, "util", SimpleNamespace(getNode=getNode, getModuleLogic=lambda name: SimpleNamespace(register=register))
    )
    exec(text, {})
    return calls[0]


def test_the_call_has_the_same_arguments(scene, monkeypatch, capsys):
    inputs = addPair(scene)
    parameters = Parameters.from_preset("fast", sigma=0.0333, bands=(7, 15))
    outputs = OutputNodes(transform=None, warpedVolume=addVolume(scene, FIXED, ball(FIXED)[0], "mine"))
    found = _called(pythonCall(inputs, parameters, outputs), scene, monkeypatch)
    assert found.pop("parameters") == parameters
    assert found.pop("outputs") == outputs
    assert found == inputs.nodes()


def test_a_name_that_two_nodes_share_is_not_used(scene, monkeypatch, capsys):
    inputs = addPair(scene)
    inputs.movingVolume.SetName("fixed")
    found = _called(pythonCall(inputs, Parameters(), OutputNodes()), scene, monkeypatch)
    assert found["movingVolume"] is inputs.movingVolume
    assert found["fixedVolume"] is inputs.fixedVolume
    assert "outputs" not in found
