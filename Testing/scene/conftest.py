# SPDX-License-Identifier: Apache-2.0
"""A real MRML scene with real displayable managers, off screen, without an application around it.

Everything here needs the wheels slicer-core, trame-slicer and slicer-layer-dm, and a software OpenGL with EGL; tests
are skipped, with what is missing, where those are absent.
"""

import ctypes
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

_here = Path(__file__).resolve().parent
for folder in (_here, _here.parents[1] / "DeepFLASHRegistration"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _missing() -> str:
    for module, wheel in (("slicer_core", "slicer-core"), ("trame_slicer", "trame-slicer"),
                          ("slicer_layer_dm", "slicer-layer-dm")):
        if importlib.util.find_spec(module) is None:
            return f"{wheel} is not installed (pip install {wheel})"
    try:
        import slicer  # noqa: F401
    except ImportError as error:
        return f"slicer-core cannot be loaded: {error}"
    return ""


def _missing_for_pictures() -> str:
    try:
        ctypes.CDLL("libEGL.so.1")
    except OSError:
        return "libEGL is not installed, nothing can be rendered off screen (apt-get install libegl1 libgl1-mesa-dri)"
    # In a process of its own: without a driver behind libEGL the attempt ends the process.
    probe = ("import vtkmodules.vtkRenderingOpenGL2, vtkmodules.vtkRenderingCore as core; w = core.vtkRenderWindow(); "
             "w.SetOffScreenRendering(1); w.AddRenderer(core.vtkRenderer()); w.Render()")
    if subprocess.run([sys.executable, "-c", probe], capture_output=True, check=False).returncode != 0:
        return "no OpenGL driver renders off screen (apt-get install libegl1 libgl1-mesa-dri)"
    return ""


_reason = _missing()


class _Skipped(pytest.Module):
    def collect(self):
        pytest.skip(_reason, allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    return _Skipped.from_parent(parent, path=module_path) if _reason and _here in module_path.parents else None


def pytest_collection_modifyitems(config, items):
    mine = [item for item in items if _here in Path(item.fspath).parents]
    reason = _missing_for_pictures() if any("room" in item.fixturenames for item in mine) else ""
    for item in mine:
        if reason and "room" in item.fixturenames:
            item.add_marker(pytest.mark.skip(reason=reason))


if not _reason:
    from scene_rendering import Room, makeApp

    @pytest.fixture(scope="session")
    def _app():
        # One for all tests: an application's logics cannot be taken down and set up again within a process.
        return makeApp()

    @pytest.fixture
    def scene(_app):
        """A new scene, as after "Close scene", without views."""
        _app.scene.Clear(False)
        return _app.scene

    @pytest.fixture(scope="session")
    def _room(_app):
        room = Room(_app)
        yield room
        room.close()

    @pytest.fixture
    def room(_room, scene):
        """A new scene with the views of Slicer's conventional layout."""
        _room.reset()
        return _room
