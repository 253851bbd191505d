# SPDX-License-Identifier: Apache-2.0
import itertools

import numpy as np
import pytest
import vtk
from DeepFLASHRegistrationLib.scene.arrays import arrayFromImage, imageFromArray
from DeepFLASHRegistrationLib.scene.conversion import pointsFromNode, volumeFromNode
from DeepFLASHRegistrationLib.scene.fields import gridTransform
from DeepFLASHRegistrationLib.scene.geometry import LPS_RAS
from DeepFLASHRegistrationLib.support.errors import InputError
from scene_synthetic import addLinear, addVolume, makeGrid, pointsOf, smooth

TURN = np.array([[0.8, -0.6, 0, 5], [0.6, 0.8, 0, -7], [0, 0, 1, 3], [0, 0, 0, 1.0]])


def addWarp(scene):
    grid = makeGrid((4, 4, 4), (30.0,) * 3)
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", "warp")
    node.SetAndObserveTransformFromParent(gridTransform(np.ones((4, 4, 4, 3), np.float32), grid))
    return node


def stateOf(node):
    return node.GetMTime(), arrayFromImage(node.GetImageData()).copy(), node.GetImageData().GetMTime()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", [(1, 1, 1), (1, -1, 1), (-1, -1, -1)])
def test_every_orientation_puts_the_voxels_where_slicer_puts_them(scene, order, flips):
    grid = makeGrid((5, 6, 7), (1.0, 2.0, 3.0), flips, order, tilt=0.2, center=(3, -4, 5))
    node = addVolume(scene, grid, smooth(pointsOf(grid)))
    volume = volumeFromNode(node)
    assert volume.grid.same_as(grid)
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    right, anterior, superior, _ = matrix.MultiplyPoint((4, 3, 2, 1))
    np.testing.assert_allclose(volume.grid.index_to_physical((2, 3, 4)), (-right, -anterior, superior))
    assert volume.data[2, 3, 4] == node.GetImageData().GetScalarComponentAsFloat(4, 3, 2, 0)


def test_a_chain_of_linear_parents_is_honored_and_nothing_is_touched(scene):
    grid = makeGrid((5, 6, 7))
    node = addVolume(scene, grid, smooth(pointsOf(grid)))
    outer, inner = addLinear(scene, TURN), addLinear(scene, np.diag([2.0, 2.0, 2.0, 1.0]))
    inner.SetAndObserveTransformNodeID(outer.GetID())
    node.SetAndObserveTransformNodeID(inner.GetID())
    before = stateOf(node)
    volume = volumeFromNode(node)
    expected = LPS_RAS @ TURN @ np.diag([2.0, 2.0, 2.0, 1.0]) @ LPS_RAS @ grid.affine
    np.testing.assert_allclose(volume.grid.affine, expected, atol=1e-9)
    assert "linear" in volume.notes[0]
    volume.data[:] = 0
    after = stateOf(node)
    assert (before[0], before[2]) == (after[0], after[2])
    np.testing.assert_array_equal(before[1], after[1])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_single_slice_is_two_dimensional(scene, axis):
    shape = [5, 6, 7]
    shape[axis] = 1
    grid = makeGrid(tuple(shape), (1.0, 2.0, 3.0), tilt=0.1)
    node = addVolume(scene, grid, smooth(pointsOf(grid)))
    volume = volumeFromNode(node)
    assert volume.ndim == 2
    assert volume.grid.lifted().same_as(grid)


def test_what_cannot_be_registered_is_refused_with_advice(scene):
    grid = makeGrid((5, 6, 7))
    node = addVolume(scene, grid, smooth(pointsOf(grid)), name="head")
    node.SetAndObserveTransformNodeID(addWarp(scene).GetID())
    with pytest.raises(InputError, match=r"head is under the non-linear transform warp.*Harden"):
        volumeFromNode(node)
    shear = np.eye(4)
    shear[0, 1] = 0.5
    node.SetAndObserveTransformNodeID(addLinear(scene, shear).GetID())
    with pytest.raises(InputError, match=r"head.*not orthogonal"):
        volumeFromNode(node)
    with pytest.raises(InputError, match="holds no voxels"):
        volumeFromNode(scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty"))
    vector = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "colors")
    vector.SetAndObserveImageData(imageFromArray(np.zeros((2, 3, 4, 3), np.uint8), components=True))
    with pytest.raises(InputError, match="colors has 3 values per voxel"):
        volumeFromNode(vector)
    with pytest.raises(InputError, match="No volume is chosen"):
        volumeFromNode(None)
    with pytest.raises(InputError, match="is no scalar volume"):
        volumeFromNode(addLinear(scene, np.eye(4)))
    with pytest.raises(InputError, match="every voxel is 3"):
        volumeFromNode(addVolume(scene, grid, np.full(grid.shape, 3)))


def test_points_come_in_world_lps(scene):
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "landmarks")
    node.AddControlPoint(1, 2, 3, "tip")
    node.AddControlPoint(4, 5, 6, "never placed")
    node.AddControlPoint(7, 8, 9, "end")
    node.UnsetNthControlPointPosition(1)
    node.SetAndObserveTransformNodeID(addLinear(scene, TURN).GetID())
    modified = node.GetMTime()
    points = pointsFromNode(node)
    world = np.array([[1, 2, 3], [7, 8, 9]]) @ TURN[:3, :3].T + TURN[:3, 3]
    np.testing.assert_allclose(points, world * (-1, -1, 1))
    assert node.GetMTime() == modified
    with pytest.raises(InputError, match="no placed point"):
        pointsFromNode(scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode"))


def test_points_of_a_plane_are_two_dimensional(scene):
    grid = makeGrid((1, 6, 7), center=(0, 0, 12)).flattened()
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    node.AddControlPoint(-3, -4, 12)
    points = pointsFromNode(node, grid)
    np.testing.assert_allclose(points, [[3, 4]])
