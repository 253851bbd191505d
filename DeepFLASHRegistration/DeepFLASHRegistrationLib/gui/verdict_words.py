# SPDX-License-Identifier: Apache-2.0
"""The levels of a verdict in words and colors."""

from __future__ import annotations

from slicer.i18n import tr as _

COLORS = {"good": "#2e8b57", "check": "#c77700", "failed": "#c62828"}


def shortVerdict(level: str) -> str:
    """One word."""
    return {"good": _("Good"), "check": _("Check"), "failed": _("Failed")}.get(level, level)


def longVerdict(level: str) -> str:
    """What to do about it."""
    return {
        "good": _("Good"),
        "check": _("Check: look at this before you rely on it"),
        "failed": _("Failed: do not use this result"),
    }.get(level, level)
