# SPDX-License-Identifier: Apache-2.0
"""Whether pictures and plain volumes are whole: ITK reads what is missing of them as gray, or as what memory holds."""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import SimpleITK as sitk

from ...support.errors import InputError
from . import tiff

# What claims to hold more voxels than this many times its bytes is damaged: nothing packs better.
_PACKED = 3000
_LEAST = 1 << 16
_OTHERWISE = (".lsm",)  # TIFF of which another reader of ITK understands more
_VTK_BEGINNING = 4096


def check_picture(path: Path) -> str:
    """ITK's name of the reader of a PNG, JPEG, BMP or TIFF, known by its first bytes; none for other files.

    Raises:
        InputError: it ends too early, or its inner lengths are damaged.
    """
    with open(path, "rb") as file:
        start = file.read(8)
        size = os.fstat(file.fileno()).st_size
        for magic, whole, name in _PICTURES:
            if start.startswith(magic) and path.suffix.lower() not in _OTHERWISE:
                if not whole(file, size):
                    pages = ", or its pages differ in size or kind" if whole is tiff.is_whole else ""
                    raise InputError(f"{path}: the file is cut off, or damaged{pages}. Copy or export it again.")
                return name
    return ""


def check_length(path: Path, kind: str, reader: sitk.ImageFileReader) -> None:
    """Refuses a file that is too short for what its header promises.

    Args:
        path: the file.
        kind: SimpleITK's name of the reader.
        reader: that has read the header.
    """
    size, length = reader.GetSize(), path.stat().st_size
    values = math.prod(size) * reader.GetNumberOfComponents()
    bits = re.search(r"(\d+)-bit", sitk.GetPixelIDValueAsString(reader.GetPixelID()))
    needed = _least_bytes(path, kind, values, int(bits[1]) // 8 if bits else 1)
    if values > _PACKED * length + _LEAST or needed > length:
        raise InputError(
            f"{path}: the file is cut off, or its header is damaged: it cannot hold {'x'.join(map(str, size))} voxels. "
            "Copy or export it again."
        )


def _least_bytes(path: Path, kind: str, voxels: int, bytes_of: int) -> int:
    """How long a file at least is that holds so many voxels of so many bytes; 0 for formats that pack.

    Args:
        path, kind: as in check_length.
        voxels, bytes_of: how many, and how large each with all its components.
    """
    if path.suffix.lower() == ".gz":
        return 0
    header = {"GiplImageIO": 256, "MRCImageIO": 1024, "StimulateImageIO": 0}.get(kind)
    if kind == "VTKImageIO":
        with open(path, "rb") as file:
            beginning = file.read(_VTK_BEGINNING)
        if re.search(rb"^\s*ASCII", beginning, re.MULTILINE | re.IGNORECASE):
            return 2 * voxels  # a digit and a space
        ends = [found.end() for found in re.finditer(rb"^(LOOKUP_TABLE|VECTORS|TENSORS).*\n", beginning, re.MULTILINE)]
        header = ends[0] if ends else 0
    return 0 if header is None else header + voxels * bytes_of


def _png(file: BinaryIO, size: int) -> bool:
    position, name = 8, b""
    while name != b"IEND" and position + 12 <= size:
        file.seek(position)
        length, name = struct.unpack(">I4s", file.read(8))
        position += 12 + length
    return name == b"IEND" and position <= size


def _jpeg(file: BinaryIO, size: int) -> bool:
    return b"\xff\xd9" in file.read()


def _bmp(file: BinaryIO, size: int) -> bool:
    file.seek(0)
    header = file.read(34)
    if len(header) < 34:
        return False
    (start,) = struct.unpack_from("<I", header, 10)
    width, height = struct.unpack_from("<ii", header, 18)
    bits, packed = struct.unpack_from("<HI", header, 28)
    return packed in (1, 2) or start + (max(width, 0) * bits + 31) // 32 * 4 * abs(height) <= size


_PICTURES: tuple[tuple[bytes, Callable[[BinaryIO, int], bool], str], ...] = (
    (b"\x89PNG\r\n\x1a\n", _png, "PNGImageIO"),
    (b"\xff\xd8\xff", _jpeg, "JPEGImageIO"),
    (b"BM", _bmp, "BMPImageIO"),
    (b"II*\0", tiff.is_whole, "TIFFImageIO"),
    (b"MM\0*", tiff.is_whole, "TIFFImageIO"),
    (b"II+\0", tiff.is_whole, "TIFFImageIO"),
    (b"MM\0+", tiff.is_whole, "TIFFImageIO"),
)
