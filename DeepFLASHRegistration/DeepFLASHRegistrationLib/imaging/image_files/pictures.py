# SPDX-License-Identifier: Apache-2.0
"""Writing PNG, JPEG, TIFF and BMP: whole numbers of 8 or 16 bits, or a reason why not."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ...support.errors import InputError
from ..files import atomic, quiet, unwritable
from ..grid import Grid

_DEEPEST = {".png": 65535, ".tif": 65535, ".tiff": 65535, ".jpg": 255, ".jpeg": 255, ".bmp": 255}
_TIFF = (".tif", ".tiff")
_JPEG = (".jpg", ".jpeg")
# Fewer gray levels than this are not what an image looks like: fractions, which must not become 0 and 1.
_LEVELS = 16
_INSTEAD = "Name it .nii.gz, .nrrd or .mha"


def is_picture(path: str | os.PathLike) -> bool:
    """Whether a file is a picture by its name."""
    return Path(path).suffix.lower() in _DEEPEST


def write_picture(path: str | os.PathLike, grid: Grid, data: np.ndarray) -> None:
    """Writes one gray or color value per pixel; its position in space is lost, for pictures have none.

    Args:
        path: .png, .tif (also a stack of slices), .jpg or .bmp.
        grid: of two axes; for TIFF also of three.
        data: (*grid.shape), or (*grid.shape, channels) of colors. Integers (labels) are written exactly, in 8 bits or,
            above 255, in 16. Other numbers are rounded to the same, as it was before they were interpolated; TIFF holds
            what does not fit as 32-bit floating-point numbers.

    Raises:
        InputError: what the kind of picture cannot hold: three axes, negative or large values, fractions, labels in
            JPEG.
    """
    suffix = Path(path).suffix.lower()
    if grid.ndim == 3 and suffix not in _TIFF:
        raise InputError(f"{path}: a picture holds one slice, not the {grid.shape[0]} of this image. {_INSTEAD}.")
    channels = data.shape[-1] if data.ndim > grid.ndim else 1
    if suffix in _JPEG and channels not in (1, 3):
        raise InputError(f"{path}: JPEG has no place for opacity. Name it .png.")
    if suffix in _JPEG and data.dtype.kind in "iub":
        raise InputError(f"{path}: JPEG changes values, and labels must stay what they are. Name it .png.")
    data = _fitting(path, suffix, data)
    image = sitk.GetImageFromArray(data, isVector=data.ndim > grid.ndim)
    image.SetSpacing(grid.spacing[::-1].tolist())
    with atomic(path) as temporary:
        try:
            with quiet():
                sitk.WriteImage(
                    image, str(temporary), useCompression=True, compressionLevel=95 if suffix in _JPEG else -1
                )
        except RuntimeError as error:
            raise unwritable(path) from error


def _fitting(path: str | os.PathLike, suffix: str, data: np.ndarray) -> np.ndarray:
    """The data as 8 or 16 bits, or for TIFF 32-bit floating-point numbers."""
    low, high = (float(data.min()), float(data.max())) if data.size else (0.0, 0.0)
    if not np.isfinite([low, high]).all():
        raise InputError(f"{path}: NaN and infinity have no place in a picture. {_INSTEAD}.")
    whole = np.rint(data) if data.dtype.kind == "f" else data
    deepest = _DEEPEST[suffix]
    if whole.min() < 0 or whole.max() > deepest:
        reason = f"it holds values from {low:g} to {high:g}, and a {suffix} picture 0 to {deepest}"
    elif data.dtype.kind == "f" and high - low < _LEVELS and (whole != data).any():
        reason = f"its fractions, {low:g} to {high:g}, would be lost in the whole numbers of a {suffix} picture"
    else:
        return whole.astype(np.uint8 if whole.max() <= 255 else np.uint16)
    if suffix in _TIFF and np.array_equal(data.astype(np.float32), data):
        return data.astype(np.float32)
    raise InputError(f"{path}: {reason}. {_INSTEAD}{', or .tif' if suffix not in _TIFF else ''}.")
