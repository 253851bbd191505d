# SPDX-License-Identifier: Apache-2.0
"""From nodes to nodes, through the engine in its child process."""

import json

import numpy as np
import pytest
from DeepFLASHRegistrationLib.imaging.io import read_volume
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.process.remaining import learned
from DeepFLASHRegistrationLib.process.runner import Runner
from DeepFLASHRegistrationLib.registration.progress import PHASES
from DeepFLASHRegistrationLib.scene.arrays import arrayFromImage
from DeepFLASHRegistrationLib.scene.fields import AFFINE_ATTRIBUTE, transformedPoints
from DeepFLASHRegistrationLib.scene.inputs import Inputs
from DeepFLASHRegistrationLib.scene.reports import reportRun
from DeepFLASHRegistrationLib.scene.runs import GeodesicRun, RegistrationRun, SampleRun, SaveRun
from DeepFLASHRegistrationLib.scene.sequence import geodesicOf
from DeepFLASHRegistrationLib.scene.velocity import VELOCITY_ROLE, hasVelocity
from DeepFLASHRegistrationLib.support.errors import InputError
from module_nodes import addSlices, names

# Two ellipses would be the same after an affine alignment.
FAST = Parameters.from_preset("fast", initial_alignment="centers", iterations=(6, 4))


@pytest.fixture(scope="module")
def runner(childPython):
    runner = Runner(childPython)
    yield runner
    runner.close()


@pytest.fixture
def inputs(scene):
    """A single slice each: two dimensions suffice, and take no time."""
    return addSlices(scene)


def _run(inputs, parameters=FAST, outputs=None):
    return RegistrationRun(inputs, parameters, outputs, "cpu", 1)


def test_registered_twice_updates_the_same_nodes_with_the_same_numbers(runner, inputs, scene):
    first = _run(inputs)
    runner.wait(runner.start(first))
    assert first.metrics["mean_dice_after"] > first.metrics["mean_dice_before"]
    assert first.verdict.level in ("good", "check")
    before = names(scene)
    again = _run(inputs, outputs=first.nodes)
    runner.wait(runner.start(again))
    assert again.nodes.warpedVolume is first.nodes.warpedVolume
    assert names(scene) == before
    np.testing.assert_array_equal(again.result.warped.data, first.result.warped.data)
    # The second run pays for no start; its share of the overhead is what is asked of a warm child.
    assert again.seconds["total"] - again.seconds["task"] < 0.3


def test_the_phases_are_those_whose_time_is_told(runner, inputs):
    run, seen = _run(inputs), []
    run.on_event(lambda event: seen.append((event["phase"], event["progress"])))
    runner.wait(runner.start(run))
    assert list(dict.fromkeys(phase for phase, _ in seen)) == list(PHASES)
    for phase, progress in seen:
        assert PHASES[phase][0] <= progress <= PHASES[phase][1], phase
    # Every phase was followed, the start and the writing too; together they are the whole.
    assert list(run.ratios) == [phase for phase, each in run.expected.items() if each]
    taken = sum(ratio * run.expected[phase] for phase, ratio in run.ratios.items())
    assert taken == pytest.approx(run.seconds_passed, abs=0.05 + 0.05 * run.seconds_passed)


def test_what_a_computer_has_shown_is_expected_the_next_time(runner, inputs):
    first = _run(inputs)
    runner.wait(runner.start(first))
    second = _run(inputs)
    second.pace = learned({}, first.ratios)
    second.arguments()
    taken = {phase: ratio * first.expected[phase] for phase, ratio in first.ratios.items()}
    for phase in ("level", "finish"):
        assert second.expected[phase] == pytest.approx(taken[phase])


def test_cancelled_it_leaves_the_scene_alone_and_can_be_kept(runner, inputs, scene):
    before = names(scene)
    run = _run(inputs, Parameters.from_preset("fast", iterations=(10000, 10000), tolerance=0.0))
    run.on_event(lambda event: runner.cancel() if len(run.history) >= 3 else None)
    runner.start(run)
    with pytest.raises(Exception, match="cancelled"):
        runner.wait(run)
    assert run.state == "cancelled"
    assert names(scene) == before
    assert run.canBeKept
    assert run.keep().warpedVolume is not None


def test_the_geodesic_begins_at_the_alignment_and_ends_at_the_result(runner, inputs):
    run = _run(inputs)
    runner.wait(runner.start(run))
    geodesic = GeodesicRun(run.nodes.transform, steps=3)
    runner.wait(runner.start(geodesic))
    sequence = geodesic.browser.GetMasterSequenceNode()
    points = np.random.default_rng(0).uniform(-40, 40, (50, 3)) * (1, 1, 0)
    nodes = [*(sequence.GetNthDataNode(index) for index in range(3)), run.nodes.transform]
    start, middle, end, whole = (transformedPoints(node.GetTransformFromParent(), points) for node in nodes)
    affine = np.array([float(value) for value in run.nodes.transform.GetAttribute(AFFINE_ATTRIBUTE).split()])
    affine = affine.reshape(4, 4)
    np.testing.assert_allclose(start, points @ affine[:3, :3].T + affine[:3, 3], atol=1e-3)
    np.testing.assert_allclose(end, whole, atol=0.1)
    assert 0.5 < np.abs(middle - start).max() < np.abs(end - start).max()


def test_the_geodesic_of_a_loaded_scene_is_the_same(runner, inputs, scene, tmp_path):
    run = _run(inputs)
    runner.wait(runner.start(run))
    name = run.nodes.transform.GetName()
    geodesic = GeodesicRun(run.nodes.transform, steps=3)
    expected = runner.wait(runner.start(geodesic))
    path = tmp_path / "scene.mrb"
    assert scene.WriteToMRB(str(path))
    scene.Clear(False)
    assert scene.ReadFromMRB(str(path))
    assert not scene.GetNumberOfNodesByClass("vtkMRMLSequenceNode")  # it is computed anew
    assert geodesicOf(scene.GetFirstNodeByName(name)) is None
    again = GeodesicRun(scene.GetFirstNodeByName(name), steps=3)
    np.testing.assert_array_equal(runner.wait(runner.start(again)), expected)
    assert again.browser.GetMasterSequenceNode().GetNumberOfDataNodes() == 3
    assert geodesicOf(again.transform) is again.browser


def test_what_the_geodesic_lacks_is_told(runner, inputs, scene):
    run = _run(inputs)
    runner.wait(runner.start(run))
    transform = run.nodes.transform
    velocity = transform.GetNodeReference(VELOCITY_ROLE)
    text = velocity.GetText()
    for wrong in ("", "no base64 at all", text[:-400], text[:4000] + "AAAA" + text[4004:]):
        velocity.SetText(wrong)
        with pytest.raises(InputError, match="holds no velocity"):
            GeodesicRun(transform).arguments()
    scene.RemoveNode(velocity)
    assert not hasVelocity(transform)
    with pytest.raises(InputError, match="Register again"):
        GeodesicRun(transform).arguments()
    scene.RemoveNode(inputs.movingVolume)
    with pytest.raises(InputError, match="moving volume"):
        GeodesicRun(transform).arguments()


def test_files_and_report(runner, inputs, tmp_path):
    run = _run(inputs)
    runner.wait(runner.start(run))
    report = runner.wait(runner.start(SaveRun(run, str(tmp_path / "result"))))
    assert (tmp_path / "result" / "warped.nii.gz").is_file()
    assert report.endswith("report.html")
    with pytest.raises(Exception, match="not empty"):
        runner.wait(runner.start(SaveRun(run, str(tmp_path / "result"))))


def test_the_sample_pair(runner, scene):
    run = SampleRun(scene, seed=1, shape=(32, 36, 32), spacing_mm=5.0)
    runner.wait(runner.start(run))
    fixed, moving, fixedSegmentation, _, fixedMarkups, movingMarkups = run.nodes
    assert "fixed" in fixed.GetName()
    assert "moving" in moving.GetName()
    assert fixedSegmentation.GetSegmentation().GetNumberOfSegments() > 3
    assert fixedMarkups.GetNumberOfControlPoints() == movingMarkups.GetNumberOfControlPoints() > 3


def _numbers(folder):
    values = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return {name: value for name, value in values.items() if name != "largest_change_by_rounding_mm"}


@pytest.mark.parametrize("tilt", [0.0, 0.37])
def test_the_report_of_a_loaded_scene_is_the_same(runner, scene, tmp_path, tilt):
    inputs = addSlices(scene, tilt=tilt, center=(0.1, 1 / 3, -0.7))
    run = _run(inputs)
    runner.wait(runner.start(run))
    runner.wait(runner.start(reportRun(run, run.inputs, run.nodes.transform, str(tmp_path / "one"))))
    names = {name: node.GetName() for name, node in inputs.nodes().items()}
    transform = run.nodes.transform.GetName()
    assert scene.WriteToMRB(str(tmp_path / "scene.mrb"))
    scene.Clear(False)
    assert scene.ReadFromMRB(str(tmp_path / "scene.mrb"))
    loaded = Inputs(**{name: scene.GetFirstNodeByName(node) for name, node in names.items()})
    again = reportRun(None, loaded, scene.GetFirstNodeByName(transform), str(tmp_path / "two"))
    report = runner.wait(runner.start(again))
    assert report.endswith("report.html")
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == files
    one, two = _numbers(tmp_path / "one"), _numbers(tmp_path / "two")
    assert one.pop("metrics").keys() == two["metrics"].keys()
    metrics, expected = two.pop("metrics"), run.metrics
    for name in ("similarity_after", "mean_dice_after", "smallest_determinant"):
        assert metrics[name] == pytest.approx(expected[name], rel=1e-5)
    assert two == one  # verdict, date, seconds, parameters, history
    images = [read_volume(tmp_path / folder / "warped.nii.gz").data for folder in ("one", "two")]
    np.testing.assert_allclose(*images, atol=1e-2)


def test_a_report_of_what_has_changed_since_is_refused(runner, inputs, scene, tmp_path):
    run = _run(inputs)
    runner.wait(runner.start(run))
    transform = run.nodes.transform
    values = arrayFromImage(inputs.movingVolume.GetImageData())
    values[...] = values * 2
    with pytest.raises(InputError, match=r"moving: is not as it was.*Register again"):
        runner.wait(runner.start(reportRun(None, inputs, transform, str(tmp_path / "two"))))
    assert not (tmp_path / "two").exists()
    swapped = Inputs(inputs.movingVolume, inputs.fixedVolume)
    assert reportRun(run, swapped, transform, "folder") is None
    assert reportRun(None, inputs, None, "folder") is None
    scene.RemoveNode(transform.GetNodeReference(VELOCITY_ROLE))
    assert reportRun(None, inputs, transform, "folder") is None
