# SPDX-License-Identifier: Apache-2.0
"""Nodes become the arguments of register(), or are refused before anything has begun."""

import numpy as np
import pytest
import slicer
from DeepFLASHRegistrationLib.imaging.errors import InputError
from DeepFLASHRegistrationLib.parameters import Parameters
from DeepFLASHRegistrationLib.scene.outputs import OutputNodes
from DeepFLASHRegistrationLib.scene.runs import Inputs, RegistrationRun
from module_nodes import FIXED, MOVING, addPair, names
from scene_synthetic import addLinear, addVolume


def test_what_is_chosen_arrives_and_what_is_not_is_left_out(scene):
    inputs = addPair(scene)
    before = names(scene)
    given = RegistrationRun(inputs, Parameters.from_preset("fast"), device="cpu", threads=2).arguments()
    assert set(given) == {"fixed", "moving", "parameters", "device", "threads", "moving_labels", "fixed_labels"}
    assert given["fixed"].grid.same_as(FIXED)
    assert given["moving"].grid.same_as(MOVING)
    assert given["parameters"].preset == "fast"
    assert (given["device"], given["threads"]) == ("cpu", 2)
    assert names(scene) == before


def test_no_threads_are_the_default(scene):
    assert RegistrationRun(addPair(scene), threads=0).arguments()["threads"] is None


def test_segments_of_equal_name_get_the_same_label(scene):
    given = RegistrationRun(addPair(scene)).arguments()
    assert set(np.unique(given["moving_labels"].data)) == set(np.unique(given["fixed_labels"].data)) == {0, 1}


def test_masks_lie_on_the_grids_of_their_volumes(scene):
    inputs = addPair(scene)
    inputs.fixedMask, inputs.movingMask = inputs.fixedSegmentation, inputs.movingSegmentation
    given = RegistrationRun(inputs).arguments()
    assert given["fixed_mask"].grid.same_as(FIXED)
    assert given["moving_mask"].grid.same_as(MOVING)
    assert 0 < given["fixed_mask"].data.mean() < 1


def test_markups_are_compared_only_in_pairs(scene):
    inputs = addPair(scene)
    inputs.movingMarkups = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    inputs.movingMarkups.AddControlPoint(1, 2, 3)
    assert "moving_points" not in RegistrationRun(inputs).arguments()
    inputs.fixedMarkups = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    inputs.fixedMarkups.AddControlPoint(2, 2, 3)
    given = RegistrationRun(inputs).arguments()
    np.testing.assert_allclose(given["moving_points"], [[-1, -2, 3]])
    np.testing.assert_allclose(given["fixed_points"], [[-2, -2, 3]])


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
