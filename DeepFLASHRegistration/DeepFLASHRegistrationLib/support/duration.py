# SPDX-License-Identifier: Apache-2.0
"""Durations as people say them."""

from __future__ import annotations


def in_words(seconds: float) -> str:
    """About how long: "3 s", "25 s", "4 min"; no finer than it is known."""
    if seconds < 10:
        return f"{max(1, round(seconds))} s"
    if seconds < 90:
        return f"{5 * round(seconds / 5)} s"
    return f"{round(seconds / 60)} min"
