# SPDX-License-Identifier: Apache-2.0
"""Siemens mosaics: all slices of a volume as tiles of one picture, which a private header (CSA) tells the number of.

Where they lie: the position in the file is that of a picture of the mosaic's size around the middle of the first slice,
and slices follow each other along the normal of the CSA header
(nipy.org/nibabel/dicom/dicom_mosaic.html, siemens_csa.html).
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import replace

import numpy as np

from .elements import Elements
from .slices import Slice

CSA_HEADER = 0x00291010
_SPACING, _THICKNESS, _IMAGE_TYPE = 0x00180088, 0x00180050, 0x00080008
_MOST_TAGS, _MOST_ITEMS = 1000, 10_000
_PARALLEL = 1e-2


def is_mosaic(header: Elements) -> bool:
    """Whether its type says that it is one."""
    return "MOSAIC" in header.text(_IMAGE_TYPE).upper().split("\\")


def tiles_of(picture: Slice) -> list[Slice]:
    """The slices of a mosaic; it itself, damaged, if they cannot be told.

    Args:
        picture: the mosaic as one slice.
    """
    csa = _csa(picture.header.values.get(CSA_HEADER, b""))
    count = int(next(iter(csa.get("NumberOfImagesInMosaic", [])), 0))
    normal = np.array(csa.get("SliceNormalVector", []))
    side = math.ceil(math.sqrt(max(count, 1)))
    shape = (picture.shape[0] // side, picture.shape[1] // side)
    step = abs(picture.header.number(_SPACING)) or abs(picture.header.number(_THICKNESS))
    along = float(normal @ picture.normal) if normal.size == 3 else 0.0
    fits = count > 0 and min(shape) > 0 and (picture.shape[0] % side, picture.shape[1] % side) == (0, 0)
    if not fits or abs(abs(along) - 1) > _PARALLEL or picture.position is None or not 1e-6 < step < 1e5:
        reason = (
            "it is a Siemens mosaic, the slices of a volume in one picture, and its private header (CSA), which says "
            "how they are to be taken apart, is missing or not read; convert it to NIfTI with dcm2niix"
        )
        return [replace(picture, damage=picture.damage or reason)]
    # The position is that of a mosaic around the slice's middle.
    corner = picture.position + picture.axes @ (picture.spacing * (np.array(picture.shape) - shape) / 2)
    return [
        replace(
            picture, frame=k, shape=shape, position=corner + k * step * np.sign(along) * picture.normal, thickness=step,
            number=picture.number, tile=(k // side * shape[0], k % side * shape[1]),
        )
        for k in range(count)
    ]  # fmt: skip


def _csa(raw: bytes) -> dict[str, list[float]]:
    """The numbers of a CSA header of the second kind (SV10); none of what is damaged."""
    found: dict[str, list[float]] = {}
    if raw[:4] != b"SV10" or len(raw) < 16:
        return found
    at = 16
    for _ in range(min(struct.unpack_from("<I", raw, 8)[0], _MOST_TAGS)):
        if at + 84 > len(raw):
            break
        name = raw[at : at + 64].split(b"\0")[0].decode("latin-1")
        items = struct.unpack_from("<i", raw, at + 76)[0]
        at += 84
        numbers = []
        for _ in range(min(max(items, 0), _MOST_ITEMS)):
            if at + 16 > len(raw):
                break
            length = struct.unpack_from("<I", raw, at + 4)[0]
            text = raw[at + 16 : at + 16 + length].split(b"\0")[0].strip()
            if re.fullmatch(rb"[-+]?\d{1,20}(\.\d{1,20})?([eE][-+]?\d{1,3})?", text):
                numbers.append(float(text))
            at += 16 + (length + 3) // 4 * 4
        found.setdefault(name, numbers)
    return found
