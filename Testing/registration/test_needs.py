# SPDX-License-Identifier: Apache-2.0
"""The memory and the time that a registration is said to need are what it takes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.io import write_volume
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.methods.stages import stages
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.registration.needs import fitting_spacing, seconds, sizes
from DeepFLASHRegistrationLib.registration.progress import PHASES, share_done
from DeepFLASHRegistrationLib.support import memory

MEGABYTE = 2**20
LIBRARY = Path(__file__).resolve().parents[2] / "DeepFLASHRegistration"


def ball(shape: tuple[int, ...], extent_mm: tuple[float, ...] = (192.0, 192.0, 192.0)) -> Volume:
    """The object that the seen figures belong to: a ball that fills 0.85 of the smallest edge."""
    spacing = np.array(extent_mm) / shape
    affine = np.zeros((4, 4))
    affine[[2, 1, 0, 3], [0, 1, 2, 3]] = [*spacing, 1]
    half = min(extent_mm) / 2
    axes = [(np.arange(n) + 0.5) * s / half - e / 2 / half for n, s, e in zip(shape, spacing, extent_mm, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    return Volume(Grid(shape, affine), (x * x + y * y + z * z < 0.85**2).astype(np.uint8))


def needed(fixed: Volume, parameters: Parameters, labels: tuple[int, int] = (0, 0)) -> int:
    return memory.needed_bytes(sizes(fixed.grid, fixed.grid, fixed, stages(parameters), labels))[0]


# Peak resident megabytes of the command (Linux, two cores, 2026), over images of 192 mm of 128 voxels an axis and more;
# all measured with a margin of 12 mm.
@pytest.mark.parametrize(
    ("shape", "preset", "changes", "seen"),
    [
        ((64,) * 3, "fast", {}, 405),
        ((64,) * 3, "default", {}, 591),
        ((96,) * 3, "default", {}, 832),
        ((128,) * 3, "fast", {}, 692),
        ((128,) * 3, "default", {}, 1078),
        ((128,) * 3, "fine", {}, 1282),
        ((128,) * 3, "paper", {}, 647),
        ((128,) * 3, "default", {"similarity": "mi"}, 1061),
        ((128,) * 3, "default", {"bands": (15, 31, 63)}, 1450),
        ((128,) * 3, "default", {"method": "deepflash", "model": "brain-t1"}, 722),
        ((192,) * 3, "default", {}, 1531),
        ((192,) * 3, "default", {"method": "deepflash", "model": "brain-t1"}, 1273),
        ((256,) * 3, "default", {}, 1707),
    ],
)
def test_the_estimate_is_what_was_seen(shape: tuple[int, ...], preset: str, changes: dict, seen: int) -> None:
    parameters = Parameters.from_preset(preset, margin_mm=12.0, **changes)
    assert 0.8 <= needed(ball(shape), parameters) / MEGABYTE / seen <= 1.2


# Seconds of one thread (processor time), level and finish, of two 1 mm brains of 167 x 214 x 162 voxels.
@pytest.mark.parametrize(
    ("preset", "coarse", "points", "seen"),
    [("fast", 2, 383_709, (3.9, 2.7)), ("default", 3, 1_024_860, (8.9, 3.4)), ("fine", 3, 1_024_860, (42.0, None))],
)
def test_seconds_are_what_was_seen(preset: str, coarse: int, points: int, seen: tuple[float, float]) -> None:
    parameters = Parameters.from_preset(preset)
    sides = 2 if parameters.symmetric else 1
    levels = tuple((cells, 0, sides) for cells in (42_240, 337_920, 2_703_360)[:coarse])
    found = seconds(memory.Sizes(10_761_382, 18_876_413, 2_703_360, levels, points), (parameters,))
    assert list(found) == ["start", *PHASES, "write"]
    for phase, each in zip(("level", "finish"), seen, strict=True):
        assert each is None or 0.64 <= found[phase] / each <= 1.3, phase
    assert found["affine"] == pytest.approx(1.2, rel=0.3)


def test_phases_follow_one_another_on_the_bar() -> None:
    ends = [0.0, *(end for _, end in PHASES.values())]
    assert [begin for begin, _ in PHASES.values()] == ends[:-1]
    assert ends[-1] == 1.0
    assert [share_done("level", progress) for progress in (0.1, 0.2, 0.525, 0.85, 0.9)] == pytest.approx(
        [0, 0, 0.5, 1, 1]
    )


def test_thick_slices_are_estimated_too() -> None:
    for shape, seen in (((40, 256, 256), 1084), ((40, 512, 512), 1602)):
        found = needed(ball(shape, (160.0, 220.0, 220.0)), Parameters())
        assert 0.8 <= found / MEGABYTE / seen <= 1.2


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is counted differently elsewhere")
@pytest.mark.parametrize("labelled", [False, True])
def test_a_run_takes_what_is_estimated(tmp_path: Path, labelled: bool) -> None:
    pytest.importorskip("torch")
    # With labels a large image of a small object: what lies in memory at the end is more than what the search takes.
    shape, extent = ((160, 150, 150), (420.0, 420.0, 420.0)) if labelled else ((72,) * 3, (192.0, 192.0, 192.0))
    fixed = ball(shape, extent)
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n, dtype=np.float32) for n in shape], indexing="ij", sparse=True)
    for name, bend in (("fixed", 0.0), ("moving", 0.06)):
        u, v, w = x + bend * np.sin(2.5 * y), y + bend * np.sin(2.2 * z + 1), z + bend * np.sin(2.8 * x + 2)
        texture = sum(np.cos(f * u + f) * np.cos(f * v + 2 * f) * np.cos(f * w) for f in (6, 13, 27))
        inside = u * u + v * v + w * w < 0.85**2
        data = np.where(inside, 0.5 + 0.15 * texture, 0).astype(np.float32)
        write_volume(tmp_path / f"{name}.nii.gz", fixed.with_data(data))
        write_volume(tmp_path / f"{name}_labels.nii.gz", fixed.with_data((inside * (2 + np.sign(u))).astype(np.uint8)))
    register = [sys.executable, "-m", "DeepFLASHRegistrationLib.cli", "register", "fixed.nii.gz", "moving.nii.gz"]
    register += ["-o", "out", "-q", "--iterations", "3,3" if labelled else "3,3,3"]
    parameters = Parameters.from_preset("fast" if labelled else "default")
    if labelled:
        register += ["--preset", "fast", "--fixed-labels", "fixed_labels.nii.gz"]
        register += ["--moving-labels", "moving_labels.nii.gz"]
    # From a small process: the peak of a new one counts what its parent was before.
    small = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    # With as many threads as users have.
    environment = {**os.environ, "PYTHONPATH": str(LIBRARY)}
    environment.pop("OMP_NUM_THREADS", None)
    command = [sys.executable, "-c", small, *register]
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    labels = (fixed.grid.size,) * 2 if labelled else (0, 0)
    assert 0.8 <= needed(fixed, parameters, labels) / (int(done.stdout) * 1024) <= 1.2


def test_a_larger_working_voxel_is_found_that_fits_and_no_larger_than_needed() -> None:
    fixed, parameters = ball((96,) * 3), Parameters()
    need = memory.Need(needed(fixed, parameters), 900 * MEGABYTE)
    assert not need.fits
    spacing = fitting_spacing(fixed.grid, fixed.grid, fixed, [parameters], need, "cpu")
    assert 2 < spacing < 8
    fits = Parameters(spacing_mm=spacing)
    assert memory.Need(needed(fixed, fits), 900 * MEGABYTE).fits
    smaller = Parameters(spacing_mm=spacing - 0.5)
    assert not memory.Need(needed(fixed, smaller), 900 * MEGABYTE).fits


def test_no_working_voxel_helps_against_images_that_are_too_large() -> None:
    fixed, parameters = ball((256,) * 3), Parameters()
    need = memory.Need(needed(fixed, parameters), 1000 * MEGABYTE)
    assert fitting_spacing(fixed.grid, fixed.grid, fixed, [parameters], need, "cpu") is None


def test_the_refinement_of_a_prediction_counts() -> None:
    fixed = ball((64,) * 3, (64.0,) * 3)
    alone, refined = (Parameters(method=m, model="brain-t1") for m in ("deepflash", "deepflash+flash"))
    assert len(stages(refined)) == 2
    assert needed(fixed, alone) < needed(fixed, refined)


def test_without_a_band_more_is_needed() -> None:
    """An evaluation on 2.7 million voxels was measured at 3.5 GB, and the search keeps some more."""
    grid = Grid((128, 160, 132), np.diag([1.3, 1.3, 1.3, 1.0]))
    inside = Volume(grid, np.ones(grid.shape, np.uint8), "")
    parameters = Parameters(margin_mm=1.0)
    usual, without = (
        memory.needed_bytes(sizes(grid, grid, inside, stages(replace(parameters, method=method))))[0]
        for method in ("flash", "lddmm")
    )
    assert usual < 3e9
    assert 3.5e9 < without < 7e9


def test_neural_fields_need_less_memory_than_flash_the_larger_the_images_and_more_time() -> None:
    needs, took = {}, {}
    for n in (64, 160):
        grid = Grid((n, n, n), np.diag([1.3, 1.3, 1.3, 1.0]))
        inside = Volume(grid, np.ones(grid.shape, np.uint8), "")
        for method in ("flash", "nephi"):
            parts = stages(Parameters(margin_mm=1.0, method=method, symmetric=True))
            found = sizes(grid, grid, inside, parts)
            needs[n, method], took[n, method] = memory.needed_bytes(found)[0], seconds(found, parts)["level"]
    assert needs[160, "nephi"] < needs[160, "flash"]
    assert needs[160, "nephi"] / needs[160, "flash"] < needs[64, "nephi"] / needs[64, "flash"]
    # 220 steps, of about the same cost whatever the image.
    assert 20 < took[64, "nephi"] < took[160, "nephi"] < took[64, "nephi"] + 0.5 * took[160, "flash"]
