# SPDX-License-Identifier: Apache-2.0
"""The same pairs seen otherwise, which should change nothing: both images moved, or exchanged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..imaging.io import write_volume
from ..imaging.volume import Volume
from ..problem.reading import PairFiles
from ..problem.subject import Subject
from ..support.errors import InputError
from .pairs import NamedPair, Pairs


@dataclass(frozen=True)
class Variant:
    """Pairs, what they are called, and the folder of their results; the pairs as they are have neither."""

    pairs: Pairs
    title: str = ""
    folder: str = ""


def exchanged(pairs: Pairs) -> Variant:
    """The moving image of each pair as the fixed one; InputError if a pair comes with its transform."""
    check_movable(pairs, "exchanged")

    def other(pair: NamedPair) -> NamedPair:
        sides = {"fixed": "moving", "moving": "fixed"}
        files = {}
        for name, value in vars(pair.files).items():
            side, _, rest = name.partition("_")
            files["_".join(filter(None, (sides.get(side, side), rest)))] = value
        return replace(pair, files=PairFiles(**files))

    return Variant(replace(pairs, rows=tuple(map(other, pairs.rows))), "exchanged", "exchanged")


def moved(pairs: Pairs, by: int, out: Path, failed: Callable[[str, str], None]) -> Variant:
    """Both images of each pair, and what belongs to them but landmarks, moved by as many voxels along each axis: as
    files in `out`.

    Args:
        failed: called with a pair's name and what is wrong with its files; it is then not moved.

    Raises:
        InputError: a pair comes with its transform, or nothing can be written.
    """
    check_movable(pairs, "moved")
    title, folder = f"moved by {by}", f"moved-{by}"
    rows = []
    for pair in pairs.rows:
        place = out / folder / "images" / pair.name
        try:
            sides = pair.files.read()[:2]
            for side in sides:
                side.checked()
        except InputError as error:
            failed(pair.name, str(error))
            continue
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{place}: cannot be made ({error.strerror}). Choose another folder.") from error
        files: dict[str, Any] = {}
        for name, side in zip(("fixed", "moving"), sides, strict=True):
            there = moved_subject(side, by)
            channels = [(place / f"{name}_channel_{n}.nii.gz").absolute() for n in range(1, len(there.images))]
            files[f"{name}_channels"] = tuple(map(str, channels))
            for path, volume in zip(channels, there.images[1:], strict=True):
                write_volume(path, volume)
            for key, volume in ((name, there.image), (f"{name}_labels", there.label_map), (f"{name}_mask", there.mask)):
                if volume is not None:
                    files[key] = str((place / f"{key}.nii.gz").absolute())
                    write_volume(files[key], volume)
        rows.append(replace(pair, files=PairFiles(**files)))
    return Variant(replace(pairs, rows=tuple(rows)), title, folder)


def moved_subject(subject: Subject, by: int) -> Subject:
    """The subject with all it shows moved by so many voxels of its image along each axis; the border's values fill what
    is new, and nothing is lost: the grid grows at its end. Landmarks are left out."""
    own = subject.grid
    step = own.affine[:-1, :-1] @ np.full(own.ndim, float(by))

    def move(volume: Volume, mode: str) -> Volume:
        grid = volume.grid
        if not grid.same_as(own):
            return replace(volume, grid=replace(grid, affine=_translated(grid.affine, step)))
        larger = replace(grid, shape=tuple(n + by for n in grid.shape))
        return replace(volume, grid=larger, data=np.pad(volume.data, (by, 0), mode=mode))

    if by < 1:
        raise ValueError("Images are moved by at least one voxel.")
    return replace(
        subject,
        images=tuple(move(each, "edge") for each in subject.images),
        labels=tuple(move(each, "constant") for each in subject.labels),
        mask=None if subject.mask is None else move(subject.mask, "edge"),
        landmarks=None,
    )


def _translated(affine: np.ndarray, step: np.ndarray) -> np.ndarray:
    moved = np.array(affine, dtype=np.float64)
    moved[:-1, -1] += step
    return moved


def check_movable(pairs: Pairs, what: str) -> None:
    """InputError if a pair comes with its transform, which holds for the images as they are alone."""
    for pair in pairs.rows:
        if pair.files.transform is not None:
            raise InputError(
                f"{pairs.path}, line {pair.line}, column transform: holds for the images as they are, not for images "
                f"that are {what}. Leave the column empty."
            )
