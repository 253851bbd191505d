# SPDX-License-Identifier: Apache-2.0
"""The levels of a verdict in words and colors."""

from __future__ import annotations

import qt
import slicer
from slicer.i18n import tr as _

# Read well on the panel of the light and of the dark theme.
_ON_LIGHT = {"good": "#1e7145", "check": "#9a5b00", "failed": "#c62828"}
_ON_DARK = {"good": "#63cf95", "check": "#ffb04d", "failed": "#ff8a80"}


def colorOf(level: str) -> str:
    """For text on the window's background."""
    dark = slicer.app.palette().color(qt.QPalette.Window).lightness() < 128
    return (_ON_DARK if dark else _ON_LIGHT).get(level, "gray")


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
