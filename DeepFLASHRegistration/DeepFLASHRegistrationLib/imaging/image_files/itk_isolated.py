# SPDX-License-Identifier: Apache-2.0
"""Image files through ITK in a process of its own: a file that crashes it is only a message."""

from __future__ import annotations

import math
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ...support.errors import InputError
from ...support.isolation import Crashed, isolated, memory_to_read
from ...support.memory import check_free
from ..files import quiet, unreadable
from .wholeness import check_length

_SECONDS, _BYTES_PER_SECOND = 30, 2e6  # many times what a sound file takes


@dataclass(frozen=True)
class ItkImage:
    """What ITK read: the geometry as it has it, so that Grid.from_image takes it, and the values.

    Attributes:
        size, spacing, origin, direction: as SimpleITK gives them.
        components: per voxel.
        reader: SimpleITK's name of what read it.
        warnings: what ITK had to say.
        array: as sitk.GetArrayFromImage gives it.
    """

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]
    components: int
    reader: str
    warnings: list[str]
    array: np.ndarray

    def GetDimension(self) -> int:  # noqa: N802
        """ITK's names, for Grid.from_image."""
        return len(self.size)

    def GetSize(self) -> tuple[int, ...]:  # noqa: N802
        return self.size

    def GetSpacing(self) -> tuple[float, ...]:  # noqa: N802
        return self.spacing

    def GetOrigin(self) -> tuple[float, ...]:  # noqa: N802
        return self.origin

    def GetDirection(self) -> tuple[float, ...]:  # noqa: N802
        return self.direction


def read_isolated(path: Path) -> ItkImage:
    """Reads an image, label map or field of any kind that SimpleITK reads.

    Raises:
        InputError: unreadable, or larger than the memory.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "values.npy"
        try:
            found = isolated(
                "imaging.image_files.itk_isolated:copy_values",
                str(path),
                str(target),
                seconds=_SECONDS + path.stat().st_size / _BYTES_PER_SECOND,
                memory=memory_to_read(path),
            )
        except Crashed as error:
            raise InputError(
                f"{path}: cannot be read ({error}). The file may be damaged: copy or export it again."
            ) from error
        array = np.load(target)
    geometry = (tuple(found[name]) for name in ("size", "spacing", "origin", "direction"))
    return ItkImage(*geometry, found["components"], found["reader"], found["warnings"], array)


def copy_values(source: str, target: str) -> dict[str, Any]:
    """Reads an image, saves its values as .npy and returns its geometry; in a process of its own."""
    path = Path(source)
    reader = sitk.ImageFileReader()
    reader.SetFileName(source)
    try:
        with quiet() as warnings:
            name = reader.GetImageIOFromFileName(source)
            reader.ReadImageInformation()
            check_length(path, name, reader)
            values = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
            check_free(path, 2 * values * pixel_type(reader).itemsize)
            image = reader.Execute()
    except RuntimeError as error:
        raise unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot be read. The file may be damaged: copy or export it again.") from error
    np.save(target, sitk.GetArrayViewFromImage(image), allow_pickle=False)
    return {
        "size": image.GetSize(),
        "spacing": image.GetSpacing(),
        "origin": image.GetOrigin(),
        "direction": image.GetDirection(),
        "components": image.GetNumberOfComponentsPerPixel(),
        "reader": name,
        "warnings": warnings,
    }


def pixel_type(reader: sitk.ImageFileReader) -> np.dtype:
    """The kind of number in a file of which a reader has read the header."""
    name = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    bits = int(re.search(r"(\d+)-bit", name)[1]) if "-bit" in name else 64
    if "complex" in name:
        return np.dtype(f"c{bits // 4}")
    return np.dtype(f"{'f' if 'float' in name else 'u' if 'unsigned' in name else 'i'}{bits // 8}")
