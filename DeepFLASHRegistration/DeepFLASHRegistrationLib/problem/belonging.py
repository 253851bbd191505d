# SPDX-License-Identifier: Apache-2.0
"""Whether labels and masks belong to an image: they lie where it lies, and a mask covers its object."""

from __future__ import annotations

import numpy as np

from ..imaging.grid import Grid
from ..imaging.intensities import foreground, on_border
from ..imaging.volume import Volume
from ..support.errors import InputError

# Parts of an object inside the image's field of view: below the first it belongs elsewhere, below the second perhaps.
_ELSEWHERE, _DOUBTFUL = 0.05, 0.5
# A mask that covers this part of the background (or of the field of view's border, where the object was grown before it
# was inverted) and less than these parts of the object is inverted, or perhaps is.
_OF_BACKGROUND, _INVERTED, _HARDLY = 0.9, 0.2, 0.7
# Corners of two grids of one shape are farther apart than rounding, in voxels.
_NOTABLE = 0.5
# By how much more of the object is met to be no chance.
_CLEARLY = 1.05
# Object voxels that are looked at.
_SAMPLE = 20_000


def part_inside(grid: Grid, volume: Volume) -> float:
    """Which part (0..1) of a volume's object, its voxels that are not 0, lies inside the field of view of a grid."""
    at = np.flatnonzero(volume.data)
    if not len(at):
        return 0.0
    at = at[:: max(1, len(at) // _SAMPLE)]
    points = volume.grid.index_to_physical(np.stack(np.unravel_index(at, volume.grid.shape), -1))
    if volume.grid.plane is not None and grid.plane is not None:
        points = grid.in_plane(volume.grid.lift(points))
    return float(grid.contains(points).mean())


def elsewhere(grid: Grid, volume: Volume, what: str) -> tuple[str, bool]:
    """What is to be said of where a label map or mask lies, '' for nothing, and whether it can hardly belong there.

    Args:
        grid: of the image.
        volume: labels or mask, on any grid.
        what: name of the image.
    """
    part = part_inside(grid, volume)
    if part >= _DOUBTFUL:
        return _other_header(grid, volume, what), False
    return (
        f"{volume.name}: lies outside {what} ({100 * part:.0f} % of its object inside). Check that they belong "
        "together, and whether a program has lost the header (origin, axes) of one of them.",
        part < _ELSEWHERE,
    )


def with_place_checked(volume: Volume, image: Volume) -> Volume:
    """Labels or a mask of an image, with a note if they lie mostly outside of it.

    Raises:
        InputError: they lie elsewhere.
    """
    text, wrong = elsewhere(image.grid, volume, image.name or "the image")
    if wrong:
        raise InputError(text)
    return volume.noted(text) if text and not _stored_otherwise(volume, image) else volume


def _stored_otherwise(volume: Volume, image: Volume) -> bool:
    """Whether a volume of an image's shape and box counts its voxels from other ends, and meets the object by its
    header better than voxel by voxel: then a program stored it so, and has lost nothing."""
    grid = image.grid
    if volume.grid.shape != grid.shape:
        return False
    apart = np.linalg.norm(volume.grid.corners()[:, None] - grid.corners(), axis=-1).min(1).max()
    if apart > _NOTABLE * float(grid.spacing.max()):
        return False
    at = np.argwhere(volume.data)
    at = at[:: max(1, len(at) // _SAMPLE)]
    there = np.rint(grid.physical_to_index(volume.grid.index_to_physical(at))).astype(int)
    there = np.clip(there, 0, np.array(grid.shape) - 1)
    object_ = foreground(image)
    by_header, by_voxel = (np.count_nonzero(object_[tuple(index.T)]) for index in (there, at))
    return bool(by_header > _CLEARLY * by_voxel)


def _other_header(grid: Grid, volume: Volume, what: str) -> str:
    """A word about voxels as many as the image's along each axis that lie elsewhere: most likely they were drawn on it,
    and another program has lost the header."""
    if volume.grid.shape != grid.shape or volume.grid.same_as(grid):
        return ""
    own, others = (
        each.lift(each.corners()) if each.plane is not None else each.corners() for each in (volume.grid, grid)
    )
    if own.shape != others.shape:
        return ""
    apart = float(np.linalg.norm(own - others, axis=1).max())
    if apart <= _NOTABLE * float(grid.spacing.max()):
        return ""
    return (
        f"{volume.name}: has as many voxels as {what} along each axis, but by its header they lie elsewhere (up to "
        f"{apart:.3g} mm, at a corner); the header was followed. If it was drawn on that image, a program has changed "
        "the header of one of them: copy the image's"
    )


def with_sense_checked(mask: Volume, image: Volume) -> Volume:
    """A mask on its image's grid, with a note if it may be inverted.

    Raises:
        InputError: it covers the background instead of the object.
    """
    inside, object_ = mask.data != 0, foreground(image)
    background = object_.size - int(np.count_nonzero(object_))
    covered = np.count_nonzero(inside & ~object_) / background if background else 0.0
    kept = np.count_nonzero(inside & object_) / max(1, int(np.count_nonzero(object_)))
    around = float(np.mean(on_border(inside)))
    if max(covered, around) < _OF_BACKGROUND or kept >= (_HARDLY if covered >= _OF_BACKGROUND else _INVERTED):
        return mask
    text = (
        f"{mask.name}: covers {100 * covered:.0f} % of the background and {100 * kept:.0f} % of the object of "
        f"{image.name or 'the image'}"
    )
    if kept < _INVERTED:
        raise InputError(f"{text}: the mask is inverted. Exchange inside and outside.")
    return mask.noted(f"{text}: is the mask inverted?")
