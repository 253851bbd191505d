# SPDX-License-Identifier: Apache-2.0
"""Files that are written as a whole, and not at all where the very same lies already."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..imaging.io import write_volume
from ..imaging.volume import Volume


def write_once(path: Path, write: Callable[[Path], Any]) -> None:
    """Has a file written, unless the very same is there already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(6)}.{path.name}")
    try:
        write(temporary)
        if not (path.is_file() and path.read_bytes() == temporary.read_bytes()):
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_image(path: Path, volume: Volume) -> None:
    write_once(path, lambda temporary: write_volume(temporary, volume))
