# SPDX-License-Identifier: Apache-2.0
"""Nodes become the arguments of register(), or are refused before anything has begun."""

import numpy as np
import pytest
import slicer
import vtk
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.problem.subject import corresponding
from DeepFLASHRegistrationLib.scene.checks import ERROR, checkInputs
from DeepFLASHRegistrationLib.scene.geometry import LPS_RAS, arrayFromVtkMatrix
from DeepFLASHRegistrationLib.scene.inputs import Inputs, onlyPair
from DeepFLASHRegistrationLib.scene.outputs import OutputNodes
from DeepFLASHRegistrationLib.scene.runs import RegistrationRun
from DeepFLASHRegistrationLib.support.errors import InputError
from module_nodes import FIXED, MOVING, addPair, ball, names
from scene_synthetic import addLinear, addSegmentation, addVolume, makeGrid, pointsOf


def test_what_is_chosen_arrives_and_what_is_not_is_left_out(scene):
    inputs = addPair(scene)
    before = names(scene)
    given = RegistrationRun(inputs, Parameters.from_preset("fast"), device="cpu", threads=2).arguments()
    assert set(given) == {"fixed", "moving", "parameters", "device", "threads"}
    assert given["fixed"].grid.same_as(FIXED)
    assert given["moving"].grid.same_as(MOVING)
    assert given["parameters"].preset == "fast"
    assert (given["device"], given["threads"]) == ("cpu", 2)
    assert names(scene) == before


def test_further_images_are_compared_besides(scene):
    inputs = addPair(scene)
    coarse = makeGrid((20, 20, 20), (4, 4, 4))
    inputs.fixedChannel = addVolume(scene, coarse, ball(coarse)[0], "T2 fixed")
    inputs.movingChannel = addVolume(scene, coarse, ball(coarse)[0], "T2 moving")
    given = RegistrationRun(inputs).arguments()
    assert [each.name for each in given["fixed"].images] == [inputs.fixedVolume.GetName(), "T2 fixed"]
    assert given["moving"].images[1].grid.shape == (20, 20, 20)
    # With one alone there is nothing to compare, which is said before anything begins.
    inputs.movingChannel = None
    found = [check.text for check in checkInputs(inputs, Parameters(), "cpu") if check.level == ERROR]
    assert any("T2 fixed is compared with nothing" in text for text in found)


def test_no_threads_are_the_default(scene):
    assert RegistrationRun(addPair(scene), threads=0).arguments()["threads"] is None


def test_segments_of_equal_name_get_the_same_label(scene):
    given = RegistrationRun(addPair(scene)).arguments()
    assert set(np.unique(given["moving"].label_map.data)) == set(np.unique(given["fixed"].label_map.data)) == {0, 1}


def test_structures_are_called_by_number_or_by_the_name_of_a_segment(scene):
    inputs = addPair(scene)
    inside = ball(FIXED)[1]
    above = pointsOf(FIXED)[..., 2] > -5
    masks = {"Tumor": inside & ~above, "ball": inside, "upper": inside & above}
    inputs.fixedSegmentation = addSegmentation(scene, FIXED, masks, inputs.fixedVolume, shared=False)
    parameters = Parameters(
        label_weight=1.0, steering_labels=("BALL", 7), rigid_labels=("upper",), volume_labels=("tumor",)
    )
    run = RegistrationRun(inputs, parameters)
    asked, fixed = run.arguments()["parameters"], run.fixed.label_map.data
    ours = {name: set(getattr(asked, name)) for name in ("steering_labels", "rigid_labels", "volume_labels")}
    for name, covered in (("rigid_labels", inside & above), ("volume_labels", inside & ~above)):
        np.testing.assert_array_equal(np.isin(fixed, list(ours[name])), covered)
    # Where segments overlap, labels of their own stand for both.
    np.testing.assert_array_equal(np.isin(fixed, list(ours["steering_labels"])), inside)
    assert 7 in ours["steering_labels"]
    with pytest.raises(InputError, match=r"no segment femur .*There are: .*Tumor"):
        RegistrationRun(inputs, Parameters(rigid_labels=("femur",))).arguments()
    inputs.fixedSegmentation = None  # what is kept is drawn on the fixed volume
    with pytest.raises(InputError, match=r"no segment ball .*There are: none"):
        RegistrationRun(inputs, Parameters(rigid_labels=("ball",))).arguments()


def test_masks_lie_on_the_grids_of_their_volumes(scene):
    inputs = addPair(scene)
    inputs.fixedMask, inputs.movingMask = inputs.fixedSegmentation, inputs.movingSegmentation
    given = RegistrationRun(inputs).arguments()
    assert given["fixed"].mask.grid.same_as(FIXED)
    assert given["moving"].mask.grid.same_as(MOVING)
    assert 0 < given["fixed"].mask.data.mean() < 1


def test_markups_are_compared_only_in_pairs(scene):
    inputs = addPair(scene)
    inputs.movingMarkups = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    inputs.movingMarkups.AddControlPoint(1, 2, 3)
    assert RegistrationRun(inputs).arguments()["moving"].landmarks is None
    inputs.fixedMarkups = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    inputs.fixedMarkups.AddControlPoint(2, 2, 3)
    given = RegistrationRun(inputs).arguments()
    np.testing.assert_allclose(given["moving"].landmarks.positions, [[-1, -2, 3]])
    np.testing.assert_allclose(given["fixed"].landmarks.positions, [[-2, -2, 3]])


def test_an_initial_transform_moves_the_moving_to_the_fixed_volume(scene):
    inputs = addPair(scene)
    toFixed = np.eye(4)
    toFixed[:3, 3] = 5, 6, 7  # RAS
    inputs.initialTransform = addLinear(scene, toFixed)
    given = RegistrationRun(inputs).arguments()
    # A fixed point is looked up at the place it had before the transform: RAS - (5, 6, 7), so LPS + (5, 6, -7).
    np.testing.assert_allclose(given["initial_affine"] @ (0, 0, 0, 1), (5, 6, -7, 1))


@pytest.mark.parametrize("missing", ["fixedVolume", "movingVolume"])
def test_what_is_missing_is_named(scene, missing):
    inputs = addPair(scene)
    setattr(inputs, missing, None)
    with pytest.raises(InputError, match=missing[:5]):
        RegistrationRun(inputs).arguments()


def test_a_volume_is_not_registered_to_itself(scene):
    inputs = addPair(scene)
    with pytest.raises(InputError, match="same"):
        RegistrationRun(Inputs(inputs.fixedVolume, inputs.fixedVolume)).arguments()


def test_a_nonlinear_parent_is_refused_with_advice(scene):
    inputs = addPair(scene)
    bent = scene.AddNewNodeByClass("vtkMRMLTransformNode", "bent")
    bent.SetAndObserveTransformToParent(slicer.vtkOrientedBSplineTransform())
    inputs.movingVolume.SetAndObserveTransformNodeID(bent.GetID())
    with pytest.raises(InputError, match="Harden"):
        RegistrationRun(inputs).arguments()


def test_outputs_are_judged_before_the_work(scene):
    inputs = addPair(scene)
    with pytest.raises(InputError, match="input and an output"):
        RegistrationRun(inputs, outputs=OutputNodes(warpedVolume=inputs.movingVolume)).arguments()
    labels = addVolume(scene, FIXED, np.ones(FIXED.shape, np.uint8), "labels", "vtkMRMLLabelMapVolumeNode")
    with pytest.raises(InputError, match="cannot hold the propagated"):
        RegistrationRun(inputs, outputs=OutputNodes(segmentation=labels)).arguments()


@pytest.fixture
def bent(scene):
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", "bent")
    node.SetAndObserveTransformToParent(slicer.vtkOrientedBSplineTransform())
    return node


@pytest.mark.parametrize("what", ["model", "markups"])
def test_what_cannot_be_carried_is_refused_before_the_registration(scene, bent, what):
    inputs = addPair(scene)
    if what == "model":
        node = inputs.movingModel = scene.AddNewNodeByClass("vtkMRMLModelNode", "empty")
    else:
        node = inputs.movingMarkups = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "empty")
    with pytest.raises(InputError, match=r"empty (holds no points|has no placed point)"):
        RegistrationRun(inputs).arguments()
    if what == "model":
        sphere = vtk.vtkSphereSource()
        sphere.Update()
        node.SetAndObserveMesh(sphere.GetOutput())
    else:
        node.AddControlPoint(1, 2, 3)
    RegistrationRun(inputs).arguments()
    node.SetAndObserveTransformNodeID(bent.GetID())
    with pytest.raises(InputError, match="empty is under the non-linear transform bent"):
        RegistrationRun(inputs).arguments()


def _slices(scene, axis):
    """A pair of single slices at different depths, and their volumes' grids."""
    shape, away = [20, 22, 24], [0.0, 0.0, 0.0]
    shape[axis], away[2 - axis] = 1, 9.0
    grids = [makeGrid(tuple(shape), (2, 2, 2), tilt=0.2), makeGrid(tuple(shape), (2, 2, 2), tilt=0.2, center=away)]
    return Inputs(*(addVolume(scene, grid, ball(grid)[0]) for grid in grids)), [grid.flattened() for grid in grids]


def _turned(axis, degrees, shift):
    matrix = vtk.vtkTransform()
    matrix.Translate(shift)
    matrix.RotateWXYZ(degrees, axis)
    return arrayFromVtkMatrix(matrix.GetMatrix())


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_initial_transform_of_slices_acts_within_their_planes(scene, axis):
    inputs, (fixed, moving) = _slices(scene, axis)
    normal = fixed.normal * (-1, -1, 1)  # RAS
    toFixed = _turned(normal, 20, (3, 4, 5))
    inputs.initialTransform = addLinear(scene, toFixed)
    found = RegistrationRun(inputs).arguments()["initial_affine"]
    points = np.random.default_rng(0).uniform(-15, 15, (20, 2))
    lps = LPS_RAS @ np.linalg.inv(toFixed) @ LPS_RAS
    expected = moving.project(fixed.lift(points) @ lps[:3, :3].T + lps[:3, 3])
    np.testing.assert_allclose(points @ found[:2, :2].T + found[:2, 2], expected, atol=1e-9)
    assert np.linalg.det(found[:2, :2]) == pytest.approx(1)


def test_an_initial_transform_out_of_the_slice_s_plane_is_refused(scene):
    inputs, (fixed, _) = _slices(scene, 0)
    inputs.initialTransform = addLinear(scene, _turned(fixed.plane[:3, 0] * (-1, -1, 1), 20, (0, 0, 0)), "tilting")
    with pytest.raises(InputError, match="tilting turns the slice out of its plane"):
        RegistrationRun(inputs).arguments()


def test_a_point_that_was_never_placed_is_left_out_on_both_sides(scene):
    """One undefined point in each list, at different places: by their names the others stay with their partners."""
    inputs = addPair(scene)
    for role, undefined, shift in (("fixedMarkups", 1, 0.0), ("movingMarkups", 2, 1.0)):
        node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", role)
        for number in range(4):
            node.AddControlPoint(vtk.vtkVector3d(2.0 * number + shift, 1.0, 3.0), f"p{number}")
        node.UnsetNthControlPointPosition(undefined)
        setattr(inputs, role, node)
    given = RegistrationRun(inputs).arguments()
    pairs = corresponding(given["fixed"].landmarks, given["moving"].landmarks)
    assert pairs.names == ("p0", "p3")
    np.testing.assert_allclose(pairs.moving - pairs.fixed, [[-1, 0, 0]] * 2)
    assert any("p1, p2" in note for note in pairs.notes)


@pytest.mark.parametrize(
    ("names_", "fixed"), [(("a", "b"), 0), (("my moving", "x"), 1), (("x", "FIXED"), 1), (("fixed", "moving"), 0)]
)
def test_of_two_images_the_names_or_the_order_say_which_is_fixed(scene, names_, fixed):
    grid = makeGrid((4, 5, 6))
    assert onlyPair(scene) == (None, None)
    nodes = [addVolume(scene, grid, np.ones(grid.shape), name) for name in names_]
    addVolume(scene, grid, np.ones(grid.shape, np.int16), "labels", "vtkMRMLLabelMapVolumeNode")
    scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    assert onlyPair(scene) == (nodes[fixed], nodes[1 - fixed])
    addVolume(scene, grid, np.ones(grid.shape), "third")
    assert onlyPair(scene) == (None, None)
