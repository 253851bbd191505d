# SPDX-License-Identifier: Apache-2.0
"""Fixtures for tests of the child process."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from DeepFLASHRegistrationLib.process import folders


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, with blanks and foreign letters in its name, in which all private folders are made."""
    folder = tmp_path / "Bilder für 影像"
    folder.mkdir()
    monkeypatch.setattr(folders, "_SHARED_MEMORY", tmp_path / "none")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder
