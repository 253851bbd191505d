# SPDX-License-Identifier: Apache-2.0
"""The report: one HTML file with everything inside.

The file loads nothing from anywhere and runs no script; it opens in any browser, in light and dark, and
prints.
"""

from __future__ import annotations

from .page import FILES, render, write_report

__all__ = ["FILES", "render", "write_report"]
