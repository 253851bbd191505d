# SPDX-License-Identifier: Apache-2.0
"""What went wrong is told, once: in a dialog, or where nobody looks, in the log."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import slicer

from ..process.runner import Run


@contextmanager
def told(what: str) -> Iterator[None]:
    """An error ends what is done here, and is told. (tryWithErrorDisplay of Slicer raises it again, into Qt.)"""
    try:
        yield
    except Exception as error:
        slicer.util.errorDisplay(f"{what}\n\n{error}", detailedText=traceback.format_exc())


def logFailure(run: Run) -> None:
    """Writes why a run failed into the log."""
    if run.state == "failed":
        logging.error("DeepFLASH registration failed: %s", run.error)
