# SPDX-License-Identifier: Apache-2.0
"""Linear transforms of FreeSurfer (.lta): a matrix and the geometry of both images."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from ...support.errors import InputError
from ..grid import Grid

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_VOXEL_TO_VOXEL, _RAS_TO_RAS = 0, 1
_OTHER_TYPES = {2: "voxels in mm", 14: "tkregister coordinates", 21: "coronal voxels"}
# The first line by nitransforms 22 and newer; 20 and 21 begin without a comment, which FreeSurfer never does.
_OF_NITRANSFORMS = re.compile(rb"\s*#[^\n]*created by nitransforms", re.IGNORECASE)
_LARGEST = 1e9  # no image has more mm
_UNSIGNED = re.compile(rb"\s*type\b")


@dataclass(frozen=True)
class _Geometry:
    """Where an image lies: voxels per axis, and voxel number (i, j, k) -> RAS mm."""

    shape: np.ndarray
    affine: np.ndarray

    def corners(self) -> np.ndarray:
        """(8, 3) LPS mm of the outermost voxels' centers."""
        ends = np.stack(np.meshgrid(*[(0, n - 1) for n in self.shape], indexing="ij"), -1).reshape(-1, 3)
        return (ends @ self.affine[:3, :3].T + self.affine[:3, 3]) * (-1, -1, 1)


def read_lta(content: bytes, fixed: Grid | None, moving: Grid | None) -> tuple[np.ndarray, list[str]]:
    """Reads an .lta of voxels to voxels or RAS to RAS, as mri_robust_register, mri_coreg and lta_convert write it.

    It leads from its source (src), here the moving image, to its destination (dst), the fixed one. If the geometries in
    the file are those of the two images the other way round, it is inverted; if they are others, a note says so.

    nitransforms writes the same matrix, from moving to fixed, but the geometry of the fixed image as the source and
    that of the moving one as the destination (its FSLinearTransform.from_ras), so that a file of its is never inverted.

    Args:
        content: the file's.
        fixed, moving: the grids of the images, to compare with; None where they are not known.

    Returns:
        (4, 4) LPS mm, fixed -> moving, and notes.

    Raises:
        InputError: no such file, damaged, of another type, or of a direction that nobody knows.
    """
    lines = [line.split("#", 1)[0].strip() for line in content.decode("utf-8", "replace").splitlines()]
    lines = [line for line in lines if line]
    kind, count = (_integer(lines, name) for name in ("type", "nxforms"))
    if kind not in (_VOXEL_TO_VOXEL, _RAS_TO_RAS):
        raise InputError(
            f"is of type {kind} ({_OTHER_TYPES.get(kind, 'unknown')}). Convert it: lta_convert --ltavox2vox."
        )
    if count != 1:
        raise InputError(f"holds {count} transforms. Pass a file of one.")
    matrix = _matrix(lines)
    source, destination = (_geometry(lines, name) for name in ("src volume info", "dst volume info"))
    if kind == _VOXEL_TO_VOXEL:
        if source is None or destination is None:
            raise InputError(
                "leads from voxels to voxels, but does not say where the voxels of both images lie. Write it with the "
                "geometry of both (lta_convert --src IMAGE --trg IMAGE)."
            )
        matrix = destination.affine @ matrix @ np.linalg.inv(source.affine)
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-9:
        raise InputError("holds a transform that is not invertible. Compute it again.")
    # What it writes itself is RAS to RAS; voxels to voxels are FreeSurfer's, read and written again.
    author = "nitransforms" if kind == _RAS_TO_RAS and _OF_NITRANSFORMS.match(content) else "FreeSurfer"
    note = f"was read as a transform of {author}, from the moving image to the fixed one"
    backwards = np.linalg.inv(matrix)
    if fixed is not None or moving is not None:
        straight = _same(source, moving) and _same(destination, fixed)
        crossed = not straight and _same(source, fixed) and _same(destination, moving)
        if crossed and author == "FreeSurfer":
            if kind == _RAS_TO_RAS and _UNSIGNED.match(content):
                raise InputError(
                    "has the fixed image as its source and does not say who wrote it: by FreeSurfer it leads from the "
                    "fixed image to the moving one, by nitransforms before version 22 the other way round. Write it "
                    "again with a newer nitransforms, or as a transform of ITK."
                )
            backwards = matrix
            note = "was inverted: its source has the grid of the fixed image and its destination that of the moving one"
        elif not straight and not crossed:
            roles = ("source", moving, "moving"), ("destination", fixed, "fixed")
            if author == "nitransforms":
                roles = ("source", fixed, "fixed"), ("destination", moving, "moving")
            others = [
                f"its {role} lies elsewhere or has other voxels than the {image} image"
                if geometry is not None
                else f"it does not say where its {role} lies"
                for geometry, (role, grid, image) in zip((source, destination), roles, strict=True)
                if not _same(geometry, grid)
            ]
            note += f"; {' and '.join(others)}: check that it belongs to these images"
    return _RAS_TO_LPS @ backwards @ _RAS_TO_LPS, [note]


def _integer(lines: list[str], name: str) -> int:
    for line in lines:
        found = re.fullmatch(rf"{name}\s*=\s*(-?\d{{1,9}})", line)
        if found:
            return int(found.group(1))
    raise InputError(f"is no LTA file, or damaged ({name} is missing). Copy it again.")


def _numbers(text: str, count: int, what: str) -> np.ndarray:
    try:
        values = np.array([float(cell) for cell in text.split()])
    except ValueError as error:
        raise InputError(f"is damaged ({what} is not numbers). Copy it again.") from error
    if len(values) != count or not (np.abs(values) < _LARGEST).all():
        raise InputError(f"is damaged ({what} is not {count} numbers). Copy it again.")
    return values


def _matrix(lines: list[str]) -> np.ndarray:
    for number, line in enumerate(lines):
        if line.split() == ["1", "4", "4"]:
            rows = [_numbers(row, 4, "the matrix") for row in lines[number + 1 : number + 5]]
            if len(rows) == 4 and np.abs(rows[3] - (0, 0, 0, 1)).max() < 1e-6:
                return np.array(rows)
            break
    raise InputError("is damaged (it holds no affine matrix). Copy it again.")


def _geometry(lines: list[str], header: str) -> _Geometry | None:
    """The geometry after its header line; None if the file leaves it out, or calls it invalid."""
    if header not in lines:
        return None
    fields = {}
    for line in lines[lines.index(header) + 1 :]:
        name, found, value = line.partition("=")
        if not found:
            break
        fields[name.strip()] = value.strip()
    if fields.get("valid", "0").split()[:1] != ["1"]:
        return None
    shape = _numbers(fields.get("volume", ""), 3, "volume")
    spacing = _numbers(fields.get("voxelsize", ""), 3, "voxelsize")
    axes = np.stack([_numbers(fields.get(name, ""), 3, name) for name in ("xras", "yras", "zras")], 1)
    center = _numbers(fields.get("cras", ""), 3, "cras")
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing
    affine[:3, 3] = center - affine[:3, :3] @ (shape / 2)  # c_ras belongs to the voxel shape / 2, fraction or not
    if (shape < 1).any() or (shape > 1e6).any() or abs(np.linalg.det(affine)) < 1e-12:
        raise InputError(f"is damaged (the geometry after {header!r} holds no volume). Copy it again.")
    return _Geometry(shape, affine)


def _same(geometry: _Geometry | None, grid: Grid | None) -> bool:
    """Whether both cover the same box, in whatever order their axes are stored, to half a voxel; yes for no grid."""
    if grid is None:
        return True
    if geometry is None:
        return False
    if grid.ndim == 2:
        if grid.plane is None:
            return False
        grid = grid.lifted()
    apart = np.linalg.norm(geometry.corners()[:, None] - grid.corners()[None], axis=-1)
    limit = 0.5 * float(grid.spacing.min())
    shapes = sorted(geometry.shape.tolist()) == sorted(grid.shape)
    return shapes and max(apart.min(0).max(), apart.min(1).max()) <= limit
