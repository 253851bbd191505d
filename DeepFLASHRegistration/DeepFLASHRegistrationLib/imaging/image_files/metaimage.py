# SPDX-License-Identifier: Apache-2.0
"""MetaImage (.mha, .mhd): a look at the header before ITK gets it, which some would crash."""

from __future__ import annotations

import math
import re
from pathlib import Path

from ...support.errors import InputError
from .stated import Stated
from .streams import Stream
from .text_headers import damaged, integers, voxel_files
from .units import scale_to_mm

_SUFFIXES = (".mha", ".mhd")
_LONGEST = 1 << 18
_LINE = 4000
# MetaIO's arrays hold ten axes, and are written to without a look; SimpleITK has images of five.
_AXES = 5
_CHANNELS = 4096
_BYTES = {"char": 1, "short": 2, "int": 4, "long": 4, "long_long": 8, "float": 4, "double": 8}
_PACKED = 1032  # as many times smaller can deflate make bytes
_COUNTED = re.compile(r"[^%]*%0?\d{0,2}d[^%]*")


def check(path: Path) -> bool:
    """Whether a file is a MetaImage by its name.

    Raises:
        InputError: it is, and its header is damaged, or its voxels are missing.
    """
    if path.suffix.lower() not in _SUFFIXES:
        return False
    fields, start, listed = _header(path)
    axes = integers(path, fields, "NDims", 1)[0]
    if not 1 <= axes <= _AXES:
        raise damaged(path, f"NDims is {axes}")
    sizes = integers(path, fields, "DimSize", axes)
    if min(sizes) < 1:
        raise damaged(path, f"{'x'.join(map(str, sizes))} voxels")
    bytes_of = _bytes_of(path, fields)
    for name, count in (("Offset", axes), ("Position", axes), ("Origin", axes), ("ElementSpacing", axes),
                        ("ElementSize", axes), ("CenterOfRotation", axes), ("TransformMatrix", axes * axes),
                        ("Rotation", axes * axes), ("Orientation", axes * axes)):  # fmt: skip
        if name in fields:
            _numbers(path, fields, name, count)
    files = _data_files(path, fields, sizes, listed)
    capacity = sum(file.stat().st_size for file in files) if files else path.stat().st_size - start
    if _is_packed(fields):
        capacity *= _PACKED
    if math.prod(sizes) * bytes_of > capacity:
        raise InputError(f"{path}: the file is cut off, voxels are missing. Copy or export it again.")
    return True


def _bytes_of(path: Path, fields: dict[str, str]) -> int:
    """How many bytes a voxel takes, with all its channels."""
    channels = integers(path, fields, "ElementNumberOfChannels", 1)[0] if "ElementNumberOfChannels" in fields else 1
    if not 1 <= channels <= _CHANNELS:
        raise damaged(path, f"{channels} channels")
    kind = fields.get("ElementType", "").lower().removeprefix("met_").removesuffix("_array")
    bytes_of = _BYTES.get(kind, _BYTES.get(kind.removeprefix("u")))
    if bytes_of is None:
        raise damaged(path, f"ElementType is {fields.get('ElementType', 'missing')}")
    return channels * bytes_of


def check_packed(path: Path) -> None:
    """Refuses packed voxels that are damaged, which ITK says on the terminal alone."""
    if path.suffix.lower() not in _SUFFIXES:
        return
    fields, start, listed = _header(path)
    if _is_packed(fields):
        sizes = [int(n) for n in fields["DimSize"].split()]
        files = _data_files(path, fields, sizes, listed)
        for file in files or [path]:
            with Stream(file, 0 if files else start, zlib_format=True) as stream:
                stream.finish(math.prod(sizes) * _bytes_of(path, fields))


def _is_packed(fields: dict[str, str]) -> bool:
    return fields.get("CompressedData", "").lower().startswith(("t", "1"))


def scale(path: Path) -> tuple[float, str]:
    """How many mm the file's unit is, and its name: ITK takes everything for mm."""
    if path.suffix.lower() not in _SUFFIXES:
        return 1.0, ""
    unit = _header(path)[0].get("DistanceUnits", "")
    return scale_to_mm([unit]), unit


def stated(path: Path) -> Stated:
    """What the header of a MetaImage that was checked says of its geometry."""
    fields = _header(path)[0]
    axes = min(int(fields["NDims"]), 3)
    # MetaIO takes the size of the voxels where their distance is missing.
    name = next((n for n in ("ElementSpacing", "ElementSize") if n in fields), "")
    spacing = [float(word) for word in fields[name].split()[:axes]] if name else [None] * axes
    remarks = ("it does not state the distance of its voxels; their size (ElementSize) was taken for it",)
    directed = any(n in fields for n in ("TransformMatrix", "Rotation", "Orientation"))
    why = "" if directed else "it does not state the direction of its axes (TransformMatrix)"
    return Stated(spacing, name or "ElementSpacing", why, remarks if name == "ElementSize" else ())


def _header(path: Path) -> tuple[dict[str, str], int, list[str]]:
    """The fields, where the voxels begin that follow them, and the lines after the last field of a .mhd."""
    with open(path, "rb") as file:
        raw = file.read(_LONGEST)
    fields: dict[str, str] = {}
    position = 0
    while "ElementDataFile" not in fields:
        end = raw.find(b"\n", position)
        end = len(raw) if end < 0 else end
        name, equals, value = raw[position:end].partition(b"=")
        blank = not raw[position:end].strip()
        if end - position > _LINE or not (equals or blank) or b"\0" in name + value:
            raise damaged(path, "a line is no 'Name = value', or ElementDataFile is missing")
        if not blank:
            fields[name.decode("latin-1").strip()] = value.decode("utf-8", "surrogateescape").strip()
        position = end + 1
        if position >= len(raw) and "ElementDataFile" not in fields:
            raise damaged(path, "ElementDataFile is missing")
    rest = raw[position:] if fields["ElementDataFile"].upper().startswith("LIST") else b""
    return fields, position, [line.strip() for line in rest.decode("utf-8", "surrogateescape").splitlines()]


def _data_files(path: Path, fields: dict[str, str], sizes: list[int], listed: list[str]) -> list[Path]:
    """The files of the voxels; none if they follow the header."""
    value = fields["ElementDataFile"]
    if value.upper() == "LOCAL":
        return []
    if value.upper().startswith("LIST"):
        names = [line for line in listed if line]
    elif "%" in value:
        pattern, *numbers = value.split()
        if not _COUNTED.fullmatch(pattern) or not all(re.fullmatch(r"-?\d{1,6}", n) for n in numbers):
            raise damaged(path, f"ElementDataFile is {value}")
        first, last, step = [*map(int, numbers), *[1, sizes[-1], 1][len(numbers) :]][:3]
        names = [pattern % n for n in range(first, last + 1, max(step, 1))]
    else:
        names = [value]
    return voxel_files(path, names, value)


def _numbers(path: Path, fields: dict[str, str], name: str, count: int) -> list[float]:
    try:
        values = [float(word) for word in fields.get(name, "").split()]
    except ValueError:
        values = []
    if len(values) != count or not all(map(math.isfinite, values)):
        raise damaged(path, f"{name} is {fields.get(name, 'missing')[:80]!r}")
    return values
