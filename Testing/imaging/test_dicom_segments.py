# SPDX-License-Identifier: Apache-2.0
"""DICOM segmentations: what lies where, with which names, colors and codes, by pydicom alone and read again."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from DeepFLASHRegistrationLib.imaging import io
from DeepFLASHRegistrationLib.imaging.dicom.registrations import write_object
from DeepFLASHRegistrationLib.imaging.dicom.series import Series, read_series
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.segmentation import (
    Segment,
    Segmentation,
    is_segmentation,
    read_segmentation,
    write_segmentation,
)
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.support.errors import InputError
from dicom_files import AXIAL, enhanced, line, save, write_stack, write_volume_series
from imaging_shapes import rotation

pytest.importorskip("highdicom")
from DeepFLASHRegistrationLib.imaging.dicom.segments import segmentation_object

SHAPE = (7, 10, 12)
KIDNEY = (
    "TerminologyEntry:Segmentation category and type - 3D Slicer General Anatomy list~SCT^123037004^Anatomical "
    "Structure~SCT^64033007^Kidney~SCT^7771000^Left~Anatomic codes - DICOM master list~SCT^818983003^Abdomen~^^|"
)


def oblique(sense: int = 1) -> Grid:
    """Voxels of 4 x 1.5 x 2 mm, slices along or against their normal."""
    axes = rotation((1, 2, 3), 25)[:, ::-1] * (sense, 1, 1)
    affine = np.eye(4)
    affine[:3, :3] = axes * (4, 1.5, 2)
    affine[:3, 3] = (-9, 12, 30)
    return Grid(SHAPE, affine)


def series(folder: Path, sense: int = 1) -> Series:
    write_volume_series(folder, Volume(oblique(sense), np.arange(840.0).reshape(SHAPE)), "CT")
    return read_series(folder)


def masks() -> dict[str, np.ndarray]:
    """Three of which the last overlaps the first; none reaches the first slices."""
    generator = np.random.default_rng(0)
    first = generator.uniform(size=SHAPE) < 0.3
    second = ~first & (generator.uniform(size=SHAPE) < 0.3)
    third = generator.uniform(size=SHAPE) < 0.4
    found = {"Kidney, left": first, "Tumör \\ 2": second, "body": third}
    for mask in found.values():
        mask[:2] = False
    return found


def drawn(grid: Grid) -> Segmentation:
    kidney, tumor, body = masks().values()
    layers = [Volume(grid, (kidney * 3 + tumor * 7).astype(np.int32)), Volume(grid, body.astype(np.int32))]
    segments = (
        Segment("a", "Kidney, left", (1, 0.5, 0.25), 0, 3, {"Tags": f"Segmentation.Status:done|{KIDNEY}"}),
        Segment("b", "Tumör \\ 2", (0, 1, 0), 0, 7, {"Tags": "TerminologyEntry:no~codes|"}),
        Segment("c", "body", (0.2, 0.2, 0.8), 1, 1),
    )
    return Segmentation(tuple(layers), segments)


def written(folder: Path, found: Series) -> Path:
    object_, notes = segmentation_object(found, drawn(found.grid))
    assert not notes
    write_object(folder / "s.dcm", object_)
    return folder / "s.dcm"


def by_the_standard(path: Path) -> dict[str, set[tuple[float, ...]]]:
    """By the label of each segment the places of its voxels, to a thousandth of a mm, from the frames alone."""
    found = pydicom.dcmread(path)
    names = {item.SegmentNumber: item.SegmentLabel for item in found.SegmentSequence}
    frames = np.unpackbits(np.frombuffer(found.PixelData, np.uint8), bitorder="little")
    frames = frames[: found.NumberOfFrames * found.Rows * found.Columns]
    frames = frames.reshape(found.NumberOfFrames, found.Rows, found.Columns)
    shared = found.SharedFunctionalGroupsSequence[0]
    along, down = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    rows, columns = (float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing)
    places: dict[str, set[tuple[float, ...]]] = {}
    for frame, own in zip(frames, found.PerFrameFunctionalGroupsSequence, strict=True):
        start = np.array(_of(own, shared, "PlanePositionSequence").ImagePositionPatient, float)
        name = names[_of(own, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber]
        at = np.argwhere(frame)
        points = start + at[:, :1] * rows * down + at[:, 1:] * columns * along
        places.setdefault(name, set()).update(map(tuple, np.round(points, 2).tolist()))
    return places


def _of(own: pydicom.Dataset, shared: pydicom.Dataset, name: str) -> pydicom.Dataset:
    return (own if name in own else shared)[name].value[0]


def near(one: set[tuple[float, ...]], points: np.ndarray) -> bool:
    """Whether both are the same points, to a fiftieth of a mm."""
    found = np.array(sorted(one))
    apart = np.linalg.norm(found[:, None] - points[None], axis=-1)
    return len(found) == len(points) and bool(apart.min(0).max() < 0.02)


@pytest.mark.parametrize("sense", [1, -1])
def test_every_voxel_lies_where_it_did(tmp_path, sense) -> None:
    found = series(tmp_path / "ct", sense)
    path = written(tmp_path, found)
    places = by_the_standard(path)
    for (name, mask), label in zip(masks().items(), ("Kidney, left", "Tumör   2", "body"), strict=True):
        assert near(places[label], found.grid.index_to_physical(np.argwhere(mask))), name
    again = read_segmentation(path)
    assert again.grid.frame_of_reference == found.frame_of_reference
    for segment, mask in zip(again.segments, masks().values(), strict=True):
        inside = np.argwhere(again.layers[segment.layer].data == segment.label)
        points = again.grid.index_to_physical(inside)
        assert np.array_equal(
            np.unique(np.rint(found.grid.physical_to_index(points)).astype(int), axis=0), np.argwhere(mask)
        )


def test_names_colors_and_codes_come_back(tmp_path) -> None:
    again = read_segmentation(written(tmp_path, series(tmp_path / "ct")))
    kidney, tumor, body = again.segments
    assert [each.name for each in again.segments] == ["Kidney, left", "Tumör   2", "body"]
    assert np.allclose(kidney.color, (1, 0.5, 0.25), atol=0.01)
    assert np.allclose(body.color, (0.2, 0.2, 0.8), atol=0.01)
    assert kidney.layer == tumor.layer != body.layer
    # Slicer's own text but for the name of the list, which DICOM does not keep.
    assert kidney.other["Tags"] == KIDNEY.replace("3D Slicer General Anatomy list", "DICOM master list")
    assert "SCT^85756007^Tissue" in tumor.other["Tags"]
    write_segmentation(tmp_path / "a.seg.nrrd", again)
    for one, two in zip(read_segmentation(tmp_path / "a.seg.nrrd").segments, again.segments, strict=True):
        assert (one.id, one.name, one.layer, one.label, one.other) == (
            two.id,
            two.name,
            two.layer,
            two.label,
            two.other,
        )


def test_codes_and_references_are_the_standards(tmp_path) -> None:
    found = series(tmp_path / "ct")
    seg = pydicom.dcmread(written(tmp_path, found))
    assert (seg.SegmentationType, seg.Modality) == ("BINARY", "SEG")
    assert seg.FrameOfReferenceUID == found.frame_of_reference
    assert seg.StudyInstanceUID == found.header.StudyInstanceUID
    assert seg.PatientID == "4711"
    assert seg.SpecificCharacterSet == "ISO_IR 192"
    first = seg.SegmentSequence[0]
    code = first.SegmentedPropertyTypeCodeSequence[0]
    assert (code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning) == ("64033007", "SCT", "Kidney")
    assert code.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    assert first.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "123037004"
    assert first.AnatomicRegionSequence[0].CodeMeaning == "Abdomen"
    assert first.SegmentAlgorithmType == "SEMIAUTOMATIC"
    assert first.SegmentAlgorithmName
    listed = {each.ReferencedSOPInstanceUID for each in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert listed == {header.SOPInstanceUID for header in found.instances}
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == found.header.SeriesInstanceUID


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")
def test_dciodvfy_finds_no_error(tmp_path) -> None:
    path = written(tmp_path, series(tmp_path / "ct"))
    done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
    assert "Segmentation" in done.stderr
    assert "Error" not in done.stderr


def test_frames_of_one_file_are_referred_to_in_their_order(tmp_path) -> None:
    """Stored from the last slice to the first."""
    frames = enhanced(line((0, 0, 4), 5)[::-1])
    frames.FrameOfReferenceUID, frames.PatientID, frames.PatientName = "1.2.3", "1", "A"
    frames.StudyID = frames.StudyDate = frames.StudyTime = frames.AccessionNumber = ""
    frames.PatientSex = frames.PatientBirthDate = frames.ReferringPhysicianName = ""
    save(tmp_path, "e.dcm", frames)
    found = read_series(tmp_path / "e.dcm")
    labels = np.zeros(found.grid.shape, np.int32)
    labels[3, 2, 5] = 1
    object_, _ = segmentation_object(
        found, Segmentation((Volume(found.grid, labels),), (Segment("a", "a", layer=0, label=1),))
    )
    write_object(tmp_path / "s.dcm", object_)
    (places,) = by_the_standard(tmp_path / "s.dcm").values()
    assert near(places, found.grid.index_to_physical(np.array([[3, 2, 5]])))


def test_a_single_slice_of_a_volume_stays_in_three_dimensions(tmp_path) -> None:
    found = series(tmp_path / "ct")
    labels = np.zeros(SHAPE, np.int32)
    labels[4, 2:5, 5] = 1
    object_, _ = segmentation_object(
        found, Segmentation((Volume(found.grid, labels),), (Segment("a", "a", layer=0, label=1),))
    )
    write_object(tmp_path / "s.dcm", object_)
    labels = io.read_labels(tmp_path / "s.dcm")
    assert labels.ndim == 3
    assert np.allclose(labels.grid.spacing, (4, 1.5, 2), rtol=1e-4)
    points = labels.grid.index_to_physical(np.argwhere(labels.data))
    assert np.allclose(found.grid.physical_to_index(points), [(4, 2, 5), (4, 3, 5), (4, 4, 5)], atol=1e-3)
    assert io.read_grid(tmp_path / "s.dcm").same_as(labels.grid)


def test_what_has_no_voxel_is_left_out_with_a_note(tmp_path) -> None:
    found = series(tmp_path / "ct")
    whole = drawn(found.grid)
    empty = Segmentation(whole.layers, (*whole.segments, Segment("d", "gone", layer=0, label=9)))
    object_, notes = segmentation_object(found, empty)
    assert len(object_.SegmentSequence) == 3
    assert any("left out: gone" in note for note in notes)
    with pytest.raises(InputError, match="none of the labels reaches it"):
        segmentation_object(found, Segmentation(whole.layers, (empty.segments[-1],)))


def test_series_without_voxels_of_their_own_are_refused(tmp_path) -> None:
    write_stack(tmp_path / "gap", np.delete(line((0, 0, 4)), [4], axis=0), axes=AXIAL, FrameOfReferenceUID="1.2")
    found = read_series(tmp_path / "gap")
    labels = Volume(found.grid, np.ones(found.grid.shape, np.int32))
    with pytest.raises(InputError, match="unequally spaced"):
        segmentation_object(found, Segmentation((labels,), (Segment("a", "a"),)))


def test_what_is_no_label_is_refused(tmp_path) -> None:
    path = written(tmp_path, series(tmp_path / "ct"))
    assert is_segmentation(path)
    with pytest.raises(InputError, match="holds labels and no image"):
        io.read_volume(path)
    found = pydicom.dcmread(path)
    found.SegmentationType = "FRACTIONAL"
    found.save_as(tmp_path / "f.dcm")
    with pytest.raises(InputError, match="holds fractions"):
        read_segmentation(tmp_path / "f.dcm")
    (tmp_path / "cut.dcm").write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="damaged"):
        read_segmentation(tmp_path / "cut.dcm")
    del found.PerFrameFunctionalGroupsSequence
    found.SegmentationType = "BINARY"
    found.save_as(tmp_path / "bare.dcm")
    with pytest.raises(InputError, match="cannot be read as a segmentation of a volume"):
        read_segmentation(tmp_path / "bare.dcm")


def test_without_highdicom_it_is_said_what_to_install(tmp_path, monkeypatch) -> None:
    path = written(tmp_path, series(tmp_path / "ct"))
    for name in [name for name in sys.modules if name.split(".")[0] == "highdicom"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match="pip install pydicom highdicom"):
        read_segmentation(path)
