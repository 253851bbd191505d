# SPDX-License-Identifier: Apache-2.0
"""Testing/benchmarks/gpu.py, which measures on GPUs that tests seldom meet, works where there is none."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import registration_pairs as pairs
from DeepFLASHRegistrationLib.imaging.io import write_volume
from DeepFLASHRegistrationLib.imaging.volume import Volume

torch = pytest.importorskip("torch")

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu.py"
GRID = pairs.box((13, 15, 12), 7.0)


@pytest.fixture(scope="module")
def gpu():
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickles look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def prepared(gpu, tmp_path_factory):
    """Two pairs in one file, and what they were."""
    folder = tmp_path_factory.mktemp("prepared")
    volumes = [
        pairs.fixed_image(GRID),
        pairs.moving_image(GRID),
        Volume(GRID, pairs.parts(pairs.places(GRID))),
        pairs.moving_labels(GRID),
    ]
    files = [folder / f"{number}.nii.gz" for number in range(len(volumes))]
    for path, volume in zip(files, volumes, strict=True):
        write_volume(path, volume)
    gpu.main(["--prepare", *map(str, [folder / "pairs.npz", *files, *files[1::-1], *files[:1:-1]])])
    return folder / "pairs.npz", volumes


def test_what_is_prepared_is_read_again_with_numpy_alone(gpu, prepared):
    path, volumes = prepared
    first, second = gpu.read(path)
    for ours, theirs in zip(first, volumes, strict=True):
        assert np.array_equal(ours.data, theirs.data)
        assert ours.grid.same_as(theirs.grid, 1e-4)
    assert np.array_equal(second.fixed.data, volumes[1].data)
    assert np.array_equal(second.moving_labels.data, volumes[2].data)


def test_without_a_gpu_the_table_has_what_a_cpu_can_tell(prepared, tmp_path):
    """In a process that has neither SimpleITK nor a GPU."""
    code = (
        "import sys, runpy, torch; sys.modules['SimpleITK'] = None; torch.set_num_threads(1); "
        f"sys.argv[1:] = [{str(prepared[0])!r}, '--device', 'cpu', '--presets', 'fast', '--repeats', '2', '--at-once', "
        f"'0']; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    table, evaluated, finish = (line.split() for line in done.stdout.splitlines() if re.match(r"fast +\d", line))
    assert "prepare   affine   levels   finish    whole    Dice\n" in done.stdout
    seconds, dice = list(map(float, table[1:6])), float(table[6])
    assert 0 < sum(seconds[:4]) <= 1.05 * seconds[4]
    assert 0.5 < dice <= 1
    assert int(evaluated[1]) > 500  # operations of an evaluation
    assert re.search(r"maps ms +carried ms +figures ms +agreement ms +to the host ms\n", done.stdout)
    assert len(finish) == 6
    assert min(map(float, finish[1:5])) > 0
    assert "two runs: mean 0.00000, 99th percentile 0.00000, largest 0.0000 mm" in done.stdout
    for column in ("peak GB", "apart from the CPU", "kernels", "replayed", "from the CPU"):
        assert column not in done.stdout


def test_what_lies_apart_is_told(gpu):
    image = Volume(GRID, np.linspace(0, 1, GRID.size, dtype=np.float32).reshape(GRID.shape))
    parts = {"log_jacobian": image, "warped": image, "labels": None}
    figures = {"similarity_after": 0.5, "inverse_error_mm": {"p95": 0.1}, "agreement": {"reached": 0.7, "floor": 0.2}}
    moved = {**parts, "warped": image.with_data(image.data + np.float32(0.25))}
    others = {**figures, "inverse_error_mm": {"p95": 0.3}, "agreement": {"reached": 0.6, "floor": 0.2}}
    text = gpu._apart((parts, figures), (moved, others))
    assert "determinants 0.0e+00, gray values 2.5e-01 of their range, figures 1.0e-01, inverse error 2.0e-01 mm" in text


def test_bytes_are_those_that_are_read_and_written(gpu):
    x, row = torch.zeros(30, 40), torch.zeros(40)
    with gpu.Bytes() as count:
        x + row.expand(30, 40)
    assert (count.moved, count.operations) == (4 * (1200 + 40 + 1200), 1)
    with gpu.Bytes() as count:
        x.t()[None]
    assert count.moved == 0


def test_the_difference_of_two_maps_is_in_mm(gpu, monkeypatch):
    one, other = (type("R", (), {"fixed_to_moving": np.zeros((4, 5, 5, 3), np.float32)}) for _ in range(2))
    other.fixed_to_moving[0, 0, 0] = (3, 0, 4)
    assert gpu.difference(one, other) == "mean 0.05000, 99th percentile 0.05000, largest 5.0000 mm"
