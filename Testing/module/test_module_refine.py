# SPDX-License-Identifier: Apache-2.0
"""Going on from a result where it is wrong, and taking that back: in a real scene, through the engine."""

from dataclasses import replace

import numpy as np
import pytest
import slicer
import vtk
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.process.runner import Runner
from DeepFLASHRegistrationLib.scene.arrays import arrayFromImage
from DeepFLASHRegistrationLib.scene.fields import transformedPoints
from DeepFLASHRegistrationLib.scene.inputs import Inputs
from DeepFLASHRegistrationLib.scene.landmark_pairs import addPair
from DeepFLASHRegistrationLib.scene.outputs import NEW
from DeepFLASHRegistrationLib.scene.refining import hints
from DeepFLASHRegistrationLib.scene.runs import RegistrationRun
from DeepFLASHRegistrationLib.scene.velocity import DENSE_ATTRIBUTE, VELOCITY_ROLE, fingerprint
from DeepFLASHRegistrationLib.support.errors import InputError
from module_nodes import addSlices, ball, names
from scene_synthetic import addVolume, makeGrid

FAST = Parameters.from_preset("fast", initial_alignment="centers", iterations=(6, 4))
STEERED = replace(FAST, landmark_weight=20.0, landmark_trust_mm=1.0)


@pytest.fixture(scope="module")
def runner(childPython):
    runner = Runner(childPython)
    yield runner
    runner.close()


@pytest.fixture
def inputs(scene):
    """A single slice each, with a segmentation of the moving one."""
    found = addSlices(scene)
    return Inputs(found.fixedVolume, found.movingVolume, found.movingSegmentation)


def registered(runner, inputs, parameters=FAST, outputs=None, refine=None):
    run = RegistrationRun(inputs, parameters, outputs, "cpu", 1)
    run.refine = refine
    runner.wait(runner.start(run))
    return run


def withLandmarks(scene, inputs):
    """Points that belong elsewhere than the images say: some are turned against each other."""
    angles = np.arange(6) * np.pi / 3
    lists = []
    for name, radii, turn in (("fixed points", (22, 16), 0.0), ("moving points", (18, 21), 0.25)):
        markups = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
        for angle in angles + turn:
            markups.AddControlPoint(radii[0] * np.cos(angle), radii[1] * np.sin(angle), 0.0)
        lists.append(markups)
    return replace(inputs, fixedMarkups=lists[0], movingMarkups=lists[1])


def contents(nodes):
    """What a result's nodes hold, to the bit."""
    points = np.random.default_rng(0).uniform(-30, 30, (40, 3)) * (1, 1, 0)
    segmentation = nodes.segmentation.GetSegmentation()
    segment = segmentation.GetNthSegment(0).GetRepresentation(
        slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    )
    tables = [
        [table.GetCellText(row, column) for row in range(table.GetNumberOfRows()) for column in range(2)]
        for table in (nodes.metricsTable, nodes.labelsTable)
    ]
    charts = [
        chart.GetNthPlotSeriesNode(0).GetTableNode().GetTable().GetRowData().GetArray(1)
        for chart in (nodes.convergenceChart, nodes.histogramChart)
    ]
    return {
        "warped": arrayFromImage(nodes.warpedVolume.GetImageData()).tobytes(),
        "jacobian": arrayFromImage(nodes.logJacobianVolume.GetImageData()).tobytes(),
        "map": transformedPoints(nodes.transform.GetTransformFromParent(), points).tobytes(),
        "inverse": transformedPoints(nodes.inverseTransform.GetTransformFromParent(), points).tobytes(),
        "velocity": nodes.transform.GetNodeReference(VELOCITY_ROLE).GetText(),
        "segment": arrayFromImage(segment).tobytes(),
        "tables": tables,
        "charts": [[array.GetValue(row) for row in range(array.GetNumberOfValues())] for array in charts],
        "attributes": {
            (node.GetID(), name): node.GetAttribute(name)
            for node in vars(nodes).values()
            if node is not None
            for name in node.GetAttributeNames()
        },
    }


def missed(inputs, transform):
    """How far landmarks of the moving volume lie from where the map takes those of the fixed one, in mm."""
    fixed, moving = (
        np.array([each.GetNthControlPointPosition(index) for index in range(each.GetNumberOfControlPoints())])
        for each in (inputs.fixedMarkups, inputs.movingMarkups)
    )
    taken = transformedPoints(transform.GetTransformFromParent(), fixed)
    return np.linalg.norm(taken - moving, axis=-1).mean()


def test_landmarks_placed_after_a_run_pull_its_result_and_undo_brings_it_back_to_the_bit(runner, inputs, scene):
    nodes = registered(runner, inputs).nodes
    steered = withLandmarks(scene, inputs)
    before, there, far = contents(nodes), names(scene), missed(steered, nodes.transform)
    run = registered(runner, steered, STEERED, replace(nodes, markups=NEW), nodes.transform)
    assert missed(steered, nodes.transform) < 0.5 * far
    assert run.metrics["landmarks"]["mean_after_mm"] == pytest.approx(missed(steered, nodes.transform), abs=0.1)
    assert run.metrics["steered"] == ["landmarks"]
    assert {entry["level"] for entry in run.result.history} == {1}  # the coarsest one is passed over
    assert f"The search started from {nodes.transform.GetName()}." in run.result.notes
    assert run.nodes.warpedVolume is nodes.warpedVolume
    assert run.expected["affine"] == 0  # what takes no time here shall not be learned of others
    after = contents(nodes)
    assert not [name for name in before if after[name] == before[name]]
    assert names(scene) != there  # with the carried points
    assert run.canBeUndone
    run.undo()
    assert contents(nodes) == before
    assert names(scene) == there
    with pytest.raises(InputError, match="no refinement to undo"):
        run.undo()


def test_a_result_of_a_loaded_scene_is_refined_as_it_would_have_been(runner, inputs, scene, tmp_path):
    nodes = registered(runner, inputs).nodes
    steered = withLandmarks(scene, inputs)
    expected = registered(runner, steered, STEERED, refine=nodes.transform).result.velocity["velocity"]
    known = {name: node.GetName() for name, node in steered.nodes().items()}
    transform = nodes.transform.GetName()
    assert scene.WriteToMRB(str(tmp_path / "scene.mrb"))
    scene.Clear(False)
    assert scene.ReadFromMRB(str(tmp_path / "scene.mrb"))
    loaded = Inputs(**{name: scene.GetFirstNodeByName(node) for name, node in known.items()})
    again = registered(runner, loaded, STEERED, refine=scene.GetFirstNodeByName(transform))
    # Files round where voxels lie.
    np.testing.assert_allclose(again.result.velocity["velocity"], expected, atol=1e-3 * np.abs(expected).max())


def test_what_cannot_be_refined_is_said_before_it_begins(runner, inputs, scene):
    nodes = registered(runner, inputs).nodes
    transform = nodes.transform

    def refusal(given=inputs, parameters=FAST):
        run = RegistrationRun(given, parameters, None, "cpu", 1)
        run.refine = transform
        before = names(scene)
        with pytest.raises(InputError) as told:
            runner.start(run)
        assert runner.current is None
        assert names(scene) == before
        return str(told.value)

    other = addVolume(scene, makeGrid((1, 48, 50), (2, 2, 2)), ball(makeGrid((1, 48, 50), (2, 2, 2)))[0], "other")
    assert "is the result of other volumes" in refusal(replace(inputs, movingVolume=other, movingSegmentation=None))
    assert "Choose the method flash" in refusal(parameters=replace(FAST, method="lddmm"))
    linear = scene.AddNewNodeByClass("vtkMRMLTransformNode", "shift")
    assert "Leave the initial transform out" in refusal(replace(inputs, initialTransform=linear))

    shift = vtk.vtkMatrix4x4()
    shift.SetElement(0, 3, 5.0)
    linear.SetMatrixTransformToParent(shift)
    inputs.movingVolume.SetAndObserveTransformNodeID(linear.GetID())
    assert "does not lie where it lay" in refusal(replace(inputs, movingSegmentation=None))
    inputs.movingVolume.SetAndObserveTransformNodeID(None)

    values = arrayFromImage(inputs.fixedVolume.GetImageData())
    values[...] = values * 2
    inputs.fixedVolume.GetImageData().Modified()
    assert "fixed is not as it was when it was registered" in refusal()
    values[...] = values / 2
    inputs.fixedVolume.GetImageData().Modified()

    scene.RemoveNode(transform.GetNodeReference(VELOCITY_ROLE))
    assert "holds no velocity" in refusal()
    transform.SetAttribute(DENSE_ATTRIBUTE, "1")
    assert "Register as a geodesic" in refusal()
    scene.RemoveNode(transform)
    assert "Register first" in refusal()


def test_a_pair_placed_on_the_result_says_where_a_structure_belongs(runner, inputs, scene):
    nodes = registered(runner, inputs).nodes
    places = [((20.0, 0.0, 0.0), (24.0, 3.0, 0.0)), ((-18.0, 5.0, 0.0), (-18.0, 9.0, 0.0))]
    both = inputs
    for shown, belongs in places:
        fixed, moving = addPair(both, nodes.transform, shown, belongs)
        both = replace(both, fixedMarkups=fixed, movingMarkups=moving)
    assert [fixed.GetNthControlPointLabel(n) for n in (0, 1)] == ["pair 1", "pair 2"]
    assert [moving.GetNthControlPointLabel(n) for n in (0, 1)] == ["pair 1", "pair 2"]
    # The result misses each by as much as it was drawn.
    drawn = np.mean([np.linalg.norm(np.subtract(*place)) for place in places])
    assert missed(both, nodes.transform) == pytest.approx(drawn, rel=0.3)
    run = registered(runner, both, replace(STEERED, landmark_trust_mm=0.5), nodes, nodes.transform)
    assert run.metrics["steered"] == ["landmarks"]
    inverse = nodes.inverseTransform.GetTransformFromParent()
    for index, (shown, belongs) in enumerate(places):
        at = transformedPoints(inverse, np.array([moving.GetNthControlPointPosition(index)]))[0]
        assert np.linalg.norm(at - belongs) < 0.5 * np.linalg.norm(np.subtract(shown, belongs))
    curve = scene.AddNewNodeByClass("vtkMRMLMarkupsCurveNode", "gyrus")
    before = names(scene)
    with pytest.raises(InputError, match="gyrus is no point list"):
        addPair(replace(inputs, movingMarkups=curve), nodes.transform, *places[0])
    assert names(scene) == before


def test_landmarks_that_do_not_steer_are_told_with_the_remedy(runner, inputs, scene):
    nodes = registered(runner, inputs).nodes
    both = withLandmarks(scene, inputs)
    (hint,) = hints(nodes.transform, both, FAST)
    assert "do not steer" in hint.text
    assert replace(FAST, **hint.changes).steered == "landmark_weight"
    assert hints(nodes.transform, both, replace(FAST, **hint.changes)) == []
    assert hints(nodes.transform, inputs, FAST) == []
    assert hints(nodes.transform, replace(both, fixedMarkups=None), FAST) == []
    assert hints(None, both, FAST) == []  # before a result landmarks are what it is measured by


def test_undo_leaves_alone_what_was_removed_or_made_since(runner, inputs, scene):
    nodes = registered(runner, inputs).nodes
    before = contents(nodes)
    run = registered(runner, withLandmarks(scene, inputs), STEERED, nodes, nodes.transform)
    mine = scene.AddNewNodeByClass("vtkMRMLTextNode", "mine")
    scene.RemoveNode(inputs.movingVolume)
    scene.RemoveNode(nodes.inverseTransform)
    run.undo()
    assert mine.GetScene() is scene
    assert nodes.inverseTransform.GetScene() is None
    assert arrayFromImage(nodes.warpedVolume.GetImageData()).tobytes() == before["warped"]
    assert nodes.transform.GetNodeReference(VELOCITY_ROLE).GetText() == before["velocity"]
    moving = nodes.transform.GetMovingNodeReferenceRole()
    assert nodes.transform.GetNodeReference(moving) is None


def test_a_refinement_that_was_written_over_is_not_undone(runner, inputs, scene):
    nodes = registered(runner, inputs).nodes
    run = registered(runner, withLandmarks(scene, inputs), STEERED, nodes, nodes.transform)
    registered(runner, inputs, outputs=nodes)
    assert not run.canBeUndone
    before = fingerprint(nodes.transform)
    with pytest.raises(InputError, match="written anew since"):
        run.undo()
    assert fingerprint(nodes.transform) == before
