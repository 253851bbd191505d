# SPDX-License-Identifier: Apache-2.0
"""Trains the models for brains on packs (see pack_models.py), one after the other, within a time.

    python Utilities/train_feature_models.py --packs FOLDER --out FOLDER [--seconds 575] [--size small]

First *brain*, of images and label maps that may be used freely; then, from its weights, *brain-t1* with the labels of
OASIS. Needs torch and numpy alone. Each leaves its weights, its checkpoint (in parts of 15 MB) and its learning curve
in the output folder, also when time runs out. --smoke takes a few updates of each size instead, and says how long
they take, and how long a prediction takes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "DeepFLASHRegistration"))

import torch
from DeepFLASHRegistrationLib.learning.feature_net import SIZES, Domain, FeatureNet
from DeepFLASHRegistrationLib.support.tensors import read_tensors, write_tensors
from DeepFLASHRegistrationLib.training.drawing import Drawing, Variety
from DeepFLASHRegistrationLib.training.examples import window
from DeepFLASHRegistrationLib.training.feature_training import Course, FeatureTraining, Validator, model_arrays, run
from DeepFLASHRegistrationLib.training.pack import Pack, read_pack

# What each model is trained on: how often pairs come from each pack, and how they vary.
MODELS = {
    "brain": ({"adults": 0.5, "heads": 0.5}, Variety()),
    "brain-t1": ({"oasis": 0.7, "adults": 0.1, "heads": 0.2}, Variety(contrasts=0.3, painted=0.1, deformation=1.5)),
}
RATES = {"brain": 1e-3, "brain-t1": 7e-4}
# Which trainings follow which.
BEFORE = {"brain-t1": "brain"}
_PART = 15_000_000
_MOST_FILES = 8


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def packs(folder: Path) -> list[Pack]:
    return [read_pack(path) for path in sorted(folder.glob("*.npz"))]


def validation(found: list[Pack]) -> list[tuple[str, int, int]]:
    """Pairs of subjects that are never trained on, and of *oasis*, which has none, of some that only brain-t1 sees."""
    pairs = []
    for pack in found:
        if pack.unseen:
            pairs += [(pack.name, a, b) for a, b in zip(pack.unseen[::2], pack.unseen[1::2])]
        else:
            pairs += [(pack.name, k, (k + 4) % len(pack)) for k in range(min(4, len(pack)))]
    return pairs


def made(name: str, found: list[Pack], options: argparse.Namespace, minutes: float) -> FeatureTraining:
    mix, variety = MODELS[name]
    drawing = Drawing(found, mix, variety, options.pairs)
    course = Course(minutes=minutes, learning_rate=RATES[name] * options.rate)
    return FeatureTraining(
        SIZES[options.size], drawing, course, options.device, not options.eager, not options.single_precision
    )


def stage(options: argparse.Namespace) -> None:
    """One model, in a process of its own."""
    begun = time.monotonic()
    if options.device == "cuda":
        torch.backends.cudnn.benchmark, torch.backends.cudnn.benchmark_limit = True, 5
    found = packs(options.packs)
    say(f"{options.stage}: {', '.join(f'{p.name} {len(p)}' for p in found)}; {time.monotonic() - begun:.1f} s to read")
    stop = time.monotonic() + options.until - time.time() - 8
    training = made(options.stage, found, options, (stop - time.monotonic()) / 60)
    checkpoint = options.work / f"{options.stage}.checkpoint"
    before = options.work / f"{BEFORE.get(options.stage, '')}.checkpoint"
    if checkpoint.exists():
        training.resume(checkpoint)
        minutes = (training.seconds() + stop - time.monotonic()) / 60
        training.course = dataclasses.replace(training.course, minutes=minutes)
        say(f"goes on after {training.iteration} updates")
    elif before.is_file():
        training.begin_with(before)
        say(f"begins with {before.name}")
    validator = Validator(training, Drawing(found, {p.name: 1.0 for p in found}, Variety()))
    run(
        training,
        validation(found),
        checkpoint,
        validator=validator,
        saved_too=lambda: write_model(training, options.out / f"{options.stage}.safetensors"),
        validate_every=options.validate_every,
        stop_at=stop,
        say=say,
    )
    (options.out / f"{options.stage}-curve.json").write_text(json.dumps(training.history))
    peak = torch.cuda.max_memory_allocated() / 1e9 if options.device == "cuda" else 0.0
    say(f"{options.stage}: {training.iteration} updates in {training.seconds():.0f} s, peak {peak:.2f} GB")


def write_model(training: FeatureTraining, path: Path) -> None:
    """The averaged weights and what is needed to build the network."""
    about = {
        "design": json.dumps(training.design.to_dict()),
        "updates": str(training.iteration),
        "seconds": f"{training.seconds():.0f}",
    }
    write_tensors(path.with_suffix(".new"), model_arrays(training), about)
    path.with_suffix(".new").replace(path)


def export(checkpoint: Path, out: Path, room: int) -> int:
    """A checkpoint in parts, if they are no more than there is room for; how many there are."""
    arrays, about = read_tensors(checkpoint)
    parts: list[dict[str, np.ndarray]] = [{}]
    for name, value in sorted(arrays.items(), key=lambda item: -item[1].nbytes):
        fitting = [p for p in parts if sum(x.nbytes for x in p.values()) + value.nbytes <= _PART]
        if fitting:
            fitting[0][name] = value
        else:
            parts.append({name: value})
    parts = [p for p in parts if p]
    if len(parts) > room:
        return 0
    for number, part in enumerate(parts, 1):
        write_tensors(out / f"{checkpoint.stem}-checkpoint-{number}.safetensors", part, about)
    return len(parts)


def join(folder: Path, work: Path) -> None:
    """The checkpoints in `work` of their parts in a folder: the inverse of `export`."""
    for name in MODELS:
        found = [read_tensors(p) for p in sorted(folder.glob(f"{name}-checkpoint-*.safetensors"))]
        if found:
            arrays = {key: value for part, _ in found for key, value in part.items()}
            write_tensors(work / f"{name}.checkpoint", arrays, found[0][1])


def everything(options: argparse.Namespace) -> int:
    """Both models, each in a process; again without what may have failed, if it fails early."""
    begun = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        work = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        if options.resume:
            join(options.resume, work)
        failed = 0
        for name in options.models:
            last = name == options.models[-1]
            for more in ([], ["--eager"], ["--eager", "--single-precision"]):
                left = options.seconds - (time.monotonic() - begun) - 15
                share = left if last else min(left, options.share * options.seconds)
                if share < 30:
                    say(f"no time is left for {name}")
                    failed = 1
                    break
                say(f"{name}: {share:.0f} s {' '.join(more)}")
                if not _one(name, share, [*more, "--work", str(work)], options):
                    break
                failed = 1
                say(f"{name} failed")
        files = len(list(options.out.iterdir()))
        for name in reversed(options.models):
            checkpoint = work / f"{name}.checkpoint"
            if checkpoint.is_file():
                files += export(checkpoint, options.out, _MOST_FILES - files)
    for path in sorted(options.out.iterdir()):
        say(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")
    say(f"{time.monotonic() - begun:.0f} s in all")
    return failed


def _one(name: str, seconds: float, more: list[str], options: argparse.Namespace) -> int:
    until = time.time() + seconds
    command = [sys.executable, __file__, "--stage", name, "--until", str(until), "--packs", str(options.packs)]
    command += ["--out", str(options.out), "--size", options.size, "--pairs", str(options.pairs), *more]
    command += [
        "--device",
        options.device,
        "--rate",
        str(options.rate),
        "--validate-every",
        str(options.validate_every),
    ]
    for flag in ("eager", "single_precision"):
        if getattr(options, flag) and (text := f"--{flag.replace('_', '-')}") not in command:
            command.append(text)
    try:
        return subprocess.run(command, timeout=seconds + 4, check=False).returncode
    except subprocess.TimeoutExpired:
        say(f"{name}: did not stop in time, and was stopped; its last checkpoint counts")
        return 0


# ---------------------------------------------------------------------------------------------------------------- smoke


def smoke(options: argparse.Namespace) -> int:
    """Milliseconds and memory of both sizes: updates, captured and not, and predictions."""
    torch.backends.cudnn.benchmark, torch.backends.cudnn.benchmark_limit = True, 5
    say(f"torch {torch.__version__}, {torch.cuda.get_device_name() if options.device == 'cuda' else 'cpu'}")
    found = packs(options.packs)
    say(f"packs read: {[(p.name, len(p), p.shape) for p in found]}")
    begun, failed = time.monotonic(), 0
    # The most important first: what does not fit into the time is left out.
    trials = [(size, 1, False) for size in options.sizes]
    trials += [(options.sizes[0], 2, False), (options.sizes[0], 1, True)]
    for size in options.sizes:
        try:
            _smoke_prediction(size, found[0].shape, options)
        except Exception as error:
            failed = 1
            say(f"{size} prediction: {type(error).__name__}: {error}")
    for options.size, options.pairs, options.eager in trials:
        if time.monotonic() - begun > options.smoke_seconds:
            say("no time is left for the rest")
            break
        try:
            _smoke_training("brain-t1", found, options, 8 if options.eager else 50)
        except Exception as error:
            failed = 1
            traceback.print_exc()
            say(f"{options.size}, {options.pairs}, {options.eager}: {type(error).__name__}: {error}")
    return failed


def _smoke_training(name: str, found: list[Pack], options: argparse.Namespace, count: int) -> None:
    clock = time.monotonic()
    training = made(name, found, options, 1.0)
    _wait(options)
    text = f"{options.size} {'eager' if options.eager else 'captured'}, {options.pairs} at once: "
    text += f"made in {time.monotonic() - clock:.1f} s, "
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for k in range(5):
        clock = time.monotonic()
        training.update()
        _wait(options)
        text += f"{'first updates (s) ' if k == 0 else ''}{time.monotonic() - clock:.2f} "
    clock = time.monotonic()
    for _ in range(count):
        training.update()
    _wait(options)
    text += f"then {(time.monotonic() - clock) / count * 1e3:.1f} ms per update"
    clock = time.monotonic()
    for k in range(10):
        training.drawing.draw((1, k))
    text += f" (drawing {(time.monotonic() - clock) * 100:.1f} ms)"
    if options.device == "cuda":
        text += f", peak {torch.cuda.max_memory_allocated() / 1e9:.2f} GB"
    say(text)
    optimizer = training.optimizer
    say(
        f"  skipped {int(optimizer.skipped)}, norms {[round(float(x), 2) for x in optimizer.history[:12]]}, "
        f"finite {bool(torch.isfinite(optimizer.weights).all())}"
    )
    for record in training.history[-1:]:
        say(f"  parts {record['parts']}")
    clock = time.monotonic()
    validator = Validator(training)
    say(f"  {validator(optimizer.average, [('oasis', 0, 4)])}, {time.monotonic() - clock:.1f} s")


def _smoke_prediction(size: str, shape: tuple[int, ...], options: argparse.Namespace) -> None:
    device = torch.device(options.device)
    network = FeatureNet(SIZES[size]).to(device).eval().requires_grad_(False)
    network.mixed_precision = not options.single_precision
    domain = Domain(network.design, shape, device=device, window=window)
    fixed, moving = (torch.rand((1, *shape), device=device) for _ in range(2))
    with torch.no_grad():
        for _ in range(3):
            result = network.answer(fixed, moving, domain)
        _wait(options)
        clock = time.monotonic()
        network.answer(fixed, moving, domain)
        _wait(options)
        say(f"{size}: prediction launched one by one {(time.monotonic() - clock) * 1e3:.1f} ms")
        if device.type != "cuda":
            return
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.empty_cache()
        held = torch.cuda.memory_allocated()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = network.answer(fixed, moving, domain)
        again = network.answer(fixed, moving, domain)
        graph.replay()
        _wait(options)
        clock = time.monotonic()
        for _ in range(20):
            graph.replay()
        _wait(options)
        took = (time.monotonic() - clock) * 50
    difference = max(float((a - b).abs().max()) for a, b in zip(result, again))
    peak = (torch.cuda.max_memory_allocated() - held) / 1e9
    say(f"{size}: prediction captured {took:.2f} ms, {peak:.2f} GB, differs from launched by {difference:.2g}")


def _wait(options: argparse.Namespace) -> None:
    if options.device == "cuda":
        torch.cuda.synchronize()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=575.0, help="of everything (default: 575)")
    parser.add_argument("--share", type=float, default=0.5, help="of the first model in the time (default: 0.5)")
    parser.add_argument("--models", nargs="+", choices=sorted(MODELS), default=["brain", "brain-t1"])
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    parser.add_argument("--pairs", type=int, default=1, help="at each update (default: 1, seen in both directions)")
    parser.add_argument("--rate", type=float, default=1.0, help="factor of the learning rates")
    parser.add_argument("--validate-every", type=float, default=60.0, help="seconds")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--work", type=Path, help="folder of the checkpoints, to go on from")
    parser.add_argument("--resume", type=Path, help="output folder of an earlier call, to go on from")
    parser.add_argument("--eager", action="store_true", help="do not capture updates")
    parser.add_argument("--single-precision", action="store_true")
    parser.add_argument("--stage", choices=sorted(MODELS), help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--smoke-seconds", type=float, default=45, help="after which nothing more is tried")
    parser.add_argument("--sizes", nargs="+", choices=sorted(SIZES), default=["small", "large"], help="with --smoke")
    options = parser.parse_args()
    if options.smoke:
        return smoke(options)
    if options.stage:
        stage(options)
        return 0
    return everything(options)


if __name__ == "__main__":
    sys.exit(main())
