# SPDX-License-Identifier: Apache-2.0
"""The files that CMake lists, laid out as in an installed extension, are all that the module needs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cmake_files import MODULE, installed_resources, installed_scripts, loaded_by_slicer

# Imports what it is given from the installed extension alone, and refuses some modules as if they were not there.
_IN_SLICER = """
import importlib, sys

class Absent:
    def __init__(self, names):
        self.names = names
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

folder, absent, modules = sys.argv[1], sys.argv[2].split(), sys.argv[3].split()
sys.path = [folder, *(entry for entry in sys.path if "DeepFLASHRegistration" not in entry)]
sys.meta_path.insert(0, Absent(absent))
failures = []
for name in modules:
    try:
        module = importlib.import_module(name)
        assert module.__file__.startswith(folder), f"comes from {module.__file__}"
    except Exception as error:
        failures.append(f"{name}: {type(error).__name__}: {error}")
if failures:
    sys.exit("\\n".join(failures))
"""
_REGISTER = """
import numpy
from DeepFLASHRegistrationLib import Grid, Volume, register
ball = (numpy.indices((24, 24, 24)) - 12.0)
ball = numpy.maximum(0, 10 - numpy.sqrt((ball ** 2).sum(0))).astype(numpy.float32)
volume = Volume(Grid(ball.shape, numpy.eye(4)), ball)
try:
    register(volume, volume)
except Exception as error:
    print(error)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("Slicer") / "lib" / "Slicer-5.10" / "qt-scripted-modules"
    for name in installed_scripts() + installed_resources():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(MODULE / name, folder / name)
    return folder


# Rooms that need torch to be loaded.
_COMPUTING = (
    "geodesics",
    "learning",
    "training",
    "methods.instance",
    "methods.map_prediction",
    "methods.network_instance",
    "methods.neural_pair",
    "methods.prediction",
    "methods.prediction_dual_net",
    "methods.prediction_force_net",
    "methods.prediction_icon",
    "methods.prediction_nephi",
    "methods.prediction_on_domain",
    "methods.prediction_one_pass",
    "methods.prediction_quicksilver",
    "methods.prediction_unrolled",
    "methods.prediction_voxelmorph",
    "methods.trained_network",
    "support.tensor_memory",
    "alignment.device_comparison",
)


def _library_modules() -> dict[str, str]:
    """Full module name of every module of the library by its name within it."""
    names = {}
    for script in installed_scripts():
        package, *rest = Path(script).with_suffix("").parts
        if package == "DeepFLASHRegistrationLib":
            within = ".".join(part for part in rest if part != "__init__")
            names[within] = f"{package}.{within}".rstrip(".")
    return names


def _lies_in(name: str, *places: str) -> bool:
    return any(f"{name}.".startswith(f"{place}.") for place in places)


def _run(folder: Path, absent: str, modules: list[str], then: str = "") -> str:
    """What a process prints that imports modules from the installed extension; fails with what it could not import."""
    done = subprocess.run(
        [sys.executable, "-c", _IN_SLICER + then, str(folder), absent, " ".join(modules)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_everything_but_the_computing_rooms_imports_without_torch(installed):
    modules = [full for name, full in _library_modules().items() if not _lies_in(name, *_COMPUTING, "scene", "gui")]
    assert len(modules) > 10
    _run(installed, "torch safetensors scipy vtk slicer pydicom highdicom", modules)


def test_what_the_window_needs_imports_with_numpy_alone(installed):
    """All that Slicer's own process loads, besides scene/ and gui/, which are tested in a scene and in Slicer."""
    modules = _library_modules()
    loaded = [name for name in loaded_by_slicer() if not _lies_in(name, "scene", "gui")]
    assert {"", "problem.subject", "registration.metrics", "process.client", "methods.trained_models"} <= set(loaded)
    _run(installed, "torch SimpleITK safetensors scipy vtk slicer", [modules[name] for name in loaded])


def test_nothing_that_slicer_loads_computes():
    """Not even by way of other files: torch belongs into the child process."""
    loaded = loaded_by_slicer()
    assert len(loaded) > 80
    assert not [name for name in loaded if _lies_in(name, *_COMPUTING)]


def test_the_computing_rooms_import_from_the_installed_extension(installed):
    pytest.importorskip("torch")
    modules = [full for name, full in _library_modules().items() if _lies_in(name, *_COMPUTING)]
    assert modules
    _run(installed, "scipy vtk slicer", modules)


def test_without_torch_a_registration_says_how_to_get_it(installed):
    message = _run(installed, "torch", [], _REGISTER)
    assert "torch" in message
    assert "install" in message
