# SPDX-License-Identifier: Apache-2.0
"""DICOM files by pydicom, of an image that is a linear function of the place, so that any place tells its value."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from DeepFLASHRegistrationLib.imaging.volume import Volume
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

AXIAL = ((1, 0, 0), (0, 1, 0))
CT, MR, ENHANCED_MR = (f"1.2.840.10008.5.1.4.1.1.{n}" for n in ("2", "4", "4.1"))
STUDY = "1.2.826.0.1.3680043.8.498.1"


def value(points: np.ndarray) -> np.ndarray:
    """What lies at LPS mm (..., 3)."""
    return 3000 + np.asarray(points) @ (2.0, 3.0, 5.0)


def plane(position, axes=AXIAL, spacing=(1.5, 2.0), shape=(12, 10)) -> np.ndarray:
    """(rows, columns) of the values of a slice; axes as in PS3.3, C.7.6.2.1.1: along a row, then down a column."""
    along, down = np.array(axes, dtype=float)
    row, column = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    points = np.array(position, float) + column[..., None] * spacing[1] * along + row[..., None] * spacing[0] * down
    return value(points)


def dataset(position=(0, 0, 0), axes=AXIAL, spacing=(1.5, 2.0), shape=(12, 10), values=None, **elements) -> Dataset:
    """One slice of 16 bits; elements by pydicom's keyword, None to leave one out."""
    values = plane(position, axes, spacing, shape) if values is None else values
    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.SOPClassUID, found.SOPInstanceUID = CT, generate_uid()
    found.StudyInstanceUID, found.SeriesInstanceUID = STUDY, "1.2.3.4"
    found.Modality, found.SeriesNumber, found.InstanceNumber, found.SeriesDescription = "CT", 1, 1, "head"
    found.ImagePositionPatient = [f"{v:.6g}" for v in position]
    found.ImageOrientationPatient = [f"{v:.6f}" for v in np.ravel(axes)]
    found.PixelSpacing, found.SliceThickness = list(spacing), 4
    found.Rows, found.Columns = values.shape[:2]
    found.SamplesPerPixel, found.PhotometricInterpretation = 1, "MONOCHROME2"
    found.BitsAllocated = found.BitsStored = 16
    found.HighBit, found.PixelRepresentation = 15, 0
    found.PixelData = np.rint(values).astype("<u2").tobytes()
    for name, content in elements.items():
        if content is None:
            delattr(found, name)
        else:
            setattr(found, name, content)
    found.file_meta.MediaStorageSOPClassUID = found.SOPClassUID
    found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID
    return found


def save(folder: Path, name: str, found: Dataset) -> Path:
    """Writes a file below a folder that need not exist."""
    folder.mkdir(parents=True, exist_ok=True)
    found.save_as(folder / name, enforce_file_format=True)
    return folder / name


def write_stack(folder: Path, positions, prefix="a", first=1, **elements) -> list[Path]:
    """One file for each position; a function among the elements is given the number of the slice."""
    files = []
    for k, position in enumerate(positions):
        own = {name: content(k) if callable(content) else content for name, content in elements.items()}
        files.append(save(folder, f"{prefix}{k:03d}.dcm", dataset(position, InstanceNumber=first + k, **own)))
    return files


def write_volume_series(folder: Path, volume: Volume, description: str, study: str = STUDY, **elements) -> list[Path]:
    """A volume of a grid of any direction as slices, with what a scanner says of the patient and of where they lie."""
    grid = volume.grid
    steps, origin = grid.affine[:3, :3], grid.origin
    values = np.clip(volume.data, 0, 65535)
    files = []
    own = {
        "StudyInstanceUID": study, "SeriesInstanceUID": generate_uid(), "FrameOfReferenceUID": generate_uid(),
        "PatientName": "Doe^Jane", "PatientID": "4711", "PatientBirthDate": "19600102", "PatientSex": "F",
        "StudyDate": "20260102", "StudyTime": "101112", "AccessionNumber": "", "ReferringPhysicianName": "",
        "StudyID": "1", "SeriesDescription": description, "PositionReferenceIndicator": "", **elements,
    }  # fmt: skip
    for k, picture in enumerate(values):
        found = dataset(origin + k * steps[:, 0], (grid.direction[:, 2], grid.direction[:, 1]), values=picture,
                        spacing=grid.spacing[1:].tolist(), InstanceNumber=k + 1, **own)  # fmt: skip
        found.ImagePositionPatient = [f"{v:.10g}" for v in origin + k * steps[:, 0]]
        found.ImageOrientationPatient = [f"{v:.12f}" for v in grid.direction[:, [2, 1]].T.ravel()]
        found.PixelSpacing, found.SliceThickness = [f"{v:.10g}" for v in grid.spacing[1:]], f"{grid.spacing[0]:.10g}"
        files.append(save(folder, f"{k:03d}.dcm", found))
    return files


def line(step, count=9, start=(-9, -8, -20)) -> np.ndarray:
    """(count, 3) positions at equal steps."""
    return np.array(start, float) + np.arange(count)[:, None] * np.array(step, float)


def normal_of(axes) -> np.ndarray:
    """(3,) the direction in which slices are stacked."""
    return np.cross(*np.array(axes, dtype=float))


def enhanced(positions, axes=AXIAL, spacing=(1.5, 2.0), shape=(12, 10), frames=None, slopes=None) -> Dataset:
    """A multi-frame file; frames: a data set with more of what is said of each; slopes: of each frame."""
    planes = np.stack([plane(p, axes, spacing, shape) for p in positions])
    scale = np.ones(len(planes)) if slopes is None else np.array(slopes, float)
    found = dataset(
        positions[0], axes, spacing, shape, ImagePositionPatient=None, ImageOrientationPatient=None, PixelSpacing=None,
        SliceThickness=None, SOPClassUID=ENHANCED_MR, Modality="MR",
    )  # fmt: skip
    found.NumberOfFrames = len(planes)
    found.PixelData = np.rint(planes / scale[:, None, None]).astype("<u2").tobytes()
    shared = Dataset()
    shared.PixelMeasuresSequence = one_item(PixelSpacing=list(spacing), SliceThickness=4)
    shared.PlaneOrientationSequence = one_item(ImageOrientationPatient=[f"{v:.6f}" for v in np.ravel(axes)])
    found.SharedFunctionalGroupsSequence = Sequence([shared])
    each = []
    for k, position in enumerate(positions):
        frame = Dataset() if frames is None else frames(k)
        frame.PlanePositionSequence = one_item(ImagePositionPatient=[f"{v:.6g}" for v in position])
        frame.PixelValueTransformationSequence = one_item(
            RescaleSlope=float(scale[k]), RescaleIntercept=0, RescaleType="US"
        )
        each.append(frame)
    found.PerFrameFunctionalGroupsSequence = Sequence(each)
    return found


def one_item(**elements) -> Sequence:
    item = Dataset()
    for name, content in elements.items():
        setattr(item, name, content)
    return Sequence([item])


def mosaic(count: int, axes=AXIAL, sense=1, shape=(12, 10), start=(-9, -8, -20), more=0.0, **elements) -> Dataset:
    """A Siemens mosaic of slices 4 mm apart, along their normal or against it; more: what is added to the values."""
    normal, spacing = normal_of(axes) * sense, (1.5, 2.0)
    side = int(np.ceil(np.sqrt(count)))
    picture = np.zeros((side * shape[0], side * shape[1]))
    for k in range(count):
        row, column = (k // side) * shape[0], (k % side) * shape[1]
        tile = plane(np.array(start) + 4 * k * normal, axes, spacing, shape) + more
        picture[row : row + shape[0], column : column + shape[1]] = tile
    # The scanner states where a picture of the mosaic's size would begin.
    half = (np.array(picture.shape) - shape) / 2 * spacing
    corner = np.array(start) - half[1] * np.array(axes[0]) - half[0] * np.array(axes[1])
    found = dataset(
        corner, axes, spacing, values=picture, SOPClassUID=MR, Modality="MR", SpacingBetweenSlices=4,
        ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"],
    )  # fmt: skip
    found.add_new(0x00290010, "LO", "SIEMENS CSA HEADER")
    found.add_new(0x00291010, "OB", csa_header(count, normal))
    for name, content in elements.items():
        setattr(found, name, content)
    return found


def csa_header(count: int, normal) -> bytes:
    """Siemens' private header of an image, as far as mosaics need it (nipy.org/nibabel/dicom/siemens_csa.html)."""
    tags = [
        _csa_tag("AcquisitionMatrixText", "SH", ["12p*10"]),
        _csa_tag("NumberOfImagesInMosaic", "US", [str(count)]),
        _csa_tag("SliceNormalVector", "FD", [f"{v:.8f}" for v in normal]),
    ]
    return b"SV10\4\3\2\1" + struct.pack("<II", len(tags), 77) + b"".join(tags)


def _csa_tag(name: str, kind: str, values: list[str]) -> bytes:
    tag = struct.pack("<64si4siii", name.encode(), len(values), kind.encode(), 0, 6, 77)
    for text in [*values, *[""] * (6 - len(values))]:
        item = text.encode() + b"\0" if text else b""
        tag += struct.pack("<4i", len(item), len(item), 77, len(item)) + item + b"\0" * (-len(item) % 4)
    return tag
