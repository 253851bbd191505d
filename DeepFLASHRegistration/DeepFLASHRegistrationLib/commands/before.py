# SPDX-License-Identifier: Apache-2.0
"""What `deepflash register` says and refuses before it begins: memory that does not suffice, and how much it writes."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..problem.parameters import Parameters
from ..support import memory
from ..support.errors import InputError

if TYPE_CHECKING:
    from ..imaging.volume import Volume
    from ..problem.subject import Subject

# Nobody minds less on a disk.
_WORTH_SAYING = 10_000_000


@dataclass(frozen=True)
class Needs:
    """How many bytes will be written at most, that in words, and what a user should know before it begins."""

    disk: int
    message: str
    notes: tuple[str, ...] = ()


def check_needs(
    options: argparse.Namespace,
    files: Collection[str],
    sides: tuple[Subject, Subject],
    parameters: Parameters,
    affine: np.ndarray | None,
    free: int | None,
) -> Needs:
    """Compares what a registration needs with what there is, and says on standard error how much will be written.

    Args:
        options: of the command.
        files: names of those to write.
        sides: the fixed and the moving subject.
        parameters: as the user gave them.
        affine: the initial transform, if there is one.
        free: bytes of memory before anything was read; None if nobody knows.

    Raises:
        InputError: the memory or the disk does not suffice.
    """
    from ..results.outputs import check_space, megabytes, written_bytes

    notes = _check_memory(sides, parameters, options.device, free)
    size = written_bytes(files, sides[0].grid, parameters, affine)
    check_space(options.output, size)
    message = f"Up to {megabytes(size)} will be written"
    if size >= _WORTH_SAYING and not options.json_progress:
        _say(f"{message} to {options.output} (--outputs chooses less).")
    return Needs(size, message, notes)


def _check_memory(
    sides: tuple[Subject, Subject], parameters: Parameters, device: str, free: int | None
) -> tuple[str, ...]:
    """A note, if memory is short; InputError if it cannot suffice."""
    from ..methods.trained_models import stages
    from ..registration.needs import fitting_spacing, sizes
    from ..support.torch_device import free_device_bytes, require_torch, resolve_device

    require_torch()
    device = resolve_device(device)
    shown = _shown(sides[0])
    if free is None or not shown.data.any():  # then register() says what is wrong
        return ()
    what = sides[0].grid, sides[1].grid, shown
    effective = stages(parameters)
    found = sizes(*what, effective)
    host, on_device = memory.needed_bytes(found, device)
    need = memory.Need(host, free, on_device, free_device_bytes(device))
    if need.fits:
        return ()
    helps = ["close other programs"]
    spacing = fitting_spacing(*what, effective, need, device)
    if spacing is not None:
        helps.append(f"choose a larger working voxel (--spacing-mm {spacing:g} fits)")
    else:
        helps.append("crop the images, or resample the fixed one to larger voxels")
    if on_device and memory.Need(memory.needed_bytes(found)[0], free).fits:
        helps.append("compute on the CPU (--device cpu)")
    text = f"{need}. What helps: {'; '.join(helps)}."
    if need.hopeless:
        raise InputError(text)
    return (text,)


def _shown(fixed: Subject) -> Volume:
    """What the working grid must cover: the fixed object, or the mask drawn on it."""
    from ..imaging.intensities import foreground

    return fixed.mask or fixed.image.with_data(foreground(fixed.image).astype(np.uint8))


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr)
