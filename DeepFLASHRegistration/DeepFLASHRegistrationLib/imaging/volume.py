# SPDX-License-Identifier: Apache-2.0
"""The image: an array on a grid."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..support.errors import InputError
from .grid import Grid, stored, upright

# What nibabel makes of labels that it stores as scaled integers is off by less.
_NEARLY = 0.01
# Labels up to this value are counted through a table as long as the largest label, in portions whose copies stay in
# the processor's cache; beyond, through sorting.
LARGEST_COUNTED_LABEL = 1 << 20
_COUNTED_VOXELS = 24_576


@dataclass(frozen=True, eq=False)
class Volume:
    """An image of one component.

    Attributes:
        grid: where the voxels lie.
        data: array of shape grid.shape; float32 for images, integers for labels and masks.
        name: what messages call it: of a file its path as the user gave it, so that no other has the same.
        notes: what was changed or noticed on the way here, for the report.

    Raises:
        ValueError: if data and grid disagree in shape.
    """

    grid: Grid
    data: np.ndarray
    name: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if tuple(self.data.shape) != self.grid.shape:
            raise ValueError(
                f"{self.name or 'volume'}: the array has shape {tuple(self.data.shape)}, "
                f"its grid {self.grid.shape}. Pass them in the same (slowest first) order."
            )

    @property
    def ndim(self) -> int:
        """Number of axes, 2 or 3."""
        return self.grid.ndim

    @property
    def plane(self) -> np.ndarray | None:
        """The grid's `plane` if this is a single slice of 3-D space, else None."""
        return self.grid.plane

    def upright(self) -> Volume:
        """The same voxels in the one storage in which all computing is done (see grid.upright)."""
        order, backwards = upright(self.grid)
        data = np.flip(self.data.transpose(order), np.flatnonzero(backwards))
        return replace(self, grid=stored(self.grid, order, backwards), data=np.ascontiguousarray(data))

    def thinned(self, most: int) -> Volume:
        """Every n-th voxel along each axis, so that at least `most` are left where there are as many."""
        steps = [max(1, size // most) for size in self.grid.shape]
        thin = np.ascontiguousarray(self.data[tuple(slice(None, None, step) for step in steps)])
        affine = self.grid.affine.copy()
        affine[:-1, :-1] *= steps
        return replace(self, grid=replace(self.grid, shape=thin.shape, affine=affine), data=thin)

    def noted(self, *notes: str) -> Volume:
        """The same volume with notes added."""
        return replace(self, notes=self.notes + notes)

    def with_data(self, data: np.ndarray, *notes: str) -> Volume:
        """The same grid and name with other data, and `notes` added."""
        return replace(self, data=data, notes=self.notes + notes)


def checked_image(volume: Volume) -> Volume:
    """The volume as finite, not constant float32; what read_volume promises of a file.

    Isolated NaN and infinities become the smallest finite value (background), and a note says so.

    Raises:
        InputError: if the data are not real numbers, hold no finite value, or are constant.
    """
    name = volume.name or "image"
    data = volume.data
    if np.iscomplexobj(data) or data.dtype.kind not in "fiub":
        raise InputError(f"{name}: holds {data.dtype} values. Pass one real-valued component, e.g. the magnitude.")
    notes = ()
    finite = None
    if data.dtype.kind == "f":
        with np.errstate(over="ignore"):
            data = data.astype(np.float32, copy=False)
        # The sum is finite only if all are (or it overflowed: then the slow way decides).
        with np.errstate(over="ignore", invalid="ignore"):
            suspicious = not np.isfinite(data.sum(dtype=np.float64))
        if suspicious:
            finite = np.isfinite(data)
    else:
        data = data.astype(np.float32)
    if finite is not None and not finite.all():
        if not finite.any():
            raise InputError(f"{name}: every voxel is NaN or infinite. Export the image again.")
        background = data[finite].min()
        count = int(finite.size - np.count_nonzero(finite))
        data = np.where(finite, data, background)
        notes = (f"{name}: {count} NaN or infinite voxels were replaced by {background:g}",)
    if data.min() == data.max():
        raise InputError(
            f"{name}: every voxel is {data.flat[0]:g}, there is nothing to register. "
            "Check that the right file was exported."
        )
    return volume.with_data(np.ascontiguousarray(data), *notes)


def checked_labels(volume: Volume) -> Volume:
    """The volume as int32 labels; of floats, each within 0.01 of an integer, or NaN, which is no label.

    Raises:
        InputError: if a value is no integer of 32 bits, or every voxel is 0.
    """
    name = volume.name or "labels"
    data = volume.data
    if np.iscomplexobj(data) or data.dtype.kind not in "fiub":
        raise InputError(f"{name}: holds {data.dtype} values. Labels must be integers.")
    notes = ()
    if data.dtype.kind == "f":
        without = np.isnan(data)
        if without.any():
            notes = (f"{name}: {np.count_nonzero(without)} voxels are NaN, and were taken for no label (0)",)
            data = np.where(without, 0, data)
        with np.errstate(invalid="ignore"):
            rounded = np.rint(data)
            off = np.abs(data - rounded)
        wrong = data[~(off <= _NEARLY)]
        if wrong.size:
            raise InputError(
                f"{name}: labels must be integers, but {wrong.size} voxels are not (e.g. {wrong[0]:.6g}). "
                "Pass the label map itself, not one that was resampled with interpolation. If NIfTI stores it with a "
                "scaling (scl_slope), save its integers as integers."
            )
        if off.any():
            notes += (
                f"{name}: {np.count_nonzero(off)} labels were rounded to integers, by up to {off.max():.2g}: they had "
                "been stored with a scaling or as rounded numbers",
            )
        data = rounded
    if data.dtype.kind != "b" and (data.min() < -(2**31) or data.max() >= 2**31):
        raise InputError(f"{name}: labels must fit in 32 bits. Renumber them.")
    data = np.ascontiguousarray(data, dtype=np.int32)
    if not data.any():
        raise InputError(f"{name}: every voxel is 0, there is no label. Check that the right file was exported.")
    return volume.with_data(data, *notes)


def checked_mask(volume: Volume) -> Volume:
    """The volume as a uint8 mask: 1 where it is neither 0 nor NaN.

    Raises:
        InputError: if the mask is empty.
    """
    name = volume.name or "mask"
    if volume.data.dtype.kind not in "fiub":
        raise InputError(f"{name}: holds {volume.data.dtype} values. A mask is 0 outside and 1 inside.")
    inside = volume.data != 0
    if volume.data.dtype.kind == "f":
        inside &= ~np.isnan(volume.data)
    if not inside.any():
        raise InputError(f"{name}: the mask is empty, nothing would be registered. Draw it, or leave it out.")
    return volume.with_data(np.ascontiguousarray(inside, dtype=np.uint8))


def label_values(labels: np.ndarray) -> np.ndarray:
    """The different values of an integer array, ascending, 0 among them: np.unique, several times as fast."""
    flat = labels.reshape(-1)
    low, high = (int(flat.min()), int(flat.max())) if flat.size else (0, -1)
    if low < 0 or high > LARGEST_COUNTED_LABEL:
        return np.unique(flat)
    count, step = np.zeros(high + 1, dtype=np.int64), max(_COUNTED_VOXELS, high + 1)
    for start in range(0, flat.size, step):
        count += np.bincount(flat[start : start + step].astype(np.intp, copy=False), minlength=count.size)
    return np.flatnonzero(count)
