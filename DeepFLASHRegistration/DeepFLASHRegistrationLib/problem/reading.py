# SPDX-License-Identifier: Apache-2.0
"""A subject from files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

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
) -> Subject:
    """Reads an image file or a DICOM folder, and what belongs to it where there is any.

    ``labels``: a file, or a segmentation that was read already. ``numbers``: of segments by name, shared by both sides
    (see imaging.segmentation.label_map).

    Raises:
        InputError: a file is missing, damaged, or of the wrong kind.
    """
    from ..imaging.io import read_labels, read_mask, read_volume
    from ..imaging.points import read_landmarks
    from ..imaging.segmentation import Segmentation, label_map
    from ..imaging.volume import checked_labels

    volume = read_volume(image)
    if isinstance(labels, Segmentation):
        found = checked_labels(label_map(labels, numbers))
    else:
        found = None if labels is None else read_labels(labels, numbers)
    return Subject(
        volume,
        found,
        None if mask is None else read_mask(mask),
        None if points is None else read_landmarks(points),
        name,
    )
