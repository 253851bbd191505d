# SPDX-License-Identifier: Apache-2.0
"""A series: volumes on one grid, one after the other in time, of one file or of several in order."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..support.errors import InputError
from .grid import Grid
from .image_files.nrrd import is_list
from .io import flattened, named, open_image, read_grid, read_volume, selection
from .segmentation import is_segmentation
from .volume import Volume, checked_image


@dataclass(frozen=True)
class Series:
    """Volumes in the order of time.

    Attributes:
        names: of each, as read_volume takes it: 'file[3]', or a file of its own.
        grid: of all of them.
        seconds: from one to the next; 0 where that is unknown.
        file: that holds all of them and nothing else, if one does.
    """

    names: tuple[str, ...]
    grid: Grid
    seconds: float = 0.0
    file: str = ""

    def __len__(self) -> int:
        return len(self.names)

    def volumes(self) -> Iterator[Volume]:
        """All of them as read_volume would read each, one after the other, each file opened once.

        Raises:
            InputError: one cannot be used: damaged, not finite anywhere, or constant.
        """
        for number, volume in enumerate(self._read()):
            yield self._usable(number, volume)

    def _read(self) -> Iterator[Volume]:
        if not self.file:
            yield from map(read_volume, self.names)
            return
        stored = open_image(self.file)
        with named(stored.path):
            volumes = stored.volumes(0, len(self))
            for name, data in zip(self.names, volumes, strict=True):
                yield Volume(self.grid, data.reshape(self.grid.shape), name)

    def _usable(self, number: int, volume: Volume) -> Volume:
        try:
            return checked_image(volume)
        except InputError as error:
            others = [name for each, name in enumerate(self.names) if each != number]
            listed = " ".join(f"'{name}'" for name in others[:2])
            raise InputError(
                f"Item {number} of the series cannot be used: {error} To leave it out, name the others in the order of "
                f"time: {listed} …"
            ) from error

    def mean(self) -> Volume:
        """The mean of all."""
        total = np.zeros(self.grid.shape)
        for volume in self.volumes():
            total += volume.data
        return Volume(self.grid, (total / len(self)).astype(np.float32), "the mean of the series")


def read_series(paths: Sequence[str | os.PathLike]) -> Series:
    """Finds the volumes of a series, and that they lie on one grid; their voxels are read by `Series.volumes`.

    Args:
        paths: a file of several volumes (4-D, or a sequence of Slicer, .seq.nrrd), or several images of one volume in
            the order of time, which may be volumes of a file, 'file[3]'.

    Raises:
        InputError: they are no series: one volume alone, colors or vectors in the place of time, several grids.
    """
    names = [os.fspath(path) for path in paths]
    if len(names) == 1 and not selection(names[0])[1]:
        return _of_file(names[0])
    if len(names) < 2:
        raise InputError(f"{names[0]}: is one volume. Name the whole file, or several volumes in the order of time.")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{twice}: is named twice. Name each item of the series once, in the order of time.")
    grids = [_grid_of(name) for name in names]
    for name, grid in zip(names[1:], grids[1:], strict=True):
        if not grid.same_as(grids[0]):
            raise InputError(
                f"{name}: lies on another grid than {names[0]} ({_described(grid)} instead of {_described(grids[0])}). "
                "The items of a series share one grid: resample it onto that of the others, or register it by itself "
                "(deepflash register)."
            )
    return Series(tuple(names), grids[0])


def _of_file(name: str) -> Series:
    if is_segmentation(name):
        raise InputError(f"{name}: is a segmentation. Pass the images, and what is segmented on one as --labels.")
    stored = open_image(name)
    if stored.channels > 1:
        raise InputError(
            f"{name}: has {stored.channels} color channels per voxel, which are no points in time. Pass images of one "
            "component in the order of time."
        )
    if stored.vectors and not is_list(stored.path):
        raise InputError(
            f"{name}: has {stored.count} components per voxel (vectors), which are no points in time. Pass a 4-D file, "
            "a sequence of 3D Slicer (.seq.nrrd), or several images in the order of time."
        )
    if stored.count < 2:
        raise InputError(
            f"{name}: holds one volume, which is no series. Pass a 4-D file, or several images in the order of time."
        )
    with named(stored.path):
        grid = flattened(stored.path, stored.grid)
    return Series(tuple(f"{name}[{number}]" for number in range(stored.count)), grid, stored.seconds, name)


def _grid_of(name: str) -> Grid:
    """The grid of an image of one volume."""
    path, which = selection(name)
    stored = open_image(path)
    if which == "mean":
        raise InputError(f"{name}: a mean is no point in time. Name its volumes: '{path}[0]', ….")
    if which and int(which) >= stored.count:
        raise InputError(f"{name}: the file holds {stored.count} volumes, counted from 0.")
    if not which and stored.count > 1:
        raise InputError(
            f"{name}: holds {stored.count} volumes, as an item of a series. Name those that belong to it: "
            f"'{path}[0]' to '{path}[{stored.count - 1}]', or this file alone."
        )
    if stored.channels > 1:
        raise InputError(f"{name}: is in color. Pass images of one component.")
    return read_grid(path)


def _described(grid: Grid) -> str:
    return f"{' x '.join(map(str, grid.shape[::-1]))} voxels of {' x '.join(f'{h:.3g}' for h in grid.spacing[::-1])} mm"
