# SPDX-License-Identifier: Apache-2.0
"""A subject from files."""

from __future__ import annotations

import os

from .subject import Subject


def read_subject(
    image: str | os.PathLike,
    labels: str | os.PathLike | None = None,
    mask: str | os.PathLike | None = None,
    points: str | os.PathLike | None = None,
    name: str = "",
    numbers: dict[str, int] | None = None,
) -> Subject:
    """Reads an image file or a DICOM folder, and what belongs to it where there is any.

    ``numbers``: of segments by name, shared by both sides (see imaging.segmentation.label_map).

    Raises:
        InputError: a file is missing, damaged, or of the wrong kind.
    """
    from ..imaging.io import read_labels, read_mask, read_volume
    from ..imaging.points import read_landmarks

    volume = read_volume(image)
    return Subject(
        volume,
        None if labels is None else read_labels(labels, numbers),
        None if mask is None else read_mask(mask),
        None if points is None else read_landmarks(points),
        name,
    )
