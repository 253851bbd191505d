# SPDX-License-Identifier: Apache-2.0
"""A run that is judged fails where a test was skipped without being on the list."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import allowed_skips
import pytest

_CONFTEST = """
from allowed_skips import SkipGuard

def pytest_configure(config):
    config.pluginmanager.register(SkipGuard())
"""


def _run(folder: Path, test: str, ci: str) -> tuple[int, str]:
    (folder / "conftest.py").write_text(_CONFTEST)
    (folder / "test_one.py").write_text(test)
    environment = {**os.environ, "CI": ci, "PYTHONPATH": str(Path(allowed_skips.__file__).parent)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(folder), str(folder)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("test", "ci", "code"),
    [
        ("import pytest\ndef test_a(): pytest.skip('no coffee')", "true", 1),
        ("import pytest\npytest.skip('no coffee', allow_module_level=True)\ndef test_a(): pass", "true", 1),
        ("import pytest\ndef test_a(): pytest.skip('no coffee')", "", 0),
        ("import pytest\ndef test_a(): pytest.skip('no coffee')", "false", 0),
        ("import pytest\ndef test_a(): pytest.skip('no real images in x')\ndef test_b(): pass", "true", 0),
        ("def test_a(): pass", "true", 0),
    ],
)
def test_a_skip_that_is_not_expected_fails_a_judged_run(tmp_path, test, ci, code):
    found, text = _run(tmp_path, test, ci)
    if code:
        assert found == code
        assert "no coffee" in text.split("not on the list")[1]
    else:
        assert found in (0, pytest.ExitCode.NO_TESTS_COLLECTED)
        assert "not on the list" not in text
