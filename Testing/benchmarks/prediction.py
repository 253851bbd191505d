# SPDX-License-Identifier: Apache-2.0
"""Seconds of a prediction with the model in memory: two images in memory to the warped image and both maps.

    python Testing/benchmarks/prediction.py [MODEL] [--images FIXED MOVING] [--device cpu] [--threads 2]

Images that lie on each other already; without any, a phantom of a given --shape, which no model was trained for.

Beside it, in the same run: its parts, FLASH from zero at the model's own levels, and the floor: the bytes that must be
moved, at the speed with which this machine copies them.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "DeepFLASHRegistration"))

import torch
from DeepFLASHRegistrationLib.geodesics.search.flash import minimize
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.methods.prediction import predictor
from DeepFLASHRegistrationLib.methods.registry import Plan
from DeepFLASHRegistrationLib.phantom.pairs import make_pair
from DeepFLASHRegistrationLib.problem.problem import Problem, scaled, settings
from DeepFLASHRegistrationLib.problem.reading import read_subject
from DeepFLASHRegistrationLib.problem.subject import Subject


def seconds(function, repeats: int, device: str) -> float:
    """Median of some runs, after one that does not count."""
    found = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        function()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return float(np.median(found[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="brain-t1")
    parser.add_argument("--images", type=Path, nargs=2, metavar=("FIXED", "MOVING"))
    parser.add_argument("--shape", default="128,160,128")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device, repeats = options.device, options.repeats
    found = predictor(options.model)
    shape = tuple(int(n) for n in options.shape.split(","))
    problem = _real(found, *options.images) if options.images else _problem(found, shape)
    pair = problem.pair(device)
    print(f"{options.model} on {device}, {options.threads} threads, {' x '.join(map(str, pair.fixed.shape))} voxels")

    whole = seconds(lambda: found.maps(problem, (pair,)), repeats, device)
    print(f"warped image and both maps       {whole:8.3f} s")
    levels, window = problem.levels(found.parameters), problem.window(device)
    if found.config.kind == "unrolled":
        _by_stage(found, pair, levels, window, whole, repeats, device)
    else:
        only = seconds(lambda: found.predict(problem, device), repeats, device)
        print(f"  the velocity, and what it leaves of the energy {only:8.3f} s")
    start = time.perf_counter()
    minimize(pair, levels, settings(found.parameters), None, window)
    took = time.perf_counter() - start
    print(f"FLASH from zero at these levels  {took:8.3f} s: {took / whole:.1f} times as long")
    # Two images in; one image, two maps of three components out; each map read once to warp and once to be written.
    moved = pair.fixed.numel() * 4 * (2 + 1 + 2 * 3 * 2)
    block = torch.empty(moved // 8, dtype=torch.float32, device=device)
    copied = seconds(lambda: block.clone(), repeats, device)
    print(
        f"floor: {moved / 1e6:.0f} MB at this machine's copying speed {copied:.4f} s, {whole / copied:.0f} times less"
    )
    if device.startswith("cuda"):
        print(f"peak GPU memory {torch.cuda.max_memory_allocated() / 1e9:.2f} GB")


def _by_stage(found, pair, levels, window, whole: float, repeats: int, device: str) -> None:
    """Where an unrolled predictor's time goes."""
    only = seconds(lambda: list(found.unrolled((pair,), levels, window, last_evaluated=False)), repeats, device)
    print(f"  the velocity                   {only:8.3f} s")
    print(f"  maps and warped image          {whole - only:8.3f} s")
    for number in range(len(levels)):
        states = list(found.unrolled((pair,), levels, window, last_evaluated=True, stages=number + 1))
        objective, velocity = states[-1].objectives[0], states[-1].velocities[0]
        steps = sum(s.stage == number and s.step >= 0 for s in states)
        once = seconds(lambda o=objective, v=velocity: o(v), repeats, device)
        print(f"  stage {number}: {steps} steps of {once:.3f} s for energy and gradient, without the network")


def _real(found, fixed: Path, moving: Path) -> Problem:
    """Two images as they lie."""
    first, second = (scaled(read_subject(path).checked(), found.parameters) for path in (fixed, moving))
    return Plan(found.parameters, found).problem(first, second, np.eye(first.ndim + 1))


def _problem(found, shape: tuple[int, ...]) -> Problem:
    """A phantom pair whose working grid has about this shape."""
    step = found.config.spacing_mm
    margin = found.parameters.margin_mm
    inner = tuple(max(16, round(n - 2 * margin / step)) for n in shape)
    pair = make_pair(1, inner, step)
    everywhere = np.ones(inner, dtype=np.float32)
    grid: Grid = pair.fixed.grid
    fixed, moving = (scaled(Subject(image).checked(), found.parameters) for image in (pair.fixed, pair.moving))
    fixed = dataclasses.replace(fixed, mask=Volume(grid, everywhere))
    return Plan(found.parameters, found).problem(fixed, moving, np.eye(len(inner) + 1))


if __name__ == "__main__":
    main()
