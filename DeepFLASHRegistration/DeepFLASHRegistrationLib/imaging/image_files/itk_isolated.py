# SPDX-License-Identifier: Apache-2.0
"""Image files through ITK in a process of its own: a header that crashes it is only a message."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ...support.errors import InputError
from ...support.isolation import Crashed, isolated, memory_to_read
from ..files import quiet, unreadable

_MOST_PACKED = 1100  # gzip packs no more than 1032 to 1


@dataclass(frozen=True)
class ItkImage:
    """What ITK read: the geometry as it has it, so that Grid.from_image takes it, and the values.

    Attributes:
        size, spacing, origin, direction: as SimpleITK gives them.
        components: per voxel.
        array: as sitk.GetArrayFromImage gives it.
    """

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]
    components: int
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
        InputError: unreadable.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "values.npy"
        try:
            found = isolated(
                "imaging.image_files.itk_isolated:copy_values",
                str(path),
                str(target),
                seconds=600,
                memory=memory_to_read(path),
            )
        except Crashed as error:
            raise InputError(
                f"{path}: cannot be read ({error}). The file may be damaged: copy or export it again."
            ) from error
        array = np.load(target)
    return ItkImage(
        *(tuple(found[name]) for name in ("size", "spacing", "origin", "direction")), found["components"], array
    )


def copy_values(source: str, target: str) -> dict[str, Any]:
    """Reads an image, saves its values as .npy and returns its geometry; in a process of its own."""
    path = Path(source)
    reader = sitk.ImageFileReader()
    reader.SetFileName(source)
    try:
        with quiet():
            reader.ReadImageInformation()
            count = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
            if count > _MOST_PACKED * path.stat().st_size + (1 << 20):
                raise InputError(f"{path}: cannot hold the {count} values of its header. Copy it again.")
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
    }
