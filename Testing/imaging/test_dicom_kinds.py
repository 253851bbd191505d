# SPDX-License-Identifier: Apache-2.0
"""Kinds of DICOM that are more or less than a stack of slices: read right, or refused by name."""

from __future__ import annotations

import io as streams
import warnings

import numpy as np
import pytest
from DeepFLASHRegistrationLib.imaging import io
from DeepFLASHRegistrationLib.support.errors import InputError
from dicom_files import AXIAL, MR, csa_header, dataset, enhanced, line, mosaic, normal_of, save, value, write_stack
from imaging_shapes import rotation
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import JPEGBaseline8Bit, RLELossless

OBLIQUE = rotation((1, 2, 3), 25).T[:2]
SEG, RTSTRUCT, REPORT, CAPTURE = (f"1.2.840.10008.5.1.4.1.1.{n}" for n in ("66.4", "481.3", "88.22", "7"))


def values_are_right(volume, more=0.0) -> None:
    points = volume.grid.index_to_physical(np.moveaxis(np.indices(volume.grid.shape), 0, -1))
    assert np.abs(volume.data - more - value(points)).max() <= 0.51


# ---- Siemens mosaics


@pytest.mark.parametrize("axes", [AXIAL, OBLIQUE, ((1, 0, 0), (0, 0, -1))], ids=["axial", "oblique", "coronal"])
@pytest.mark.parametrize("sense", [1, -1])
@pytest.mark.parametrize("count", [11, 16])
def test_a_mosaic_is_the_volume_of_its_tiles(tmp_path, axes, sense, count) -> None:
    file = save(tmp_path, "a.dcm", mosaic(count, axes, sense))
    volume = io.read_volume(file)
    assert volume.grid.shape == (count, 12, 10)
    assert np.allclose(volume.grid.spacing, (4, 1.5, 2), rtol=1e-4)
    values_are_right(volume)
    assert not volume.notes
    assert io.read_grid(tmp_path).same_as(volume.grid)


def test_a_mosaic_lies_where_nibabel_puts_it(tmp_path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrappers = pytest.importorskip("nibabel.nicom.dicomwrappers")
    for sense in (1, -1):
        file = save(tmp_path, f"{sense}.dcm", mosaic(11, OBLIQUE, sense, SeriesInstanceUID=f"1.2.{5 + sense}"))
        theirs, ours = wrappers.wrapper_from_file(file), io.read_volume(file)
        assert type(theirs).__name__ == "MosaicWrapper"
        data = theirs.get_data()  # row, column, slice
        index = ours.grid.physical_to_index(
            np.moveaxis(np.indices(data.shape), 0, -1) @ theirs.affine[:3, :3].T + theirs.affine[:3, 3]
        )
        assert np.abs(index - np.rint(index)).max() < 0.01
        assert np.array_equal(ours.data[tuple(np.moveaxis(np.rint(index).astype(int), -1, 0))], data)


def test_mosaics_of_a_series_are_its_points_in_time(tmp_path) -> None:
    for t in range(3):
        save(tmp_path, f"{t}.dcm", mosaic(11, OBLIQUE, more=100 * t, InstanceNumber=t + 1, AcquisitionNumber=t + 1))
    assert io.open_image(tmp_path).count == 3
    for t in range(3):
        values_are_right(io.read_volume(f"{tmp_path}[{t}]"), 100 * t)
    with pytest.raises(InputError, match="holds 3 volumes"):
        io.read_volume(tmp_path)


def test_compressed_mosaics_are_taken_apart_too(tmp_path) -> None:
    found = mosaic(11, OBLIQUE)
    found.compress(RLELossless)
    values_are_right(io.read_volume(save(tmp_path, "a.dcm", found)))


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        csa_header(0, (0, 0, 1)),
        csa_header(11, (0, 1, 0)),
        csa_header(10**6, (0, 0, 1)),
        csa_header(11, (0, 0, 1))[:150],
        b"SV10" + b"\xff" * 300,
    ],
)
def test_a_mosaic_that_does_not_tell_its_tiles_is_refused_with_what_to_do(tmp_path, header) -> None:
    found = mosaic(11)
    if header is None:
        del found[0x00291010]
    else:
        found[0x00291010].value = header
    file = save(tmp_path, "a.dcm", found)
    for path in (file, tmp_path):
        with pytest.raises(InputError, match=r"a\.dcm: .*Siemens mosaic.*dcm2niix"):
            io.read_volume(path)


# ---- several points in time


def test_points_in_time_of_a_multi_frame_file_in_any_order(tmp_path) -> None:
    positions = np.repeat(line((0, 0, 4), 5), 3, axis=0)  # place by place, at each three points in time

    def told(k):
        frame = Dataset()
        content = Dataset()
        content.TemporalPositionIndex = 1 + k % 3
        frame.FrameContentSequence = Sequence([content])
        return frame

    found = enhanced(positions, frames=told)
    pixels = np.frombuffer(found.PixelData, "<u2").reshape(15, 12, 10) + 100 * (np.arange(15) % 3)[:, None, None]
    found.PixelData = pixels.astype("<u2").tobytes()
    file = save(tmp_path, "a.dcm", found)
    assert io.open_image(file).count == 3
    for t in range(3):
        values_are_right(io.read_volume(f"{file}[{t}]"), 100 * t)


# ---- colors


def capture(pixels: np.ndarray, **elements) -> Dataset:
    return dataset(
        values=pixels[..., 0], PixelData=pixels.tobytes(), SamplesPerPixel=3, PlanarConfiguration=0, BitsAllocated=8,
        BitsStored=8, HighBit=7, SOPClassUID=CAPTURE, ImagePositionPatient=None, ImageOrientationPatient=None,
        **elements,
    )  # fmt: skip


def test_a_screenshot_is_read_by_its_luminance(tmp_path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    volume = io.read_volume(save(tmp_path, "a.dcm", capture(pixels, PhotometricInterpretation="RGB")))
    assert np.allclose(volume.data, pixels @ (0.299, 0.587, 0.114), atol=1e-3)
    assert any("luminance" in note for note in volume.notes)
    assert any("do not state where" in note for note in volume.notes)


def test_a_screenshot_in_jpeg_has_its_colors(tmp_path) -> None:
    row, column = np.indices((32, 24)) / 32
    pixels = np.stack([255 * row, 255 * column, 255 * (1 - row)], -1).astype(np.uint8)
    packed = streams.BytesIO()
    Image.fromarray(pixels).save(packed, "JPEG", quality=95)
    found = capture(pixels, PhotometricInterpretation="YBR_FULL_422")
    found.PixelData = encapsulate([packed.getvalue()])
    found["PixelData"].VR = "OB"
    found.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    (colors,) = io.open_image(save(tmp_path, "a.dcm", found)).volumes(0, 1)
    assert np.abs(colors[0].astype(int) - pixels).mean() < 3


@pytest.mark.parametrize("code", ["YBR_FULL", "YBR_FULL_422", "YBR_RCT"])
def test_colors_that_are_coded_otherwise_are_refused_by_name(tmp_path, code) -> None:
    file = save(tmp_path, "a.dcm", capture(np.zeros((12, 10, 3), np.uint8), PhotometricInterpretation=code))
    with pytest.raises(InputError, match=rf"a\.dcm: its colors are coded as {code}"):
        io.read_volume(file)


def test_a_palette_is_refused_by_name(tmp_path) -> None:
    file = save(tmp_path, "a.dcm", dataset(PhotometricInterpretation="PALETTE COLOR"))
    with pytest.raises(InputError, match=r"a\.dcm: its colors are coded by a palette"):
        io.read_volume(file)


# ---- what holds no image


def segments(bits: int) -> Dataset:
    found = enhanced(line((0, 0, 4), 4))
    found.SOPClassUID = found.file_meta.MediaStorageSOPClassUID = SEG
    found.Modality, found.SeriesInstanceUID, found.BitsAllocated, found.BitsStored = "SEG", "1.2.3.99", bits, bits
    found.HighBit, found.PixelData = bits - 1, bytes(4 * 12 * 10 * bits // 8)
    return found


@pytest.mark.parametrize("bits", [1, 8])
def test_a_segmentation_is_no_image_and_refused_by_name(tmp_path, bits) -> None:
    file = save(tmp_path, "a.dcm", segments(bits))
    for path, read in ((file, io.read_volume), (tmp_path, io.read_volume), (tmp_path, io.read_labels)):
        with pytest.raises(
            InputError, match=rf"{path.name}: is a DICOM segmentation \(SEG\).*Pass its file where labels"
        ):
            read(path)


@pytest.mark.parametrize("bits", [1, 8])
def test_a_segmentation_beside_a_series_is_left_out_and_named(tmp_path, bits) -> None:
    write_stack(tmp_path, line(4 * normal_of(OBLIQUE)), axes=OBLIQUE)
    save(tmp_path, "seg.dcm", segments(bits))
    volume = io.read_volume(tmp_path)
    values_are_right(volume)
    assert any("left out" in note and "seg.dcm" in note for note in volume.notes)


@pytest.mark.parametrize(("uid", "name"), [(RTSTRUCT, "RTSTRUCT"), (REPORT, "report"), (MR, "holds no image")])
def test_what_holds_no_image_is_refused_by_name(tmp_path, uid, name) -> None:
    file = save(tmp_path, "a.dcm", dataset(SOPClassUID=uid, PixelData=None, Rows=None, Columns=None))
    with pytest.raises(InputError, match=rf"a\.dcm: is a DICOM file, but holds no image.*{'' if uid == MR else name}"):
        io.read_volume(file)
    with pytest.raises(InputError, match="holds no DICOM series"):
        io.read_volume(tmp_path)
