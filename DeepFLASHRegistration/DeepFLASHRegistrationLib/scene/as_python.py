# SPDX-License-Identifier: Apache-2.0
"""The console call that does what the window would do now."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import slicer

from ..problem.parameters import Parameters
from .inputs import Inputs
from .outputs import NEW, OutputNodes


def pythonCall(inputs: Inputs, parameters: Parameters, outputs: OutputNodes) -> str:
    """Python text for Slicer's console: nodes by name (by ID where a name is not unique), changed parameters only."""
    lines = ["import slicer", "from DeepFLASHRegistrationLib.problem.parameters import Parameters"]
    arguments = [f"{name}={_node(node)}" for name, node in inputs.nodes().items()]
    arguments.append(f"parameters={_parameters(parameters)}")
    unusual = [
        f"{each.name}={_output(getattr(outputs, each.name))}"
        for each in fields(outputs)
        if getattr(outputs, each.name) != NEW
    ]
    if unusual:
        lines.append("from DeepFLASHRegistrationLib.scene.outputs import OutputNodes")
        arguments.append(f"outputs=OutputNodes({', '.join(unusual)})")
    lines += ["", 'logic = slicer.util.getModuleLogic("DeepFLASHRegistration")', "run = logic.register("]
    lines += [f"    {argument}," for argument in arguments]
    lines += [")", "print(run.verdict.level, run.metrics)", ""]
    return "\n".join(lines)


def _node(node: slicer.vtkMRMLNode) -> str:
    scene = node.GetScene()
    names = [scene.GetNthNode(index).GetName() for index in range(scene.GetNumberOfNodes())]
    unique = names.count(node.GetName()) == 1
    return f"slicer.util.getNode({(node.GetName() if unique else node.GetID())!r})"


def _output(choice: Any) -> str:
    return "None" if choice is None else _node(choice)


def _parameters(parameters: Parameters) -> str:
    usual = Parameters.from_preset(parameters.preset)
    changed = [
        f"{each.name}={getattr(parameters, each.name)!r}"
        for each in fields(parameters)
        if getattr(parameters, each.name) != getattr(usual, each.name)
    ]
    return f"Parameters.from_preset({', '.join([repr(parameters.preset), *changed])})"
