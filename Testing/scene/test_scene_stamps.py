# SPDX-License-Identifier: Apache-2.0
"""A result says when its images are not what was registered any more."""

import numpy as np
import pytest
from DeepFLASHRegistrationLib.scene.arrays import arrayFromImage
from DeepFLASHRegistrationLib.scene.inputs import Inputs
from DeepFLASHRegistrationLib.scene.outputs import writeResult
from DeepFLASHRegistrationLib.scene.stamps import Stamps
from scene_synthetic import Stretch, addLinear, addVolume, makeGrid, makeResult, pointsOf, smooth


@pytest.fixture
def shown(scene):
    grid = makeGrid(tilt=0.1)
    fixed, moving = (addVolume(scene, grid, smooth(pointsOf(grid)), name) for name in ("one", "two"))
    nodes = writeResult(makeResult(grid, grid, Stretch(0.2, 40.0)), Inputs(fixed, moving))
    return fixed, moving, nodes.transform


def said(stamps, transform):
    return [check.text.split(" ")[0] for check in stamps.changed(transform)]


def test_nothing_is_said_of_images_that_are_as_they_were(scene, shown):
    fixed, moving, transform = shown
    stamps = Stamps()
    assert said(stamps, transform) == []
    fixed.SetName("renamed")
    moving.SetAndObserveTransformNodeID(addLinear(scene, np.diag([1, 1, 1, 1.0])).GetID())
    moving.GetImageData().Modified()
    assert said(stamps, transform) == []
    assert Stamps().changed(None) == []


@pytest.mark.parametrize("which", [0, 1])
def test_a_voxel_that_was_changed_is_told_and_one_that_was_changed_back_is_not(shown, which):
    volume, transform, stamps = shown[which], shown[2], Stamps()
    assert said(stamps, transform) == []
    voxels = arrayFromImage(volume.GetImageData())
    before = voxels[3, 4, 5]
    for value, expected in ((before + 1, [volume.GetName()]), (before, [])):
        voxels[3, 4, 5] = value
        volume.GetImageData().GetPointData().GetScalars().Modified()
        volume.GetImageData().Modified()
        assert said(stamps, transform) == expected


def test_an_image_that_lies_elsewhere_now_is_told(shown):
    fixed, _, transform = shown
    origin = np.array(fixed.GetOrigin())
    fixed.SetOrigin(*(origin + 1e-5))  # as files round it
    assert said(Stamps(), transform) == []
    fixed.SetOrigin(*(origin + 1))
    assert said(Stamps(), transform) == ["one"]


def test_a_deleted_image_is_none_that_changed(scene, shown):
    scene.RemoveNode(shown[1])
    assert said(Stamps(), shown[2]) == []
