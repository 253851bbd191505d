# SPDX-License-Identifier: Apache-2.0
"""register() on one GPU, phase by phase; with numpy, torch and this checkout alone.

    python Testing/benchmarks/gpu.py --prepare pairs.npz FIXED MOVING FIXED_LABELS MOVING_LABELS …  [--spacing-mm 1.25]
    python Testing/benchmarks/gpu.py pairs.npz [--presets fast,default,fine] [--device cuda] [--at-once 8]

Prepared once where images can be read, the pairs run on a bare machine; without a file a pair is made on the spot. All
is warm: each preset runs once before it is measured. Printed:

- per preset: seconds of each phase (medians), Dice, the most memory of the GPU that tensors held;
- per preset: one evaluation of the finest level (energy and gradient), launched and replayed: kernels, milliseconds,
  and which share of the time copying as many bytes as its operations read and write takes;
- per preset: milliseconds of the maps, of the images and labels carried through them, of the figures (among them those
  of the agreement), and of bringing results to the host; and how far they lie from the CPU's of the same velocity;
- how far the maps of two runs lie apart, and those of the GPU from those of the CPU, in mm;
- pairs per second, one after the other and several at once, in a process each.

On a CPU it runs as well, without what only a GPU has.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "DeepFLASHRegistration"))

from DeepFLASHRegistrationLib.geodesics.objective import Objective
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.problem.problem import Problem, comparable, settings
from DeepFLASHRegistrationLib.problem.subject import Subject
from DeepFLASHRegistrationLib.registration.agreement import agreement as measured_agreement
from DeepFLASHRegistrationLib.registration.carried import Carried, carried, parts
from DeepFLASHRegistrationLib.registration.maps import Maps, unfolded
from DeepFLASHRegistrationLib.registration.measuring import measured
from DeepFLASHRegistrationLib.registration.register import register
from DeepFLASHRegistrationLib.registration.result import Result

_PARTS = ("fixed", "moving", "fixed_labels", "moving_labels")
_PHASES = ("prepare", "affine", "level", "finish", "total")


class Pair(NamedTuple):
    """What is registered; labels may be None."""

    fixed: Volume
    moving: Volume
    fixed_labels: Volume | None
    moving_labels: Volume | None

    def registered(self, preset: str, device: str, threads: int | None = None) -> Result:
        labels = {name: getattr(self, name) for name in _PARTS[2:] if getattr(self, name) is not None}
        parameters = Parameters.from_preset(preset)
        return register(self.fixed, self.moving, parameters, device=device, threads=threads, **labels)


# --------------------------------------------------------------------------------------------------------- the pairs


def prepare(target: Path, files: Sequence[Path], spacing: float | None) -> None:
    """Reads pairs of images and labels, on voxels of `spacing` mm if that is given, into one file."""
    from DeepFLASHRegistrationLib.imaging.io import read_labels, read_volume
    from DeepFLASHRegistrationLib.imaging.resampling import nearest
    from DeepFLASHRegistrationLib.problem.resampling import linear

    if len(files) % len(_PARTS):
        raise SystemExit("Give fixed image, moving image, fixed labels and moving labels of each pair.")
    arrays = {}
    for number, path in enumerate(files):
        part = _PARTS[number % len(_PARTS)]
        labels = part.endswith("labels")
        volume = (read_labels if labels else read_volume)(path)
        if spacing:
            grid = volume.grid.resampled(spacing)
            volume = Volume(grid, (nearest if labels else linear)(volume, grid), volume.name)
        key = f"{number // len(_PARTS)}/{part}"
        arrays |= {key: volume.data, f"{key}/affine": volume.grid.affine}
    np.savez_compressed(target, **arrays)


def read(path: Path) -> list[Pair]:
    """The pairs of a prepared file."""
    arrays = np.load(path)
    numbers = sorted({int(key.partition("/")[0]) for key in arrays.files})

    def volume(number: int, part: str) -> Volume | None:
        key = f"{number}/{part}"
        if key not in arrays.files:
            return None
        data = arrays[key]
        return Volume(Grid(data.shape, arrays[f"{key}/affine"]), data, f"{part} {number}")

    return [Pair(*(volume(number, part) for part in _PARTS)) for number in numbers]


def made(size: int) -> list[Pair]:
    """A pair of textured balls of 160 mm, one of them bent, with their layers as labels."""
    sides = []
    for bend in (0.0, 0.06):
        half = np.linspace(-1, 1, size)
        z, y, x = np.meshgrid(half, half, half, indexing="ij")
        x, y, z = x + bend * np.sin(2.5 * y), y + bend * np.sin(2.2 * z + 1), z + bend * np.sin(2.8 * x + 2)
        radius = np.sqrt(x * x + y * y + z * z)
        texture = sum(np.cos(f * x + a) * np.cos(f * y + 2 * a) * np.cos(f * z + 3 * a) for f, a in ((6, 0.3), (13, 1)))
        inside = radius < 0.85
        grid = Grid((size,) * 3, np.diag([160 / size] * 3 + [1.0])[[2, 1, 0, 3]])
        image = np.where(inside, np.clip(0.5 + 0.15 * texture, 0.05, 1), 0).astype(np.float32)
        layers = np.where(inside, 1 + (radius * 4).astype(np.int32) + 4 * (texture > 0), 0).astype(np.int32)
        sides.append((Volume(grid, image, "image"), Volume(grid, layers, "labels")))
    (fixed, fixed_labels), (moving, moving_labels) = sides
    return [Pair(fixed, moving, fixed_labels, moving_labels)]


# --------------------------------------------------------------------------------------------------------- measuring


def milliseconds(work: Callable[[], object], device: str, repeats: int = 9) -> float:
    """Median time of a call, after two that do not count."""
    times = []
    for number in range(repeats + 2):
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        if number > 1:
            times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


class Bytes(TorchDispatchMode):
    """Counts what operations read and write, where they do more than look at a tensor in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.moved = self.operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if not getattr(func, "is_view", False):
            tensors = [*_tensors(args), *_tensors(list((kwargs or {}).values())), *_tensors(result)]
            self.moved += sum(_size(x) for x in tensors)
            self.operations += 1
        return result


def _tensors(value: object) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [x for part in value for x in _tensors(part)] if isinstance(value, list | tuple) else []


def _size(x: torch.Tensor) -> int:
    """Bytes of the elements that differ: what is repeated is read once."""
    count = 1
    for n, stride in zip(x.shape, x.stride(), strict=True):
        count *= n if stride else 1
    return count * x.element_size()


def kernels(work: Callable[[], object]) -> int:
    """Kernels that a call launches on the GPU."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        work()
        torch.cuda.synchronize()
    names = ("cudaLaunchKernel", "cuLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernelEx", "cudaGraphLaunch")
    return sum(event.count for event in found.key_averages() if event.key in names)


def objective_of(pair: Pair, preset: str, device: str, often: bool) -> tuple[Objective, torch.Tensor]:
    """The finest level of a preset, and a velocity of a few voxels."""
    parameters = Parameters.from_preset(preset)
    sides = [Subject(volume).checked(name) for volume, name in zip(pair[:2], _PARTS, strict=False)]
    problem = Problem(*comparable(*sides, parameters), np.eye(pair.fixed.ndim + 1), parameters)
    level = problem.levels(parameters)[-1]
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(pair.fixed.ndim, *level.band.modes, generator=generator)
    velocity = (noise / level.metric.symbol(level.band).float()).to(device)
    window = problem.window(device)
    first = Objective(problem.pair(device), level, settings(parameters), window, velocity)
    velocity = velocity * (3 / first.largest_displacement(velocity))
    return Objective(problem.pair(device), level, settings(parameters), window, velocity, often), velocity


def difference(one: Result, other: Result) -> str:
    apart = np.linalg.norm(one.fixed_to_moving - other.fixed_to_moving, axis=-1)
    return f"mean {apart.mean():.5f}, 99th percentile {np.percentile(apart, 99):.5f}, largest {apart.max():.4f} mm"


# ---------------------------------------------------------------------------------------------------------- printing


def phases(pairs: list[Pair], presets: Sequence[str], device: str, repeats: int) -> dict[str, list[Result]]:
    """Prints the seconds of each phase; the first pair's runs by preset."""
    on_gpu, runs = device.startswith("cuda"), {}
    head = "".join(f"{name:>9}" for name in ("prepare", "affine", "levels", "finish", "whole"))
    print(f"\n{'':9}{head}{'Dice':>8}{'peak GB':>9}" if on_gpu else f"\n{'':9}{head}{'Dice':>8}", flush=True)
    for preset in presets:
        pairs[0].registered(preset, device)
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
        found = [[pair.registered(preset, device) for _ in range(repeats)] for pair in pairs]
        runs[preset] = found[0]
        times = [result.timings for results in found for result in results]
        line = "".join(f"{statistics.median(t.get(name, 0.0) for t in times):9.3f}" for name in _PHASES)
        dice = [results[0].metrics["mean_dice_after"] for results in found if "mean_dice_after" in results[0].metrics]
        line += f"{np.mean(dice):8.4f}" if dice else f"{'-':>8}"
        if on_gpu:
            line += f"{torch.cuda.max_memory_allocated(device) / 1e9:9.2f}"
        print(f"{preset:9}{line}", flush=True)
        for note in dict.fromkeys(note for results in found for result in results for note in result.notes):
            if "computed on the CPU" in note or "could not record" in note:
                print(f"          {note}", flush=True)
    return runs


def _copying_rate(device: str) -> float:
    """Bytes read and written in a millisecond."""
    block = torch.zeros(1 << 26, device=device)
    copy = torch.empty_like(block)
    return 2 * block.element_size() * block.numel() / milliseconds(lambda: copy.copy_(block), device)


def evaluations(pair: Pair, presets: Sequence[str], device: str) -> None:
    """Prints what one evaluation of the finest level launches and takes."""
    on_gpu = device.startswith("cuda")
    rate = _copying_rate(device)
    columns = f"{'operations':>11}{'GB moved':>9}{'copying ms':>11}{'launched ms':>12}{'share':>7}"
    print(f"\n{'':9}{columns}" + (f"{'kernels':>9}{'replayed ms':>12}{'share':>7}{'then':>6}" if on_gpu else ""))
    for preset in presets:
        counted, at = objective_of(pair, preset, "cpu", False)
        with Bytes() as count:
            counted(at)
        floor = count.moved / rate
        plain, velocity = objective_of(pair, preset, device, False)
        launched = milliseconds(lambda: plain(velocity), device)
        line = f"{count.operations:11}{count.moved / 1e9:9.2f}{floor:11.2f}{launched:12.2f}{floor / launched:7.0%}"
        if on_gpu:
            often, _ = objective_of(pair, preset, device, True)
            replayed = milliseconds(lambda: often(velocity), device)
            line += f"{kernels(lambda: plain(velocity)):9}{replayed:12.2f}{floor / replayed:7.0%}"
            line += f"{kernels(lambda: often(velocity)):6}"
            one, other = plain(velocity), often(velocity)
            apart = abs(one.energy - other.energy) / abs(one.energy)
            line += (
                f"   energies apart by {apart:.1e}{'; ' + often.evaluation.trouble if often.evaluation.trouble else ''}"
            )
        print(f"{preset:9}{line}", flush=True)


def finishing(pair: Pair, runs: dict[str, list[Result]], device: str) -> None:
    """Prints what follows a velocity: its maps without folds, the images and labels, the figures, of them those of the
    agreement (which a GPU takes after the others, processors beside them), and what comes to the host."""
    fixed, moving = (
        Subject(image, labels=labels).checked(name)
        for image, labels, name in zip(pair[:2], pair[2:], _PARTS[:2], strict=True)
    )
    columns = ("maps", "carried", "figures", "agreement", "to the host")
    print(f"\n{'':9}" + "".join(f"{name + ' ms':>15}" for name in columns))
    for preset, found in runs.items():
        result = found[0]
        parameters = Parameters.from_preset(preset)
        problem = Problem(*comparable(fixed, moving, parameters), result.affine, parameters)
        geodesic, inside = result.velocity, problem.foreground

        def follow(place: str, geodesic: dict = geodesic, inside: np.ndarray = inside) -> Maps:
            return unfolded(fixed.grid, geodesic, inside, place)

        def bring(made: Maps, there: Carried) -> dict:
            alone = replace(made, determinant=made.determinant.clone())
            return parts(there, alone, fixed.grid, moving)

        outcomes = []
        for place in dict.fromkeys((device, "cpu")):
            made = follow(place)
            there = carried(fixed, moving, made)
            figures = measured(fixed, moving, there, made, problem, parameters)
            if place == device:
                works = (
                    lambda: follow(device),
                    lambda made=made: carried(fixed, moving, made),
                    lambda what=(fixed, moving, there, made, problem, parameters): measured(*what),
                    lambda what=(problem, parameters, made.deformation): measured_agreement(*what),
                    lambda made=made, there=there: bring(made, there),
                )
                times = [milliseconds(work, device, 3) for work in works]
            outcomes.append((bring(made, there), figures))
        line = f"{preset:9}" + "".join(f"{time:15.1f}" for time in times)
        print(line + (_apart(*outcomes) if len(outcomes) > 1 else ""), flush=True)


def _apart(here: tuple[dict, dict], there: tuple[dict, dict]) -> str:
    """By how much images, labels and figures of the same velocity differ, in words."""
    (ours, figures), (theirs, others) = here, there
    volumes = np.abs(np.exp(ours["log_jacobian"].data) - np.exp(theirs["log_jacobian"].data)).max()
    gray = np.abs(ours["warped"].data - theirs["warped"].data).max() / np.ptp(theirs["warped"].data)
    text = f"   apart from the CPU: determinants {volumes:.1e}, gray values {gray:.1e} of their range"
    if theirs["labels"] is not None:
        text += f", labels {np.mean(ours['labels'].data != theirs['labels'].data):.1e} of the voxels"
    names = ("similarity_before", "similarity_after", "overlap", "mean_dice_after", "sd_log_determinant")
    largest = max(abs(figures[name] - others[name]) for name in names if name in others)
    largest = max(largest, *(abs(figures["agreement"][k] - others["agreement"][k]) for k in ("reached", "floor")))
    errors = (each["inverse_error_mm"]["p95"] for each in (figures, others))
    return f"{text}, figures {largest:.1e}, inverse error {abs(np.subtract(*errors)):.1e} mm"


def agreement(pair: Pair, runs: dict[str, list[Result]], against: bool) -> None:
    """Prints how far maps lie apart."""
    print()
    for preset, found in runs.items():
        if len(found) > 1:
            print(f"{preset:9}two runs: {difference(found[0], found[1])}", flush=True)
        if against:
            print(f"{preset:9}from the CPU: {difference(found[0], pair.registered(preset, 'cpu'))}", flush=True)


def _together(source: Path | None, size: int, preset: str, device: str, threads: int, count: int, barrier: object):
    """Registers so many pairs, warm, beginning when all others do; when it began and ended."""
    torch.set_num_threads(threads)
    pairs = read(source) if source else made(size)
    pairs[0].registered(preset, device, threads)
    barrier.wait()
    began = time.time()
    for number in range(count):
        pairs[number % len(pairs)].registered(preset, device, threads)
    return began, time.time()


def together(source: Path | None, size: int, presets: Sequence[str], device: str, at_once: int) -> None:
    """Prints pairs per second, one after the other and several at once."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    print()
    for preset in presets:
        rates = []
        for processes in (1, at_once):
            context = multiprocessing.get_context("spawn")
            with context.Manager() as manager, concurrent.futures.ProcessPoolExecutor(processes, context) as pool:
                work = functools.partial(_together, source, size, preset, device, max(1, cores // processes))
                barrier, count = manager.Barrier(processes), -(-2 * at_once // processes) if processes > 1 else 2
                times = [f.result() for f in [pool.submit(work, count, barrier) for _ in range(processes)]]
            began, ended = (pick(t[i] for t in times) for i, pick in enumerate((min, max)))
            rates.append(processes * count / (ended - began))
        print(
            f"{preset:9}pairs per second: {rates[0]:.2f} one by one, {rates[1]:.2f} with {at_once} at once", flush=True
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="?", type=Path, help="a prepared file (default: a pair is made)")
    parser.add_argument("--prepare", type=Path, nargs="+", metavar="FILE", help="target, then four files of each pair")
    parser.add_argument("--spacing-mm", type=float, help="voxels of what is prepared (default: the images' own)")
    parser.add_argument("--presets", default="fast,default,fine")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--at-once", type=int, default=8, help="0: leave this out")
    parser.add_argument("--no-cpu", action="store_true", help="do not compare with the CPU, which takes longest")
    parser.add_argument("--size", type=int, default=96, help="voxels per axis of what is made")
    options = parser.parse_args(arguments)
    if options.prepare:
        prepare(options.prepare[0], options.prepare[1:], options.spacing_mm)
        return
    presets, device = options.presets.split(","), options.device
    on_gpu = device.startswith("cuda")
    pairs = read(options.pairs) if options.pairs else made(options.size)
    title = torch.cuda.get_device_name(device) if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    shape = " x ".join(map(str, pairs[0].fixed.grid.shape))
    print(f"{title}; torch {torch.__version__}; {len(pairs)} pairs, the first of {shape} voxels")
    runs = phases(pairs, presets, device, options.repeats)
    evaluations(pairs[0], presets, device)
    finishing(pairs[0], runs, device)
    agreement(pairs[0], runs, on_gpu and not options.no_cpu)
    if options.at_once:
        together(options.pairs, options.size, presets, device, options.at_once)


if __name__ == "__main__":
    main()
