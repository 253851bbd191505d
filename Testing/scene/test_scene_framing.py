# SPDX-License-Identifier: Apache-2.0
"""What is shown is in view, on the right volume, and covered by nothing else; and all of it is taken back."""

import numpy as np
import pytest
import slicer
from DeepFLASHRegistrationLib.scene.display.changes import Changes, placementOf
from DeepFLASHRegistrationLib.scene.display.deformation_grid import DeformationGrid
from DeepFLASHRegistrationLib.scene.display.fade import Fade
from DeepFLASHRegistrationLib.scene.display.flicker import Flicker
from DeepFLASHRegistrationLib.scene.display.ground import Ground
from DeepFLASHRegistrationLib.scene.display.jacobian import JacobianDisplay
from DeepFLASHRegistrationLib.scene.display.outlines import Outlines
from DeepFLASHRegistrationLib.scene.display.toggle import Displays
from scene_study import GRID, USUAL, WINDOWS, farStudy, makeStudy, shownThenAsBefore
from scene_synthetic import addSegmentation, addVolume


@pytest.fixture
def study(room):
    return makeStudy(room)


def cornersInView(room, name, volume):
    """(8, 2) columns and rows of a volume's corners in a view, and its width and height."""
    bounds = [0.0] * 6
    volume.GetRASBounds(bounds)
    corners = np.stack(np.meshgrid(bounds[:2], bounds[2:4], bounds[4:], indexing="ij"), -1).reshape(-1, 3)
    pixels = np.array([room.pixel(name, corner)[::-1] for corner in corners])
    return pixels, np.array(room.views[name].get_view_node().GetDimensions()[:2])


@pytest.mark.parametrize("shift", [(0, 0, 0), (12, -8, 5), (400, 0, 0), (-30, 250, 90)])
def test_views_that_look_elsewhere_come_to_the_volume_and_go_back(room, study, shift):
    for name in USUAL:  # as after another volume was shown there
        node = room.views[name].get_view_node()
        matrix = node.GetSliceToRAS()
        for axis in range(3):
            matrix.SetElement(axis, 3, matrix.GetElement(axis, 3) + shift[axis])
        node.UpdateMatrices()
    before = [placementOf(room.views[name].get_view_node()) for name in USUAL]
    with shownThenAsBefore(room, Flicker(study.fixed, study.nodes.warpedVolume)):
        for name in USUAL:
            pixels, size = cornersInView(room, name, study.fixed)
            assert (pixels >= -1).all()
            assert (pixels <= size + 1).all()
            assert np.ptp(pixels, axis=0).max() > 0.4 * size.min()  # and no speck
            picture = room.picture(name)
            assert picture[size[1] // 2, size[0] // 2].max() > 20
        if not any(shift):  # already well: nothing moves
            assert [placementOf(room.views[name].get_view_node()) for name in USUAL] == before
    assert [placementOf(room.views[name].get_view_node()) for name in USUAL] == before


def test_a_view_that_was_zoomed_into_the_volume_stays(room, study):
    node = room.views["Red"].get_view_node()
    node.SetFieldOfView(20, 20, 1)
    node.SetXYZOrigin(0, 0, 0)
    node.UpdateMatrices()
    before = placementOf(node)
    toggle = Flicker(study.fixed, study.nodes.warpedVolume)
    toggle.show()
    assert placementOf(node) == before
    toggle.hide()


@pytest.mark.parametrize("backFirst", [False, True])
def test_a_view_that_was_resized_meanwhile_comes_back_as_it_was(room, study, backFirst):
    """As when another layout is shown: Slicer then changes the width of the field of view by itself."""
    node, logic = room.views["Red"].get_view_node(), room.views["Red"]._logic
    width, height = node.GetDimensions()[:2]
    matrix = node.GetSliceToRAS()
    matrix.SetElement(0, 3, matrix.GetElement(0, 3) + 400)
    node.UpdateMatrices()
    before, extent = placementOf(node), node.GetFieldOfView()
    toggle = Flicker(study.fixed, study.nodes.warpedVolume)
    toggle.show()
    logic.ResizeSliceNode(width // 2, height - 20)
    if backFirst:
        logic.ResizeSliceNode(width, height)
    toggle.hide()
    logic.ResizeSliceNode(width, height)
    assert placementOf(node) == before
    assert node.GetFieldOfView() == pytest.approx(extent)


def test_a_view_far_away_of_tiny_volumes_or_slices_beside_them_come_back(room, study):
    node = room.views["Red"].get_view_node()
    node.SetFieldOfView(2000, 2000, 1)
    node.UpdateMatrices()
    green = room.views["Green"].get_view_node()
    green.SetSliceOffset(500)
    toggle = Flicker(study.fixed, study.nodes.warpedVolume)
    toggle.show()
    pixels, size = cornersInView(room, "Red", study.fixed)
    assert np.ptp(pixels, axis=0).max() > 0.9 * size.min()
    assert abs(green.GetSliceOffset()) < 40
    toggle.hide()
    assert green.GetSliceOffset() == 500


def test_the_legend_has_room_beside_the_volume(room, study):
    toggle = JacobianDisplay(study.nodes.logJacobianVolume, study.fixed)
    with shownThenAsBefore(room, toggle):
        for name in USUAL:
            pixels, size = cornersInView(room, name, study.fixed)
            assert pixels[:, 0].max() <= 0.8 * size[0] + 1
            assert pixels[:, 0].min() >= -1


def test_a_camera_that_looks_elsewhere_comes_and_goes_back(room):
    study = farStudy(room)
    room.threeD()
    camera = room.scene.AddNode(slicer.vtkMRMLCameraNode())
    camera.SetFocalPoint(900, 0, 0)
    camera.SetPosition(900, 500, 0)
    toggle = Flicker(study.fixed, study.nodes.warpedVolume)
    toggle.show()
    assert np.linalg.norm(camera.GetFocalPoint()) < 2
    away = np.linalg.norm(np.subtract(camera.GetPosition(), camera.GetFocalPoint()))
    radius = np.linalg.norm(np.array(GRID.shape) * 2.0) / 2
    assert away * np.sin(np.radians(camera.GetViewAngle() / 2)) == pytest.approx(radius, rel=0.02)
    toggle.hide()
    assert camera.GetFocalPoint() == (900, 0, 0)
    assert camera.GetPosition() == (900, 500, 0)


def test_what_lies_over_volumes_lies_over_the_fixed_one(room, study):
    displays = Displays(Ground(study.fixed))
    displays.toggles["grid"] = DeformationGrid(study.nodes.transform, study.fixed, 10)
    displays.toggles["flicker"] = Flicker(study.fixed, study.nodes.warpedVolume)

    def layers():
        composite = room.composite("Red")
        return composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID()

    users = layers()
    fixed, warped = study.fixed.GetID(), study.nodes.warpedVolume.GetID()
    assert users == (study.moving.GetID(), fixed)
    displays.show("grid")
    assert layers() == (fixed, None)
    displays.show("flicker")
    assert layers() == (fixed, warped)
    displays.hide("flicker")
    assert layers() == (fixed, None)  # the grid is still there
    displays.hide("grid")
    assert layers() == users
    displays.show("flicker")
    displays.show("grid")
    assert layers() == (fixed, warped)
    displays.hide("grid")
    assert layers() == (fixed, warped)
    displays.hideAll()
    assert layers() == users
    displays.show("grid")
    displays.hideAll()
    assert layers() == users


def test_outlines_are_covered_by_no_other_segmentation(room, study):
    half = np.zeros(GRID.shape, bool)
    half[:, :, : GRID.shape[2] // 2] = True
    ball = np.linalg.norm(GRID.index_to_physical(np.stack(np.indices(GRID.shape), -1)), axis=-1) < 20
    propagated, fixed, moving = (
        addSegmentation(room.scene, GRID, {"part": mask}, name=name)
        for name, mask in (("propagated", ball), ("fixed segments", ball), ("moving segments", half))
    )
    for node in (propagated, fixed, moving):
        node.GetDisplayNode().SetVisibility2DFill(True)
    room.scene.RemoveNode(study.nodes.transform)
    with shownThenAsBefore(room, Outlines(propagated, fixed)):
        assert not moving.GetDisplayNode().GetVisibility()
        picture = room.picture("Red")
        node = room.views["Red"].get_view_node()
        inside = room.pixel("Red", (0, 0, node.GetSliceOffset()))
        beside = room.pixel("Red", (30, 0, node.GetSliceOffset()))
        for row, column in (inside, beside):
            red, green, blue = picture[row, column]
            assert red == green == blue  # the gray image alone
    assert moving.GetDisplayNode().GetVisibility()


def test_no_label_map_covers_what_is_shown(room, study):
    labels = addVolume(room.scene, GRID, np.ones(GRID.shape, np.int16), "labels", "vtkMRMLLabelMapVolumeNode")
    room.composite("Red").SetLabelVolumeID(labels.GetID())
    with shownThenAsBefore(room, Fade(study.fixed, study.nodes.warpedVolume)):
        assert room.composite("Red").GetLabelVolumeID() is None
    assert room.composite("Red").GetLabelVolumeID() == labels.GetID()


def test_what_is_set_together_is_told_once(room, study):
    changes, display, told = Changes(), study.fixed.GetDisplayNode(), []
    display.AddObserver("ModifiedEvent", lambda *event: told.append(event))
    with changes.together():
        changes.set(display, "WindowLevel", 50.0, 10.0)
        with changes.together():
            changes.set(display, "Interpolate", 0)
        assert not told
    assert len(told) == 1
    changes.giveBack()
    assert len(told) == 2
    assert ((display.GetWindow(), display.GetLevel()), display.GetInterpolate()) == (WINDOWS["fixed"], 1)
    changes.set(display, "Interpolate", 0)
    changes.giveBack(butNot=[display])  # a node that goes now
    assert display.GetInterpolate() == 0
