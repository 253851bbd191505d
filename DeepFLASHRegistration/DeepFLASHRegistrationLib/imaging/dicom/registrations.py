# SPDX-License-Identifier: Apache-2.0
"""Registrations as DICOM objects: a matrix (PS3.3, C.20.2), or a lattice of vectors (C.20.3), between two series.

Which way they lead is said in `imaging.transform_files.registration_object`, which reads them.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...version import __version__
from ..files import atomic
from ..grid import Grid
from ..transform_files.registration_object import DEFORMABLE, SPATIAL
from .objects import package
from .series import Series

if TYPE_CHECKING:
    from pydicom import Dataset

MANUFACTURER, MODEL = "DeepFLASH", "deepflash-registration"
# Of the patient and the study, what an object of the same study repeats: what must stand there, if empty, and more.
_STATED = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber",
    "ReferringPhysicianName", "StudyID",
)  # fmt: skip
_MORE = (
    "SpecificCharacterSet", "IssuerOfPatientID", "PatientIdentityRemoved", "DeidentificationMethod",
    "DeidentificationMethodCodeSequence", "StudyInstanceUID", "StudyDescription", "PatientAge",
)  # fmt: skip
# Codes of PS3.16: CID 7100, how frames of reference were registered.
_BY_CONTENT = ("125024", "DCM", "Image Content-based Alignment")
_IDENTITY = ("125021", "DCM", "Frame of Reference Identity")
_ROUNDING = 1e-5  # of cosines in a matrix that is called rigid


def spatial_registration(fixed: Series, moving: Series, matrix: np.ndarray) -> Dataset:
    """A Spatial Registration: two images in the frame of reference of the fixed one.

    Args:
        fixed, moving: the images.
        matrix: (4, 4) LPS mm, moving -> fixed.
    """
    found = _registration(SPATIAL, "Alignment", fixed, moving)
    items = []
    for series, own, code in ((fixed, np.eye(4), _IDENTITY), (moving, matrix, _BY_CONTENT)):
        item = _new()
        item.FrameOfReferenceUID = series.frame_of_reference
        item.ReferencedImageSequence = _references(series)
        way = _new()
        way.RegistrationTypeCodeSequence = [_code(*code)]
        way.MatrixSequence = [_matrix(own)]
        item.MatrixRegistrationSequence = [way]
        items.append(item)
    found.RegistrationSequence = items
    return found


def deformable_registration(fixed: Series, moving: Series, lattice: Grid, vectors: np.ndarray) -> Dataset:
    """A Deformable Spatial Registration: what samples the moving image in the frame of reference of the fixed one.

    Both matrices are the identity, and the lattice lies along the patient's axes, so that no reader can take them in
    another order, or the cosines the other way round: SlicerRT does the latter.

    Args:
        fixed, moving: the images.
        lattice: its axes are z, y, x, all ascending.
        vectors: (*lattice.shape, 3) LPS mm, fixed -> moving, all of the map included.
    """
    found = _registration(DEFORMABLE, "Deformation", fixed, moving)
    items = []
    for series, code in ((fixed, _IDENTITY), (moving, _BY_CONTENT)):
        item = _new()
        item.SourceFrameOfReferenceUID = series.frame_of_reference
        item.ReferencedImageSequence = _references(series)
        item.RegistrationTypeCodeSequence = [_code(*code)]
        items.append(item)
    items[1].PreDeformationMatrixRegistrationSequence = [_matrix(np.eye(4))]
    items[1].PostDeformationMatrixRegistrationSequence = [_matrix(np.eye(4))]
    grid = _new()
    grid.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    grid.ImagePositionPatient = [decimal(value) for value in lattice.origin]
    grid.GridDimensions = list(lattice.shape[::-1])
    grid.GridResolution = lattice.spacing[::-1].tolist()
    grid.VectorGridData = np.ascontiguousarray(vectors, "<f4").tobytes()
    items[1].DeformableRegistrationGridSequence = [grid]
    found.DeformableRegistrationSequence = items
    return found


def new_object(series: Series, kind: str, modality: str, description: str) -> Dataset:
    """An object in a series of its own, of the study and in the frame of reference of an image.

    Args:
        series: the image.
        kind: UID of the SOP class.
        modality, description: of the new series.
    """
    uid = package("pydicom.uid", series.path)
    found, header, now = _new(), series.header, datetime.datetime.now()
    for name in _STATED:
        setattr(found, name, header.get(name) or "")
    for name in _MORE:
        if name in header:
            setattr(found, name, header[name].value)
    found.SOPClassUID, found.SOPInstanceUID, found.SeriesInstanceUID = (
        kind,
        uid.generate_uid(None),
        uid.generate_uid(None),
    )
    found.InstanceCreationDate = found.SeriesDate = found.ContentDate = now.strftime("%Y%m%d")
    found.InstanceCreationTime = found.SeriesTime = found.ContentTime = now.strftime("%H%M%S")
    found.Modality, found.SeriesDescription, found.SeriesNumber, found.InstanceNumber = modality, description, 1, 1
    found.FrameOfReferenceUID = series.frame_of_reference
    found.PositionReferenceIndicator = header.get("PositionReferenceIndicator") or ""
    found.Manufacturer, found.ManufacturerModelName = MANUFACTURER, MODEL
    found.DeviceSerialNumber, found.SoftwareVersions = "none", __version__
    return found


def write_object(path: Path, found: Dataset) -> None:
    """Writes a data set as a DICOM file, whole or not at all."""
    dataset, uid = package("pydicom.dataset", path), package("pydicom.uid", path)
    found.file_meta = dataset.FileMetaDataset()
    found.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    with atomic(path) as temporary:
        found.save_as(temporary, enforce_file_format=True)


def _registration(kind: str, label: str, fixed: Series, moving: Series) -> Dataset:
    found = new_object(fixed, kind, "REG", f"DeepFLASH: {label.lower()}")
    found.ContentLabel, found.ContentCreatorName = label.upper(), ""
    found.Laterality = fixed.header.get("Laterality") or ""
    what = str(moving.header.get("SeriesDescription") or "")[:32]
    found.ContentDescription = f"{what} to {fixed.header.get('SeriesDescription') or ''}"[:64].strip()
    studies: dict[str, dict[str, list[Dataset]]] = {}
    for series in (fixed, moving):
        listed = studies.setdefault(str(series.header.StudyInstanceUID), {})
        listed.setdefault(str(series.header.SeriesInstanceUID), []).extend(_references(series))
    own = studies.pop(str(fixed.header.StudyInstanceUID))
    found.ReferencedSeriesSequence = _listed(own)
    if studies:
        others = []
        for study, listed in studies.items():
            item = _new()
            item.StudyInstanceUID = study
            item.ReferencedSeriesSequence = _listed(listed)
            others.append(item)
        found.StudiesContainingOtherReferencedInstancesSequence = others
    return found


def _listed(series: dict[str, list[Dataset]]) -> list[Dataset]:
    items = []
    for uid, references in series.items():
        item = _new()
        item.SeriesInstanceUID = uid
        item.ReferencedInstanceSequence = references
        items.append(item)
    return items


def _references(series: Series) -> list[Dataset]:
    items = []
    for header in series.instances:
        item = _new()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
        items.append(item)
    return items


def _matrix(matrix: np.ndarray) -> Dataset:
    item = _new()
    item.FrameOfReferenceTransformationMatrixType = matrix_type(matrix)
    item.FrameOfReferenceTransformationMatrix = [decimal(value) for value in matrix.ravel()]
    return item


def matrix_type(matrix: np.ndarray) -> str:
    """The name of the smallest of the groups in C.20.2.1.2 that a matrix belongs to."""
    product = matrix[:3, :3].T @ matrix[:3, :3]
    if np.abs(product - np.diag(np.diag(product))).max() > _ROUNDING or np.linalg.det(matrix) < 0:
        return "AFFINE"
    return "RIGID" if np.abs(np.diag(product) - 1).max() <= _ROUNDING else "RIGID_SCALE"


def decimal(value: float) -> str:
    """A number as text of at most 16 characters (DS)."""
    for digits in range(16, 0, -1):
        text = f"{value + 0.0:.{digits}g}"
        if len(text) <= 16:
            return text
    raise ValueError(f"{value} has no text of 16 characters.")


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = _new()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _new() -> Dataset:
    return package("pydicom.dataset", "A registration").Dataset()
