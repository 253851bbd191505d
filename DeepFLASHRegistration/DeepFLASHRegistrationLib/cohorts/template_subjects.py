# SPDX-License-Identifier: Apache-2.0
"""What is known of a template's subjects before any is registered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..imaging.grid import Grid
from ..imaging.segmentation import is_segmentation, numbering, read_segmentation
from ..problem.parameters import Parameters
from ..problem.subject import check_channel_count
from ..support.errors import InputError
from ..training.dataset import SubjectFiles


@dataclass
class Known:
    """What is known of a subject from its voxels: its grid, the box around what it shows, and whether that is all of
    its object."""

    grid: Grid
    corners: np.ndarray
    whole: bool

    @property
    def voxel_mm(self) -> float:
        """Edge of a cube as large as its voxels."""
        return float(self.grid.voxel_volume ** (1 / self.grid.ndim))

    @property
    def size(self) -> float:
        """Of the box, in mm³ (mm² of a slice)."""
        return float(np.prod(self.corners.max(0) - self.corners.min(0)))


def channel_count(path: Path, subjects: Mapping[str, SubjectFiles], parameters: Parameters) -> int:
    """How many further images each has.

    Raises:
        InputError: some have more than others, or something is set for more or fewer, or the method looks at none.
    """
    (first, files), *rest = subjects.items()
    count = len(files.channels)
    for name, other in rest:
        if len(other.channels) != count:
            raise InputError(
                f"{path}: {name} has {len(other.channels)} further images, {first} {count}. Give all subjects as many, "
                "in the same order."
            )
    check_channel_count(count, parameters)
    return count


def named_structures(subjects: Iterable[SubjectFiles]) -> dict[int, str]:
    """Names of labels by number, where they come from segmentations: labels are voted for by their numbers.

    Raises:
        InputError: the same number has different names, or the same name different numbers or segments.
    """
    names: dict[int, tuple[str, Path]] = {}
    numbers: dict[str, tuple[int, Path]] = {}
    for files in subjects:
        if files.labels is None or not is_segmentation(files.labels):
            continue
        segmentation = read_segmentation(files.labels)
        called = [segment.name for segment in segmentation.segments]
        twice = [name for name in called if called.count(name) > 1]
        if twice:
            raise InputError(f"{files.labels}: has {twice.count(twice[0])} segments {twice[0]}. Rename all but one.")
        for name, number in numbering(segmentation).items():
            for known, key, value in ((names, number, name), (numbers, name, number)):
                other, where = known.setdefault(key, (value, files.labels))
                if other != value:
                    raise InputError(
                        f"{files.labels}: segment {name} has the number {number}, but in {where} {key} stands for "
                        f"{other}. Number the segments of all subjects alike, or export label maps of one table."
                    )
    return {number: name for number, (name, _) in names.items()}
