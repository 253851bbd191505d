# SPDX-License-Identifier: Apache-2.0
"""Seconds and memory of uniGradICON's architecture, with random weights: converting a file of them, and both maps.

    python Testing/benchmarks/unigradicon.py [--voxels 175] [--threads 2] [--device cpu]

Printed: the size of the file, seconds of its conversion, seconds of the networks' pass for both maps, of which one
direction is half, and the peak memory of the process (and of the GPU).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

LIBRARY = Path(__file__).resolve().parents[2] / "DeepFLASHRegistration"
sys.path.insert(0, str(LIBRARY))

import torch
from DeepFLASHRegistrationLib.learning.icon import PUBLISHED, IconNet
from DeepFLASHRegistrationLib.methods.converting import SHAPES, convert
from DeepFLASHRegistrationLib.methods.prediction import predictor_of
from DeepFLASHRegistrationLib.methods.trained_models import load_model


def converted(folder: Path) -> Path:
    """A model of random weights."""
    file = folder / "Step_2_final.trch"
    state = IconNet(3, PUBLISHED, SHAPES["unigradicon"], False).net.state_dict()
    for name, value in state.items():
        if "lastConv" in name:
            value.normal_(0, 1e-3)
    torch.save(state, file)
    started = time.perf_counter()
    model, _ = convert(file, "unigradicon", folder / "model")
    print(f"{file.stat().st_size / 1e6:.0f} MB converted in {time.perf_counter() - started:.1f} s")
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--voxels", type=int, default=SHAPES["unigradicon"][0], help="along each axis")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        network = predictor_of(load_model(converted(Path(folder)))).network.to(options.device)
    images = torch.rand(2, 1, *[options.voxels] * 3, device=options.device)
    with torch.no_grad():
        for run in ("first", "second"):
            started = time.perf_counter()
            forth, _ = network.displacements(*images)
            moved = float(forth.norm(dim=1).mean())
            print(f"{run} pass for both maps: {time.perf_counter() - started:.1f} s, mean move {moved:.3g} voxels")
    if options.device.startswith("cuda"):
        print(f"GPU memory: {torch.cuda.max_memory_allocated() / 1e9:.2f} GB")
    try:
        import resource
    except ImportError:  # Windows
        return
    print(f"peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
