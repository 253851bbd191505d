# SPDX-License-Identifier: Apache-2.0
"""A job that this process does itself, for all that work in a folder: once, whoever comes first."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..support.errors import Cancelled
from .job import Job
from .ledger import Claim, Done, Failed, Ledger
from .pool import Ended, pauses
from .worker import in_words

# How soon a wish to stop is noticed in waiting.
_ASK_SECONDS = 0.2


def done_here(
    ledger: Ledger,
    job: Job,
    make: Callable[[Path], Any],
    tries: int = 3,
    cancelled: Callable[[], bool] = lambda: False,
) -> Ended:
    """Does a job in this process, or waits while another process, here or on another computer, is at it.

    Args:
        job: its task and arguments do not matter.
        make: makes the folder that it is given, fills it, and returns what the job gives.
        tries: of the job at most.
        cancelled: asked while another process is at it.

    Raises:
        InputError: its place is taken.
        Cancelled: by ``make``, as KeyboardInterrupt; what it worked on does not count as tried. Or in waiting.
    """
    for pause in pauses():
        try:
            claim = ledger.claim(job, tries)
        except OSError as error:
            return Ended(job, Failed(in_words(ledger.folder, error), 0))
        if isinstance(claim, Claim):
            return Ended(job, _made(ledger, claim, make))
        if claim is not None:
            return Ended(job, claim, before=isinstance(claim, Done))
        end = time.monotonic() + pause
        while time.monotonic() < end:
            if cancelled():
                raise Cancelled(f"Cancelled while another process worked on {job.name}.")
            time.sleep(min(pause, _ASK_SECONDS))
    raise AssertionError("pauses have no end")


def _made(ledger: Ledger, claim: Claim, make: Callable[[Path], Any]) -> Done | Failed:
    began = time.monotonic()
    try:
        return claim.complete(make(claim.result), time.monotonic() - began)
    except Cancelled:
        claim.interrupted()
        raise
    except Exception as error:
        return claim.give_up(in_words(ledger.folder, error))
    except BaseException:
        claim.interrupted()
        raise
