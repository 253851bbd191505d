# SPDX-License-Identifier: Apache-2.0
"""Radiation doses of DICOM, carried: their values in Gy, none beyond their grid, and written as doses again."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from DeepFLASHRegistrationLib.commands import main as cli
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.io import read_volume
from DeepFLASHRegistrationLib.imaging.volume import Volume
from dicom_files import AXIAL, dataset, one_item, save, write_volume_series
from imaging_shapes import rotation
from registration_objects import write_deformable, write_spatial

pytest.importorskip("torch")

RT_DOSE = "1.2.840.10008.5.1.4.1.1.481.2"
FIXED, MOVING = "1.2.3.1", "1.2.3.2"
SCALING = 0.0005
SPACING, START = np.array([3.0, 2.5, 2.5]), np.array([-10.0, -12, -15])  # z, y, x; x, y, z


def gray(points: np.ndarray) -> np.ndarray:
    """The dose at LPS mm, in Gy: linear, so that what is interpolated is exact."""
    return 30 + points @ (0.4, 0.3, -0.2)


def dose_grid() -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = np.fliplr(np.diag(SPACING[::-1]))
    affine[:3, :3] = np.eye(3)[:, ::-1] * SPACING
    affine[:3, 3] = START
    return Grid((9, 10, 11), affine)


def write_dose(folder: Path, **changes) -> Path:
    """As a planning system writes one: frames by their offsets, 32 bits, and a scaling."""
    grid = dose_grid()
    points = grid.index_to_physical(np.moveaxis(np.indices(grid.shape), 0, -1))
    found = dataset(
        START, AXIAL, SPACING[1:].tolist(), grid.shape[1:], SOPClassUID=RT_DOSE, Modality="RTDOSE",
        SeriesInstanceUID="1.2.3.77", FrameOfReferenceUID=MOVING, SliceThickness=3, DoseUnits="GY",
        DoseType="PHYSICAL", DoseSummationType="PLAN", DoseGridScaling=SCALING, NumberOfFrames=9, BitsAllocated=32,
        BitsStored=32, HighBit=31, GridFrameOffsetVector=[3.0 * k for k in range(9)], FrameIncrementPointer=0x3004000C,
        PixelData=np.rint(gray(points) / SCALING).astype("<u4").tobytes(),
        ReferencedRTPlanSequence=one_item(ReferencedSOPClassUID="1.2.840.10008.5.1.4.1.1.481.5",
                                          ReferencedSOPInstanceUID="1.2.3.55"),
    )  # fmt: skip
    for name, content in changes.items():
        setattr(found, name, content)
    return save(folder, "dose.dcm", found)


def fixed_grid() -> Grid:
    """Oblique, finer than the dose, and reaching beyond it."""
    affine = np.eye(4)
    affine[:3, :3] = rotation((2, 1, 3), 20)[:, ::-1] * (2, 1.5, 1.5)
    affine[:3, 3] = np.array([40.0, 3, -3]) - affine[:3, :3] @ (12, 14, 13)
    return Grid((25, 29, 27), affine)


@pytest.fixture
def files(tmp_path) -> Path:
    """A dose, the fixed series, and a shift of 40 mm in x from the moving to the fixed frame."""
    write_dose(tmp_path)
    grid = fixed_grid()
    data = np.arange(grid.size).reshape(grid.shape) % 1000
    write_volume_series(tmp_path / "ct", Volume(grid, data), "CT", FrameOfReferenceUID=FIXED)
    shift = np.eye(4)
    shift[0, 3] = 40
    write_spatial(tmp_path / "reg.dcm", FIXED, [(MOVING, [shift])])
    return tmp_path


def expected(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The dose at points of the fixed image, and how far they lie within the dose's grid, in its voxels."""
    back = points - (40, 0, 0)
    index = dose_grid().physical_to_index(back)
    depth = np.minimum(index, np.array(dose_grid().shape) - 1 - index).min(-1)
    return gray(back), depth


def carry(files: Path, out: str, *more: str, code: int = 0, source: str = "dose.dcm", by: str = "reg.dcm") -> Path:
    arguments = ["apply", files / by, files / source, "-o", files / out, *more, "--threads", "1"]
    assert cli.main([str(a) for a in arguments]) == code
    return files / out


def compared(values: np.ndarray, points: np.ndarray) -> None:
    wanted, depth = expected(points)
    inside, outside = depth >= 0, depth < -1.01
    assert min(inside.sum(), outside.sum()) > 500
    assert np.abs(values - wanted)[inside].max() < 2 * SCALING
    assert not values[outside].any()  # and not the least dose there is, 20 Gy
    assert wanted[inside].min() > 10


def test_a_dose_is_read_in_gray_and_says_so(tmp_path) -> None:
    volume = read_volume(write_dose(tmp_path))
    points = volume.grid.index_to_physical(np.moveaxis(np.indices(volume.grid.shape), 0, -1))
    assert np.abs(volume.data - gray(points)).max() < SCALING
    (note,) = volume.notes
    assert "is a radiation dose in Gy (PHYSICAL, PLAN)" in note
    relative = read_volume(write_dose(tmp_path, DoseUnits="RELATIVE"))
    assert any("relative to a value that the file does not state" in note for note in relative.notes)


def test_a_dose_is_carried_in_gray_with_none_beyond_its_grid(files, capsys) -> None:
    volume = read_volume(carry(files, "dose.nii.gz", "--reference", str(files / "ct")))
    points = volume.grid.index_to_physical(np.moveaxis(np.indices(volume.grid.shape), 0, -1))
    compared(volume.data, points)
    said = capsys.readouterr().err
    assert "in Gy (PHYSICAL, PLAN)" in said
    assert "frame of reference" not in said


def written(files: Path) -> tuple[pydicom.Dataset, np.ndarray, np.ndarray]:
    """A dose that was carried, its values and their places by the standard's own words."""
    found = pydicom.dcmread(carry(files, "on_fixed.dcm", "--reference", str(files / "ct")))
    values = np.frombuffer(found.PixelData, "<u2")[: found.NumberOfFrames * found.Rows * found.Columns]
    values = values.reshape(found.NumberOfFrames, found.Rows, found.Columns)
    along, down = np.array(found.ImageOrientationPatient, float).reshape(2, 3)
    k, j, i = np.indices(values.shape)
    offsets = np.array(found.GridFrameOffsetVector, float)
    rows, columns = (float(v) for v in found.PixelSpacing)
    points = np.array(found.ImagePositionPatient, float) + (
        offsets[k][..., None] * np.cross(along, down) + (j * rows)[..., None] * down + (i * columns)[..., None] * along
    )
    return found, values * float(found.DoseGridScaling), points


def test_a_dose_is_written_as_a_dose_again(files) -> None:
    _, values, points = written(files)
    wanted, depth = expected(points)
    assert np.abs(values - wanted)[depth >= 0].max() < 3 * SCALING
    assert not values[depth < -1.01].any()
    # All voxels of the image with a dose are there.
    grid = fixed_grid()
    index = np.moveaxis(np.indices(grid.shape), 0, -1)
    with_dose = expected(grid.index_to_physical(index))[1] >= 0
    assert (depth >= 0).sum() == with_dose.sum()
    assert values.size < grid.size
    again = read_volume(files / "on_fixed.dcm")
    assert np.allclose(again.data, values, rtol=1e-6)
    assert np.allclose(
        again.grid.index_to_physical(np.moveaxis(np.indices(again.grid.shape), 0, -1)), points, atol=1e-4
    )


def test_a_dose_keeps_its_units_and_its_plan_in_the_study_of_the_fixed_series(files) -> None:
    found, _, _ = written(files)
    series = pydicom.dcmread(files / "ct" / "000.dcm")
    assert found.FrameOfReferenceUID == FIXED
    assert (found.StudyInstanceUID, found.PatientID) == (series.StudyInstanceUID, series.PatientID)
    assert (found.DoseUnits, found.DoseType, found.DoseSummationType) == ("GY", "PHYSICAL", "PLAN")
    assert found.ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID == "1.2.3.55"
    assert found.SpatialTransformOfDose == "RIGID"
    assert (found.BitsAllocated, found.BitsStored, found.HighBit, found.PixelRepresentation) == (16, 16, 15, 0)
    assert found.FrameIncrementPointer == 0x3004000C
    assert not [n for n in ("OperatorsName", "SeriesNumber", "PositionReferenceIndicator") if n not in found]


def test_what_a_deformation_carried_is_called_so(files) -> None:
    vectors = np.broadcast_to(np.float32([-40, 0, 0]), (2, 2, 2, 3))
    write_deformable(files / "def.dcm", FIXED, MOVING, vectors, (-60, -80, -80), resolution=(160, 160, 160))
    found = pydicom.dcmread(carry(files, "d.dcm", "--reference", str(files / "ct"), by="def.dcm"))
    assert found.SpatialTransformOfDose == "NON_RIGID"
    rigid, _, _ = written(files)
    one, two = (np.frombuffer(d.PixelData, "<u2") * float(d.DoseGridScaling) for d in (found, rigid))
    assert np.abs(one - two).max() < 0.01


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")
def test_dciodvfy_finds_no_error(files) -> None:
    written(files)
    done = subprocess.run(["dciodvfy", files / "on_fixed.dcm"], capture_output=True, text=True, check=False)
    assert "RTDose" in done.stderr
    assert "Error" not in done.stderr


def test_a_dose_of_another_frame_of_reference_is_named(files, capsys) -> None:
    write_dose(files / "other", FrameOfReferenceUID="1.2.9")
    write_volume_series(files / "moving", Volume(dose_grid(), np.ones((9, 10, 11))), "m", FrameOfReferenceUID=MOVING)
    more = ["--reference", str(files / "ct"), "--source", str(files / "moving")]
    carry(files, "x.nii.gz", *more, source="other/dose.dcm")
    assert "lies in the frame of reference 1.2.9" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["no reference", "no dose", "negative", "elsewhere"])
def test_what_cannot_be_written_as_a_dose_is_refused(files, capsys, what) -> None:
    reference = ["--reference", str(files / "ct")]
    if what == "no dose":
        carry(files, "x.dcm", *reference, source="ct/000.dcm", code=2)
        assert "of images only radiation doses are written as DICOM" in capsys.readouterr().err
    elif what == "no reference":
        carry(files, "x.dcm", "--source", str(files / "dose.dcm"), code=2)
        assert "--reference" in capsys.readouterr().err
    elif what == "negative":
        write_dose(files, PixelRepresentation=1, PixelData=np.full(990, -5, "<i4").tobytes()[:-4] + bytes(4))
        carry(files, "x.dcm", *reference, code=2)
        assert "negative values" in capsys.readouterr().err
    else:
        shift = np.eye(4)
        shift[0, 3] = 4000
        write_spatial(files / "reg.dcm", FIXED, [(MOVING, [shift])])
        carry(files, "x.dcm", *reference, code=2)
        assert "no dose reaches it" in capsys.readouterr().err
    assert not (files / "x.dcm").exists()
