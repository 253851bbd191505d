# SPDX-License-Identifier: Apache-2.0
"""What a registration from files needs, compared with what there is before it begins: memory, and room on the disk."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..problem.parameters import Parameters
from ..support import memory
from ..support.errors import InputError
from .outputs import check_space, megabytes, waiting_bytes, written_bytes

if TYPE_CHECKING:
    from ..imaging.volume import Volume
    from ..problem.subject import Subject


class TooLittleMemory(InputError):
    """The memory that is free does not suffice; more may be later."""


@dataclass(frozen=True)
class Needs:
    """How many bytes will be written at most, that in words, and what a user should know before it begins."""

    disk: int
    message: str
    notes: tuple[str, ...] = ()


def check_needs(
    folder: str | os.PathLike,
    files: Collection[str],
    sides: tuple[Subject, Subject],
    parameters: Parameters,
    affine: np.ndarray | None,
    device: str,
    free: int | None,
) -> Needs:
    """Compares what a registration needs with what there is.

    Args:
        folder: in which, or in whose place, is written.
        files: names of those to write.
        sides: the fixed and the moving subject.
        parameters: as the user gave them.
        affine: the initial transform, if there is one.
        device: to compute on, or "auto".
        free: bytes of memory before anything was read; None if nobody knows.

    Raises:
        TooLittleMemory, InputError: the memory or the disk does not suffice.
    """
    notes = _check_memory(sides, parameters, device, free)
    what = files, sides[0].grid, parameters, affine
    size = written_bytes(*what)
    check_space(folder, size + waiting_bytes(*what))
    return Needs(size, f"Up to {megabytes(size)} will be written", notes)


def _check_memory(
    sides: tuple[Subject, Subject], parameters: Parameters, device: str, free: int | None
) -> tuple[str, ...]:
    """A note, if memory is short; InputError if it cannot suffice."""
    from ..methods.stages import stages
    from ..registration.needs import fitting_spacing, sizes
    from ..support.torch_device import free_device_bytes, require_torch, resolve_device

    require_torch()
    device = resolve_device(device)
    shown = _shown(sides[0])
    if free is None or not shown.data.any():  # then register() says what is wrong
        return ()
    what = sides[0].grid, sides[1].grid, shown
    labels = tuple(sum(each.data.size for each in side.labels) for side in sides)
    effective = stages(parameters)
    found = sizes(*what, effective, labels, len(sides[0].images) - 1)
    host, on_device = memory.needed_bytes(found, device)
    need = memory.Need(host, free, on_device, free_device_bytes(device))
    if need.fits:
        return ()
    helps = ["close other programs"]
    spacing = fitting_spacing(*what, effective, need, device, labels, len(sides[0].images) - 1)
    if spacing is not None:
        helps.append(f"choose a larger working voxel (--spacing-mm {spacing:g} fits)")
    else:
        helps.append("crop the images, or resample the fixed one to larger voxels")
    if on_device and memory.Need(memory.needed_bytes(found)[0], free).fits:
        helps.append("compute on the CPU (--device cpu)")
    text = f"{need}. What helps: {'; '.join(helps)}."
    if need.hopeless:
        raise TooLittleMemory(text)
    return (text,)


def _shown(fixed: Subject) -> Volume:
    """What the working grid must cover: the fixed object, or the mask drawn on it."""
    from ..imaging.intensities import foreground

    return fixed.mask or fixed.image.with_data(foreground(fixed.image).astype(np.uint8))
