# SPDX-License-Identifier: Apache-2.0
"""Slices as pixels: gray scales, color maps, and PNG files without a library.

Pixel arrays are (rows, columns[, 3]) from the top left.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence

import numpy as np

# Blue - white - orange: told apart in every common color blindness. Positive values are orange.
DIVERGING = np.array(
    [
        (6, 62, 130),
        (58, 140, 200),
        (160, 206, 235),
        (246, 246, 246),
        (252, 200, 120),
        (226, 132, 30),
        (140, 66, 0),
    ],
    dtype=np.float32,
)
# Far from all of these and from gray for every reader (see the test), with a black outline.
FOLD_COLOR = np.array((240, 255, 0), dtype=np.float32)


def png(pixels: np.ndarray) -> bytes:
    """PNG file of 8-bit pixels, gray (rows, columns) or RGB (rows, columns, 3)."""
    rows, columns = pixels.shape[:2]
    color = pixels.ndim == 3
    line = pixels.reshape(rows, -1)
    raw = np.zeros((rows, line.shape[1] + 1), dtype=np.uint8)
    # Filter 2 of the format: each row as its difference to the row above, with which slices compress twice as well.
    raw[:, 0] = 2
    raw[0, 1:] = line[0]
    np.subtract(line[1:], line[:-1], out=raw[1:, 1:])

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", columns, rows, 8, 2 if color else 0, 0, 0, 0)
    body = zlib.compress(raw.tobytes(), 5)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def data_uri(pixels: np.ndarray) -> str:
    """Pixels as the text of a PNG image address that needs no file."""
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode("ascii")


def window(slices: Sequence[np.ndarray]) -> tuple[float, float]:
    """Dark and bright end (low < high) for showing slices of one image: percentiles 1 and 99.7."""
    values = np.concatenate([np.ravel(s) for s in slices])
    values = values[np.isfinite(values)]
    low, high = np.percentile(values, (1, 99.7)) if values.size else (0.0, 1.0)
    return float(low), float(high) if high > low else float(low) + 1.0


def gray(data: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Slice as 0..1 float32 within the window `limits`; what is not a number is black."""
    low, high = limits
    scaled = (np.nan_to_num(data.astype(np.float32), nan=low) - np.float32(low)) / np.float32(high - low)
    return np.clip(scaled, 0.0, 1.0)


def to_bytes(pixels: np.ndarray) -> np.ndarray:
    """0..1 to 8 bits."""
    return (np.clip(pixels, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def diverging(values: np.ndarray) -> np.ndarray:
    """Colors (..., 3) in 0..1 of values in -1..1: blue below, white at 0, orange above."""
    position = (np.clip(values, -1.0, 1.0) + 1.0) * (0.5 * (len(DIVERGING) - 1))
    low = np.minimum(position.astype(np.intp), len(DIVERGING) - 2)
    part = (position - low)[..., None]
    return (DIVERGING[low] * (1.0 - part) + DIVERGING[low + 1] * part) / 255.0


def difference_picture(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """RGB bytes of a - b, slices in 0..1: black where equal, orange where a is brighter, blue where b is."""
    difference = (a - b)[..., None]
    strength = np.sqrt(np.abs(difference))
    hue = np.where(difference > 0, np.float32((1.0, 0.62, 0.16)), np.float32((0.30, 0.68, 1.0)))
    return to_bytes(strength * hue)


def checkerboard(a: np.ndarray, b: np.ndarray, tile: tuple[float, float]) -> np.ndarray:
    """Gray bytes of two slices in 0..1 in alternating tiles of `tile` (rows, columns) pixels."""
    rows, columns = np.indices(a.shape, sparse=True)
    odd = ((rows + 0.5) // tile[0] + (columns + 0.5) // tile[1]) % 2 == 1
    return to_bytes(np.where(odd, b, a))


def determinant_picture(base: np.ndarray, log_determinant: np.ndarray, limit: float, folded: np.ndarray) -> np.ndarray:
    """RGB bytes of a log determinant over a slice in 0..1; full color at +-limit, folded (bool) pixels loud.

    The color is faint outside what the slice shows, where no image content speaks for the map.
    """
    t = np.nan_to_num(log_determinant.astype(np.float32) / np.float32(limit), nan=0.0, posinf=1.0, neginf=-1.0)
    strength = np.sqrt(np.clip(np.abs(t), 0.0, 1.0)) * np.where(_enclosed(base > 0.1), np.float32(0.9), np.float32(0.3))
    picture = 0.85 * base[..., None] * (1.0 - strength[..., None]) + diverging(t) * strength[..., None]
    picture[folded] = FOLD_COLOR / 255.0
    return to_bytes(picture)


def amount_picture(base: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """RGB bytes of amounts over a slice in 0..1; full orange from 1 on."""
    strength = np.sqrt(np.clip(amount, 0.0, 1.0))[..., None].astype(np.float32)
    return to_bytes(0.85 * base[..., None] * (1.0 - 0.9 * strength) + diverging(np.ones_like(amount)) * 0.9 * strength)


def _enclosed(shown: np.ndarray) -> np.ndarray:
    """Pixels that have some of `shown` (bool) on both sides, in their row and in their column."""
    result = np.ones(shown.shape, dtype=bool)
    for axis in (0, 1):
        ahead = np.logical_or.accumulate(shown, axis=axis)
        behind = np.flip(np.logical_or.accumulate(np.flip(shown, axis), axis=axis), axis)
        result &= ahead & behind
    return result
