# SPDX-License-Identifier: Apache-2.0
"""The Python of docs/console.md does what it says, with the module's own logic and the engine.

Slicer's scene is real; Qt, and what Slicer's application puts around the scene, are stand-ins, as there is no window.
"""

import importlib
import json
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

import pytest
import slicer
from DeepFLASHRegistrationLib.cohorts import tasks
from DeepFLASHRegistrationLib.process.runner import Runner

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"seed": 1, "shape": (28, 32, 28), "spacing_mm": 6.0}


def blocks() -> list[str]:
    """The Python of the page, in order."""
    text = (ROOT / "docs" / "console.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def standIn(monkeypatch, name, **content):
    module = ModuleType(name)
    vars(module).update(content)
    monkeypatch.setitem(sys.modules, name, module)
    return module


@pytest.fixture
def logic(scene, childPython, monkeypatch):
    """The logic of the module's own file."""
    names = ("ScriptedLoadableModule", "ScriptedLoadableModuleLogic", "ScriptedLoadableModuleTest")
    bases = {name: type(name, (), {}) for name in (*names, "ScriptedLoadableModuleWidget")}
    util = standIn(
        monkeypatch,
        "slicer.util",
        VTKObservationMixin=object,
        settingsValue=lambda key, default, converter=None: default,
    )
    standIn(monkeypatch, "slicer.i18n", tr=lambda text: text, translate=lambda context, text: text)
    standIn(monkeypatch, "slicer.ScriptedLoadableModule", **bases)
    standIn(monkeypatch, "slicer.parameterNodeWrapper", parameterNodeWrapper=lambda each: each)
    monkeypatch.setitem(sys.modules, "qt", MagicMock())
    for name, value in (("app", MagicMock()), ("util", util), ("mrmlScene", scene)):
        monkeypatch.setattr(slicer, name, value, raising=False)
    for name in list(sys.modules):
        if name == "DeepFLASHRegistration" or name.startswith("DeepFLASHRegistrationLib.gui"):
            monkeypatch.delitem(sys.modules, name)
    module = importlib.import_module("DeepFLASHRegistration")
    monkeypatch.setattr(
        sys.modules["DeepFLASHRegistrationLib.gui.logic"], "ensure_installed", lambda run: None
    )  # the child has it
    logic = module.DeepFLASHRegistrationLogic()
    logic._runner = Runner(childPython, tasks.__name__)
    util.getModuleLogic = {"DeepFLASHRegistration": logic}.__getitem__
    yield logic
    logic.close()
    for name in list(sys.modules):
        if name == "DeepFLASHRegistration" or name.startswith("DeepFLASHRegistrationLib.gui"):
            monkeypatch.delitem(sys.modules, name)


def test_the_python_of_the_page_runs(logic, scene, monkeypatch, capsys):
    shown, real = [], logic.makeSample
    monkeypatch.setattr(logic, "makeSample", lambda: real(**SMALL))
    slicer.util.setSliceViewerLayers = lambda **layers: shown.append(layers)
    names = {"slicer": slicer}
    console, summary, steering, correcting, outputs, cancelling, batch, series, geodesic, downloaded = blocks()

    exec(console, names)
    run = names["run"]
    assert run.state == "done"
    assert run.nodes.segmentation.GetSegmentation().GetNumberOfSegments() > 3
    assert capsys.readouterr().out.startswith(f"{run.verdict.level} {run.metrics['similarity_after']}")
    assert shown == [
        {"background": names["fixedVolume"], "foreground": run.nodes.warpedVolume, "foregroundOpacity": 0.5}
    ]

    exec(summary, names)
    told = json.loads(capsys.readouterr().out)
    assert told["state"] == "done"
    assert told["error"] is None
    assert told["verdict"]["level"] == run.verdict.level
    assert told["metrics"]["similarity_after"] == run.metrics["similarity_after"]
    assert slicer.mrmlScene.GetNodeByID(told["nodes"]["warpedVolume"]) is run.nodes.warpedVolume
    assert told["parameters"]["preset"] == "fast"
    assert told["seconds"]["total"] > 0

    exec(steering, names)
    before, after = map(float, capsys.readouterr().out.split())
    assert after < before
    assert names["run"].metrics["steered"] == ["landmarks"]

    exec(correcting, names)
    before, after = map(float, capsys.readouterr().out.split())
    assert after < before
    assert names["result"].nodes.transform.GetScene() is scene
    assert names["better"].nodes is None

    exec(outputs, names)
    assert names["run"].nodes.warpedVolume is names["myVolume"]
    assert names["run"].nodes.inverseTransform is None

    kept = []
    with monkeypatch.context() as patched:
        patched.setattr(logic, "keep", lambda each: kept.append(each))
        exec(cancelling, names)
    assert capsys.readouterr().out.split() == ["cancelled"]
    assert names["run"].error is not None
    assert kept == [names["run"]]
    names["run"] = run

    exec(batch, names)
    assert [each.state for each in names["runs"]] == ["done", "done"]
    assert len(capsys.readouterr().out.splitlines()) == 2

    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "cine")
    for number, volume in enumerate((names["fixedVolume"], run.nodes.warpedVolume)):
        item = slicer.vtkMRMLScalarVolumeNode()
        item.SetAndObserveImageData(volume.GetImageData())  # on one grid, as the items of a cine
        sequence.SetDataNodeAtValue(item, str(number))
    slicer.util.getNode = {"cine": sequence}.__getitem__
    exec(series, names)
    assert capsys.readouterr().out.startswith("2 of 2 items")
    assert names["run"].nodes.warped.GetNumberOfDataNodes() == 2

    names["run"] = run
    exec(geodesic, names)
    assert names["browser"].GetMasterSequenceNode().GetNumberOfDataNodes() == 11

    scans = {"MRBrainTumor1": names["fixedVolume"], "MRBrainTumor2": names["movingVolume"]}
    monkeypatch.setitem(sys.modules, "SampleData", SimpleNamespace(downloadSample=scans.__getitem__))
    exec(downloaded, names)
    assert names["run"].parameters.initial_alignment == "rigid"
    assert capsys.readouterr().out.splitlines()[0] == names["run"].verdict.level


def test_what_the_tutorial_shows_is_there():
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert len(pictures) > 5
    for picture in pictures + re.findall(r"(?<!!)\[[^\]]+\]\((?!https?:)([^)#]+)\)", text):
        assert (ROOT / "docs" / picture).is_file(), picture
