# SPDX-License-Identifier: Apache-2.0
"""The command line within the tests' own process, on a pair that takes a sixth of a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import registration_pairs as pairs
from DeepFLASHRegistrationLib.commands import main as cli


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    """Files of a fixed and a moving image."""
    (tmp_path / "in").mkdir()
    fixed, moving = pairs.write_tiny_pair(tmp_path / "in")
    return str(fixed), str(moving)


def run(*arguments: Any) -> int:
    """The exit code of `deepflash` with these arguments."""
    return cli.main([str(a) for a in arguments])


def register(pair: tuple[str, str], out: Path, *more: Any) -> int:
    """The exit code of `deepflash register` of the pair."""
    return run("register", *pair, "-o", out, *pairs.TINY_OPTIONS, *more)
