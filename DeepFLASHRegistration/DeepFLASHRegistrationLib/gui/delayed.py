# SPDX-License-Identifier: Apache-2.0
"""What is done a moment later, and once, however often it was asked for."""

from __future__ import annotations

from collections.abc import Callable

import qt


def delayed(action: Callable[[], None], msec: int) -> qt.QTimer:
    """A timer that, some time after it was last started, does something once."""
    timer = qt.QTimer()
    timer.setSingleShot(True)
    timer.setInterval(msec)
    timer.connect("timeout()", action)
    return timer
