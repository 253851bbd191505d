# SPDX-License-Identifier: Apache-2.0
"""What a result says of a point, and the points that should be looked at; against a map known in closed form."""

import math

import numpy as np
import pytest
from DeepFLASHRegistrationLib.scene import places
from DeepFLASHRegistrationLib.scene.inputs import Inputs
from DeepFLASHRegistrationLib.scene.outputs import writeResult
from DeepFLASHRegistrationLib.scene.readout import read
from DeepFLASHRegistrationLib.scene.tables import writeTable
from scene_study import USUAL
from scene_synthetic import Stretch, addLinear, addSegmentation, addVolume, makeGrid, makeResult, pointsOf, smooth

AFFINE = [[1.1, 0, 0.02, 6], [0, 0.95, 0, -4], [0, 0, 1, 3], [0, 0, 0, 1.0]]
FLIP = np.array([-1, -1, 1])


def resultOf(scene, grid, truth):
    fixed = addVolume(scene, grid, smooth(pointsOf(grid)).astype(np.float32), "fixed")
    moving = addVolume(scene, grid, smooth(pointsOf(grid)).astype(np.float32), "moving")
    return fixed, writeResult(makeResult(grid, grid, truth), Inputs(fixed, moving))


@pytest.mark.parametrize("tilt", [0.0, 0.3])
def test_displacement_and_determinant_at_a_point_are_those_of_the_map(scene, tilt):
    grid, truth = makeGrid(tilt=tilt, flips=(1, -1, 1)), Stretch(0.4, 40.0, affine=AFFINE)
    fixed, nodes = resultOf(scene, grid, truth)
    for index in np.random.default_rng(1).integers(4, 24, (20, 3)):
        point = grid.index_to_physical(index)
        found = read(point * FLIP, fixed, nodes.transform, nodes.logJacobianVolume)
        there = truth.fixedToMoving(point)
        aligned = truth.affine[:3, :3] @ point + truth.affine[:3, 3]
        assert found.displacement == pytest.approx(np.linalg.norm(there - point), abs=0.06)  # 0.1 mm is shown
        assert found.deformation == pytest.approx(np.linalg.norm(there - aligned), abs=0.06)
        assert found.determinant == pytest.approx(truth.determinant(point), rel=1e-4)
        assert found.segments is None
    assert read(np.array([500.0, 0, 0]), fixed, nodes.transform) is None
    alone = read(np.zeros(3), fixed)
    assert (alone.displacement, alone.determinant, alone.segments) == (None, None, None)
    scene.RemoveNode(nodes.transform)
    assert read(np.zeros(3), fixed, nodes.transform).displacement is None


def test_folds_have_no_determinant_and_segments_their_names(scene):
    grid, truth = makeGrid(), Stretch(1.5, 40.0)
    fixed, nodes = resultOf(scene, grid, truth)
    points = pointsOf(grid)
    folded = points[truth.determinant(points) < 0][0]
    assert math.isnan(read(folded * FLIP, fixed, None, nodes.logJacobianVolume).determinant)
    left, ball = points[..., 0] > 10, np.linalg.norm(points, axis=-1) < 18
    for shared in (True, False):
        masks = {"left": left & ~ball if shared else left, "ball": ball}
        node = addSegmentation(scene, grid, masks, shared=shared)
        for at, names in (((20, 0, 0), {"left"}), ((-5, 0, 0), {"ball"}), ((-30, 0, 0), set())):
            assert set(read(at * FLIP, fixed, segmentation=node).segments) == names
        both = set() if shared else {"left"}
        assert set(read((14, 0, 0) * FLIP, fixed, segmentation=node).segments) == both | {"ball"}
    # Under a transform the segments are where they are seen.
    move = np.eye(4)
    move[0, 3] = 20
    node.SetAndObserveTransformNodeID(addLinear(scene, move).GetID())
    assert read(np.array((20.0, 0, 0)), fixed, segmentation=node).segments == ("ball",)
    labels = addVolume(scene, grid, (3 * ball).astype(np.int16), "labels", "vtkMRMLLabelMapVolumeNode")
    assert read(np.zeros(3), fixed, segmentation=labels).segments == ("Brain",)  # by Slicer's own colors
    assert read(np.array((-30.0, 0, 0)), fixed, segmentation=labels).segments == ()


def test_the_places_to_look_at_are_the_extremes_of_the_map_in_the_object(scene):
    grid, truth = makeGrid(tilt=0.2), Stretch(0.6, 50.0, center=3.0)
    fixed, nodes = resultOf(scene, grid, truth)
    points = pointsOf(grid)
    object_ = np.linalg.norm(points - (8, 0, 0), axis=-1) < 22
    fixed.SetAndObserveImageData(addVolume(scene, grid, np.where(object_, 100.0, 0.0), "object").GetImageData())
    determinant = truth.determinant(points)
    for found, wanted in (
        (places.smallestDeterminant(nodes.logJacobianVolume, fixed), determinant[object_].min()),
        (
            places.largestChange(nodes.logJacobianVolume, fixed),
            determinant[object_][np.argmax(np.abs(np.log(determinant[object_])))],
        ),
    ):
        assert found.value == pytest.approx(wanted, rel=1e-5)
        assert truth.determinant(np.array(found.ras) * FLIP) == pytest.approx(wanted, rel=1e-4)


def test_a_fold_is_the_smallest_determinant_wherever_it_is(scene):
    grid, truth = makeGrid(), Stretch(1.2, 60.0)
    fixed, nodes = resultOf(scene, grid, truth)
    found = places.smallestDeterminant(nodes.logJacobianVolume, fixed)
    assert math.isnan(found.value)
    assert truth.determinant(np.array(found.ras) * FLIP) < 0


def test_the_worst_label_is_that_of_the_smallest_dice_which_still_is_there(room):
    scene, grid = room.scene, makeGrid()
    points = pointsOf(grid)
    centers = {"near": (-15, 0, 0), "far": (20, 8, -6)}
    node = addSegmentation(scene, grid, {name: np.linalg.norm(points - c, axis=-1) < 7 for name, c in centers.items()})
    table = scene.AddNewNodeByClass("vtkMRMLTableNode")
    rows = [("near", 0.9), ("far", 0.7), ("lost", 0.0), ("new", float("nan"))]
    writeTable(table, [{"Label": n, "Name": name, "Dice after": dice} for n, (name, dice) in enumerate(rows)])
    found = places.worstLabel(table, node)
    assert (found.name, found.value) == ("far", 0.7)
    np.testing.assert_allclose(np.array(found.ras) * FLIP, centers["far"], atol=1.8)
    fixed = addVolume(scene, grid, smooth(points).astype(np.float32))
    room.show(fixed)
    places.jump(scene, found)
    for name in USUAL:
        row, column = room.pixel(name, found.ras)
        width, height = room.views[name].get_view_node().GetDimensions()[:2]
        assert abs(column - width / 2) <= 2
        assert abs(row - height / 2) <= 2
    empty = scene.AddNewNodeByClass("vtkMRMLTableNode")
    assert places.worstLabel(empty, node) is None
