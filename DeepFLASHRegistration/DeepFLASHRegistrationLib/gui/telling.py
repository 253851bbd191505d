# SPDX-License-Identifier: Apache-2.0
"""What went wrong is told in a dialog, once."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import slicer


@contextmanager
def told(what: str) -> Iterator[None]:
    """An error ends what is done here, and is told. (tryWithErrorDisplay of Slicer raises it again, into Qt.)"""
    try:
        yield
    except Exception as error:
        slicer.util.errorDisplay(f"{what}\n\n{error}", detailedText=traceback.format_exc())
