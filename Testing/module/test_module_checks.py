# SPDX-License-Identifier: Apache-2.0
"""What speaks against a registration is found before it, with its remedy, and nothing else is."""

import time

import numpy as np
import pytest
import slicer
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.scene.checks import ERROR, WARNING, checkInputs
from DeepFLASHRegistrationLib.scene.inputs import Inputs
from DeepFLASHRegistrationLib.scene.runs import RegistrationRun
from DeepFLASHRegistrationLib.support.errors import InputError
from module_nodes import addPair
from scene_synthetic import addSegmentation, addVolume, makeGrid, pointsOf

PLENTY = 64 << 30


def _checks(inputs, parameters=None, **arguments):
    return checkInputs(inputs, parameters or Parameters(), **{"freeHost": PLENTY, **arguments})


def _named(checks):
    return [check.name for check in checks]


def _head(grid, flips=(1, 1, 1), noise=0.0, skull=True):
    """Something with a front, a back and a top: an ellipsoid with a bright eye, a dark neck and a shell."""
    x, y, z = np.moveaxis(pointsOf(grid) * flips, -1, 0)
    distance = (x / 60) ** 2 + (y / 75) ** 2 + (z / 60) ** 2
    brain = (distance < 1) * (
        100 + 60 * np.exp(-((y + 50) ** 2 + (z - 10) ** 2) / 600) - 70 * np.exp(-((y - 40) ** 2 + (z + 40) ** 2) / 900)
    )
    shell = ((distance > 1.2) & (distance < 1.7)) * 90.0 if skull else 0.0
    random = np.random.default_rng(0).normal(size=grid.shape) * noise
    return np.clip(brain + shell + np.abs(random), 0, None).astype(np.float32)


GRID = makeGrid((44, 52, 44), (4, 4, 4))


def _pair(scene, fixed, moving, grids=(GRID, GRID)):
    return Inputs(addVolume(scene, grids[0], fixed, "fixed"), addVolume(scene, grids[1], moving, "moving"))


def test_a_good_pair_raises_no_doubt(scene):
    assert _checks(addPair(scene)) == []
    assert _checks(_pair(scene, _head(GRID), _head(GRID, noise=3.0))) == []


def test_nothing_is_said_before_both_are_chosen(scene):
    inputs = addPair(scene)
    assert _checks(Inputs()) == []
    assert _checks(Inputs(fixedVolume=inputs.fixedVolume)) == []


@pytest.mark.parametrize(("shift", "level"), [(400.0, ERROR), (150.0, WARNING)])
def test_volumes_apart_are_aligned_by_one_click(scene, shift, level):
    away = makeGrid((44, 52, 44), (4, 4, 4), center=(0, 0, shift))
    inputs = _pair(scene, _head(GRID), _head(GRID), (GRID, away))
    assert _checks(inputs) == []  # the affine alignment will find it
    (found,) = _checks(inputs, Parameters(initial_alignment="none"))
    assert (found.name, found.level) == ("overlap", level)
    assert found.action
    assert _checks(inputs, Parameters(initial_alignment="none", **{}).from_preset("default", **found.changes)) == []


def test_very_different_voxels(scene):
    coarse = makeGrid((15, 17, 15), (12, 12, 12))
    inputs = _pair(scene, _head(GRID), _head(coarse), (GRID, coarse))
    (found,) = _checks(inputs)
    assert (found.name, found.level) == ("voxel size", WARNING)
    assert found.changes == {"preset": "fast"}
    (found,) = _checks(Inputs(inputs.movingVolume, inputs.fixedVolume))
    assert "exchange" in found.text


@pytest.mark.parametrize("flips", [(1, -1, 1), (1, 1, -1), (1, -1, -1)])
def test_a_likely_wrong_orientation(scene, flips):
    found = _checks(_pair(scene, _head(GRID), _head(GRID, flips)))
    assert _named(found) == ["orientation"]
    assert ("front-back" in found[0].text) == (flips[1] < 0)
    assert ("up-down" in found[0].text) == (flips[2] < 0)


def test_left_and_right_of_a_symmetric_head_are_not_told_apart(scene):
    assert _checks(_pair(scene, _head(GRID), _head(GRID, (-1, 1, 1)))) == []


def test_skull_against_skull_stripped(scene):
    found = _checks(_pair(scene, _head(GRID, skull=False), _head(GRID, noise=3.0)))
    assert "skull" in _named(found)
    assert "fixed shows its object cut out" in next(check.text for check in found if check.name == "skull")


def test_a_constant_image(scene):
    (found,) = _checks(_pair(scene, _head(GRID), np.full(GRID.shape, 7, np.float32)))
    assert (found.level, "moving" in found.text) == (ERROR, True)


def test_a_nonlinear_parent(scene):
    inputs = addPair(scene)
    bent = scene.AddNewNodeByClass("vtkMRMLTransformNode", "bent")
    bent.SetAndObserveTransformToParent(slicer.vtkOrientedBSplineTransform())
    inputs.fixedVolume.SetAndObserveTransformNodeID(bent.GetID())
    (found,) = _checks(inputs)
    assert (found.level, "Harden" in found.text) == (ERROR, True)


@pytest.mark.parametrize("which", ["initialTransform", "fixedMask", "movingSegmentation", "movingMarkups"])
def test_a_transform_that_became_nonlinear_meanwhile(scene, which):
    inputs = addPair(scene)
    parent = scene.AddNewNodeByClass("vtkMRMLTransformNode", "bent")
    if which == "initialTransform":
        node = parent
    elif which == "movingMarkups":
        node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
        node.AddControlPoint(0, 0, 0)
    else:
        node = inputs.fixedSegmentation if which == "fixedMask" else inputs.movingSegmentation
    if node is not parent:
        node.SetAndObserveTransformNodeID(parent.GetID())
    setattr(inputs, which, node)
    assert _checks(inputs) == []
    parent.SetAndObserveTransformToParent(slicer.vtkOrientedBSplineTransform())
    (found,) = _checks(inputs)
    assert (found.level, "linear" in found.text) == (ERROR, True)
    with pytest.raises(InputError, match="linear"):  # as the registration would say it
        RegistrationRun(inputs).arguments()


@pytest.mark.parametrize(
    ("role", "kind"),
    [
        ("movingSegmentation", "vtkMRMLSegmentationNode"),
        ("movingSegmentation", "vtkMRMLLabelMapVolumeNode"),
        ("fixedSegmentation", "vtkMRMLLabelMapVolumeNode"),
        ("movingMarkups", "vtkMRMLMarkupsFiducialNode"),
        ("movingModel", "vtkMRMLModelNode"),
    ],
)
def test_what_is_to_be_carried_but_holds_nothing_is_named_as_the_registration_would(scene, role, kind):
    inputs = addPair(scene)
    setattr(inputs, role, scene.AddNewNodeByClass(kind, "still to be made"))
    (found,) = _checks(inputs)
    assert found.level == ERROR
    assert "still to be made" in found.text
    with pytest.raises(InputError) as refused:
        RegistrationRun(inputs).arguments()
    assert str(refused.value) == found.text


def _cube(grid, edge, corner=20):
    inside = np.zeros(grid.shape, np.uint8)
    inside[tuple(slice(corner, corner + edge) for _ in grid.shape)] = 1
    return inside


@pytest.mark.parametrize("kind", ["vtkMRMLSegmentationNode", "vtkMRMLLabelMapVolumeNode"])
@pytest.mark.parametrize("role", ["fixedMask", "movingMask"])
@pytest.mark.parametrize(
    ("edge", "level", "word"), [(0, ERROR, "empty"), (1, ERROR, "one voxel"), (4, WARNING, "64 voxels"), (5, None, "")]
)
def test_masks_of_next_to_nothing(scene, kind, role, edge, level, word):
    inputs = _pair(scene, _head(GRID), _head(GRID, noise=3.0))
    inside = _cube(GRID, edge)
    if kind == "vtkMRMLSegmentationNode":
        mask = addSegmentation(scene, GRID, {"part": inside.astype(bool)}, name="drawn")
    else:
        mask = addVolume(scene, GRID, inside, "drawn", kind)
    setattr(inputs, role, mask)
    found = _checks(inputs)
    assert [check.level for check in found] == ([] if level is None else [level])
    assert all(word in check.text and "drawn" in check.text for check in found)


def test_a_mask_without_segments_is_empty(scene):
    inputs = _pair(scene, _head(GRID), _head(GRID, noise=3.0))
    inputs.fixedMask = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    assert [(check.name, check.level) for check in _checks(inputs)] == [("mask", ERROR)]


def test_one_voxel_of_a_coarse_mask_may_be_enough(scene):
    inputs = _pair(scene, _head(GRID), _head(GRID, noise=3.0))
    coarse = makeGrid((5, 6, 5), (40, 40, 40))
    inputs.fixedMask = addVolume(scene, coarse, _cube(coarse, 1, 2), "drawn", "vtkMRMLLabelMapVolumeNode")
    assert _checks(inputs) == []


@pytest.mark.parametrize("shape", [(7, 7, 7), (1, 7, 7), (1, 1, 7), (1, 1, 1), (2, 2, 2)])
def test_tiny_volumes_are_named_and_nothing_raises(scene, shape):
    grid = makeGrid(shape, (4, 4, 4))
    data = np.arange(grid.size, dtype=np.float32).reshape(grid.shape)
    found = _checks(_pair(scene, data, data, (grid, grid)))
    assert found
    if min(shape) > 1 and max(shape) > 2:
        assert "7 x 7 x 7 voxels" in found[0].text


def test_a_stack_of_few_slices_is_not_tiny(scene):
    grid = makeGrid((7, 64, 52), (15, 4, 4))
    assert _checks(_pair(scene, _head(grid), _head(grid, noise=3.0), (grid, grid))) == []


def test_advice_that_is_followed_already_is_not_given(scene):
    coarse = makeGrid((15, 17, 15), (12, 12, 12))
    inputs = _pair(scene, _head(GRID), _head(coarse), (GRID, coarse))
    (found,) = _checks(inputs, Parameters.from_preset("fast"))
    assert (found.changes, found.action, "preset" in found.text) == ({}, "", False)
    stripped = _pair(scene, _head(GRID, skull=False), _head(GRID, noise=3.0))
    stripped.movingMask = addVolume(scene, GRID, _head(GRID, skull=False) > 0, "brain", "vtkMRMLLabelMapVolumeNode")
    assert _checks(stripped) == []


def test_a_slice_against_a_volume(scene):
    flat = makeGrid((1, 52, 44), (4, 4, 4))
    (found,) = _checks(_pair(scene, _head(GRID), _head(flat), (GRID, flat)))
    assert (found.name, found.level) == ("dimension", ERROR)


def test_too_little_memory_and_the_grid_that_fits(scene):
    inputs = _pair(scene, _head(GRID), _head(GRID))
    free = 520 << 20
    (found,) = _checks(inputs, freeHost=free)
    assert (found.name, found.level) == ("memory", WARNING)
    assert _checks(inputs, Parameters(**found.changes), freeHost=free) == []
    (found,) = _checks(inputs, device="cuda", freeDevice=650 << 20)
    assert "GPU" in found.text
    assert _checks(inputs, device="cuda", freeDevice=8 << 30) == []


def test_a_large_volume_is_looked_at_in_no_time(scene):
    grid = makeGrid((256, 256, 256), (0.7, 0.7, 0.7))
    data = np.random.default_rng(0).integers(0, 1000, grid.shape, dtype=np.int16)
    inputs = _pair(scene, data, data, (grid, grid))
    _checks(inputs)  # VTK computes and keeps the range of the voxels
    began = time.process_time()
    _checks(inputs)
    assert time.process_time() - began < 0.3
