# SPDX-License-Identifier: Apache-2.0
"""A sequence registered in the child process, from nodes to nodes."""

from dataclasses import replace
from types import SimpleNamespace

import made_series
import numpy as np
import pytest
import slicer
from DeepFLASHRegistrationLib.cohorts import tasks
from DeepFLASHRegistrationLib.cohorts.series import How
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.process.runner import Runner
from DeepFLASHRegistrationLib.scene.added import imageOf
from DeepFLASHRegistrationLib.scene.arrays import arrayFromImage
from DeepFLASHRegistrationLib.scene.fields import transformedPoints
from DeepFLASHRegistrationLib.scene.geometry import ijkToRasOfGrid, vtkMatrixFrom
from DeepFLASHRegistrationLib.scene.series import (
    ItemTransformRun,
    behind,
    sequenceOf,
    seriesTransforms,
    shownItem,
)
from DeepFLASHRegistrationLib.scene.series_run import SequenceRun
from DeepFLASHRegistrationLib.scene.velocity import VELOCITY_ROLE
from DeepFLASHRegistrationLib.support.errors import Cancelled, InputError
from module_nodes import names
from scene_synthetic import addSegmentation, addVolume

QUICK = Parameters(resolutions=(1,), bands=(7,), iterations=(3,))
BEAT = made_series.BEAT[:3]


@pytest.fixture(scope="module")
def runner(childPython):
    runner = Runner(childPython, tasks.__name__)
    yield runner
    runner.close()


def addSequence(scene, beat=BEAT):
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "cine")
    sequence.SetIndexName("time")
    sequence.SetIndexUnit("ms")
    for number, frame in enumerate(made_series.frames(beat)):
        volume = slicer.vtkMRMLScalarVolumeNode()
        volume.SetAndObserveImageData(imageOf(Volume(made_series.GRID, frame)))
        volume.SetIJKToRASMatrix(vtkMatrixFrom(ijkToRasOfGrid(made_series.GRID)))
        sequence.SetDataNodeAtValue(volume, str(40 * number))
    return sequence


def registered(runner, sequence, how=None, parameters=QUICK, **more):
    run = SequenceRun(sequence, how, parameters, machine=("cpu", 1), **more)
    runner.wait(runner.start(run))
    return run


def itemsShown(nodes, count):
    """The voxels that play, item by item."""
    found = []
    for number in range(count):
        nodes.browser.SetSelectedItemNumber(number)
        found.append(arrayFromImage(nodes.warpedVolume.GetImageData()).copy())
    return found


def alike(one, other):
    return np.corrcoef(one.ravel(), other.ravel())[0, 1]


def test_a_sequence_is_registered_and_plays(scene, runner):
    events = []
    sequence = addSequence(scene)
    run = SequenceRun(sequence, How(), QUICK, machine=("cpu", 1))
    run.on_event(events.append)
    runner.wait(runner.start(run))
    first, *others = itemsShown(run.nodes, 3)
    frames = made_series.frames(BEAT)
    np.testing.assert_allclose(first, frames[0], atol=1e-5)  # the reference rests
    for shown, frame in zip(others, frames[1:], strict=True):
        assert alike(shown, first) > 0.5 + 0.5 * alike(frame, first)
    assert run.nodes.warped.GetNthIndexValue(2) == "80"
    assert any(note.startswith("3 of 3 items: ") for note in run.notes)
    assert not run.folder.exists()
    progress = [event["progress"] for event in events]
    assert progress == sorted(progress)
    assert {event["message"].partition(":")[0] for event in events} >= {"1 of 3", "2 of 3", "3 of 3"}
    # The transform follows the item that is shown, by the same process.
    nodes = run.nodes
    nodes.browser.SetSelectedItemNumber(2)
    assert seriesTransforms(scene) == [nodes.transform]
    assert behind(scene) is nodes.transform
    runner.wait(runner.start(ItemTransformRun(nodes.transform)))
    assert behind(scene) is None
    nodes.browser.SetSelectedItemNumber(1)
    assert behind(scene) is nodes.transform
    # What a browser shows of a sequence leads to the sequence.
    assert sequenceOf(nodes.browser.GetProxyNode(sequence)) is sequence
    assert sequenceOf(nodes.warpedVolume) is nodes.warped
    assert sequenceOf(addVolume(scene, made_series.GRID, frames[0])) is None
    assert sequenceOf(None) is None
    assert shownItem(sequence) == 1


def test_what_was_done_before_it_was_cancelled_is_kept_and_gone_on_from(scene, runner, tmp_path):
    sequence = addSequence(scene)
    before = names(scene)
    run = SequenceRun(sequence, How(), QUICK, folder=str(tmp_path / "work"), machine=("cpu", 1))
    run.on_event(lambda event: runner.cancel() if event["message"].startswith("2 of") else None)
    with pytest.raises(Cancelled):
        runner.wait(runner.start(run))
    assert names(scene) == before
    assert run.canBeKept
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "mine")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    browser.SetSelectedItemNumber(2)
    nodes = run.keep()
    assert not run.canBeKept
    assert any(note.startswith("1 of 3 items") for note in run.notes)
    # Where nothing was done nothing is shown, in the place of another item.
    for number, done in ((2, False), (1, True), (0, False)):
        browser.SetSelectedItemNumber(number)
        image, text = nodes.warpedVolume.GetImageData(), nodes.transform.GetNodeReference(VELOCITY_ROLE).GetText()
        assert (image is not None and image.GetNumberOfPoints() > 0, bool(text)) == (done, done), number
        assert behind(scene) is (nodes.transform if done else None)
    stamp = (tmp_path / "work" / "out" / "items" / "001" / "result.json").stat().st_mtime_ns
    again = registered(runner, sequence, folder=str(tmp_path / "work"))
    assert (tmp_path / "work" / "out" / "items" / "001" / "result.json").stat().st_mtime_ns == stamp
    assert again.nodes.warped.GetNumberOfDataNodes() == 3


def test_what_is_no_series_or_cannot_be_registered_so_is_refused_at_once(scene, runner):
    sequence = addSequence(scene)
    before = names(scene)
    for how, parameters, reason in (
        (How(reference=3), QUICK, "counted from 0 to 2"),
        (How(smooth=-1.0), QUICK, "must lie between 0"),
        (How(), replace(QUICK, method="transform"), "takes a transform of each pair"),
    ):
        with pytest.raises(InputError, match=reason):
            runner.start(SequenceRun(sequence, how, parameters))
    short = addSequence(scene, BEAT[:1])
    with pytest.raises(InputError, match="cine holds 1 items, which is no series"):
        runner.start(SequenceRun(short, How(), QUICK))
    scene.RemoveNode(short)
    assert runner.current is None
    assert names(scene) == before
    # What the voxels are is found out by the process.
    arrayFromImage(sequence.GetNthDataNode(1).GetImageData())[...] = 7
    run = SequenceRun(sequence, How(), QUICK, machine=("cpu", 1))
    with pytest.raises(InputError, match=r"Item 1: .*Remove it from the series"):
        runner.wait(runner.start(run))
    assert names(scene) == before


def test_it_plays_and_follows_after_the_scene_was_loaded(scene, runner, tmp_path):
    nodes = registered(runner, addSequence(scene, BEAT[:2])).nodes
    expected = itemsShown(nodes, 2)
    known = {name: getattr(nodes, name).GetID() for name in ("browser", "warpedVolume", "transform", "motion")}
    assert scene.WriteToMRB(str(tmp_path / "scene.mrb"))
    scene.Clear(False)
    assert scene.ReadFromMRB(str(tmp_path / "scene.mrb"))
    loaded = SimpleNamespace(**{name: scene.GetNodeByID(node) for name, node in known.items()})
    for shown, there in zip(itemsShown(loaded, 2), expected, strict=True):
        np.testing.assert_array_equal(shown, there)
    assert behind(scene) is loaded.transform
    runner.wait(runner.start(ItemTransformRun(loaded.transform)))
    assert behind(scene) is None
    places = np.random.default_rng(0).uniform(-20, 20, (20, 3))
    moved = [
        transformedPoints(each, places)
        for each in (loaded.transform.GetTransformFromParent(), loaded.motion.GetTransformToParent())
    ]
    np.testing.assert_array_equal(*moved)
    assert np.abs(moved[0] - places).max() > 1


@pytest.mark.parametrize("how", [How(reference="mean", smooth=0.5, cyclic=True), How(reference="previous")])
def test_the_other_references(scene, runner, how):
    nodes = registered(runner, addSequence(scene), how).nodes
    assert nodes.warped.GetNumberOfDataNodes() == nodes.velocities.GetNumberOfDataNodes() == 3
    first, *others = itemsShown(nodes, 3)
    for other in others:
        assert alike(first, other) > 0.98


def test_outside_a_mask_nothing_counts(scene, runner):
    sequence = addSequence(scene, BEAT[:2])
    inside = np.zeros(made_series.GRID.shape, bool)
    inside[5:-5, 5:-5, 5:-5] = True
    mask = addSegmentation(scene, made_series.GRID, {"inside": inside}, name="mask")
    free, masked = registered(runner, sequence), registered(runner, sequence, mask=mask)
    one, other = (each.nodes.velocities.GetNthDataNode(1).GetText() for each in (free, masked))
    assert one != other


def test_a_removed_sequence_gets_no_results(scene):
    sequence = addSequence(scene)
    run = SequenceRun(sequence, How(), QUICK, machine=("cpu", 1))
    run.arguments()
    run.value = {"items": [{"warped": None, "velocity": "", "level": "good"}] * 3, "failed": {}}
    scene.RemoveNode(sequence)
    before = names(scene)
    with pytest.raises(InputError, match="was removed from the scene"):
        run.finish()
    assert names(scene) == before
