# SPDX-License-Identifier: Apache-2.0
"""Transform nodes of every kind as maps from the fixed to the moving image: beside formulas, and beside VTK."""

import numpy as np
import pytest
import vtk
from DeepFLASHRegistrationLib.process.transfer import read, write
from DeepFLASHRegistrationLib.scene.fields import gridTransform, transformedPoints
from DeepFLASHRegistrationLib.scene.geometry import LPS_RAS, vtkMatrixFrom
from DeepFLASHRegistrationLib.scene.known_transforms import sampledTransform
from DeepFLASHRegistrationLib.support.errors import InputError
from scene_synthetic import addLinear, makeGrid, pointsOf

FIXED = makeGrid((20, 24, 22), (3, 2, 4), tilt=0.2)
MOVING = makeGrid((18, 20, 16), (3, 3, 3), tilt=-0.1)
FIELD = makeGrid((40, 44, 48), (2.5, 2.5, 2.5), flips=(1, -1, 1))


def bend(points):
    """A displacement in LPS mm, as wide as the field."""
    x = points / 30.0
    return 3.0 * np.sin(np.roll(x, 1, axis=-1)) + 1.5 * np.cos(x + 0.3)


@pytest.fixture
def bending(scene):
    """A node that takes fixed points x to x + bend(x)."""
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", "bending")
    node.SetAndObserveTransformFromParent(gridTransform(bend(pointsOf(FIELD)), FIELD))
    return node


def inside(points):
    """Away from the border, where what is cubic and what is linear differ most."""
    return points[FIXED.contains(points) & FIXED.contains(points * 1.2)]


def points():
    return inside(np.random.default_rng(0).uniform(-20, 20, (500, 3)) + FIXED.center)


def test_a_field_takes_fixed_points_where_it_says(bending):
    known = sampledTransform(bending, FIXED, MOVING).known()
    to, there = known.moved(points())
    assert there.all()
    np.testing.assert_allclose(to, points() + bend(points()), atol=0.03)
    assert known.linear is None


def test_a_linear_transform_above_a_field_is_its_affine(scene, bending):
    """The node moves the moving to the fixed volume: fixed points first go through what is above, backwards."""
    matrix = np.array([[1.1, 0.1, 0, 5], [-0.1, 0.9, 0, -4], [0, 0, 1, 2], [0, 0, 0, 1.0]])
    above = addLinear(scene, np.linalg.inv(matrix), "above")
    nested = scene.AddNewNodeByClass("vtkMRMLTransformNode", "linear below")
    nested.SetMatrixTransformToParent(vtkMatrixFrom(np.linalg.inv(matrix)))
    nested.SetAndObserveTransformNodeID(bending.GetID())
    found = sampledTransform(nested, FIXED, MOVING)
    expected = np.column_stack([(points() + bend(points())) * [-1, -1, 1], np.ones(len(points()))]) @ matrix.T
    np.testing.assert_allclose(found.known().moved(points())[0], expected[:, :3] * [-1, -1, 1], atol=0.03)
    np.testing.assert_allclose(found.linear, LPS_RAS @ matrix @ LPS_RAS, atol=1e-9)
    bending.SetAndObserveTransformNodeID(above.GetID())
    assert sampledTransform(bending, FIXED, MOVING).linear is None


@pytest.mark.parametrize("kind", ["inverse", "composite", "spline"])
def test_other_kinds_take_points_where_vtk_takes_them(scene, bending, kind):
    if kind == "inverse":
        bending.Inverse()
    elif kind == "composite":
        general = vtk.vtkGeneralTransform()
        general.Concatenate(bending.GetTransformFromParent())
        general.Translate(4, -3, 2)
        bending.SetAndObserveTransformFromParent(general)
    else:
        spline = vtk.vtkThinPlateSplineTransform()
        ends = [vtk.vtkPoints(), vtk.vtkPoints()]
        for place in pointsOf(makeGrid((3, 3, 3), (25, 25, 25))).reshape(-1, 3):
            ends[0].InsertNextPoint(*place)
            ends[1].InsertNextPoint(*(place + 2 * np.sin(place / 20)))
        spline.SetSourceLandmarks(ends[0])
        spline.SetTargetLandmarks(ends[1])
        spline.SetBasisToR()
        bending.SetAndObserveTransformFromParent(spline)
    whole = vtk.vtkGeneralTransform()
    bending.GetTransformFromWorld(whole)
    expected = transformedPoints(whole, points() * [-1, -1, 1]) * [-1, -1, 1]
    found, there = sampledTransform(bending, FIXED, MOVING).known().moved(points())
    assert there.all()
    assert np.abs(expected - points()).max() > 1
    np.testing.assert_allclose(found, expected, atol=0.05)


def test_beyond_a_field_nothing_is_known(scene):
    small = makeGrid((6, 6, 6), (2.5, 2.5, 2.5))
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", "small")
    node.SetAndObserveTransformFromParent(gridTransform(bend(pointsOf(small)), small))
    known = sampledTransform(node, FIXED, MOVING).known()
    voxels = FIXED.index_to_physical(np.argwhere(np.ones(FIXED.shape, bool)))
    assert (known.moved(voxels)[1] == small.contains(voxels)).mean() > 0.999
    with pytest.raises(InputError, match=r"small: reaches \d+ % of the fixed object"):
        known.affine(FIXED, np.ones(FIXED.shape, bool))


def test_a_slice_is_moved_within_its_plane(scene, bending):
    fixed, moving = (makeGrid((1, 24, 22), (2, 2, 2), center=(0, 0, depth)).flattened() for depth in (0, 10))
    bending.SetAndObserveTransformFromParent(gridTransform(bend(pointsOf(FIELD)) * [1, 1, 0], FIELD))
    flat = np.array([[1.0, 2.0], [-8.0, 5.0]]) + fixed.center
    to, there = sampledTransform(bending, fixed, moving).known().moved(flat)
    lifted = fixed.lift(flat)
    assert there.all()
    np.testing.assert_allclose(moving.lift(to)[:, :2], (lifted + bend(lifted))[:, :2], atol=0.03)


def test_it_travels_to_another_process(bending, tmp_path):
    found = sampledTransform(bending, FIXED, MOVING)
    write(tmp_path / "sent", {"initial_map": found})
    arrived = read(tmp_path / "sent")["initial_map"]
    np.testing.assert_array_equal(arrived.known().moved(points())[0], found.known().moved(points())[0])


def test_a_transform_that_changes_nothing_is_refused(scene):
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", "nothing")
    with pytest.raises(InputError, match="nothing changes nothing"):
        sampledTransform(node, FIXED, MOVING)
