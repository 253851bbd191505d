# SPDX-License-Identifier: Apache-2.0
"""A real MRML scene with real displayable managers, off screen, without an application around it.

Everything here needs the wheels slicer-core, trame-slicer and slicer-layer-dm (see Testing/conftest.py), and pictures a
software OpenGL with EGL: tests are skipped, with what is missing, where those are absent.
"""

import ctypes
import functools
import subprocess
import sys

import pytest


@functools.cache
def _missing_for_pictures() -> str:
    try:
        ctypes.CDLL("libEGL.so.1")
    except OSError:
        return "libEGL is not installed, nothing can be rendered off screen (apt-get install libegl1 libgl1-mesa-dri)"
    # In a process of its own: without a driver behind libEGL the attempt ends the process.
    probe = (
        "import vtkmodules.vtkRenderingOpenGL2, vtkmodules.vtkRenderingCore as core; w = core.vtkRenderWindow(); "
        "w.SetOffScreenRendering(1); w.AddRenderer(core.vtkRenderer()); w.Render()"
    )
    if subprocess.run([sys.executable, "-c", probe], capture_output=True, check=False).returncode != 0:
        return "no OpenGL driver renders off screen (apt-get install libegl1 libgl1-mesa-dri)"
    return ""


@pytest.fixture(scope="session")
def offScreen():
    """Skips what cannot be rendered."""
    if reason := _missing_for_pictures():
        pytest.skip(reason)


@pytest.fixture(scope="session")
def _room(offScreen):
    from scene_rendering import Room, makeApp

    room = Room(makeApp())
    yield room
    room.close()


@pytest.fixture
def room(_room, scene):
    """A new scene with the views of Slicer's conventional layout."""
    _room.reset()
    return _room
