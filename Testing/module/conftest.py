# SPDX-License-Identifier: Apache-2.0
"""The module's logic below its window, in a real MRML scene without an application (see Testing/scene).

What computes needs a Python with torch for the child process: this one, or the one named in DEEPFLASH_PYTHON.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

_here = Path(__file__).resolve().parent
for folder in (_here.parent / "scene", _here.parents[1] / "DeepFLASHRegistration"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _missing() -> str:
    for module in ("slicer_core", "trame_slicer", "slicer_layer_dm"):
        if importlib.util.find_spec(module) is None:
            return f"{module.replace('_', '-')} is not installed (pip install {module.replace('_', '-')})"
    try:
        import slicer  # noqa: F401
    except ImportError as error:
        return f"slicer-core cannot be loaded: {error}"
    return ""


_reason = _missing()


class _Skipped(pytest.Module):
    def collect(self):
        pytest.skip(_reason, allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    return _Skipped.from_parent(parent, path=module_path) if _reason and _here in module_path.parents else None


@pytest.fixture
def scene():
    """A new scene, as after "Close scene", without views."""
    from scene_rendering import makeApp

    app = makeApp()
    app.scene.Clear(False)
    return app.scene


@pytest.fixture(scope="session")
def childPython() -> str:
    """A Python that has torch."""
    python = os.environ.get("DEEPFLASH_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import torch, SimpleITK"], capture_output=True, check=False).returncode != 0:
        pytest.skip(f"{python} has no torch (name one that has in DEEPFLASH_PYTHON)")
    return python
