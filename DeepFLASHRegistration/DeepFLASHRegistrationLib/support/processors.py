# SPDX-License-Identifier: Apache-2.0
"""How many processors there are, and being a good neighbor on a busy machine."""

from __future__ import annotations

import contextlib
import os


def share_processors() -> None:
    """Makes torch's threads sleep after a short wait for each other; to be called before torch is imported.

    GNU OpenMP's threads spin for milliseconds by default. Where another program (Slicer's own window) takes one of the
    processors, the others then burn theirs waiting for it, and a registration takes two to ten times as long; waiting
    less costs a few percent on a machine at rest.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def cores() -> int:
    """Processors that this process may use."""
    with contextlib.suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
