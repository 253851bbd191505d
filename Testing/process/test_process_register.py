# SPDX-License-Identifier: Apache-2.0
"""register() through the child gives what register() gives here, bit by bit."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.problem.field import Field
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.process import RegistrationProcess, State
from DeepFLASHRegistrationLib.support.errors import Cancelled, InputError

torch = pytest.importorskip("torch")

# What may differ between two runs of the same program.
TIMES = {"timings", "seconds", "date"}


@pytest.fixture(scope="module")
def warm() -> Iterator[RegistrationProcess]:
    """One child for all tests here, since each start imports torch."""
    with RegistrationProcess() as process:
        yield process


def ellipse(shape: tuple[int, ...], radii: tuple[float, ...], name: str) -> tuple[Volume, Volume]:
    """A smooth ellipse in a textured frame on an oblique grid, and its label map."""
    d = len(shape)
    turn = np.eye(d + 1)
    turn[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    grid = Grid(shape, turn @ np.diag([*(1.5, 2.0, 1.0)[:d], 1.0]))
    places = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    distance = sum((x / r) ** 2 for x, r in zip(places, radii[:d], strict=True))
    data = 100 / (1 + np.exp(8 * (distance - 1))) + 10 * np.exp(-4 * distance)
    labels = (distance < 1).astype(np.int32) * 7
    return Volume(grid, data.astype(np.float32), name), Volume(grid, labels, f"{name} labels")


def pair(shape: tuple[int, ...]) -> dict[str, Any]:
    fixed, fixed_labels = ellipse(shape, (0.6, 0.4, 0.5), "fixed")
    moving, moving_labels = ellipse(shape, (0.5, 0.5, 0.4), "moving größer")
    return {"fixed": fixed, "moving": moving, "fixed_labels": fixed_labels, "moving_labels": moving_labels}


def assert_same(here: Any, there: Any, path: str = "result") -> None:
    here = here.item() if isinstance(here, np.generic) else here
    here = np.asarray(here) if isinstance(here, Field) else here  # the child sends the numbers
    assert isinstance(here, type(there)), path
    if isinstance(here, np.ndarray):
        assert (here.dtype, here.shape) == (there.dtype, there.shape), path
        assert here.tobytes() == there.tobytes(), path
    elif dataclasses.is_dataclass(here):
        for field in dataclasses.fields(here):
            if field.name not in TIMES:
                assert_same(getattr(here, field.name), getattr(there, field.name), f"{path}.{field.name}")
    elif isinstance(here, Mapping):
        assert list(here) == list(there), path
        for key in set(here) - TIMES:
            assert_same(here[key], there[key], f"{path}[{key!r}]")
    elif isinstance(here, (list, tuple)):
        assert len(here) == len(there), path
        for index, (mine, other) in enumerate(zip(here, there, strict=True)):
            assert_same(mine, other, f"{path}[{index}]")
    else:
        assert here == there or here != here, path


@pytest.mark.parametrize("shape", [(60, 72), (20, 24, 22)])
def test_the_result_is_the_same_bit_by_bit(warm: RegistrationProcess, shape: tuple[int, ...]) -> None:
    from DeepFLASHRegistrationLib.registration.register import register

    images = pair(shape)
    points = images["fixed"].grid.center + np.random.default_rng(0).normal(size=(5, len(shape)))
    mask = images["fixed_labels"].with_data(np.ones(shape, np.uint8))
    inputs = {
        **images,
        "parameters": Parameters.from_preset("fast"),
        "fixed_mask": mask,
        "fixed_points": points,
        "moving_points": points,
        "device": "cpu",
        "threads": 1,
    }
    events_here, events_there = [], []
    here = register(**inputs, progress=events_here.append)
    there = warm.register(**inputs, progress=events_there.append)
    assert_same(here, there)
    assert here.metrics["mean_dice_after"] > here.metrics["mean_dice_before"]
    assert [event["phase"] for event in events_here] == [event["phase"] for event in events_there]
    assert [event.get("energy") for event in events_here] == [event.get("energy") for event in events_there]


def test_a_velocity_from_the_child_is_a_start_for_the_next_run(warm: RegistrationProcess) -> None:
    from DeepFLASHRegistrationLib.registration.register import register

    inputs = {**pair((60, 72)), "parameters": Parameters.from_preset("fast"), "device": "cpu", "threads": 1}
    inputs["initial_velocity"] = warm.register(**inputs).velocity
    assert_same(register(**inputs), warm.register(**inputs))


def test_cancel_gives_the_best_so_far(warm: RegistrationProcess) -> None:
    images = pair((200, 240))
    # The line search goes on for as long as it is let.
    parameters = Parameters.from_preset("fast", iterations=(400, 400), tolerance=1e-12)
    seen = []
    job = warm.submit("register", {**images, "parameters": parameters, "device": "cpu", "threads": 1})
    result = warm.wait(60, seen.append, cancel=lambda: any(event.get("iteration", 0) >= 3 for event in seen))
    assert result.cancelled
    assert job.cancelled
    assert len(result.history) >= 3
    assert result.history[-1]["energy"] < result.history[0]["energy"]
    assert result.metrics["mean_dice_after"] > result.metrics["mean_dice_before"]
    assert warm.state is State.IDLE


def test_cancel_before_there_is_anything_is_told(warm: RegistrationProcess) -> None:
    with pytest.raises(Cancelled):
        warm.register(**pair((60, 72)), device="cpu", threads=1, cancel=lambda: True)


def test_wrong_input_is_told_as_in_process(warm: RegistrationProcess, scratch: Path) -> None:
    images = pair((60, 72))
    constant = images["moving"].with_data(np.ones((60, 72), np.float32))
    with pytest.raises(InputError, match="moving größer"):
        warm.register(images["fixed"], constant)
    assert not list(scratch.iterdir())


def test_the_parent_needs_neither_torch_nor_simpleitk() -> None:
    library = Path(sys.modules["DeepFLASHRegistrationLib.process"].__file__).resolve().parents[2]
    code = """
import sys
import numpy as np
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.parameters import Parameters
from DeepFLASHRegistrationLib.process import RegistrationProcess
y, x = np.mgrid[-1:1:40j, -1:1:48j]
fixed, moving = (Volume(Grid(x.shape, np.eye(3)), np.exp(-9 * (x**2 + r * y**2)).astype("f4")) for r in (1, 2))
with RegistrationProcess() as process:
    result = process.register(fixed, moving, Parameters.from_preset("fast"), device="cpu", threads=1)
assert result.warped.data.shape == fixed.data.shape
sys.exit(" ".join({"torch", "SimpleITK", "scipy"} & set(sys.modules)) or None)
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(library)})


def test_every_class_that_may_travel_exists() -> None:
    from importlib import import_module

    from DeepFLASHRegistrationLib.process import transfer

    for name, module in transfer._CLASSES.items():
        assert dataclasses.is_dataclass(getattr(import_module(f"DeepFLASHRegistrationLib.{module}"), name))
