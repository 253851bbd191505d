# SPDX-License-Identifier: Apache-2.0
"""The slices of a DICOM file: where each lies, what tells it from others, and how its values are scaled."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from .elements import Elements, read_elements

_SHARED, _PER_FRAME, _DETECTORS = 0x52009229, 0x52009230, 0x00540022
# What distinguishes the volumes that one series may hold at the same place, the most telling first: what to call it,
# the element, and how it is written (text, or one of struct's kinds).
_MARKS = (
    ("echo", 0x00180086, "text"),
    ("echo time", 0x00180081, "text"),
    ("echo time", 0x00189082, "d"),
    ("time point", 0x00200100, "text"),
    ("time point", 0x00209128, "I"),
    ("b-value", 0x00189087, "d"),
    ("gradient", 0x00189089, "d"),
    ("image type", 0x00080008, "text"),
    ("image type", 0x00089007, "text"),
    ("acquisition", 0x00200012, "text"),
    ("trigger time", 0x00181060, "text"),
    ("trigger time", 0x00209153, "d"),
    ("inversion time", 0x00180082, "text"),
    ("flip angle", 0x00181314, "text"),
    ("kernel", 0x00181210, "text"),
    ("thickness", 0x00180050, "text"),
    ("description", 0x0008103E, "text"),
    ("acquisition time", 0x00080032, "text"),
    ("content time", 0x00080033, "text"),
)
_LARGEST_POSITION = 1e5  # mm; a hundred meters from the scanner's center, a number is damaged
_NEARLY_ORTHONORMAL = 0.01  # what rounding to two decimals leaves; more is damage
_MOST_FRAMES = 100_000


@dataclass(frozen=True, eq=False)
class Slice:
    """One slice: a file, or one frame of one.

    Attributes:
        file, frame: where its voxels are.
        header: the elements of the file.
        series: the SeriesInstanceUID.
        shape: (rows, columns).
        position: (3,) LPS mm of the center of its first voxel, or None if that is not stated.
        axes: (3, 2) orthonormal, the directions down a column and along a row.
        spacing: (2,) mm between rows and between columns.
        thickness: mm, 1 if not stated.
        slope, intercept: value = slope * stored + intercept.
        marks: what tells it from slices at the same place, by name.
        number: InstanceNumber.
        damage: why it cannot be used, or nothing.
        notes: what was guessed.
        tile: of a mosaic, the row and the column of the picture where the slice begins.
    """

    file: Path
    frame: int
    header: Elements
    series: str
    shape: tuple[int, int]
    position: np.ndarray | None
    axes: np.ndarray
    spacing: np.ndarray
    thickness: float
    slope: float
    intercept: float
    number: int
    marks: dict[str, str] = field(default_factory=dict)
    damage: str = ""
    notes: tuple[str, ...] = ()
    tile: tuple[int, int] | None = None

    @property
    def picture(self) -> tuple[int, int]:
        """(rows, columns) of what is stored, of which a tile is a part."""
        return self.header.unsigned(0x00280010, 0), self.header.unsigned(0x00280011, 0)

    @property
    def normal(self) -> np.ndarray:
        """(3,) row direction cross column direction, as DICOM has them: the direction in which slices are stacked."""
        return np.cross(self.axes[:, 1], self.axes[:, 0])

    @property
    def color(self) -> bool:
        """Whether it has several values per voxel."""
        return self.header.unsigned(0x00280002, 1) > 1 or self.header.text(0x00280004) == "PALETTE COLOR"

    @property
    def scout(self) -> bool:
        """Whether its type says that it is a localizer."""
        return "LOCALIZER" in self.marks.get("image type", "").upper()

    @property
    def title(self) -> str:
        """How the scanner called its series."""
        number = self.header.text(0x00200011)
        return f'series {number or "?"} "{self.header.text(0x0008103E)[:64]}"'


def read_slices(file: Path) -> list[Slice] | None:
    """The slices that a file holds: none of DICOM without an image; None if it is no DICOM."""
    header = read_elements(file)
    if header is None:
        return None
    rows, columns = header.unsigned(0x00280010, 0), header.unsigned(0x00280011, 0)
    if header.pixels is None and not header.fragments and not (header.damage and rows and columns):
        return []
    frames = header.number(0x00280008, 1)
    if not 1 <= frames <= min(_MOST_FRAMES, _room(header, rows * columns)):
        header.damage = header.damage or f"it claims {rows}x{columns} voxels in {frames:g} frames, which it cannot hold"
        frames = 1
    first = _frame(file, 0, header, header, (rows, columns))
    if frames == 1 and _PER_FRAME not in header.items:
        return [first]
    return _frames(file, header, first, int(frames))


def _room(header: Elements, voxels: int) -> int:
    """How many frames the file can hold."""
    if not voxels:
        return 0
    if header.pixels is None:
        return len(header.fragments) - 1
    size = header.unsigned(0x00280002, 1) * header.unsigned(0x00280100, 16)
    return (header.pixels[1] - header.pixels[0]) * 8 // (voxels * size) if size else 0


def _frames(file: Path, header: Elements, first: Slice, count: int) -> list[Slice]:
    shared = _merged(header, header.items.get(_SHARED, [])[:1])
    each = header.items.get(_PER_FRAME, [])
    if each:
        if len(each) != count:
            header.damage = header.damage or f"it describes {len(each)} frames, but claims {count}"
            count = 1
        return [_frame(file, k, header, _merged(shared, each[k : k + 1]), first.shape) for k in range(count)]
    offsets = header.numbers(0x3004000C)
    detector = _merged(shared, header.items.get(_DETECTORS, [])[:1])
    first = _frame(file, 0, header, detector, first.shape)
    if first.position is None:  # frames in time
        return [replace(first, frame=k, number=k, marks={"frame": str(k)}) for k in range(count)]
    if len(offsets) == count:  # a radiation dose: distances from the first frame, or its z and those of the others
        steps = (np.array(offsets) - offsets[0]) * (1 if offsets[0] == 0 else np.sign(first.normal[2]) or 1)
        notes = first.notes
    else:
        step = header.number(0x00180088)
        if not step:
            return [replace(first, frame=k, number=k, marks={"frame": str(k)}) for k in range(count)]
        steps = step * np.arange(count)
        notes = (*first.notes, f"the positions of its frames are not stated; they were taken to be {step:g} mm apart")
    return [
        replace(first, frame=k, number=k, position=first.position + steps[k] * first.normal, notes=notes)
        for k in range(count)
    ]


def _merged(below: Elements, items: list[Elements]) -> Elements:
    """The elements that hold for a frame: its own before those of all."""
    own = items[0].flat() if items else {}
    return Elements(below.order, below.syntax, {**below.values, **own})


def _frame(file: Path, frame: int, header: Elements, own: Elements, shape: tuple[int, int]) -> Slice:
    """One slice of a file, of which `own` are the elements that hold for it."""
    damage, notes = header.damage, []
    position = np.array(own.numbers(0x00200032))
    cosines = np.array(own.numbers(0x00200037))
    axes = None
    if position.size == 0 and cosines.size == 0:
        axes, located = _orthonormal(np.array([1.0, 0, 0, 0, 1, 0])), None
    else:
        axes = _orthonormal(cosines) if cosines.size == 6 else None
        if axes is None:
            damage = damage or "its ImageOrientationPatient is no pair of orthogonal directions"
            axes = _orthonormal(np.array([1.0, 0, 0, 0, 1, 0]))
        if position.size != 3 or np.abs(position).max() > _LARGEST_POSITION:
            damage = damage or "its ImagePositionPatient is no point"
            position = np.zeros(3)
        located = position
    spacing = own.numbers(0x00280030)
    if not spacing and (spacing := own.numbers(0x00181164)):
        notes.append("its spacing is that on the detector, larger than in the body")
    if not spacing:
        spacing = (1.0, 1.0)
        notes.append("the distance of its voxels is not stated, and was taken for 1 mm")
    spacing = np.abs(np.array(spacing[:2]))
    if spacing.size != 2 or not 1e-6 < spacing.min() <= spacing.max() < _LARGEST_POSITION:
        damage, spacing = damage or "its PixelSpacing is damaged", np.ones(2)
    slope = own.number(0x00281053, own.number(0x3004000E, 1.0))
    intercept = own.number(0x00281052)
    if slope == 0 or not max(abs(slope), abs(intercept)) < 1e30:
        damage = damage or "its RescaleSlope or RescaleIntercept is damaged"
    thickness = abs(own.number(0x00180050))
    return Slice(
        file, frame, header, header.text(0x0020000E), shape, located, axes, spacing,
        thickness if 1e-6 < thickness < _LARGEST_POSITION else 1.0, slope, intercept,
        _whole(header.number(0x00200013)) + frame, _marks(own), damage, tuple(notes),
    )  # fmt: skip


def _whole(number: float) -> int:
    return int(number) if math.isfinite(number) and abs(number) < 1e12 else 0


def _marks(own: Elements) -> dict[str, str]:
    marks: dict[str, str] = {}
    for name, tag, kind in _MARKS:
        value = own.text(tag) if kind == "text" else ", ".join(f"{v:g}" for v in own.binary(tag, kind))
        if value:
            marks.setdefault(name, value)
    return marks


def _orthonormal(cosines: np.ndarray) -> np.ndarray | None:
    """(3, 2) the nearest orthonormal pair, first down a column, then along a row; None if none is near."""
    axes = cosines.reshape(2, 3).T
    if np.abs(axes).max() > 2 or np.abs(axes.T @ axes - np.eye(2)).max() > _NEARLY_ORTHONORMAL:
        return None
    u, _, v = np.linalg.svd(axes, full_matrices=False)
    return (u @ v)[:, ::-1]
