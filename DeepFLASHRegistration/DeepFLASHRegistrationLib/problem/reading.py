# SPDX-License-Identifier: Apache-2.0
"""A subject, or a pair of them, from files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from .subject import Subject

if TYPE_CHECKING:
    from ..imaging.segmentation import Segmentation


def read_subject(
    image: str | os.PathLike,
    labels: str | os.PathLike | Segmentation | None = None,
    mask: str | os.PathLike | None = None,
    points: str | os.PathLike | None = None,
    name: str = "",
    numbers: dict[str, int] | None = None,
    channels: Sequence[str | os.PathLike] = (),
) -> Subject:
    """Reads an image file or a DICOM folder, and what belongs to it where there is any.

    ``channels``: further images. ``labels``: a file, or a segmentation that was read already. ``numbers``: of segments
    by name, shared by both sides (see imaging.segmentation.label_map).

    Raises:
        InputError: a file is missing, damaged, or of the wrong kind.
    """
    from ..imaging.io import read_labels, read_mask, read_volume
    from ..imaging.points import read_landmarks
    from ..imaging.segmentation import Segmentation, label_map
    from ..imaging.volume import checked_labels

    volumes = tuple(map(read_volume, (image, *channels)))
    if isinstance(labels, Segmentation):
        found = checked_labels(label_map(labels, numbers))
    else:
        found = None if labels is None else read_labels(labels, numbers)
    return Subject(
        volumes,
        found,
        None if mask is None else read_mask(mask),
        None if points is None else read_landmarks(points),
        name,
    )


# Fields of PairFiles that hold several files.
SEVERAL = ("fixed_channels", "moving_channels")


@dataclass(frozen=True)
class PairFiles:
    """A pair as files: the images (or DICOM folders), what belongs to each where there is any, a transform from the
    fixed to the moving image where one is known, and further images of both."""

    fixed: str
    moving: str
    fixed_labels: str | None = None
    moving_labels: str | None = None
    fixed_mask: str | None = None
    moving_mask: str | None = None
    fixed_points: str | None = None
    moving_points: str | None = None
    transform: str | None = None
    fixed_channels: tuple[str, ...] = ()
    moving_channels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in SEVERAL:
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def every(self) -> dict[str, str]:
        """All files that there are, by field; of further ones of a field its number, from 2, is in the name."""
        found = {}
        for name, value in vars(self).items():
            files = value if name in SEVERAL else () if value is None else (value,)
            found |= {name if not i else f"{name} {i + 1}": file for i, file in enumerate(files)}
        return found

    @property
    def segmented(self) -> bool:
        """Whether the moving labels are a segmentation of Slicer."""
        from ..imaging.segmentation import is_segmentation

        return self.moving_labels is not None and is_segmentation(self.moving_labels)

    def read(self) -> Pair:
        """The volumes.

        Raises:
            InputError: a file is missing, damaged, or of the wrong kind.
        """
        from ..imaging.segmentation import is_segmentation, read_segmentation

        # Segments of the same name are the same label on both sides; label maps have but their numbers.
        named = [is_segmentation(each) for each in (self.fixed_labels, self.moving_labels) if each is not None]
        numbers: dict[str, int] | None = {} if named and all(named) else None
        belonging = (self.fixed_labels, self.fixed_mask, self.fixed_points)
        fixed = read_subject(self.fixed, *belonging, numbers=numbers, channels=self.fixed_channels)
        segmentation = read_segmentation(self.moving_labels) if self.segmented else None
        belonging = (segmentation or self.moving_labels, self.moving_mask, self.moving_points)
        moving = read_subject(self.moving, *belonging, numbers=numbers, channels=self.moving_channels)
        return Pair(fixed, moving, segmentation)


class Pair(NamedTuple):
    """What was read of a pair; ``segmentation`` is the moving one, if its labels are one."""

    fixed: Subject
    moving: Subject
    segmentation: Segmentation | None
