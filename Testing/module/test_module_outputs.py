# SPDX-License-Identifier: Apache-2.0
"""Results become nodes after success only, and again the same nodes."""

import dataclasses
import weakref

import pytest
from DeepFLASHRegistrationLib.scene import outputs as outputsModule
from DeepFLASHRegistrationLib.scene.origins import foreignOutputs, markOutputs
from DeepFLASHRegistrationLib.scene.outputs import NEW, writeResult
from DeepFLASHRegistrationLib.scene.runs import RegistrationRun
from DeepFLASHRegistrationLib.scene.transaction import Transaction
from DeepFLASHRegistrationLib.scene.verdict_attribute import verdictOf
from DeepFLASHRegistrationLib.support.errors import Cancelled, InputError
from module_nodes import FIXED, addPair, ball, finished, names
from scene_synthetic import addVolume


def _made(nodes):
    return {
        each.name: getattr(nodes, each.name)
        for each in dataclasses.fields(nodes)
        if getattr(nodes, each.name) is not None
    }


def test_all_outputs_are_made_and_a_rerun_updates_them(scene):
    run = finished(RegistrationRun(addPair(scene)))
    run.finish()
    first = _made(run.nodes)
    assert set(first) == {
        "warpedVolume",
        "transform",
        "inverseTransform",
        "logJacobianVolume",
        "segmentation",
        "metricsTable",
        "labelsTable",
        "convergenceChart",
        "histogramChart",
    }
    before = names(scene)
    again = finished(RegistrationRun(run.inputs, outputs=run.nodes))
    again.finish()
    assert all(node is first[name] for name, node in _made(again.nodes).items())
    assert names(scene) == before


def test_a_failure_while_writing_leaves_the_scene_as_it_was(scene, monkeypatch):
    run = finished(RegistrationRun(addPair(scene)))
    before = names(scene)
    monkeypatch.setattr(outputsModule, "writeHistogramChart", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run.finish()
    assert names(scene) == before
    assert run.nodes is None


def test_an_input_that_was_removed_meanwhile_is_told(scene):
    run = finished(RegistrationRun(addPair(scene)))
    scene.RemoveNode(run.inputs.movingVolume)
    before = names(scene)
    with pytest.raises(InputError, match="removed"):
        run.finish()
    assert names(scene) == before


def test_a_chosen_output_that_was_removed_meanwhile_is_made_anew(scene):
    run = finished(RegistrationRun(addPair(scene)))
    run.outputs.warpedVolume = addVolume(scene, FIXED, ball(FIXED)[0], "old")
    scene.RemoveNode(run.outputs.warpedVolume)
    run.finish()
    assert run.nodes.warpedVolume.GetScene() is not None
    assert run.nodes.warpedVolume.GetName() != "old"


def test_segments_that_came_or_went_meanwhile_are_told(scene):
    run = finished(RegistrationRun(addPair(scene)))
    run.inputs.movingSegmentation.GetSegmentation().AddEmptySegment("new")
    with pytest.raises(InputError, match="added or removed"):
        run.finish()


def test_a_cancelled_run_can_be_kept_once(scene):
    run = finished(RegistrationRun(addPair(scene)))
    run.end("cancelled", Cancelled("cancelled"))
    before = names(scene)
    assert run.canBeKept
    assert names(scene) == before
    assert run.keep().warpedVolume is not None
    assert not run.canBeKept


def test_nothing_to_keep_is_told(scene):
    run = RegistrationRun(addPair(scene))
    run.end("cancelled", Cancelled("cancelled"))
    assert not run.canBeKept
    with pytest.raises(InputError, match="before there was a result"):
        run.keep()


def test_outputs_of_another_pair_are_not_written_over(scene):
    run = finished(RegistrationRun(addPair(scene)))
    run.finish()
    markOutputs(run.nodes, run.inputs)
    assert foreignOutputs(run.nodes, run.inputs) == []
    other = dataclasses.replace(run.inputs, movingVolume=addVolume(scene, FIXED, ball(FIXED)[0], "other"))
    # The segmentation too, though it was made of the same one: by the map of another pair.
    assert set(foreignOutputs(run.nodes, other)) == set(_made(run.nodes))
    assert foreignOutputs(run.nodes, dataclasses.replace(run.inputs, movingSegmentation=None)) == ["segmentation"]


def test_a_node_that_the_user_made_may_be_written_over(scene):
    inputs = addPair(scene)
    nodes = outputsModule.OutputNodes(warpedVolume=addVolume(scene, FIXED, ball(FIXED)[0], "mine"), transform=NEW)
    assert foreignOutputs(nodes, inputs) == []


def test_the_verdict_is_read_back_from_the_table(scene):
    run = finished(RegistrationRun(addPair(scene)))
    run.finish()
    assert verdictOf(run.nodes.metricsTable) == run.verdict
    assert len(run.verdict.criteria) > 8
    assert verdictOf(None) is None
    assert verdictOf(scene.AddNewNodeByClass("vtkMRMLTableNode")) is None


def test_what_nodes_were_is_held_no_longer_than_the_transaction(scene):
    run = finished(RegistrationRun(addPair(scene)))
    transaction = Transaction(scene)
    nodes = writeResult(run.value, run.inputs, movingLabels=run._movingLabels, transaction=transaction)
    assert nodes.warpedVolume.GetScene() is scene
    held = weakref.ref(transaction)
    del transaction
    assert held() is None  # at once, not when cycles are looked for
