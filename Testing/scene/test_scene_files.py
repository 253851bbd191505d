# SPDX-License-Identifier: Apache-2.0
"""Files by Slicer's own writers are read, and ours by Slicer's own readers."""

import numpy as np
import pytest
import slicer
import vtk
from DeepFLASHRegistrationLib.imaging.points import read_landmarks, write_points
from DeepFLASHRegistrationLib.imaging.segmentation import read_segmentation, write_segmentation
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

IJK_TO_RAS = np.array([[-2, 0, 0, 10], [0, -1, 0, 20], [0, 0, 3, -30], [0, 0, 0, 1.0]])
SEGMENTS = {
    "liver": ("Liver", np.s_[1:3, 1:4, 2:5], (1.0, 0.0, 0.0), 1),
    "tumor": ("Tumör", np.s_[2:3, 2:4, 3:5], (0.0, 0.5, 1.0), 1),
    "spleen": ("Spleen", np.s_[4:5, 0:1, 0:2], (0.0, 1.0, 0.0), 2),
}
TERMINOLOGY = "A list~SCT^123037004^Anatomical Structure~SCT^10200004^Liver~^^~Another list~^^~^^"


def mask(box) -> np.ndarray:
    array = np.zeros((5, 6, 7), np.uint8)
    array[box] = 1
    return array


def segmentation_node(scene) -> "slicer.vtkMRMLSegmentationNode":
    node = slicer.vtkMRMLSegmentationNode()
    scene.AddNode(node)
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(IJK_TO_RAS.ravel())
    for name, (title, box, color, label) in SEGMENTS.items():
        image = slicer.vtkOrientedImageData()
        image.SetDimensions(7, 6, 5)
        image.SetImageToWorldMatrix(matrix)
        image.GetPointData().SetScalars(numpy_to_vtk(mask(box).ravel() * label, deep=True))
        segment = slicer.vtkSegment()
        segment.SetName(title)
        segment.SetColor(color)
        segment.SetLabelValue(label)
        segment.SetTag("TerminologyEntry", TERMINOLOGY)
        segment.AddRepresentation("Binary labelmap", image)
        node.GetSegmentation().AddSegment(segment, name)
    return node


def store(scene, kind: str, path):
    storage = getattr(slicer, kind)()
    scene.AddNode(storage)
    storage.SetFileName(str(path))
    return storage


def voxels(layer, label) -> set[tuple[float, ...]]:
    """RAS mm of the voxels of a label."""
    points = layer.grid.index_to_physical(np.argwhere(layer.data == label)) * (-1, -1, 1)
    return {tuple(np.round(point, 6)) for point in points}


def wanted(box) -> set[tuple[float, ...]]:
    index = np.argwhere(mask(box))[:, ::-1]
    return {tuple(np.round(p, 6)) for p in index @ IJK_TO_RAS[:3, :3].T + IJK_TO_RAS[:3, 3]}


@pytest.mark.parametrize("cropped", [False, True])
def test_overlapping_segments_by_slicer_come_back_from_our_file(scene, tmp_path, cropped) -> None:
    storage = store(scene, "vtkMRMLSegmentationStorageNode", tmp_path / "a.seg.nrrd")
    storage.SetCropToMinimumExtent(cropped)
    assert storage.WriteData(segmentation_node(scene))
    found = read_segmentation(tmp_path / "a.seg.nrrd")
    assert len(found.layers) == 2
    assert [s.id for s in found.segments] == list(SEGMENTS)
    for segment in found.segments:
        title, box, color, _ = SEGMENTS[segment.id]
        assert (segment.name, segment.color) == (title, color)
        assert voxels(found.layers[segment.layer], segment.label) == wanted(box)
        assert TERMINOLOGY in segment.other["Tags"]
    write_segmentation(tmp_path / "b.seg.nrrd", found)
    node = slicer.vtkMRMLSegmentationNode()
    scene.AddNode(node)
    assert store(scene, "vtkMRMLSegmentationStorageNode", tmp_path / "b.seg.nrrd").ReadData(node)
    again = node.GetSegmentation()
    assert [again.GetNthSegmentID(i) for i in range(again.GetNumberOfSegments())] == list(SEGMENTS)
    for name, (title, box, color, _) in SEGMENTS.items():
        segment = again.GetSegment(name)
        assert segment.GetName() == title
        assert np.allclose(segment.GetColor(), color)
        text = vtk.mutable("")
        assert segment.GetTag("TerminologyEntry", text)
        assert str(text) == TERMINOLOGY
        image = segment.GetRepresentation("Binary labelmap")
        matrix = vtk.vtkMatrix4x4()
        image.GetImageToWorldMatrix(matrix)
        matrix = np.array([[matrix.GetElement(i, j) for j in range(4)] for i in range(4)])
        extent = image.GetExtent()
        shape = [extent[2 * a + 1] - extent[2 * a] + 1 for a in (2, 1, 0)]
        array = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(shape)
        index = np.argwhere(array == segment.GetLabelValue())[:, ::-1] + np.array(extent)[::2]
        points = index @ matrix[:3, :3].T + matrix[:3, 3]
        assert {tuple(np.round(p, 6)) for p in points} == wanted(box)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.fcsv", "vtkMRMLMarkupsFiducialStorageNode"),
        ("a.mrk.json", "vtkMRMLMarkupsJsonStorageNode"),
        ("lps.csv", True),
        ("ras.tsv", False),
    ],
)
def test_points_by_slicer_keep_who_is_not_placed(scene, tmp_path, name, kind) -> None:
    node = slicer.vtkMRMLMarkupsFiducialNode()
    scene.AddNode(node)
    for i, label in enumerate(("first", "unset", "last one", "missing")):
        node.AddControlPoint(vtk.vtkVector3d(i + 1, 2, 3), label)
    node.UnsetNthControlPointPosition(1)
    node.SetNthControlPointPositionMissing(3)
    if isinstance(kind, bool):
        assert slicer.vtkSlicerMarkupsLogic.ExportControlPointsToCSV(node, str(tmp_path / name), kind)
    else:
        assert store(scene, kind, tmp_path / name).WriteData(node)
    found = read_landmarks(tmp_path / name)
    assert found.names == ("first", "unset", "last one", "missing")
    assert found.defined.tolist() == [True, False, True, False]
    assert np.allclose(found.positions[[0, 2]], [[-1, -2, 3], [-3, -2, 3]])
    write_points(tmp_path / f"moved_{name}", found.positions[[0, 2]] + 1, like=tmp_path / name)
    again = slicer.vtkMRMLMarkupsFiducialNode()
    scene.AddNode(again)
    if isinstance(kind, bool):
        assert slicer.vtkSlicerMarkupsLogic.ImportControlPointsFromCSV(again, str(tmp_path / f"moved_{name}"))
    else:
        assert store(scene, kind, tmp_path / f"moved_{name}").ReadData(again)
    assert [again.GetNthControlPointLabel(i) for i in range(4)] == list(found.names)
    defined = [again.GetNthControlPointPositionStatus(i) == again.PositionDefined for i in range(4)]
    assert defined == [True, False, True, False]
    assert np.allclose([again.GetNthControlPointPosition(i) for i in (0, 2)], [[0, 1, 4], [2, 1, 4]])
