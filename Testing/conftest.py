# SPDX-License-Identifier: Apache-2.0
"""What all tests share: the package on the path, and the folder of real images."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
if importlib.util.find_spec("DeepFLASHRegistrationLib") is None:
    sys.path.insert(0, str(ROOT / "DeepFLASHRegistration"))


def pytest_configure() -> None:
    """Tests started in the background ignore interrupts, and so does all they start; some test just these."""
    for name in ("SIGINT", "SIGHUP", "SIGTERM"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)


def data_folder(name: str = "") -> Path:
    """The folder of real images (or one of its sub-folders); skips the test with a reason where it is absent.

    It is looked for in DEEPFLASH_DATA, then in ../shared/data beside the repository.
    """
    named = os.environ.get("DEEPFLASH_DATA")
    folder = (Path(named) if named else ROOT.parent / "shared" / "data") / name
    if not folder.is_dir():
        pytest.skip(f"no real images in {folder} (set DEEPFLASH_DATA to their folder)")
    return folder


@pytest.fixture
def brains() -> list[Path]:
    """Skull-stripped T1 brains, at least two."""
    files = sorted(data_folder("oasis-brains").glob("*_SS.nii.gz"))
    if len(files) < 2:
        pytest.skip("fewer than two brains")
    return files
