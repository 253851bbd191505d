# SPDX-License-Identifier: Apache-2.0
"""The wheel holds the library, all of it and nothing else."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
import zipfile

import pytest
from cmake_files import LIBRARY, MODULE, ROOT, tree


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    # Built from a copy (setuptools writes beside the sources) and with the setuptools at hand (no network).
    if int(importlib.metadata.version("setuptools").partition(".")[0]) < 77:
        pytest.skip("setuptools is older than 77")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for path in tree():
        (source / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, source / path.relative_to(ROOT))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--no-deps",
            "--no-build-isolation",
            "--no-index",
            "--wheel-dir",
            target,
            source,
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return zipfile.ZipFile(next(target.glob("*.whl")))


def test_wheel_holds_every_file_of_the_library(wheel):
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == {path.relative_to(MODULE).as_posix() for path in tree(LIBRARY)}
    assert "DeepFLASHRegistrationLib/py.typed" in packed


def test_wheel_installs_the_command_and_carries_its_license(wheel):
    texts = {name.rpartition("/")[2]: name for name in wheel.namelist() if ".dist-info/" in name}
    assert "deepflash = DeepFLASHRegistrationLib.cli:main" in wheel.read(texts["entry_points.txt"]).decode()
    assert "LICENSE" in texts
    metadata = wheel.read(texts["METADATA"]).decode()
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Python: >=3.10" in metadata
