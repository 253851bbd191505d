# SPDX-License-Identifier: Apache-2.0
"""PNG of the kinds that ITK does not give as they are stored: gray values with opacity, and those of few bits."""

from __future__ import annotations

import math
import struct
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ...support.memory import check_free
from ..files import quiet, unreadable
from .wholeness import check_length

_SIGNATURE = 8
_GRAY, _RGBA, _GRAY_WITH_OPACITY = 0, 6, 4
# Chunks that mean the same for another kind of pixel.
_KEPT = (b"IHDR", b"pHYs", b"sCAL", b"IDAT", b"IEND")


def factor(path: Path) -> int:
    """By what ITK multiplies the gray values of a PNG of fewer than 8 bits."""
    depth, kind = _kind(path)
    return 255 // (2**depth - 1) if kind == _GRAY and depth < 8 else 1


def has_gray_with_opacity(path: Path) -> bool:
    """Whether each pixel is a gray value and an opacity, which SimpleITK does not read."""
    return _kind(path)[1] == _GRAY_WITH_OPACITY


def with_opacity(path: Path) -> np.ndarray:
    """(rows, columns, 2) gray values and opacities, of 8 or 16 bits.

    Two bytes per pixel are packed as those of gray values of 16 bits are, four as red, green, blue and opacity
    (PNG specification, 9.2): under another header ITK unpacks them.

    Raises:
        InputError: damaged.
    """
    depth, _ = _kind(path)
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "other.png"
        other.write_bytes(b"".join(_other(path.read_bytes(), *((16, _GRAY) if depth == 8 else (8, _RGBA)))))
        reader = sitk.ImageFileReader()
        reader.SetImageIO("PNGImageIO")
        reader.SetFileName(str(other))
        try:
            with quiet():
                reader.ReadImageInformation()
                check_length(path, "PNGImageIO", reader)
                check_free(path, math.prod(reader.GetSize()) * depth)
                values = sitk.GetArrayFromImage(reader.Execute())
        except RuntimeError as error:
            raise unreadable(path, error) from error
    if depth == 8:
        return np.stack([values >> 8, values & 255], -1).astype(np.uint8)
    values = values.astype(np.uint16)
    return values[..., 0::2] << 8 | values[..., 1::2]


def _kind(path: Path) -> tuple[int, int]:
    with open(path, "rb") as file:
        return tuple(file.read(26)[24:26].ljust(2, b"\0"))


def _other(raw: bytes, depth: int, kind: int) -> Iterator[bytes]:
    """The chunks of a file that was found whole, with a header of another kind."""
    yield raw[:_SIGNATURE]
    at = _SIGNATURE
    while at + 12 <= len(raw):
        length, name = struct.unpack_from(">I4s", raw, at)
        chunk = raw[at : at + 12 + length]
        if name == b"IHDR":
            body = name + chunk[8:16] + bytes((depth, kind)) + chunk[18:21]
            chunk = chunk[:4] + body + struct.pack(">I", zlib.crc32(body))
        if name in _KEPT:
            yield chunk
        at += 12 + length
