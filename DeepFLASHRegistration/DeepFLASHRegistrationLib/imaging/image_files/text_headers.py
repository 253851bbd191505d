# SPDX-License-Identifier: Apache-2.0
"""What headers in words share (MetaImage, NRRD): whole numbers, the files of the voxels, and what is said of damage."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...support.errors import InputError


def damaged(path: Path, reason: str) -> InputError:
    """What to raise for a header that cannot be right."""
    return InputError(f"{path}: its header is damaged ({reason}). Copy or export it again.")


def integers(path: Path, fields: Mapping[str, str], name: str, count: int) -> list[int]:
    """The whole numbers of a field; InputError unless there are so many, none of them negative."""
    words = fields.get(name, "").split()
    if len(words) != count or not all(re.fullmatch(r"\+?\d{1,18}", word) for word in words):
        raise damaged(path, f"{name} is {fields.get(name, 'missing')[:80]!r}")
    return [int(word) for word in words]


def voxel_files(path: Path, names: Sequence[str], value: str) -> list[Path]:
    """The files that a header names, beside it; InputError if one is missing, or none is named by its `value`."""
    files = [path.parent / name for name in names]
    for file in files:
        if not file.is_file():
            raise InputError(f"{path}: the file of its voxels, {file}, is not there. Copy it beside the header.")
    if not files:
        raise damaged(path, f"the file of its voxels is {value}")
    return files
