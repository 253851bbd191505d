# SPDX-License-Identifier: Apache-2.0
"""Packs: images and labels of many subjects on one grid, 8 bit, in one .npz that numpy alone reads.

Each subject lies in its own pose, in the middle of the grid; its affine takes voxels of a common reference, on the same
grid, to its voxels, so that two subjects are aligned by way of it. Images are stored as differences along the last
axis, modulo 256, which compress better; labels as codes, which a table translates.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..imaging.grid import Grid
from ..imaging.intensities import background_value
from ..imaging.volume import Volume
from ..support.errors import InputError

VERSION = 1
# From this code on labels are no structures that pairs are judged by, but may be painted.
FIRST_OUTSIDE = 200


@dataclass(frozen=True, eq=False)
class Pack:
    """Subjects on one grid.

    Attributes:
        name: of the set.
        names: of the subjects.
        images: uint8 (n, *shape), or None: label maps alone.
        labels: uint8 codes (n, *shape), or None; 0 is background, those from FIRST_OUTSIDE on lie outside what is
            registered (a head around its brain).
        affines: float64 (n, d+1, d+1), voxels of the reference -> voxels of the subject.
        spacing_mm: of the grid.
        unseen: subjects that are never trained on, as indices.
        label_values: what each code was before.
        alike: for each code, the one whose look it shares when painted (left and right).
        facts: license, attribution and what else a model's card says.
    """

    name: str
    names: tuple[str, ...]
    images: np.ndarray | None
    labels: np.ndarray | None
    affines: np.ndarray
    spacing_mm: float
    unseen: tuple[int, ...] = ()
    label_values: tuple[int, ...] = ()
    alike: tuple[int, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the grid."""
        return (self.labels if self.images is None else self.images).shape[1:]

    @property
    def trained(self) -> tuple[int, ...]:
        """Subjects that may be trained on, as indices."""
        return tuple(i for i in range(len(self)) if i not in self.unseen)

    def part(self, indices: Sequence[int]) -> Pack:
        """Some of the subjects, in this order."""
        indices = list(indices)
        return Pack(
            self.name,
            tuple(self.names[i] for i in indices),
            None if self.images is None else self.images[indices],
            None if self.labels is None else self.labels[indices],
            self.affines[indices],
            self.spacing_mm,
            tuple(k for k, i in enumerate(indices) if i in self.unseen),
            self.label_values,
            self.alike,
            self.facts,
        )


def packed(pack: Pack) -> bytes:
    """The file of a pack."""
    about = {
        "version": VERSION,
        "name": pack.name,
        "names": pack.names,
        "spacing_mm": pack.spacing_mm,
        "unseen": pack.unseen,
        "label_values": pack.label_values,
        "alike": pack.alike,
        "facts": pack.facts,
    }
    arrays = {"about": np.frombuffer(json.dumps(about).encode(), np.uint8), "affines": pack.affines}
    if pack.images is not None:
        arrays["image_differences"] = np.diff(pack.images, axis=-1, prepend=np.uint8(0))
    if pack.labels is not None:
        arrays["labels"] = pack.labels
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def read_pack(path: str | Path) -> Pack:
    """A pack from its file.

    Raises:
        InputError: there is none, it is damaged, or of another version.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(file["about"].tobytes())
            if about["version"] != VERSION:
                raise InputError(
                    f"{path}: is a pack of version {about['version']}; this program reads version {VERSION}. "
                    "Pack the data again."
                )
            images = None
            if "image_differences" in file.files:
                images = np.cumsum(file["image_differences"], axis=-1, dtype=np.uint8)
            labels = file["labels"] if "labels" in file.files else None
            affines = file["affines"]
        pack = Pack(
            about["name"],
            tuple(about["names"]),
            images,
            labels,
            affines,
            float(about["spacing_mm"]),
            tuple(about["unseen"]),
            tuple(about["label_values"]),
            tuple(about.get("alike", ())),
            about["facts"],
        )
        _check(pack)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}). Check the path.") from error
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zipfile.zlib.error) as error:
        raise InputError(f"{path}: is damaged, or no pack ({error}). Copy it again, or pack the data again.") from error
    return pack


def _check(pack: Pack) -> None:
    n, arrays = len(pack.names), [a for a in (pack.images, pack.labels) if a is not None]
    if not arrays or any(a.dtype != np.uint8 or a.ndim not in (3, 4) or len(a) != n for a in arrays):
        raise ValueError("its arrays do not fit its subjects")
    if len({a.shape for a in arrays}) > 1:
        raise ValueError("images and labels differ in shape")
    d = arrays[0].ndim - 1
    if pack.affines.shape != (n, d + 1, d + 1) or not np.isfinite(pack.affines).all():
        raise ValueError("its affines do not fit its subjects")
    if not np.isfinite(pack.spacing_mm) or pack.spacing_mm <= 0:
        raise ValueError(f"its voxels have a size of {pack.spacing_mm} mm")
    if any(type(i) is not int or not 0 <= i < n for i in pack.unseen):
        raise ValueError("it keeps subjects aside that it does not hold")
    if any(type(c) is not int or not 0 <= c < 256 for c in pack.alike) or len(pack.alike) > 256:
        raise ValueError("its labels look like labels that there are none of")
    if not isinstance(pack.facts, dict) or not all(isinstance(v, str) for v in pack.facts.values()):
        raise ValueError("its facts are no texts")


def grid_of(pack: Pack) -> Grid:
    """Where the voxels of a pack may be thought to lie: along z, y, x."""
    d = len(pack.shape)
    affine = np.eye(d + 1)
    affine[:d, :d] = pack.spacing_mm * np.eye(d)[::-1]
    return Grid(pack.shape, affine)


def image_of(pack: Pack, subject: int) -> Volume:
    """A subject's image without what the pack has put around it: images that were cut out of a scan end where they were
    cut, which is no edge of theirs."""
    data, grid = pack.images[subject], grid_of(pack)
    first, last = _shown(data)
    part = data[tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))]
    return Volume(grid.padded(-first, last + 1 - data.shape), part.astype(np.float32), pack.names[subject])


def known_part(pack: Pack, subject: int) -> np.ndarray | None:
    """First and last voxel (2, d) of a subject's image that was cut out of a scan and shows nothing of what goes on
    beyond; None of one that background surrounds, which goes on for ever."""
    return None if background_value(image_of(pack, subject)) is not None else _shown(pack.images[subject])


def _shown(data: np.ndarray) -> np.ndarray:
    """First and last voxel along each axis of what the pack has not put there itself, (2, d); all if nothing is."""
    at = np.argwhere(data != data.flat[0])
    return np.stack([at.min(0), at.max(0)] if len(at) else [np.zeros(data.ndim, int), np.array(data.shape) - 1])
