# SPDX-License-Identifier: Apache-2.0
"""DICOM registrations made and evaluated by pydicom and the standard's formulas, with nothing of the library's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

SPATIAL, DEFORMABLE = "1.2.840.10008.5.1.4.1.1.66.1", "1.2.840.10008.5.1.4.1.1.66.3"


def item(**elements) -> Dataset:
    """A data set of these elements."""
    found = Dataset()
    for name, content in elements.items():
        setattr(found, name, content)
    return found


def matrix_item(matrix: np.ndarray) -> Dataset:
    """A matrix, of no particular group."""
    return item(
        FrameOfReferenceTransformationMatrix=[f"{v:.12g}" for v in np.ravel(matrix)],
        FrameOfReferenceTransformationMatrixType="AFFINE",
    )


def write_spatial(path: Path, registered: str, matrices: list[tuple[str, list[np.ndarray]]]) -> Path:
    """A Spatial Registration: matrices of each frame of reference to the registered one."""
    items = [
        item(
            FrameOfReferenceUID=frame,
            MatrixRegistrationSequence=[item(MatrixSequence=[matrix_item(m) for m in each])],
        )
        for frame, each in matrices
    ]
    return _write(path, item(SOPClassUID=SPATIAL, FrameOfReferenceUID=registered, RegistrationSequence=items))


def write_deformable(
    path: Path,
    registered: str,
    source: str,
    vectors: np.ndarray,
    position=(0.0, 0, 0),
    cosines=(1.0, 0, 0, 0, 1, 0),
    resolution=(1.0, 1, 1),
    before: np.ndarray | None = None,
    after: np.ndarray | None = None,
) -> Path:
    """A Deformable Spatial Registration with an item for the fixed image before that of the other, as planning systems
    write them; vectors (z, y, x, 3)."""
    grid = item(
        ImagePositionPatient=[f"{v:.10g}" for v in position],
        ImageOrientationPatient=[f"{v:.12f}" for v in cosines],
        GridDimensions=list(vectors.shape[2::-1]),
        GridResolution=[float(v) for v in resolution],
        VectorGridData=vectors.astype("<f4").tobytes(),
    )
    moved = item(SourceFrameOfReferenceUID=source, DeformableRegistrationGridSequence=[grid])
    if before is not None:
        moved.PreDeformationMatrixRegistrationSequence = [matrix_item(before)]
    if after is not None:
        moved.PostDeformationMatrixRegistrationSequence = [matrix_item(after)]
    items = [item(SourceFrameOfReferenceUID=registered), moved]
    return _write(
        path, item(SOPClassUID=DEFORMABLE, FrameOfReferenceUID=registered, DeformableRegistrationSequence=items)
    )


def by_the_standard(path: Path, points: np.ndarray) -> np.ndarray:
    """Where the moving image of an object is sampled for points of the fixed one.

    PS3.3, C.20.2.1.1: a matrix takes points of an image to the registered frame; so the way to the moving image is its
    inverse. C.20.3.1.1: source = after(before(x) + vector(x)), vectors lying at position + i·dx·row + j·dy·column +
    k·dz·(row × column), the first index of the data the fastest.
    """
    found = pydicom.dcmread(path)
    own = found.FrameOfReferenceUID
    if found.SOPClassUID == SPATIAL:
        (moving,) = [each for each in found.RegistrationSequence if each.FrameOfReferenceUID != own]
        (part,) = moving.MatrixRegistrationSequence[0].MatrixSequence
        return _through(np.linalg.inv(_matrix(part)), points)
    (moving,) = [each for each in found.DeformableRegistrationSequence if each.SourceFrameOfReferenceUID != own]
    before, after = np.eye(4), np.eye(4)
    if "PreDeformationMatrixRegistrationSequence" in moving:
        before = _matrix(moving.PreDeformationMatrixRegistrationSequence[0])
    if "PostDeformationMatrixRegistrationSequence" in moving:
        after = _matrix(moving.PostDeformationMatrixRegistrationSequence[0])
    (grid,) = moving.DeformableRegistrationGridSequence
    nx, ny, nz = grid.GridDimensions
    vectors = np.frombuffer(grid.VectorGridData, "<f4").reshape(nz, ny, nx, 3).astype(float)
    row, column = np.array(grid.ImageOrientationPatient, float).reshape(2, 3)
    axes = np.stack([row, column, np.cross(row, column)])
    at = (points - np.array(grid.ImagePositionPatient, float)) @ axes.T / np.array(grid.GridResolution, float)
    moved = []
    for x, (i, j, k) in zip(points, at, strict=True):
        corner = np.minimum(np.floor([i, j, k]).astype(int), [nx - 2, ny - 2, nz - 2])
        a, b, c = np.array([i, j, k]) - corner
        u, v, w = corner
        cell = vectors[w : w + 2, v : v + 2, u : u + 2]
        weights = np.einsum("k,j,i->kji", [1 - c, c], [1 - b, b], [1 - a, a])
        vector = (cell * weights[..., None]).sum((0, 1, 2))
        moved.append(_through(after, (_through(before, x[None]) + vector))[0])
    return np.array(moved)


def _matrix(part: Dataset) -> np.ndarray:
    return np.array([float(v) for v in part.FrameOfReferenceTransformationMatrix]).reshape(4, 4)


def _through(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def _write(path: Path, found: Dataset) -> Path:
    found.SOPInstanceUID, found.Modality = generate_uid(), "REG"
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.save_as(path, enforce_file_format=True)
    return path
