# SPDX-License-Identifier: Apache-2.0
"""An image file that was opened: what every format gives, before the voxels are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from ..grid import Grid


@dataclass(frozen=True, eq=False)
class StoredImage:
    """What an image file holds.

    Attributes:
        grid: where the voxels lie, of two or three axes; a single slice is not yet flattened.
        count: how many volumes there are: points in time, directions of diffusion, components of a vector.
        volumes: given first and stop, the volumes from first to before stop, one after the other: (*grid.shape), or
            (*grid.shape, channels) of colors.
        channels: 1; 3 or 4 of a picture in color (red, green, blue, opacity); 2 of a gray one with opacity.
        vectors: the volumes are the components of one vector per voxel.
        seconds: from one volume to the next, where they are points in time; 0 if that is unknown.
        interpolated: values lie between those of the file, as labels must not.
        names: what tells its volumes apart, where that is known; one for each, or none.
        notes: what was guessed or changed, one sentence each, without the file's name.
    """

    grid: Grid
    count: int
    volumes: Callable[[int, int], Iterator[np.ndarray]]
    channels: int = 1
    vectors: bool = False
    seconds: float = 0.0
    interpolated: bool = False
    names: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
