# SPDX-License-Identifier: Apache-2.0
"""Pairs whose images are moved rigidly, alike or differently, as a method's map should follow exactly."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..imaging.grid import Grid
from ..imaging.intensities import background_value, foreground
from ..imaging.io import write_volume
from ..imaging.volume import Volume
from ..problem.reading import PairFiles
from ..problem.subject import Subject
from ..support.errors import InputError
from .pairs import NamedPair, Pairs
from .variants import check_movable, exchanged

REST, EXCHANGED = "rest", "exchanged"


@dataclass(frozen=True)
class Motion:
    """A translation or a turn.

    Attributes:
        name: in words.
        voxels: of a translation, along each axis of an image.
        mm: of a translation, in all, equally along each axis.
        degrees: of a turn about an image's middle, in 3-D around its slowest axis.
    """

    name: str
    voxels: float = 0.0
    mm: float = 0.0
    degrees: float = 0.0

    def matrix(self, grid: Grid, part: float = 1.0) -> np.ndarray:
        """Points x of an image on this grid go to matrix @ x, (d+1, d+1) LPS mm; ``part`` of the motion, back if it is
        negative."""
        d, result = grid.ndim, np.eye(grid.ndim + 1)
        result[:d, d] = part * grid.direction @ (self.voxels * grid.spacing + self.mm / np.sqrt(d))
        if self.degrees:
            angle = np.radians(part * self.degrees)
            turn = np.eye(d)  # along the array's axes
            turn[-2:, -2:] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
            axes = np.linalg.qr(grid.direction)[0]  # headers are rounded: exactly orthogonal
            result[:d, :d] = axes @ turn @ axes.T
            result[:d, d] += grid.center - result[:d, :d] @ grid.center
        return result


MOTIONS = (
    Motion("4 voxels", voxels=4),
    Motion("10 mm", mm=10),
    Motion("turn by 20°", degrees=20),
)


class Moves(NamedTuple):
    """What moves the points of a fixed and of a moving image, (d+1, d+1) LPS mm each."""

    fixed: np.ndarray
    moving: np.ndarray


@dataclass(frozen=True)
class MovedPair:
    """A pair as it is registered to measure properties.

    Attributes:
        of: its name.
        key: REST, EXCHANGED, or "uu" (moved alike) or "wu" (differently) and the number of the motion.
        pair: its files; its name is that of a folder within one of the key.
        moves: what moved its images.
    """

    of: str
    key: str
    pair: NamedPair
    moves: Moves


def keys() -> dict[str, tuple[str, str]]:
    """By the key of each way to move a pair, its property and the name of the motion."""
    numbered = list(enumerate(MOTIONS))
    alike = {f"uu{n}": ("uu", motion.name) for n, motion in numbered}
    return alike | {f"wu{n}": ("wu", motion.name) for n, motion in numbered}


def moves(grid: Grid) -> dict[str, Moves]:
    """By key what moves both images; ``grid``: the fixed image's, whose axes and middle count for both.

    Moved differently, each image is moved by half of the motion, the moving one back, so that all of it lies between
    them and whole voxels stay whole.
    """
    still = np.eye(grid.ndim + 1)
    found = {REST: Moves(still, still)}
    for number, motion in enumerate(MOTIONS):
        found[f"uu{number}"] = Moves(motion.matrix(grid), motion.matrix(grid))
        found[f"wu{number}"] = Moves(motion.matrix(grid, 0.5), motion.matrix(grid, -0.5))
    return found


def moved_pairs(pairs: Pairs, folder: Path, failed: Callable[[str, str], None]) -> list[MovedPair]:
    """The pairs at rest, moved in every way, and exchanged: as files in a folder, without labels.

    All images of a pair are resampled on one grid each, wide enough for every motion, by cubic splines, or where whole
    voxels meet voxels as they are. Beyond its field of view an image goes on with its background; one without has its
    border's values there, and a mask that leaves them out.

    Args:
        failed: called with a pair's name and what is wrong with its files; it is then left out.

    Raises:
        InputError: a pair comes with its transform, or nothing can be written.
    """
    check_movable(pairs, "moved")
    found = []
    for pair in pairs.rows:
        try:
            sides = [side.checked(name) for side, name in zip(pair.files.read()[:2], ("fixed", "moving"), strict=True)]
        except InputError as error:
            failed(pair.name, str(error))
            continue
        if any(len(side.images) > 1 for side in sides):
            failed(pair.name, "pairs with further images are not moved. Leave out fixed_channels and moving_channels.")
            continue
        ways = moves(sides[0].grid)
        wide = [widened(side, [way[n] for way in ways.values()]) for n, side in enumerate(sides)]
        for key, way in ways.items():
            files: dict[str, str] = {}
            for n, name in enumerate(("fixed", "moving")):
                files |= _written(folder / key / pair.name, name, moved_subject(sides[n], way[n], wide[n]))
            there = replace(pair, name=f"{key}/{pair.name}", files=PairFiles(**files))
            found.append(MovedPair(pair.name, key, there, way))
    other = exchanged(replace(pairs, rows=tuple(each.pair for each in found if each.key == REST))).pairs.rows
    for each, pair in zip([each for each in found if each.key == REST], other, strict=True):
        pair = replace(pair, name=f"{EXCHANGED}/{each.of}")
        found.append(MovedPair(each.of, EXCHANGED, pair, each.moves))
    return found


def widened(subject: Subject, matrices: Iterable[np.ndarray]) -> Grid:
    """The image's grid with as many more voxels on every side as its object needs to stay inside wherever it goes."""
    grid, at = subject.grid, np.argwhere(foreground(subject.image))
    corners = np.array(list(itertools.product(*zip(at.min(0), at.max(0), strict=True))), dtype=np.float64)
    points = grid.index_to_physical(corners)
    d, most = grid.ndim, np.zeros(grid.ndim)
    for matrix in matrices:
        there = grid.physical_to_index(points @ matrix[:d, :d].T + matrix[:d, d])
        most = np.maximum(most, np.abs(there - corners).max(0))
    return grid.padded(np.ceil(most - 1e-6).astype(int))


def moved_subject(subject: Subject, matrix: np.ndarray, grid: Grid) -> Subject:
    """A checked subject's image and mask moved, on a grid; labels and landmarks are left out."""
    image, mask = subject.image, subject.mask
    background = background_value(image)
    moved = _resampled(image, matrix, grid, background, 3)
    if background is not None:
        # A spline swings around an edge: what was background is background.
        shown = image.with_data((image.data != background).astype(np.uint8))
        moved = np.where(_resampled(shown, matrix, grid, 0.0, 0), moved, np.float32(background))
    if mask is None and background is None:
        mask = Volume(image.grid, np.ones(image.grid.shape, np.uint8), f"field of view of {image.name}")
    if mask is not None:
        data = _resampled(mask, matrix, grid, 0.0 if background is None else None, 0)
        mask = replace(mask, grid=grid, data=data)
    return replace(subject, images=(replace(image, grid=grid, data=moved),), labels=(), mask=mask, landmarks=None)


def _resampled(volume: Volume, matrix: np.ndarray, grid: Grid, outside: float | None, order: int) -> np.ndarray:
    """A volume moved by a matrix, on a grid, by splines of an order; ``outside``: its value beyond its own grid, by
    default its border's."""
    from scipy.ndimage import affine_transform

    d, data = grid.ndim, volume.data
    to_index = volume.grid.inverse_affine @ np.linalg.inv(matrix) @ grid.affine
    if np.abs(to_index - np.round(to_index)).max() < 1e-6:
        to_index, order = np.round(to_index), 0
    how = {"mode": "nearest"} if outside is None else {"mode": "constant", "cval": outside}
    to = to_index[:d, :d], to_index[:d, d], grid.shape
    if order == 0:
        return affine_transform(data, *to, order=0, **how)
    found = affine_transform(data.astype(np.float64), *to, order=order, **how)
    return found.clip(data.min(), data.max()).astype(data.dtype)


def _written(place: Path, name: str, subject: Subject) -> dict[str, str]:
    """The files of one side of a pair, by column."""
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{place}: cannot be made ({error.strerror}). Choose another folder.") from error
    files = {}
    for key, volume in ((name, subject.image), (f"{name}_mask", subject.mask)):
        if volume is not None:
            files[key] = str((place / f"{key}.nii.gz").absolute())
            write_volume(files[key], volume)
    return files
