# SPDX-License-Identifier: Apache-2.0
"""The values of a slice: read as they lie in the file, or decoded by GDCM if they are compressed."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ...support.errors import InputError
from ..files import quiet, unreadable
from .elements import Elements, read_bytes
from .slices import Slice

_RLE = "1.2.840.10008.1.2.5"
_JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
_JPEG = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81))  # the last two: JPEG-LS
# No packing makes a slice smaller than this share; what claims to is damaged.
_PACKED, _LEAST = 3000, 1 << 20
_SECONDARY_CAPTURE = b"1.2.840.10008.5.1.4.1.1.7\0"
_DESCRIPTION = tuple(0x00280000 + n for n in (0x2, 0x4, 0x6, 0x10, 0x11, 0x100, 0x101, 0x102, 0x103))


def slice_values(part: Slice) -> np.ndarray:
    """(rows, columns), or (rows, columns, 3) of colors: integers if they are stored and scaled as such, else float32.

    Raises:
        InputError: damaged, or coded in a way that is not read.
    """
    header = part.header
    if part.damage:
        raise _damaged(part, part.damage)
    samples, bits = header.unsigned(0x00280002, 1), header.unsigned(0x00280100, 16)
    if bits not in (8, 16, 32) or samples not in (1, 3):
        what = "a segmentation, or packed voxels" if bits == 1 else "not what an image has"
        raise InputError(
            f"{part.file}: has {samples} values of {bits} bits per voxel ({what}). Export it as NIfTI or NRRD."
        )
    code = header.text(0x00280004)
    if samples == 1 and code == "PALETTE COLOR":
        raise InputError(f"{part.file}: its colors are coded by a palette. Export it in gray values, or as RGB.")
    values = _decoded(part) if header.fragments else _plain(part, samples, bits, code)
    if part.tile is not None:
        (row, column), (rows, columns) = part.tile, part.shape
        values = values[row : row + rows, column : column + columns]
    return values if samples > 1 else _scaled(part, values)


def _frame(part: Slice) -> int:
    """Which frame of the file holds it; all tiles of a mosaic lie in the first."""
    return 0 if part.tile is not None else part.frame


def _damaged(part: Slice, reason: str) -> InputError:
    return InputError(f"{part.file}: the DICOM file is damaged: {reason}. Copy or export it again.")


def _scaled(part: Slice, values: np.ndarray) -> np.ndarray:
    """The values that the stored ones stand for."""
    small = values.dtype.itemsize < 4
    if part.slope == 1 and (
        part.intercept == 0 or (small and part.intercept.is_integer() and abs(part.intercept) < 2**30)
    ):
        return values.astype(np.int32) + np.int32(part.intercept) if small else values
    with np.errstate(over="ignore"):
        return (values * np.float64(part.slope) + part.intercept).astype(np.float32)


def _plain(part: Slice, samples: int, bits: int, code: str) -> np.ndarray:
    header, (rows, columns) = part.header, part.picture
    if samples == 3 and code != "RGB":
        raise InputError(f"{part.file}: its colors are coded as {code}. Export it in gray values, or as RGB.")
    length = rows * columns * samples * bits // 8
    start, stop = header.pixels or (0, 0)
    start += _frame(part) * length
    if start + length > stop:
        raise _damaged(part, f"it is too short for {columns}x{rows} voxels of {bits} bits")
    (raw,) = read_bytes(part.file, header, [(start, start + length)]) or [b""]
    if len(raw) < length:
        raise _damaged(part, "it was cut off while it was read")
    stored = header.unsigned(0x00280101, bits)
    high = header.unsigned(0x00280102, stored - 1)
    if not 0 < stored <= high + 1 <= bits:
        raise _damaged(part, f"it claims {stored} bits of {bits}, the highest {high}")
    signed = header.unsigned(0x00280103, 0) == 1
    values = np.frombuffer(raw, np.dtype(f"{header.order}{'i' if signed else 'u'}{bits // 8}"))
    values = values.astype(values.dtype.newbyteorder("="))
    if stored < bits:  # what lies beside the stored bits is no part of the value
        values = (values << (bits - 1 - high)) >> (bits - stored)
    if samples == 1:
        return values.reshape(rows, columns)
    if header.unsigned(0x00280006, 0) == 1:
        return np.moveaxis(values.reshape(3, rows, columns), 0, -1)
    return values.reshape(rows, columns, 3)


def _decoded(part: Slice) -> np.ndarray:
    """The stored values of a compressed frame, by GDCM, from a file that holds its bytes and nothing else."""
    code = _compressed(part)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "slice.dcm"
        file.write_bytes(_as_file(part.header, code))
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(file))
        try:
            with quiet():
                values = sitk.GetArrayFromImage(reader.Execute())
        except RuntimeError as error:
            raise unreadable(part.file, error) from error
    samples = (part.header.unsigned(0x00280002, 1),)
    if values.shape != (1, *part.picture, *(samples if samples[0] > 1 else ())):
        raise _damaged(part, "its compressed voxels are of another size")
    return values[0]


def _compressed(part: Slice) -> bytes:
    """The compressed bytes of a frame, when they are what the header says."""
    header, (rows, columns) = part.header, part.picture
    frames = _whole_frames(header)
    if frames is None or _frame(part) >= len(frames):
        raise _damaged(part, "its compressed frames are incomplete")
    code = b"".join(read_bytes(part.file, header, frames[_frame(part)]))
    size = header.unsigned(0x00280100, 16) // 8 * header.unsigned(0x00280002, 1)
    if rows * columns * size > _PACKED * len(code) + _LEAST:
        raise _damaged(part, f"it cannot hold {columns}x{rows} voxels")
    syntax = header.syntax
    if syntax == _RLE:
        sound = len(code) > 64 and struct.unpack_from("<I", code)[0] == size
        offsets = struct.unpack_from("<15I", code, 4)[:size] if sound else (0,)
        sound = sound and list(offsets) == sorted(set(offsets)) and offsets[0] >= 64 and offsets[-1] < len(code)
    elif syntax in _JPEG_2000:
        sound = _size_of_jpeg_2000(code) == (rows, columns)
    elif syntax in _JPEG:
        samples = header.unsigned(0x00280002, 1)
        sound = _size_of_jpeg(code, samples, 8 * size // samples) == (rows, columns)
    else:
        raise InputError(f"{part.file}: its compression ({syntax or 'unnamed'}) is not read. Export it uncompressed.")
    if not sound:
        raise _damaged(part, "its compressed voxels are not what its header says")
    return code


def _whole_frames(header: Elements) -> list[list[tuple[int, int]]] | None:
    """The fragments of each frame; None if they cannot be told apart."""
    _, *fragments = header.fragments
    count = int(header.number(0x00280008, 1))
    if count <= 1:
        return [fragments]
    if len(fragments) == count:
        return [[f] for f in fragments]
    return None


def _size_of_jpeg(code: bytes, samples: int, bits: int) -> tuple[int, int] | None:
    """(rows, columns) that JPEG or JPEG-LS states (ITU-T T.81, annex B); None if its tables are damaged."""
    size, at = None, 2
    while code[:2] == b"\xff\xd8" and at + 4 <= len(code) and code[at] == 0xFF:
        marker = code[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        length = struct.unpack_from(">H", code, at + 2)[0]
        body = code[at + 4 : at + 2 + length]
        if length < 2 or len(body) < length - 2:
            return None
        if marker == 0xDA:
            return size if len(body) == 2 * body[0] + 4 and body[0] <= samples else None
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            if len(body) < 6 or not 2 <= body[0] <= bits or body[5] != samples or len(body) != 6 + 3 * samples or size:
                return None
            if any(not 1 <= n <= 4 for k in range(samples) for n in divmod(body[7 + 3 * k], 16)):
                return None
            size = struct.unpack_from(">HH", body, 1)
        if marker == 0xC4 and not _huffman_tables_are_sound(body):
            return None
        at += 2 + length
    return None


def _huffman_tables_are_sound(body: bytes) -> bool:
    """Whether tables fill their segment, and no length has more codes than there is room for (T.81, B.2.4.2, C.2)."""
    at = 0
    while at + 17 <= len(body):
        counts = body[at + 1 : at + 17]
        if sum(counts) > 256 or sum(n / 2 ** (k + 1) for k, n in enumerate(counts)) > 1:
            return False
        at += 17 + sum(counts)
    return at == len(body)


def _size_of_jpeg_2000(code: bytes) -> tuple[int, int] | None:
    """(rows, columns) that the size marker states, if that is one tile or sensible ones (ITU-T T.800, A.5.1)."""
    at = code.find(b"\xff\x4f\xff\x51", 0, 1024)
    if at < 0 or len(code) < at + 40:
        return None
    width, height, left, top, tile_width, tile_height = struct.unpack_from(">6I", code, at + 8)
    if left or top or not (tile_width and tile_height) or width * height > 4096 * tile_width * tile_height:
        return None
    return height, width


def _as_file(header: Elements, code: bytes) -> bytes:
    """A DICOM file in explicit little endian that holds one compressed frame."""
    meta = _element(0x00020002, b"UI", _SECONDARY_CAPTURE) + _element(0x00020010, b"UI", header.syntax.encode())
    body = _element(0x00080016, b"UI", _SECONDARY_CAPTURE)
    for tag in _DESCRIPTION:
        value = header.values.get(tag, b"")
        if value:
            body += _element(tag, b"CS" if tag == 0x00280004 else b"US", value)
    pixels = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)
    code += b"\0" * (len(code) % 2)
    pixels += struct.pack("<HHIHHI", 0xFFFE, 0xE000, 0, 0xFFFE, 0xE000, len(code)) + code
    pixels += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    length = _element(0x00020000, b"UL", struct.pack("<I", len(meta)))
    return b"\0" * 128 + b"DICM" + length + meta + body + pixels


def _element(tag: int, kind: bytes, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, kind, len(value)) + value
