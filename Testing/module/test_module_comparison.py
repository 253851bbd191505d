# SPDX-License-Identifier: Apache-2.0
"""Methods run one after the other on a pair of nodes, through the engine in its child process."""

import contextlib
import re
import sys

import numpy as np
import pytest
from DeepFLASHRegistrationLib.methods import peers
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.process.runner import Runner
from DeepFLASHRegistrationLib.scene.comparison import Comparison, withoutCompared
from DeepFLASHRegistrationLib.scene.fields import gridTransform
from DeepFLASHRegistrationLib.scene.hierarchy import hierarchyOf, parentOf
from DeepFLASHRegistrationLib.scene.outputs import NEW
from DeepFLASHRegistrationLib.scene.reports import reportRun
from DeepFLASHRegistrationLib.scene.runs import RegistrationRun
from DeepFLASHRegistrationLib.scene.tables import shownTable
from DeepFLASHRegistrationLib.support.errors import Cancelled, InputError
from scene_synthetic import makeGrid
from test_module_register import addSlices

FAST = Parameters.from_preset("fast", initial_alignment="rigid", iterations=(3, 2))


@pytest.fixture(scope="module")
def runner(childPython):
    runner = Runner(childPython)
    yield runner
    runner.close()


def newRun(inputs, parameters, outputs=None):
    return RegistrationRun(inputs, parameters, outputs, "cpu", 1)


def walk(comparison, runner):
    """As the window does; returns the runs by method."""
    runs = {}
    while following := comparison.next():
        method, run = following
        runs[method.name] = run
        try:
            runner.start(run)
        except InputError as error:
            comparison.failed(method, error)
            continue
        with contextlib.suppress(InputError, RuntimeError):
            runner.wait(run)
        comparison.ended(method, run)
    return runs


def cells(table):
    titles, rows = shownTable(table)
    return {row[0].text: dict(zip(titles, (cell.text for cell in row))) for row in rows}


def test_methods_start_from_the_first_alignment_and_have_nodes_of_their_own(scene, runner):
    inputs = addSlices(scene)
    slower = Parameters.from_preset("fast", initial_alignment="rigid", iterations=(9, 6))
    once = Parameters.from_preset("fast", initial_alignment="rigid", iterations=(1, 0))
    comparison = Comparison(inputs, {"one": once, "many": slower}, newRun)
    runs = walk(comparison, runner)
    one, many = comparison.methods
    assert [each.state for each in comparison.methods] == ["done", "done"]
    # The affine is handed over as it is: both results have one and the same, to the last digit.
    assert runs["one"].affine is None
    assert np.abs(runs["one"].result.affine - np.eye(3)).max() > 1e-3
    np.testing.assert_array_equal(runs["many"].result.affine, runs["one"].result.affine)
    assert one.nodes.warpedVolume is not many.nodes.warpedVolume
    assert many.nodes.warpedVolume.GetName().endswith("(many)")
    assert parentOf(one.nodes.transform) != parentOf(many.nodes.transform)
    assert hierarchyOf(scene).GetItemDataNode(parentOf(many.nodes.transform)) is None
    found = cells(comparison.table)
    assert list(found) == ["one", "many"]
    for name, row in found.items():
        assert row["Verdict"] in ("good", "check")
        assert float(row["Dice after"]) > float(row["Dice before"])
        assert float(row["Seconds"]) > 0
        assert row["Folds"] == "0"
        assert float(row["Inverse error (mm)"]) < 1, name
    assert found["one"]["Dice before"] == found["many"]["Dice before"]
    assert float(found["many"]["Correlation"]) > float(found["one"]["Correlation"])


def test_a_method_that_fails_stops_none(scene, runner, monkeypatch):
    monkeypatch.delenv(peers.PEERS, raising=False)
    inputs = addSlices(scene)
    ants = Parameters(method="ants", initial_alignment="rigid")
    lacking = Parameters(method="transform", initial_alignment="rigid")
    comparison = Comparison(inputs, {"ants": ants, "transform": lacking, "three": FAST}, newRun)
    walk(comparison, runner)
    assert [each.state for each in comparison.methods] == ["failed", "failed", "done"]
    assert "pip install antspyx picsl-greedy" in comparison.methods[0].reason
    assert "Choose it as the initial transform" in comparison.methods[1].reason
    found = cells(comparison.table)
    assert (found["ants"]["Verdict"], found["ants"]["Dice after"]) == ("no result", "")
    assert found["three"]["Dice after"]


def test_the_python_that_is_named_is_the_one_that_the_child_asks(scene, runner, monkeypatch):
    """Here it seems to have the package; the child, which nobody deceives, finds that it has not, and says which."""
    pytest.importorskip("torch")
    monkeypatch.setitem(peers._PACKAGES, "ants", ("json", "antspyx"))
    run = RegistrationRun(addSlices(scene), Parameters(method="ants"), device="cpu", threads=1, peers=sys.executable)
    with pytest.raises(InputError, match=f"{re.escape(sys.executable)} has no antspyx. Install it there"):
        runner.wait(runner.start(run))


def test_a_transform_of_the_scene_is_one_of_the_methods(scene, runner):
    """The map that the first method found, taken from its node, is as good."""
    inputs = addSlices(scene)
    first = newRun(inputs, FAST)
    runner.wait(runner.start(first))
    inputs.initialTransform = first.nodes.transform
    taken = newRun(inputs, Parameters(method="transform"))
    runner.wait(runner.start(taken))
    for name in ("mean_dice_after", "similarity_after"):
        assert taken.metrics[name] == pytest.approx(first.metrics[name], abs=0.01)
    assert taken.metrics["map_difference_mm"]["p95"] < 0.1


def test_a_report_of_a_result_in_the_scene_does_not_ask_what_it_started_from(scene, runner, tmp_path):
    inputs = addSlices(scene)
    first = newRun(inputs, FAST)
    runner.wait(runner.start(first))
    inputs.initialTransform = first.nodes.transform
    fitted = newRun(inputs, Parameters(method="transform", as_geodesic=True))
    runner.wait(runner.start(fitted))
    again = reportRun(None, inputs, fitted.nodes.transform, str(tmp_path / "report"))
    assert (runner.wait(runner.start(again))) == str(tmp_path / "report" / "report.html")


def test_cancelled_what_is_finished_stays(scene, runner):
    inputs = addSlices(scene)
    long = Parameters.from_preset("fast", iterations=(9000, 9000), tolerance=0.0)
    comparison = Comparison(inputs, {"three": FAST, "long": long, "never": FAST}, newRun)
    method, run = comparison.next()
    runner.wait(runner.start(run))
    comparison.ended(method, run)
    method, run = comparison.next()
    runner.start(run)
    runner.cancel(now=True)
    with contextlib.suppress(Cancelled):
        runner.wait(run)
    comparison.ended(method, run)
    comparison.stop()
    assert comparison.next() is None
    assert [each.state for each in comparison.methods] == ["done", "cancelled", "cancelled"]
    assert list(cells(comparison.table)) == ["three", "long"]
    assert comparison.methods[0].nodes.warpedVolume.GetScene() is scene


def test_another_registration_overwrites_none_of_the_results(scene, runner):
    inputs = addSlices(scene)
    comparison = Comparison(inputs, {"three": FAST}, newRun)
    walk(comparison, runner)
    outputs = withoutCompared(comparison.methods[0].nodes)
    assert {value for value in vars(outputs).values() if value is not None} == {NEW}
    own = newRun(inputs, FAST)
    runner.wait(runner.start(own))
    assert withoutCompared(own.nodes) == own.nodes


def test_a_field_that_does_not_reach_the_image_is_refused(scene, runner):
    inputs = addSlices(scene)
    far = makeGrid((6, 6, 6), (2, 2, 2), center=(400, 0, 0))
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", "far")
    node.SetAndObserveTransformFromParent(gridTransform(np.ones((6, 6, 6, 3)), far))
    inputs.initialTransform = node
    with pytest.raises(InputError, match="far: reaches 0 % of the fixed object"):
        runner.wait(runner.start(newRun(inputs, Parameters(method="transform"))))
