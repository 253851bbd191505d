# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import slicer
import vtk
from DeepFLASHRegistrationLib.scene.arrays import arrayFromImage
from DeepFLASHRegistrationLib.scene.labels import labelsFromNode, maskFromNode
from DeepFLASHRegistrationLib.support.errors import InputError
from scene_synthetic import addLinear, addSegmentation, addVolume, makeGrid, pointsOf, smooth

TURN = np.array([[0.8, -0.6, 0, 5], [0.6, 0.8, 0, -7], [0, 0, 1, 3], [0, 0, 0, 1.0]])


def balls(grid):
    points = pointsOf(grid)
    return {
        "left": np.linalg.norm(points - (12, 0, 0), axis=-1) < 9,
        "right": np.linalg.norm(np.add(points, (12, 0, 0)), axis=-1) < 7,
    }


def stateOf(node):
    segmentation = node.GetSegmentation()
    state = [node.GetMTime(), segmentation.GetMTime()]
    for identifier in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(identifier)
        names = []
        segment.GetContainedRepresentationNames(names)
        state.append((identifier, segment.GetName(), segment.GetColor(), segment.GetMTime(), tuple(names)))
    return state


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("moved", [False, True])
def test_segments_become_labels_on_the_volume_s_grid(scene, shared, moved):
    grid = makeGrid(flips=(-1, 1, -1), tilt=0.15)
    masks = balls(grid)
    reference = addVolume(scene, grid, smooth(pointsOf(grid)))
    node = addSegmentation(scene, grid, masks, reference, shared=shared)
    if moved:
        for each in (node, reference):
            each.SetAndObserveTransformNodeID(addLinear(scene, TURN).GetID())
    before = stateOf(node)
    labels = labelsFromNode(node, reference)
    np.testing.assert_array_equal(labels.volume.data, masks["left"] * 1 + masks["right"] * 2)
    assert labels.names == {1: "left", 2: "right"}
    assert labels.segments == {1: ("Id.left",), 2: ("Id.right",)}
    assert labels.volume.notes == ()
    assert stateOf(node) == before


def test_without_a_volume_the_segmentation_s_own_geometry_is_used(scene):
    grid = makeGrid((20, 24, 28), tilt=0.1)
    reference = addVolume(scene, grid, smooth(pointsOf(grid)))
    labels = labelsFromNode(addSegmentation(scene, grid, balls(grid), reference))
    assert labels.volume.grid.same_as(grid)
    assert labelsFromNode(addSegmentation(scene, grid, balls(grid))).volume.grid.same_as(grid)


def test_a_cropped_label_map_elsewhere_in_the_world_lands_where_it_is(scene):
    fine, coarse = makeGrid((40, 44, 48), (1.0, 1.0, 1.0), tilt=0.3), makeGrid()
    node = addSegmentation(scene, fine, balls(fine))
    node.GetSegmentation().CollapseBinaryLabelmaps(True)
    reference = addVolume(scene, coarse, smooth(pointsOf(coarse)))
    wrong = labelsFromNode(node, reference).volume.data != balls(coarse)["left"] + 2 * balls(coarse)["right"]
    assert wrong.mean() < 0.01


def test_overlapping_segments_lose_nothing(scene):
    grid = makeGrid()
    points = pointsOf(grid)
    masks = {
        "whole": np.linalg.norm(points, axis=-1) < 15,
        "core": np.linalg.norm(points, axis=-1) < 6,
        "slab": np.abs(points[..., 2]) < 4,
    }
    labels = labelsFromNode(addSegmentation(scene, grid, masks, shared=False))
    assert "overlapping segments" in labels.volume.notes[0]
    for title, mask in masks.items():
        covering = [label for label, ids in labels.segments.items() if f"Id.{title}" in ids]
        np.testing.assert_array_equal(np.isin(labels.volume.data, covering), mask)
    assert "whole + core" in labels.names.values()


def test_segments_of_one_value_in_one_label_map_lose_nothing(scene):
    grid = makeGrid()
    node = addSegmentation(scene, grid, balls(grid), shared=True)
    segmentation = node.GetSegmentation()
    twin = slicer.vtkSegment()
    twin.DeepCopy(segmentation.GetSegment("Id.right"))
    twin.SetName("twin")
    name = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    twin.AddRepresentation(name, segmentation.GetSegment("Id.right").GetRepresentation(name))
    segmentation.AddSegment(twin, "Id.twin")
    labels = labelsFromNode(node)
    for identifier in ("Id.right", "Id.twin"):
        covering = [label for label, ids in labels.segments.items() if identifier in ids]
        np.testing.assert_array_equal(np.isin(labels.volume.data, covering), balls(grid)["right"])


def test_voxels_of_a_label_map_that_are_of_no_segment_are_no_label(scene):
    grid = makeGrid()
    node = addSegmentation(scene, grid, balls(grid), shared=True)
    node.GetSegmentation().GetSegment("Id.right").SetLabelValue(7)  # no voxel has it
    labels = labelsFromNode(node)
    np.testing.assert_array_equal(labels.volume.data, balls(grid)["left"])
    assert labels.names == {1: "left", 2: "right"}


def test_names_are_matched_between_two_images(scene):
    grid = makeGrid()
    masks = balls(grid)
    moving = labelsFromNode(addSegmentation(scene, grid, masks))
    fixed = labelsFromNode(addSegmentation(scene, grid, {"other": masks["left"], "left": masks["right"]}), like=moving)
    assert fixed.names == {3: "other", 1: "left"}
    assert set(np.unique(fixed.volume.data)) == {0, 1, 3}


def test_a_label_map_keeps_its_values_and_a_closed_surface_is_converted(scene):
    grid = makeGrid()
    masks = balls(grid)
    data = (masks["left"] * 4 + masks["right"] * 17).astype(np.int16)
    node = addVolume(scene, grid, data, kind="vtkMRMLLabelMapVolumeNode")
    before = node.GetMTime(), arrayFromImage(node.GetImageData()).copy()
    labels = labelsFromNode(node)
    np.testing.assert_array_equal(labels.volume.data, data)
    assert sorted(labels.names) == [4, 17]
    assert labels.segments == {}
    assert node.GetMTime() == before[0]
    np.testing.assert_array_equal(arrayFromImage(node.GetImageData()), before[1])

    sphere = vtk.vtkSphereSource()
    sphere.SetRadius(10)
    sphere.SetThetaResolution(40)
    sphere.SetPhiResolution(40)
    sphere.Update()
    surface = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "surface")
    surface.AddSegmentFromClosedSurfaceRepresentation(sphere.GetOutput(), "ball", [1, 0, 0], "ball")
    reference = addVolume(scene, grid, smooth(pointsOf(grid)))
    before = stateOf(surface)
    mask = labelsFromNode(surface, reference).volume.data == 1
    assert stateOf(surface) == before
    assert (mask != (np.linalg.norm(pointsOf(grid), axis=-1) < 10)).mean() < 0.01


def test_masks_come_from_segmentations_label_maps_and_volumes(scene):
    grid = makeGrid()
    masks = balls(grid)
    both = masks["left"] | masks["right"]
    reference = addVolume(scene, grid, smooth(pointsOf(grid)))
    for node in (
        addSegmentation(scene, grid, masks),
        addVolume(scene, grid, both * 3.5),
        addVolume(scene, grid, both.astype(np.uint8), kind="vtkMRMLLabelMapVolumeNode"),
    ):
        mask = maskFromNode(node, reference)
        assert mask.data.dtype == np.uint8
        np.testing.assert_array_equal(mask.data, both)


def test_what_holds_no_labels_is_refused(scene):
    grid = makeGrid()
    with pytest.raises(InputError, match="nothing has no segment"):
        labelsFromNode(scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "nothing"))
    with pytest.raises(InputError, match="must be a segmentation or a label map"):
        labelsFromNode(addVolume(scene, grid, smooth(pointsOf(grid))))
    with pytest.raises(InputError, match="Choose one"):
        labelsFromNode(None)
    with pytest.raises(InputError, match="no label"):
        labelsFromNode(addVolume(scene, grid, np.zeros(grid.shape, np.uint8), kind="vtkMRMLLabelMapVolumeNode"))
