# SPDX-License-Identifier: Apache-2.0
"""Which tests may be skipped where a change is judged (CI is set), and why; any other skipped test fails the run."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

import pytest

_LINUX = sys.platform.startswith("linux")
# What a skipped test says, and why it may.
ALLOWED = {
    r"no real images in |fewer than two brains": "image data is not part of the repository",
    r"needs a user whom permissions bind|no permissions of this kind": "the runner is root, or has no such permissions",
    r"no file system may be mounted here": "the runner may not mount a small disk",
    r"no environment with ANTs and Greedy": "they are other programs' packages, which could not be had",
    r"dciodvfy": "a program that not every runner has; what it asks for is asserted beside it",
    r"this torch has no ": "older versions of torch lack a function that newer ones replace",
}
if os.name != "posix":
    ALLOWED[r"POSIX|/proc|access lists"] = "Windows has its own signals and permissions"
if not _LINUX:
    ALLOWED[r"reads /proc"] = "only Linux has /proc"
if not _LINUX or sys.version_info < (3, 11):
    ALLOWED[r"slicer-core|slicer-layer-dm|trame-slicer"] = "Slicer's wheels exist for some systems and versions only"
    ALLOWED[r"libEGL|OpenGL"] = "pictures need a software OpenGL"


def _judged() -> bool:
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


class SkipGuard:
    """Notes every skipped test, and fails a judged run in which one was not expected."""

    def __init__(self) -> None:
        self.unexpected: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        """A test has ended."""
        self._note(report)

    def pytest_collectreport(self, report: Any) -> None:
        """A file was looked through for tests."""
        self._note(report)

    def _note(self, report: Any) -> None:
        if not report.skipped or hasattr(report, "wasxfail"):
            return
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(re.search(pattern, reason) for pattern in ALLOWED):
            self.unexpected.append(f"{report.nodeid}: {reason}")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fails the run, if it is a judged one."""
        ended_well = session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        if self.unexpected and _judged() and ended_well:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Says which tests should have run."""
        if self.unexpected and _judged():
            terminalreporter.section("skipped, and not on the list of Testing/helpers/allowed_skips.py", red=True)
            for line in self.unexpected:
                terminalreporter.write_line(line)
