# SPDX-License-Identifier: Apache-2.0
"""What all tests share: the package on the path, the folder of real images, and a real MRML scene without Slicer."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from registration_pairs import Registered, Saved

# Before any library starts its threads, and for the processes that tests start: small arrays gain nothing from more,
# and those of processes side by side keep each other waiting.
os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
if importlib.util.find_spec("DeepFLASHRegistrationLib") is None:
    sys.path.insert(0, str(ROOT / "DeepFLASHRegistration"))
# What tests of several rooms share.
sys.path.append(str(ROOT / "Testing" / "helpers"))
# Folders whose tests need Slicer's classes.
_NEED_SLICER = (ROOT / "Testing" / "scene", ROOT / "Testing" / "module")


def pytest_configure(config: pytest.Config) -> None:
    """Notes which tests are skipped, and lets interrupts through.

    Tests started in the background ignore interrupts, and so does all they start; some test just these.
    """
    from allowed_skips import SkipGuard

    config.pluginmanager.register(SkipGuard())
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


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small arrays gain nothing from more threads, and lose much where other programs run."""
    with contextlib.suppress(ImportError):
        import torch

        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def registered() -> Registered:
    """One registration for all tests that only look at it."""
    pytest.importorskip("torch")
    import registration_pairs

    return registration_pairs.registered()


@pytest.fixture(scope="session")
def saved(registered: Registered, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """The same as files."""
    import registration_pairs

    return registration_pairs.saved(registered, tmp_path_factory.mktemp("saved") / "result")


@pytest.fixture
def brains() -> list[Path]:
    """Skull-stripped T1 brains, at least two."""
    files = sorted(data_folder("oasis-brains").glob("*_SS.nii.gz"))
    if len(files) < 2:
        pytest.skip("fewer than two brains")
    return files


@functools.cache
def _missing_of_slicer() -> str:
    """Why there is no scene; empty if there is."""
    for module, wheel in (
        ("slicer_core", "slicer-core"),
        ("trame_slicer", "trame-slicer"),
        ("slicer_layer_dm", "slicer-layer-dm"),
    ):
        if importlib.util.find_spec(module) is None:
            return f"{wheel} is not installed (pip install {wheel})"
    try:
        import slicer  # noqa: F401
    except ImportError as error:
        return f"slicer-core cannot be loaded: {error}"
    return ""


class _Skipped(pytest.Module):
    def collect(self) -> Any:
        pytest.skip(_missing_of_slicer(), allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: Any) -> pytest.Module | None:
    """Without Slicer's classes its tests are skipped, with what is missing, instead of failing to be imported."""
    if any(folder in module_path.parents for folder in _NEED_SLICER) and _missing_of_slicer():
        return _Skipped.from_parent(parent, path=module_path)
    return None


@pytest.fixture
def scene() -> Any:
    """A new MRML scene, as after "Close scene", without views."""
    from scene_rendering import makeApp

    app = makeApp()
    app.scene.Clear(False)
    return app.scene


@pytest.fixture
def brief_agreement(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that look at maps, images and the other figures, but at no verdict: how well the images agree against
    their floor, two fits that take three times as long as a small registration, is measured by one step on few cells.
    """
    from DeepFLASHRegistrationLib.registration import agreement

    monkeypatch.setattr(agreement, "_ITERATIONS", 1)
    monkeypatch.setattr(agreement, "_CELLS", 1000)


_FITS: dict[tuple[Any, ...], Any] = {}


def _bits(value: Any) -> Any:
    """A key that only the same value has, of arrays to the bit."""
    if hasattr(value, "__array__"):
        array = value.__array__()
        return array.shape, array.dtype.str, array.tobytes()
    if dataclasses.is_dataclass(value):
        value = tuple(vars(value).values())
    return tuple(map(_bits, value)) if isinstance(value, tuple | list) else value


@pytest.fixture
def fits_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same images on the same cells, the agreement's fit is the one that the first of these tests made."""
    from DeepFLASHRegistrationLib.registration import agreement

    made = agreement._fit

    def once(cells: Any, pair: Any) -> Any:
        problem, of = cells.problem, agreement.settings(cells.parameters)
        key = _bits((pair, cells.grid, cells.level, of, problem.margin_mm, problem.unit_mm, cells.device))
        if key not in _FITS:
            _FITS[key] = made(cells, pair)
        return _FITS[key]

    monkeypatch.setattr(agreement, "_fit", once)


_MEANS: dict[tuple[bytes, ...], Any] = {}


@pytest.fixture(scope="module")
def mean_once() -> Iterator[None]:
    """Models trained on the same images get the mean image that the first of these trainings made."""
    from DeepFLASHRegistrationLib.training import pack_model

    made = pack_model.mean_image

    def once(images: Any, cancelled: Any = None) -> Any:
        key = tuple(image.data.tobytes() for image in images)
        if key not in _MEANS:
            _MEANS[key] = made(images, cancelled)
        return _MEANS[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack_model, "mean_image", once)
        yield


@pytest.fixture(scope="session")
def made_template(tmp_path_factory):
    """A template of four drawn slices with labels, as it was written, and its data."""
    from DeepFLASHRegistrationLib.cohorts.template_summary import write_template_summary
    from made_templates import draw, run

    folder = tmp_path_factory.mktemp("template")
    data = draw(folder / "data")
    template = run(data, folder / "T")
    write_template_summary(template)
    return template, data
