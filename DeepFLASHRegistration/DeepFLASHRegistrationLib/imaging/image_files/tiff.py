# SPDX-License-Identifier: Apache-2.0
"""TIFF before ITK gets it: whether its pages are whole and alike, and whether ITK reads their kind right (TIFF 6.0).

Of many kinds ITK makes something else in silence: of two or five values per pixel, of 16-bit floating-point numbers, of
colors in more than 16 bits.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ...support.errors import InputError

Page = dict[int, tuple[int, ...]]
_PAGES = 100_000
_SUBFILE, _WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _SAMPLES, _PLANES, _FORMAT = 254, 256, 257, 258, 262, 277, 284, 339
_NEEDED = (_SUBFILE, _WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _SAMPLES, _PLANES, _FORMAT)
_SMALLER_OR_MASK = 1 | 4
_MOST_VALUES = 16
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_FORMATS = {1: "unsigned", 2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}
_GRAY, _WHITE_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 1, 0, 2, 3, 5, 6
_COLORS = {_RGB: "RGB", _CMYK: "CMYK", _YCBCR: "YCbCr", 8: "CIELab", 9: "ICCLab", 32844: "LogL", 32845: "LogLuv"}


def pages(file: BinaryIO, size: int) -> Iterator[Page | None]:
    """The values of each page that matter; None where a directory does not lie in the file, or there is no end."""
    file.seek(0)
    start = file.read(16)
    if len(start) < 16:
        yield None
        return
    order = "<" if start[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", start, 2)[0] == 43
    (position,) = struct.unpack_from(order + ("Q" if big else "I"), start, 8 if big else 4)
    of_count, of_entry, of_next = (8, 20, 8) if big else (2, 12, 4)
    for _ in range(_PAGES):
        if position == 0:
            return
        file.seek(min(position, size))
        head = file.read(of_count)
        count = struct.unpack(order + ("Q" if big else "H"), head)[0] if len(head) == of_count else size
        if position + of_count + count * of_entry + of_next > size:
            break
        directory = file.read(count * of_entry + of_next)
        entries = (directory[k * of_entry : (k + 1) * of_entry] for k in range(count))
        yield {tag: value for entry in entries for tag, value in _value(file, order, entry)}
        (position,) = struct.unpack_from(order + ("Q" if big else "I"), directory, count * of_entry)
    yield None


def _value(file: BinaryIO, order: str, entry: bytes) -> Iterator[tuple[int, tuple[int, ...]]]:
    """The tag and the values of an entry, if it matters."""
    large = len(entry) == 20
    tag, kind = struct.unpack_from(order + "HH", entry)
    count = struct.unpack_from(order + ("Q" if large else "I"), entry, 4)[0]
    form = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind)
    if tag not in _NEEDED or form is None or not 0 < count <= _MOST_VALUES:
        return
    raw, length = entry[12 if large else 8 :], count * struct.calcsize(order + form)
    if length > len(raw):
        file.seek(struct.unpack(order + ("Q" if large else "I"), raw)[0])
        raw = file.read(length)
    if len(raw) >= length:
        yield tag, struct.unpack_from(f"{order}{count}{form}", raw)


def is_whole(file: BinaryIO, size: int) -> bool:
    """Whether every page's directory lies in the file, and all pages are alike: ITK makes room by the first.

    It also makes room for less than it reads if previews or masks stand before a page.
    """
    first, previews = None, False
    for page in pages(file, size):
        if page is None:
            return False
        if page.pop(_SUBFILE, (0,))[0] & _SMALLER_OR_MASK:
            previews = True
            continue
        first = first or page
        if previews or page != first or not page.get(_WIDTH, (0,))[0] or not page.get(_HEIGHT, (0,))[0]:
            return False
    return first is not None


def look(path: Path) -> tuple[int, list[str]]:
    """By what ITK multiplies the values of few bits, and what is to be noted of a file that is whole.

    Raises:
        InputError: a kind that ITK does not read, or reads wrong.
    """
    with open(path, "rb") as file:
        page = next(pages(file, os.fstat(file.fileno()).st_size)) or {}
    samples = page.get(_SAMPLES, (1,))[0]
    bits, formats = page.get(_BITS, (1,)), page.get(_FORMAT, (_UNSIGNED,))
    code = page.get(_PHOTOMETRIC, (_GRAY,))[0]
    depth, form, together = bits[0], formats[0], page.get(_PLANES, (1,))[0] == 1
    alike = len(set(bits)) == 1 and len(set(formats)) == 1
    kind = f"{depth}-bit {_FORMATS.get(form, 'unknown')}"
    if samples == 1 and code in (_GRAY, _WHITE_IS_ZERO):
        known = depth in {_UNSIGNED: (1, 2, 4, 8, 16, 32), _SIGNED: (8, 16, 32), _FLOAT: (32,)}.get(form, ())
        what = "gray values"
    elif code in (_GRAY, _WHITE_IS_ZERO):
        known, what = False, "gray values with opacity" if samples == 2 else f"{samples} values per pixel"
    else:
        sizes = (8, 16) if code == _RGB and together else (8,) if code != _PALETTE else (1, 2, 4, 8)
        counts = {_RGB: (3, 4) if together else (3,), _PALETTE: (1,), _CMYK: (4,), _YCBCR: (3,)}.get(code, ())
        known = alike and samples in counts and depth in sizes and form == _UNSIGNED
        what = (
            "colors by a palette" if code == _PALETTE else f"colors ({_COLORS.get(code, code)}), {samples} per pixel,"
        )
    if not known:
        planes = "" if together else ", each in a plane of its own"
        raise InputError(
            f"{path}: holds {what} in {kind} numbers{planes}, which cannot be read of TIFF. Save it with one gray "
            "value per pixel or as RGB, in 8 or 16 bits and without opacity, or as PNG."
        )
    notes = []
    if code == _WHITE_IS_ZERO and depth >= 8:
        notes.append("its 0 is meant to be white; values were taken as they are stored, as ITK and 3D Slicer do")
    return 255 // (2**depth - 1) if depth < 8 and samples == 1 and code != _PALETTE else 1, notes
