# SPDX-License-Identifier: Apache-2.0
"""The module's logic below its window, in a real MRML scene without an application (see Testing/scene).

What computes needs a Python with torch for the child process: this one, or the one named in DEEPFLASH_PYTHON.
"""

import os
import subprocess
import sys

import pytest


@pytest.fixture(scope="session")
def childPython() -> str:
    """A Python that has torch."""
    python = os.environ.get("DEEPFLASH_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import torch, SimpleITK"], capture_output=True, check=False).returncode != 0:
        pytest.skip(f"{python} has no torch (name one that has in DEEPFLASH_PYTHON)")
    return python
