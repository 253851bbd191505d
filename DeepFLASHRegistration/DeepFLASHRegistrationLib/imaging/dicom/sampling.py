# SPDX-License-Identifier: Apache-2.0
"""A stack of slices as a volume on an orthogonal, regular grid, interpolated only where the stack is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...support.errors import InputError
from ..grid import Grid
from .pixels import slice_values
from .slices import Slice
from .stacks import Stack

_EVEN = 0.02  # of a step, what rounding of positions may take
_WIDEST_GAP = 5.5  # steps: four slices missing in a row are filled, more are not
_FRAME_OF_REFERENCE = 0x00200052
_SAME_LINE = 0.5  # voxels in the plane: slices shifted less than this are taken to lie above each other


@dataclass(frozen=True, eq=False)
class Sampling:
    """Where the voxels of a stack's volume lie, and from which slices they come.

    Attributes:
        stack: the slices.
        step: mm between the slices of the volume.
        sources: for each slice of the volume the acquired slice at or below it, and the share of the one above.
        shifts: (n, 2) of each acquired slice, in voxels, where its first voxel lies from the first of the volume.
        shape: (rows, columns) of the volume.
        corner: (2,) in voxels, where the volume's first voxel lies from that of the first acquired slice.
        notes: what is not as it was acquired.
    """

    stack: Stack
    step: float
    sources: tuple[tuple[int, float], ...]
    shifts: np.ndarray
    shape: tuple[int, int]
    corner: np.ndarray
    notes: tuple[str, ...]

    @property
    def interpolated(self) -> bool:
        """Whether values lie between those acquired."""
        return bool(self.shifts.any()) or any(share for _, share in self.sources)

    @cached_property
    def grid(self) -> Grid:
        """The volume's grid; DICOM's (slice, row, column) is the order of arrays."""
        first = self.stack.slices[0]
        affine = np.eye(4)
        affine[:3, 0] = first.normal * self.step
        affine[:3, 1:3] = first.axes * first.spacing
        affine[:3, 3] = (np.zeros(3) if first.position is None else first.position) + affine[:3, 1:3] @ self.corner
        return Grid((len(self.sources), *self.shape), affine, frame_of_reference=self.frame_of_reference)

    @property
    def frame_of_reference(self) -> str:
        """The UID of the slices' frame of reference; "" where they name none, or several."""
        named = _frames_of_reference(self.stack)
        return named.pop() if len(named) == 1 else ""

    def values(self) -> np.ndarray:
        """(*grid.shape) of integers or float32, or (*grid.shape, 3) of colors.

        What no slice covers (the corners of what was sheared) gets the smallest value.

        Raises:
            InputError: a slice is damaged.
        """
        slices = self.stack.slices
        near: dict[int, np.ndarray] = {}

        def acquired(k: int) -> np.ndarray:
            if k not in near:
                for old in [o for o in near if o < k - 1]:
                    del near[old]
                near[k] = self._placed(slice_values(slices[k]), self.shifts[k])
            return near[k]

        values: np.ndarray | None = None
        for at, (below, share) in enumerate(self.sources):
            part = acquired(below)
            if share:
                part = ((1 - share) * part + share * acquired(below + 1)).astype(np.float32)
            if values is None:
                kind = np.float32 if self.interpolated else part.dtype
                values = np.zeros((len(self.sources), *part.shape), kind)
            if not np.can_cast(part.dtype, values.dtype):
                values = values.astype(np.result_type(values.dtype, part.dtype, np.float32))
            values[at] = part
        if self.shifts.any():
            outside = np.isnan(values)
            values[outside] = values[~outside].min()
        return values

    def _placed(self, values: np.ndarray, shift: np.ndarray) -> np.ndarray:
        """A slice shifted in its plane by linear interpolation; NaN where it does not reach."""
        if not self.shifts.any():
            return values
        values = values.astype(np.float32)
        for axis in (0, 1):
            values = np.moveaxis(_shifted(np.moveaxis(values, axis, 0), shift[axis], self.shape[axis]), 0, axis)
        return values


def _shifted(values: np.ndarray, shift: float, length: int) -> np.ndarray:
    """Along the first axis: value i of the result is that at i - shift, NaN outside."""
    at = np.arange(length) - shift
    below = np.clip(np.floor(at), 0, max(len(values) - 2, 0)).astype(int)
    share = np.clip(at - below, 0, 1).reshape(-1, *(1,) * (values.ndim - 1)).astype(np.float32)
    result = values[below] * (1 - share) + values[np.minimum(below + 1, len(values) - 1)] * share
    result[(at < -1e-3) | (at > len(values) - 1 + 1e-3)] = np.nan
    return result


def sampling_of(stack: Stack, name: str) -> Sampling:
    """How a stack becomes a volume.

    Raises:
        InputError: its slices are damaged, lie at the same place, or leave gaps that cannot be filled.
    """
    slices = stack.slices
    check_sound(slices)
    if stack.confused:
        raise InputError(
            f"{name}: {stack.title}: some of its slices lie at the same place, and nothing tells which of them make "
            "one volume. Convert it to NIfTI or NRRD with the program that belongs to the scanner."
        )
    notes = list(dict.fromkeys(note for part in slices for note in part.notes))
    if slices[0].position is None:
        notes.append("the files do not state where the image lies; it was put at the origin")
    heights = stack.heights
    step, sources = _regular(heights, slices, name, notes) if len(slices) > 1 else (slices[0].thickness, ((0, 0.0),))
    frames = _frames_of_reference(stack)
    if len(frames) > 1:
        notes.append(
            f"its slices name {len(frames)} frames of reference, as if the patient had been moved between them; they "
            "were put where their positions say"
        )
    shifts, shape, corner = _aligned(stack, heights, name, notes)
    return Sampling(stack, step, sources, shifts, shape, corner, tuple(notes))


def _frames_of_reference(stack: Stack) -> set[str]:
    return {part.header.text(_FRAME_OF_REFERENCE).strip("\0") for part in stack.slices}


def check_sound(slices: Sequence[Slice]) -> None:
    """InputError if one of the slices is damaged: what it held cannot be made up."""
    for part in slices:
        if part.damage:
            raise InputError(
                f"{part.file}: the DICOM file is damaged: {part.damage}. Copy or export it again, or remove it from "
                "its folder if it is no part of the image."
            )


def _regular(
    heights: np.ndarray, slices: Sequence[Slice], name: str, notes: list[str]
) -> tuple[float, tuple[tuple[int, float], ...]]:
    """The distance of the volume's slices, and where each comes from."""
    steps = np.diff(heights)
    count = len(steps)
    mean = heights[-1] / count
    if np.abs(heights - mean * np.arange(count + 1)).max() <= max(_EVEN * mean, 0.01):
        return mean, tuple((k, 0.0) for k in range(count + 1))
    step = _base_step(steps)
    total = heights[-1] / step
    total = int(np.floor(total + _EVEN))
    widest = int(np.argmax(steps))
    if steps[widest] > _WIDEST_GAP * step or total > 2 * count + 4:
        raise InputError(
            f"{name}: slices are missing, or do not belong together: {steps.min():.4g} to {steps.max():.4g} mm "
            f"apart, and none lies between {slices[widest].file.name} and {slices[widest + 1].file.name}. Export "
            "the series again with all slices, or put the slices of one stack into a folder of their own."
        )
    sources = []
    for k in range(total + 1):
        height = k * step
        below = int(np.clip(np.searchsorted(heights, height, side="right") - 1, 0, count - 1))
        share = float(np.clip((height - heights[below]) / steps[below], 0, 1))
        tolerance = 2 * _EVEN * step / steps[below]
        if share <= tolerance:
            sources.append((below, 0.0))
        elif share >= 1 - tolerance:
            sources.append((below + 1, 0.0))
        else:
            sources.append((below, share))
    missing = sum(1 for _, share in sources if share)
    at = [f"between {slices[k].file.name} and {slices[k + 1].file.name}" for k in np.flatnonzero(steps > 1.5 * step)]
    notes.append(
        f"its slices are not equally spaced ({steps.min():.4g} to {steps.max():.4g} mm apart); {missing} of the "
        f"{len(sources)} slices used, "
        f"{step:.4g} mm apart, were interpolated between their neighbors"
        + (f" (missing {', '.join(at[:3])}{', …' if len(at) > 3 else ''})" if at else "")
    )
    return step, tuple(sources)


def _base_step(steps: np.ndarray) -> float:
    """The step of which all are multiples (slices missing, or two spacings in one scan), else the median."""
    for base in (float(np.median(steps)), float(steps.min())):
        multiples = np.rint(steps / base)
        if multiples.min() >= 1 and np.abs(steps - multiples * base).max() <= 2 * _EVEN * base:
            return float(steps.sum() / multiples.sum())
    return float(np.median(steps))


def _aligned(
    stack: Stack, heights: np.ndarray, name: str, notes: list[str]
) -> tuple[np.ndarray, tuple[int, int], np.ndarray]:
    """How far each slice is shifted in its plane, the size of what holds all, and where that begins."""
    first = stack.slices[0]
    none = np.zeros((len(heights), 2))
    if first.position is None:
        return none, first.shape, np.zeros(2)
    beside = np.array([part.position - first.position for part in stack.slices]) - heights[:, None] * first.normal
    shifts = beside @ first.axes / first.spacing
    if np.ptp(shifts, axis=0).max() <= _SAME_LINE:
        return none, first.shape, np.zeros(2)
    farthest = np.linalg.norm(beside, axis=1).max()
    low, high = np.floor(shifts.min(0) + 1e-3), np.ceil(shifts.max(0) - 1e-3)
    shape = tuple(int(n) for n in np.array(first.shape) + high - low)
    if (high - low > np.array(first.shape)).any():
        raise InputError(
            f"{name}: {stack.title}: its slices do not lie above each other, but up to {farthest:.4g} mm "
            "beside. Put the slices of one stack into a folder of their own."
        )
    constant = np.abs(shifts - np.outer(heights / heights[-1], shifts[-1])).max() <= _SAME_LINE
    angle = np.degrees(np.arctan2(np.linalg.norm(beside[-1]), heights[-1]))
    if constant:
        what = f"tilted by {angle:.3g} degrees against the direction in which they are stacked (gantry tilt)"
    else:
        what = f"shifted against each other by up to {farthest:.4g} mm"
    notes.append(f"its slices are {what}; it was resampled on an orthogonal grid")
    return shifts - low, shape, low
