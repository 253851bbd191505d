# SPDX-License-Identifier: Apache-2.0
"""A DICOM image as other objects refer to it: its instances, their study and patient, and their frame of reference."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...support.errors import InputError
from ..files import is_folder
from ..grid import Grid
from .objects import read_object
from .reading import stacks_in, stacks_of_file
from .sampling import Sampling, sampling_of

if TYPE_CHECKING:
    from pydicom import Dataset


@dataclass(frozen=True, eq=False)
class Series:
    """The image of a folder, as `open_folder` chooses it.

    Attributes:
        path: the folder, or a file of the series.
        sampling: how its slices make a volume.
        instances: the headers of its files in the order of the slices, without voxels.
    """

    path: Path
    sampling: Sampling
    instances: tuple[Dataset, ...]

    @property
    def grid(self) -> Grid:
        """Where the voxels of its volume lie; of one slice not flattened."""
        return self.sampling.grid

    @property
    def header(self) -> Dataset:
        """What its first file says, of the patient and the study for example."""
        return self.instances[0]

    @property
    def frame_of_reference(self) -> str:
        """The UID."""
        return str(self.header.FrameOfReferenceUID)


def read_series(path: str | os.PathLike) -> Series:
    """The headers of the one DICOM image in a folder, or of that which a file belongs to.

    Raises:
        InputError: none or several images, several volumes, damaged, without a frame of reference or of several, or
            pydicom is missing.
    """
    path = Path(path)
    found = stacks_in(path) if is_folder(path) else stacks_of_file(path)
    if found is None:
        raise InputError(f"{path}: is no DICOM image, to which DICOM objects refer. Pass the folder of its slices.")
    stacks, _, _ = found
    if len(stacks) > 1:
        raise InputError(
            f"{path}: holds {len(stacks)} volumes in one series (echoes, points in time). Put the files of one of them "
            "into a folder of their own and pass that."
        )
    sampling = sampling_of(stacks[0], str(path))
    headers = tuple(read_object(file, voxels=False) for file in stacks[0].files)
    try:
        _check(path, headers)
    except (NotImplementedError, OSError) as error:  # pydicom looks at values when they are asked for
        raise InputError(f"{path}: its headers are damaged ({error}). Copy or export it again.") from error
    return Series(path, sampling, headers)


def _check(path: Path, headers: Sequence[Dataset]) -> None:
    """InputError unless they say by what to refer to them, and lie in one frame of reference."""
    for name in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        if not all(header.get(name) for header in headers):
            raise InputError(f"{path}: has no {name}, by which DICOM objects refer to an image. Export it again.")
    frames = {str(header.get("FrameOfReferenceUID") or "") for header in headers}
    if "" in frames:
        raise InputError(
            f"{path}: names no frame of reference (0020,0052), which a registration in DICOM relates to another. "
            "Export the series again from the scanner or the archive, without removing its UIDs; or use the files of "
            "the result (NIfTI), which need none."
        )
    if len(frames) > 1:
        raise InputError(
            f"{path}: its slices lie in {len(frames)} frames of reference ({', '.join(sorted(frames))}), so that "
            "nothing says how they lie to each other. Put the files of one of them into a folder of their own and "
            "pass that."
        )
