# SPDX-License-Identifier: Apache-2.0
"""Slicer's translator; in a scene without its application, texts stay English. See support.words for its rules."""

from __future__ import annotations

try:
    from slicer.i18n import tr
except ImportError:  # wheels of Slicer's classes
    from ..support.words import english as tr

__all__ = ["tr"]
