# SPDX-License-Identifier: Apache-2.0
"""The mean image of a training set: what its images show on average, aligned to each other; see `methods.pose`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..alignment.affine import align
from ..imaging.grid import Grid
from ..imaging.intensities import background_value, foreground, normalize
from ..imaging.size import scale
from ..imaging.volume import Volume
from ..methods.pose import VOXEL_MM, MeanImage, coarse, pose
from ..problem.resampling import linear

_MOST = 40  # images, evenly from all
_ROUNDS = 3
_SPACE = 2  # voxels around the largest object
_SHOWN = 0.5  # part of the images that must show a voxel
_UNSEEN = -1.0  # no value of a scaled image


def mean_image(images: Sequence[Volume], cancelled: Callable[[], bool] | None = None) -> MeanImage:
    """The mean of images of one kind of object, in the mean of the orientations and sizes that their headers state.

    Args:
        images: at least one, on any grids, in any units; not much more than forty of them are looked at.
        cancelled: asked between images; once true, what there is counts.

    Raises:
        InputError: an image is empty.
    """
    chosen = [
        images[i] for i in np.unique(np.linspace(0, len(images) - 1, min(len(images), _MOST)).round().astype(int))
    ]
    voxel = VOXEL_MM * float(np.median([scale(each.grid, foreground(each)) for each in chosen]))
    small = [normalize(coarse(each, voxel)) for each in chosen]
    # Beyond a stripped image there is background; beyond others, nothing is known.
    outside = [_UNSEEN if background_value(each) is None else 0.0 for each in small]
    extent = np.max([each.grid.extent for each in small], 0)
    like, grid, known = small[0], _grid(extent, voxel), None
    for number in range(_ROUNDS):
        if cancelled is not None and cancelled() and number:
            break
        mask = None if known is None or known.all() else Volume(grid, known.astype(np.uint8))
        ways = [align(like, each, "affine", masks=(mask, None)).matrix for each in small]
        ways = _centered(ways, _middle(like) if not number else np.zeros(len(extent)))
        values = np.stack([linear(each, grid, way, rest) for each, way, rest in zip(small, ways, outside, strict=True)])
        shown = values > _UNSEEN / 2
        known = shown.mean(0) >= _SHOWN
        mean = np.where(shown, values, 0).sum(0) / np.maximum(shown.sum(0), 1)
        like = Volume(grid, np.where(known, mean, 0).astype(np.float32), "mean")
    at = np.argwhere(known)
    part = tuple(slice(a, b + 1) for a, b in zip(at.min(0), at.max(0), strict=True))
    grid = grid.padded(-at.min(0), at.max(0) + 1 - np.array(grid.shape))
    found = MeanImage.of(like.data[part], known[part], grid)
    return found.measured([pose(each, found) for each in chosen])


def _grid(extent: np.ndarray, voxel: float) -> Grid:
    """Along the axes of space, its middle at 0, around what is so large (mm, upright)."""
    shape = np.ceil(extent / voxel).astype(int) + 2 * _SPACE
    d = len(shape)
    affine = np.eye(d + 1)
    affine[:d, :d] = voxel * np.eye(d)[::-1]
    affine[:d, d] = -affine[:d, :d] @ ((shape - 1) / 2)
    return Grid(tuple(int(n) for n in shape), affine)


def _middle(image: Volume) -> np.ndarray:
    """Center of the object's box, LPS mm."""
    at = np.argwhere(foreground(image))
    return image.grid.index_to_physical((at.min(0) + at.max(0)) / 2)


def _centered(ways: Sequence[np.ndarray], middle: np.ndarray) -> list[np.ndarray]:
    """Maps from around ``middle`` to images, from a space in which their mean neither turns nor scales."""
    d = len(middle)
    move = np.eye(d + 1)
    move[:d, d] = middle
    turn = np.eye(d + 1)
    turn[:d, :d] = np.linalg.inv(np.mean([way[:d, :d] for way in ways], 0))
    return [way @ move @ turn for way in ways]
