# SPDX-License-Identifier: Apache-2.0
"""NRRD (.nrrd, .nhdr): a look at the header before ITK gets it, and its units (teem.sourceforge.net/nrrd/format)."""

from __future__ import annotations

import math
import re
from pathlib import Path

from ...support.errors import InputError
from .stated import Stated
from .streams import Stream
from .text_headers import damaged, integers, voxel_files
from .units import even_seconds, scale_to_mm

_MAGIC = b"NRRD000"
_USUAL, _LONGEST = 1 << 16, 1 << 24  # segmentations carry long texts
_AXES = 6  # SimpleITK's five and that of the components
_BYTES = {
    1: "signed char|int8|int8_t|uchar|unsigned char|uint8|uint8_t",
    2: "short|short int|signed short|signed short int|int16|int16_t|"
    "ushort|unsigned short|unsigned short int|uint16|uint16_t",
    4: "int|signed int|int32|int32_t|uint|unsigned int|uint32|uint32_t|float",
    8: "longlong|long long|long long int|signed long long|signed long long int|int64|int64_t|"
    "ulonglong|unsigned long long|unsigned long long int|uint64|uint64_t|double",
}
_TYPES = {name: size for size, names in _BYTES.items() for name in names.split("|")}
# The most times that the data can be larger than the file.
_ENCODINGS = {
    "raw": 1,
    "hex": 1,
    "text": 1,
    "txt": 1,
    "ascii": 1,
    "gzip": 1032,
    "gz": 1032,
    "bzip2": 50000,
    "bz2": 50000,
}
_IN_SPACE = ("domain", "space", "none", "???")
_ANATOMICAL = (
    "right-anterior-superior",
    "left-anterior-superior",
    "left-posterior-superior",
    "ras",
    "las",
    "lps",
)
_COUNTED = re.compile(r"[^%]*%0?\d{0,2}d[^%]*")


def check(path: Path) -> bool:
    """Whether a file is NRRD by what is in it.

    Raises:
        InputError: it is, and its header is damaged, or its voxels are missing.
    """
    found = _header(path)
    if found is None:
        return False
    fields, start, lines = found
    axes = integers(path, fields, "dimension", 1)[0]
    if not 1 <= axes <= _AXES:
        raise damaged(path, f"dimension {axes}")
    sizes = integers(path, fields, "sizes", axes)
    if min(sizes) < 1:
        raise damaged(path, f"sizes {sizes}")
    _check_axes(path, fields, axes)
    kind, encoding = fields.get("type", "").lower(), fields.get("encoding", "").lower()
    if kind not in _TYPES:
        raise damaged(path, f"type {kind or 'missing'}")
    if encoding not in _ENCODINGS:
        raise damaged(path, f"encoding {encoding or 'missing'}")
    files = _data_files(path, fields, sizes, lines)
    capacity = sum(file.stat().st_size for file in files) if files else path.stat().st_size - start
    size = 1 if encoding in ("text", "txt", "ascii") else _TYPES[kind] * (2 if encoding == "hex" else 1)
    if math.prod(sizes) * size > capacity * _ENCODINGS[encoding]:
        raise InputError(f"{path}: the file is cut off, voxels are missing. Copy or export it again.")
    return True


def check_packed(path: Path) -> None:
    """Refuses packed voxels that are damaged, of which ITK does not look at the check sum."""
    found = _header(path)
    if found is None or found[0].get("encoding", "").lower() not in ("gzip", "gz"):
        return
    fields, start, lines = found
    sizes = [int(n) for n in fields["sizes"].split()]
    files = _data_files(path, fields, sizes, lines)
    if "line skip" in fields or "byte skip" in fields:
        return
    for file in files or [path]:
        with Stream(file, 0 if files else start) as stream:
            stream.finish(math.prod(sizes) * _TYPES[fields["type"].lower()])


def is_list(path: Path) -> bool:
    """Whether the components of a voxel are images of a list (layers of a segmentation, a sequence), and no color."""
    found = _header(path)
    return found is not None and bool({"list", "time"} & set(found[0].get("kinds", "").lower().split()))


def seconds(path: Path) -> float:
    """From one item of a sequence of Slicer to the next, whose index values and unit stand in the header; 0 if they are
    no times, or not evenly apart."""
    found = _header(path)
    kinds = found[0].get("kinds", "").lower().split() if found is not None else []
    axis = next((number for number, kind in enumerate(kinds) if kind in ("list", "time")), None)
    if axis is None:
        return 0.0
    fields = found[0]
    units = re.findall(r'"((?:[^"\\]|\\.)*)"', fields.get("units", ""))
    return even_seconds(fields.get(f"axis {axis} index values:=", "").split(), units[axis] if axis < len(units) else "")


def scale(path: Path) -> tuple[float | None, str]:
    """How many mm the file's unit is, and its name: ITK takes everything for mm; None if it is not known."""
    found = _header(path)
    if found is None:
        return 1.0, ""
    fields = found[0]
    units = re.findall(r'"([^"]*)"', fields.get("space units") or fields.get("units", ""))
    if "space units" not in fields:
        kinds = fields.get("kinds", "").split()
        spatial = [u for u, k in zip(units, kinds) if k in ("domain", "space")] if len(kinds) == len(units) else units
        units = spatial
    return scale_to_mm(units), ", ".join(sorted({u for u in units if u}))


def stated(path: Path) -> Stated:
    """What the header of a file of NRRD that was checked says of its geometry."""
    fields = _header(path)[0]
    axes = int(fields["dimension"])
    kinds = fields.get("kinds", "").lower().split() or ["domain"] * axes
    in_space = [axis for axis, kind in enumerate(kinds) if kind in _IN_SPACE][:3]
    space = fields.get("space", "")
    why = f"its space, {space}, says nothing of the body" if space else "it does not name its space"
    why = "" if space.lower().removesuffix("-time").removesuffix("t") in _ANATOMICAL else why
    if "space directions" in fields:
        vectors = re.findall(r"\([^()]*\)|\S+", fields["space directions"])
        lengths = [_length(vector) for vector in vectors]
        name = "the length of its space directions"
    else:
        lengths = [float(word) for word in fields["spacings"].split()] if "spacings" in fields else [None] * axes
        name = "spacings"
        why = why or "it does not state the direction of its axes"
    return Stated([lengths[axis] for axis in in_space], name, why)


def _length(vector: str) -> float | None:
    if vector.lower() == "none":
        return None
    return math.hypot(*(float(v) for v in vector[1:-1].split(",")))


def _header(path: Path) -> tuple[dict[str, str], int, list[str]] | None:
    """The fields, where the voxels begin that follow them, and the lines of a list of files."""
    with open(path, "rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            return None
        raw = file.read(_USUAL)
        if not re.search(rb"\n\r?\n", raw):
            raw += file.read(_LONGEST)
    fields: dict[str, str] = {}
    lines: list[str] = []
    position = raw.find(b"\n") + 1
    if position == 0:
        raise damaged(path, "it ends after its first line")
    while True:
        end = raw.find(b"\n", position)
        line = raw[position : len(raw) if end < 0 else end]
        position = len(raw) if end < 0 else end + 1
        if b"\0" in line or (end < 0 and len(raw) >= _LONGEST):
            raise damaged(path, "a line is no 'name: value'")
        text = line.decode("utf-8", "surrogateescape").strip()
        if lines or fields.get("data file", "").upper().startswith("LIST"):
            lines.append(text)
        elif text and not text.startswith("#") and ":=" not in text:
            name, _, value = text.partition(":")
            name = name.strip().lower()
            fields[{"datafile": "data file", "byteskip": "byte skip", "lineskip": "line skip"}.get(name, name)] = (
                value.strip()
            )
        elif ":=" in text and not text.startswith("#"):
            key, _, value = text.partition(":=")
            fields[f"{key.strip().lower()}:="] = value.strip()
        if (not text and not lines) or end < 0 or position >= len(raw):
            return fields, len(_MAGIC) + position, lines


def _check_axes(path: Path, fields: dict[str, str], axes: int) -> None:
    """Refuses fields of more or fewer entries than there are axes: ITK's parser writes beyond its arrays."""
    for name in ("spacings", "thicknesses", "axis mins", "axis maxs", "kinds", "centers", "centerings"):
        if name in fields and len(fields[name].split()) != axes:
            raise damaged(path, f"{name} {fields[name][:80]!r}")
    if "spacings" in fields and not all(map(_is_number, fields["spacings"].split())):
        raise damaged(path, f"spacings {fields['spacings'][:80]!r}")
    for name in ("labels", "units"):
        if name in fields and len(re.findall(r'"(?:[^"\\]|\\.)*"', fields[name])) != axes:
            raise damaged(path, f"{name} {fields[name][:80]!r}")
    space = fields.get("space", "").lower()
    if space:
        reach = 4 if space.endswith(("time", "t")) else 3
    elif "space dimension" in fields:
        reach = integers(path, fields, "space dimension", 1)[0]
    else:
        reach = 0
    for name, count in (("space directions", axes), ("space origin", 1), ("measurement frame", reach)):
        if name not in fields:
            continue
        vectors = re.findall(r"\([^()]*\)|\S+", fields[name])
        if len(vectors) != count or not 1 <= reach <= _AXES or not all(_is_vector(v, reach) for v in vectors):
            raise damaged(path, f"{name} {fields[name][:80]!r}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_vector(text: str, count: int) -> bool:
    if text.lower() == "none":
        return True
    try:
        return text[0] == "(" and text[-1] == ")" and len([float(v) for v in text[1:-1].split(",")]) == count
    except ValueError:
        return False


def _data_files(path: Path, fields: dict[str, str], sizes: list[int], lines: list[str]) -> list[Path]:
    """The files of the voxels; none if they follow the header."""
    value = fields.get("data file", "")
    if not value:
        return []
    if value.upper().startswith("LIST"):
        names = [line for line in lines if line]
    elif "%" in value:
        pattern, *numbers = value.split()
        if (
            not _COUNTED.fullmatch(pattern)
            or not 3 <= len(numbers) <= 4
            or not all(re.fullmatch(r"-?\d{1,6}", n) for n in numbers)
        ):
            raise damaged(path, f"data file {value}")
        first, last, step = map(int, numbers[:3])
        names = [pattern % n for n in range(first, last + (1 if step > 0 else -1), step or 1)]
    else:
        names = [value]
    return voxel_files(path, names, value)
