# SPDX-License-Identifier: Apache-2.0
"""An image file that was opened: what every format gives, before the voxels are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...support.memory import check_free
from ..grid import Grid

_TAKEN = 4  # bytes of a voxel in what is made of it, 32-bit floating-point numbers or labels


@dataclass(frozen=True, eq=False)
class StoredImage:
    """What an image file holds.

    Attributes:
        path: the file or folder.
        grid: where the voxels lie, of two or three axes; a single slice is not yet flattened.
        count: how many volumes there are: points in time, directions of diffusion, components of a vector.
        read: what `volumes` calls, once there is memory for it.
        channels: 1; 3 or 4 of a picture in color (red, green, blue, opacity); 2 of a gray one with opacity.
        vectors: the volumes are the components of one vector per voxel.
        seconds: from one volume to the next, where they are points in time; 0 if that is unknown.
        interpolated: values lie between those of the file, as labels must not.
        outside: what lies beyond it, where that is known: no dose beyond that of a plan.
        names: what tells its volumes apart, where that is known; one for each, or none.
        bytes_of: of a value as it is read.
        at_once: how many volumes are read together.
        notes: what was guessed or changed, one sentence each, without the file's name.
    """

    path: Path
    grid: Grid
    count: int
    read: Callable[[int, int], Iterator[np.ndarray]]
    channels: int = 1
    vectors: bool = False
    seconds: float = 0.0
    interpolated: bool = False
    outside: float | None = None
    names: list[str] = field(default_factory=list)
    bytes_of: int = 4
    at_once: int = 1
    notes: list[str] = field(default_factory=list)

    def volumes(self, first: int, stop: int) -> Iterator[np.ndarray]:
        """The volumes from first to before stop, one after the other: (*grid.shape), or (*grid.shape, channels).

        Raises:
            InputError: one of them is larger than the memory; while they come, the file is damaged.
        """
        check_free(self.path, self.grid.size * self.channels * (self.bytes_of * self.at_once + _TAKEN))
        return self.read(first, stop)
