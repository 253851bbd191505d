# SPDX-License-Identifier: Apache-2.0
"""A sequence of the scene registered in time: its file, and what plays along with it afterwards."""

from pathlib import Path

import made_series
import numpy as np
import pytest
import slicer
from DeepFLASHRegistrationLib.cohorts.many import Settings
from DeepFLASHRegistrationLib.cohorts.series import How, SeriesRun
from DeepFLASHRegistrationLib.cohorts.series_summary import write_series_summary
from DeepFLASHRegistrationLib.imaging.time_series import read_series
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.process import tasks
from DeepFLASHRegistrationLib.results.velocity import load_result
from DeepFLASHRegistrationLib.scene.added import imageOf
from DeepFLASHRegistrationLib.scene.arrays import arrayFromImage
from DeepFLASHRegistrationLib.scene.fields import transformedPoints
from DeepFLASHRegistrationLib.scene.geometry import ijkToRasOfGrid, vtkMatrixFrom
from DeepFLASHRegistrationLib.scene.series import (
    ItemTransformRun,
    addSeriesResult,
    browserOf,
    isOfShownItem,
    writeSequence,
)
from DeepFLASHRegistrationLib.support.errors import InputError

pytest.importorskip("torch")

QUICK = Parameters(resolutions=(1,), bands=(7,), iterations=(3,))
BEAT = made_series.BEAT[:3]
LPS = (-1, -1, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results of three items on the first."""
    folder = tmp_path_factory.mktemp("series")
    source, _ = made_series.write_made_series(folder, BEAT)
    run = SeriesRun(read_series([source]), folder / "out", Settings(QUICK, threads=1), How())
    run.run(lambda end: None)
    run.write_warped()
    write_series_summary(run, {})
    return folder / "out"


def volumeNode(volume):
    node = slicer.vtkMRMLScalarVolumeNode()
    node.SetAndObserveImageData(imageOf(volume))
    node.SetIJKToRASMatrix(vtkMatrixFrom(ijkToRasOfGrid(volume.grid)))
    return node


def addSequence(scene, frames, grid=made_series.GRID, unit="ms", step=40):
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "cine")
    sequence.SetIndexName("time")
    sequence.SetIndexUnit(unit)
    for number, frame in enumerate(frames):
        sequence.SetDataNodeAtValue(volumeNode(Volume(grid, frame)), str(number * step))
    return sequence


def test_a_sequence_becomes_a_series_with_its_time(scene, tmp_path: Path):
    frames = made_series.frames()
    writeSequence(addSequence(scene, frames), tmp_path / "cine.nii.gz")
    series = read_series([tmp_path / "cine.nii.gz"])
    assert series.seconds == pytest.approx(0.04)
    assert series.grid.same_as(made_series.GRID)
    for frame, volume in zip(frames, series.volumes(), strict=True):
        np.testing.assert_array_equal(volume.data, frame)
    writeSequence(addSequence(scene, frames, unit="", step=1), tmp_path / "cine.nii.gz")
    assert read_series([tmp_path / "cine.nii.gz"]).seconds == 0


def test_a_sequence_that_is_no_series_is_refused_by_name(scene, tmp_path: Path):
    frames = made_series.frames()
    with pytest.raises(InputError, match="cine holds 1 items, which is no series"):
        writeSequence(addSequence(scene, frames[:1]), tmp_path / "a.nii.gz")
    mixed = addSequence(scene, frames[:2])
    mixed.SetDataNodeAtValue(slicer.vtkMRMLTextNode(), "900")
    with pytest.raises(InputError, match=r"Item 2 of cine.* cannot be registered: .*is no scalar volume"):
        writeSequence(mixed, tmp_path / "a.nii.gz")
    other = addSequence(scene, frames[:2])
    smaller = made_series.GRID.padded(-1)
    other.SetDataNodeAtValue(volumeNode(Volume(smaller, frames[2][1:-1, 1:-1, 1:-1])), "900")
    with pytest.raises(InputError, match=r"Item 2 of cine.* lies on another grid than the first. Resample it"):
        writeSequence(other, tmp_path / "a.nii.gz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("played", [False, True])
def test_results_play_along_with_their_sequence(room, folder, played):
    scene = room.scene
    sequence = addSequence(scene, made_series.frames(BEAT))
    browser = None
    if played:
        browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "mine")
        browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    nodes = addSeriesResult(sequence, folder)
    assert browserOf(sequence) is nodes.browser
    assert browser in (None, nodes.browser)
    expected = [volume.data for volume in read_series([folder / "warped.nii.gz"]).volumes()]
    for number in (0, 2, 1):
        nodes.browser.SetSelectedItemNumber(number)
        np.testing.assert_array_equal(arrayFromImage(nodes.warpedVolume.GetImageData()), expected[number])
    assert nodes.warped.GetNthIndexValue(2) == "80"
    assert nodes.warped.GetIndexUnit() == "ms"


class Told:
    """What a task tells, told to nobody."""

    def progress(self, event):
        pass

    def cancelled(self):
        return False


def test_the_transform_of_the_item_shown_is_made_when_asked_for(room, folder):
    nodes = addSeriesResult(addSequence(room.scene, made_series.frames(BEAT)), folder)
    points = np.random.default_rng(0).uniform(-20, 20, (200, 3))
    for number in (2, 1):
        nodes.browser.SetSelectedItemNumber(number)
        assert not isOfShownItem(nodes.transform)
        run = ItemTransformRun(nodes.transform)
        run.value = tasks.geodesic(Told(), run.arguments())
        run.finish()
        assert isOfShownItem(nodes.transform)
        expected = load_result(folder / "items" / f"{number:03d}").deformation.points(points, "fixed_to_moving")
        found = transformedPoints(nodes.transform.GetTransformFromParent(), points * LPS) * LPS
        assert np.abs(found - expected).max() < 0.2
        # What belongs to the reference moves onto the item.
        moved = transformedPoints(nodes.motion.GetTransformToParent(), points * LPS) * LPS
        np.testing.assert_array_equal(moved, found)
        assert np.abs(expected - points).max() > 1
    # Another item is shown by the time that it ends.
    run = ItemTransformRun(nodes.transform)
    run.value = tasks.geodesic(Told(), run.arguments())
    nodes.browser.SetSelectedItemNumber(2)
    before = nodes.transform.GetTransformFromParent()
    run.finish()
    assert nodes.transform.GetTransformFromParent() is before
    assert not isOfShownItem(nodes.transform)


def test_results_of_another_series_change_nothing(room, folder, tmp_path: Path):
    sequence = addSequence(room.scene, made_series.frames())
    before = room.scene.GetNumberOfNodes()
    with pytest.raises(InputError, match=r"holds 3 items, and cine 5\. Choose the sequence that was registered"):
        addSeriesResult(sequence, folder)
    with pytest.raises(InputError, match="holds no results of a series"):
        addSeriesResult(sequence, tmp_path)
    assert room.scene.GetNumberOfNodes() == before
