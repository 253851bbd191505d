# SPDX-License-Identifier: Apache-2.0
"""What legacy VTK images ("VTK file formats", simple legacy formats) and GIPL state of their geometry."""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from pathlib import Path

from ...support.errors import InputError
from .stated import Stated
from .text_headers import damaged

_VTK, _VTK_LONGEST = b"# vtk DataFile", 4096
_GIPL = (".gipl", ".gipl.gz")
_GIPL_LENGTH, _GIPL_SPACING = 256, 10
_NO_AXES = "its format has no place for the direction of its axes"


def stated(path: Path) -> Stated | None:
    """What a file of one of these kinds says of its geometry; None for others.

    Raises:
        InputError: its header is damaged.
    """
    if path.name.lower().endswith(_GIPL):
        return _gipl(path)
    with open(path, "rb") as file:
        head = file.read(_VTK_LONGEST)
    return _vtk(path, head) if head.startswith(_VTK) else None


def _vtk(path: Path, head: bytes) -> Stated:
    found = re.search(rb"^\s*(SPACING|ASPECT_RATIO)\b([^\r\n]*)", head, re.MULTILINE | re.IGNORECASE)
    if found is None:
        return Stated((None,) * 3, "SPACING", _NO_AXES)
    try:
        values = tuple(float(word) for word in found[2].split())
    except ValueError:
        values = ()
    if len(values) != 3:
        raise damaged(path, f"SPACING is {found[2].decode('latin-1').strip()[:80]!r}")
    return Stated(values, "SPACING", _NO_AXES)


def _gipl(path: Path) -> Stated:
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else open(path, "rb") as file:
            head = file.read(_GIPL_LENGTH)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path}: cannot be read ({error}). The file may be damaged: copy or export it again."
        ) from error
    if len(head) < _GIPL_LENGTH:
        raise InputError(f"{path}: the file is cut off. Copy or export it again.")
    sizes, lengths = struct.unpack_from(">3H", head), struct.unpack_from(">3f", head, _GIPL_SPACING)
    return Stated(tuple(v if n > 1 else v or 1.0 for n, v in zip(sizes, lengths)), "its pixdim", _NO_AXES)
