# SPDX-License-Identifier: Apache-2.0
"""DICOM's registrations: Spatial Registration (matrices) and Deformable Spatial Registration (a lattice of vectors).

Both relate frames of reference to the object's own, the registered one, in opposite directions: a matrix of a Spatial
Registration takes points of an image to the registered frame (PS3.3, C.20.2.1.1), while a deformable one takes points
of the registered frame to those of the image that is sampled there (C.20.3.1.1), by its matrix before the deformation,
the vector at the point, and the matrix after it. Coordinates are LPS mm.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...support.errors import InputError
from ..dicom.elements import storage_class
from ..dicom.objects import read_object
from ..grid import Grid

if TYPE_CHECKING:
    from pydicom import Dataset

SPATIAL, DEFORMABLE = "1.2.840.10008.5.1.4.1.1.66.1", "1.2.840.10008.5.1.4.1.1.66.3"
_SAME = 1e-6  # of matrices, mm and cosines


@dataclass(frozen=True, eq=False)
class _Item:
    """What an object says of a frame of reference.

    Attributes:
        frame: its UID; "" where it names images only.
        matrix: (4, 4) LPS mm, of a Spatial Registration to the registered frame, of a deformable one from it.
        lattice: where a deformable one gives vectors; None without any.
        vectors: float32 (*lattice.shape, 3), LPS mm, such that x -> matrix(x + vectors(x)), which is the standard's
            x -> after(before x + v(x)); NaN where they are undefined.
    """

    frame: str
    matrix: np.ndarray
    lattice: Grid | None = None
    vectors: np.ndarray | None = None

    @property
    def rests(self) -> bool:
        """Whether nothing moves."""
        return self.lattice is None and np.abs(self.matrix - np.eye(4)).max() < _SAME


def registration_kind(path: str | os.PathLike) -> str:
    """ "spatial" or "deformable" of a file of DICOM that holds such a registration; "" of any other path."""
    if Path(path).is_dir():
        return ""
    return {SPATIAL: "spatial", DEFORMABLE: "deformable"}.get(storage_class(Path(path)), "")


def read_spatial(path: Path, fixed: Grid | None, moving: Grid | None) -> tuple[np.ndarray, list[str]]:
    """Reads a Spatial Registration.

    Args:
        path: the file.
        fixed, moving: the grids of the images, whose frames of reference choose among those of the object; without
            them the registered frame counts as the fixed image's.

    Returns:
        (4, 4) LPS mm, fixed -> moving, and notes.

    Raises:
        InputError: damaged, of other frames of reference, or of more than one reading; some without the file's name.
    """
    own, items = _items(path, "RegistrationSequence", _spatial)
    one, two, notes = _frames(own, items, fixed, moving)
    if one == two:
        moved = [item for item in items if item.frame == one and not item.rests]
        if len(moved) > 1 or one != own:
            raise InputError(
                "holds no registration within one frame of reference, in which both images lie. Pass the object that "
                "was made of these images."
            )
        return np.linalg.inv(moved[0].matrix) if moved else np.eye(4), notes
    matrices: dict[str, np.ndarray] = {}
    for item in items:
        if np.abs(item.matrix - matrices.setdefault(item.frame, item.matrix)).max() > _SAME:
            raise InputError(f"has two matrices for the frame of reference {item.frame}. Export one registration.")
    matrices.setdefault(own, np.eye(4))
    return np.linalg.inv(matrices[two]) @ matrices[one], notes


def read_deformable(
    path: Path, fixed: Grid | None, moving: Grid | None
) -> tuple[Grid, np.ndarray, np.ndarray, tuple[str, ...]]:
    """Reads a Deformable Spatial Registration.

    Args:
        path, fixed, moving: as for `read_spatial`.

    Returns:
        A lattice, vectors float32 (*lattice.shape, 3), a matrix (4, 4), all LPS mm, and notes: x of the fixed image
        goes to matrix(x + vectors(x)).

    Raises:
        InputError: damaged, of other frames of reference, of the other direction, or of several deformations.
    """
    try:
        own, items = _items(path, "DeformableRegistrationSequence", _deformable)
        one, two, notes = _frames(own, items, fixed, moving)
        # The registered frame may be one of its own, with the coordinates of the fixed image.
        if one != own and not any(item.frame == one and item.rests for item in items):
            what = "the frame of reference of the fixed image is not the one that it leads from"
            if two == own:
                what = "it leads from the moving image to the fixed one, and a deformation is not inverted here"
            raise InputError(
                f"cannot be used: {what}. Exchange both images, or pass the object of the other direction."
            )
        moved = [item for item in items if item.frame == two and not item.rests]
        if len(moved) != 1 or moved[0].lattice is None:
            what = "several registrations of one frame of reference" if len(moved) > 1 else "no lattice of vectors"
            raise InputError(f"holds {what}. Export one deformation; one that is linear as a Spatial Registration.")
        item = moved[0]
        undefined = ~np.isfinite(item.vectors).all(-1)  # triples of NaN (C.20.3.1.3)
        if undefined.all():
            raise InputError("holds no vector that is defined. Export it again.")
        if undefined.any():
            part = 100 * undefined.mean()
            notes.append(f"{part:.3g} % of its lattice is undefined; there nothing but its matrices moves")
        vectors = np.where(undefined[..., None], np.float32(0), item.vectors)
        return item.lattice, vectors, item.matrix, tuple(f"{path}: {note}" for note in notes)
    except InputError as error:
        raise InputError(str(error) if str(error).startswith(f"{path}: ") else f"{path}: {error}") from error


def _frames(own: str, items: Sequence[_Item], fixed: Grid | None, moving: Grid | None) -> tuple[str, str, list[str]]:
    """The frames of reference of the fixed and the moving image, as far as need be by what an object relates, and
    notes on what was taken for granted."""
    one, two = ("" if grid is None else grid.frame_of_reference for grid in (fixed, moving))
    known = dict.fromkeys([own, *(item.frame for item in items)])
    for frame, side in ((one, "fixed"), (two, "moving")):
        if frame and frame not in known and "" not in known:
            raise InputError(
                f"registers the frames of reference {', '.join(filter(None, known))}, but the {side} image lies in "
                f"{frame}. Pass the object that was made of these images."
            )
    one, two = (frame if frame in known else "" for frame in (one, two))
    notes = []
    if not one:
        one = own
        if two == own:
            others = [frame for frame in known if frame != own]
            one = others[0] if len(others) == 1 else own
    if not two:
        moved = dict.fromkeys(item.frame for item in items if not item.rests)
        others = [frame for frame in moved or known if frame != one]
        if len(others) > 1:
            raise InputError(
                f"registers {len(others)} frames of reference with that of the fixed image, and the moving image does "
                "not say which is its own. Pass the DICOM folder of the moving image."
            )
        two = others[0] if others else one
    if fixed is None or moving is None or not (fixed.frame_of_reference and moving.frame_of_reference):
        notes.append(
            f"was read with the fixed image in the frame of reference {one}, the moving one in {two}; not both images "
            "are of DICOM, so that this was not compared"
        )
    return one, two, notes


def _items(path: Path, name: str, read: Callable[[Dataset], _Item]) -> tuple[str, list[_Item]]:
    """The registered frame of reference of an object, and its items; InputError if it is damaged."""
    dataset = read_object(path)
    try:
        own, items = str(dataset.get("FrameOfReferenceUID") or ""), dataset.get(name)
        if not items or not own:
            raise InputError("is damaged (it registers nothing, or names no frame of reference). Export it again.")
        return own, [read(item) for item in items]
    except InputError:
        raise
    except Exception as error:  # pydicom looks at values when they are asked for, and raises what it comes upon
        raise InputError(f"is damaged ({error}). Export it again.") from error


def _spatial(item: Dataset) -> _Item:
    parts = item.MatrixRegistrationSequence[0].MatrixSequence
    matrices = [_matrix(part.FrameOfReferenceTransformationMatrix) for part in parts]
    forth, back = np.eye(4), np.eye(4)
    for matrix in matrices:
        forth, back = forth @ matrix, matrix @ back
    if not matrices or np.abs(forth - back).max() > _SAME:
        raise InputError(
            f"holds {len(matrices)} matrices for one registration, which programs multiply in different orders. Export "
            "it with a single matrix."
        )
    return _Item(str(item.get("FrameOfReferenceUID") or ""), forth)


def _deformable(item: Dataset) -> _Item:
    frame = str(item.SourceFrameOfReferenceUID)
    before, after = (
        _matrix(item[name][0].FrameOfReferenceTransformationMatrix) if item.get(name) else np.eye(4)
        for name in ("PreDeformationMatrixRegistrationSequence", "PostDeformationMatrixRegistrationSequence")
    )
    if not item.get("DeformableRegistrationGridSequence"):
        return _Item(frame, after @ before)
    grid = item.DeformableRegistrationGridSequence[0]
    lattice = _lattice(grid)
    order = ">" if item.original_encoding[1] is False else "<"
    values = np.frombuffer(grid.VectorGridData, f"{order}f4").astype(np.float32).reshape(*lattice.shape, 3)
    # after(before x + v) is matrix(x + before⁻¹ v), also between the lattice's points.
    vectors = (values @ np.linalg.inv(before)[:3, :3].T).astype(np.float32)
    return _Item(frame, after @ before, lattice, vectors)


def _lattice(grid: Dataset) -> Grid:
    """Where the vectors lie, with x the fastest of the axes."""
    along, down = np.array(grid.ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
    size, resolution = list(grid.GridDimensions), np.array(grid.GridResolution, dtype=np.float64)
    if len(size) != 3 or resolution.shape != (3,) or not (resolution > 0).all():
        raise InputError("is damaged (its lattice has no size or no resolution). Export it again.")
    if len(grid.VectorGridData) != 12 * int(np.prod(size, dtype=object)):
        raise InputError(
            f"is damaged (it holds {len(grid.VectorGridData)} bytes of vectors for a lattice of "
            f"{'x'.join(map(str, size))}). Export it again."
        )
    affine = np.eye(4)
    affine[:3, :3] = np.stack([np.cross(along, down), down, along], 1) * resolution[::-1]
    affine[:3, 3] = np.array(grid.ImagePositionPatient, dtype=np.float64)
    return Grid(tuple(size[::-1]), affine)


def _matrix(values: Any) -> np.ndarray:
    matrix = np.array([float(value) for value in values])
    good = matrix.size == 16 and np.isfinite(matrix).all()
    matrix = matrix.reshape(4, 4) if good else np.zeros((4, 4))
    if np.abs(matrix[3] - (0, 0, 0, 1)).max() > _SAME or not 1e-6 < abs(np.linalg.det(matrix)) < 1e6:
        raise InputError("is damaged (a matrix is none that could be inverted). Export it again.")
    return matrix
