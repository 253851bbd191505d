# SPDX-License-Identifier: Apache-2.0
"""Peak memory of the command against what it says before it begins.

    python Testing/benchmarks/memory.py [--only NAME ...] [--presets fast,default,fine] [--threads 1]
    python Testing/benchmarks/memory.py --pair FIXED MOVING [--labels FIXED MOVING]

Pairs are made on the spot, in the shapes of those that people have: textured balls, one of them bent; or a pair of
files. Printed for each pair and preset, without labels and with them: seconds, the peak resident memory, the estimate,
and their ratio, which is to stay between 0.8 and 1.2.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

LIBRARY = Path(__file__).resolve().parents[2] / "DeepFLASHRegistration"
sys.path.insert(0, str(LIBRARY))

from DeepFLASHRegistrationLib import Grid, Parameters, Volume, read_labels, read_volume, write_volume
from DeepFLASHRegistrationLib.imaging.intensities import foreground
from DeepFLASHRegistrationLib.methods.stages import stages
from DeepFLASHRegistrationLib.registration.needs import sizes
from DeepFLASHRegistrationLib.support import memory

# Shape and voxel in mm.
PAIRS = {
    "2-D": ((256, 256), (1.0, 1.0)),
    "hippocampus": ((35, 50, 36), (1.0, 1.0, 1.0)),
    "brain 1.25 mm": ((128, 160, 128), (1.25, 1.25, 1.25)),
    "brain 1 mm": ((170, 210, 165), (1.0, 1.0, 1.0)),
    "256^3": ((256, 256, 256), (0.75, 0.75, 0.75)),
    "CT": ((600, 512, 512), (1.0, 0.8, 0.8)),
}


def textured(shape: tuple[int, ...], spacing: tuple[float, ...], bend: float) -> tuple[Volume, Volume]:
    """An ellipsoid that fills most of the field of view, with texture, and a label map of its shells."""
    d = len(shape)
    affine = np.zeros((d + 1, d + 1))
    affine[:d, :d], affine[d, d] = np.diag(spacing)[::-1], 1
    grid = Grid(shape, affine)
    data, labels = np.empty(shape, np.int16), np.empty(shape, np.uint8)
    axes = [((np.arange(n) + 0.5) * 2 / n - 1).astype(np.float32) for n in shape]
    for k, first in enumerate(axes[0]):
        rest = np.meshgrid(*axes[1:], indexing="ij")
        x = [first + bend * np.sin(2.8 * rest[0] + 2), *(c + bend * np.sin(2.5 * first + 1) for c in rest)]
        radius = np.sqrt(sum(c * c for c in x))
        texture = sum(np.prod([np.cos(f * c + f * a) for a, c in enumerate(x)], axis=0) for f in (6, 13, 27))
        data[k] = np.where(radius < 0.85, np.clip(500 + 150 * texture, 50, 1000), 0)
        labels[k] = np.where(radius < 0.8, 1 + 8 * radius, 0)
    return Volume(grid, data), Volume(grid, labels)


def estimate(files: list[str], labelled: bool, preset: str) -> int:
    """Bytes that the command says it needs."""
    fixed, moving = map(read_volume, files[:2])
    shown = fixed.with_data(foreground(fixed).astype(np.uint8))
    labels = tuple(read_labels(file).data.size for file in files[2:]) if labelled else (0, 0)
    found = sizes(fixed.grid, moving.grid, shown, stages(Parameters.from_preset(preset)), labels)
    return memory.needed_bytes(found)[0]


def peak(files: list[str], labelled: bool, preset: str, out: str, threads: int) -> tuple[float, int]:
    """Seconds and peak resident bytes of the command."""
    command = [sys.executable, "-m", "DeepFLASHRegistrationLib.cli", "register", *files[:2], "-o", out, "--force"]
    command += ["--preset", preset, "--quiet", "--threads", str(threads)]
    if labelled:
        command += ["--fixed-labels", files[2], "--moving-labels", files[3]]
    # From a small process: the peak of a new one counts what its parent was before.
    small = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, "
        "stderr=subprocess.DEVNULL); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", small, *command],
        env=dict(os.environ, PYTHONPATH=str(LIBRARY)),
        check=True,
        capture_output=True,
        text=True,
    )
    return time.perf_counter() - start, int(done.stdout) * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(PAIRS), choices=PAIRS)
    parser.add_argument("--presets", default="fast,default,fine")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pair", nargs=2, metavar=("FIXED", "MOVING"))
    parser.add_argument("--labels", nargs=2, metavar=("FIXED", "MOVING"))
    options = parser.parse_args()
    print(f"{'pair':>14} {'preset':>8} {'labels':>6} {'seconds':>8} {'peak GB':>8} {'said GB':>8} {'ratio':>6}")
    for name in options.only if options.pair is None else [Path(options.pair[0]).name[:14]]:
        with tempfile.TemporaryDirectory() as folder:
            files = [*(options.pair or ()), *(options.labels or ())]
            if options.pair is None:
                files = [f"{folder}/{what}.nii.gz" for what in ("fixed", "moving", "fixed_labels", "moving_labels")]
                for side, bend in enumerate((0.0, 0.04)):
                    for file, volume in zip(files[side::2], textured(*PAIRS[name], bend), strict=True):
                        write_volume(file, volume)
            for preset in options.presets.split(","):
                for labelled in (False, True)[: len(files) // 2]:
                    said = estimate(files, labelled, preset)
                    seconds, seen = peak(files, labelled, preset, f"{folder}/out", options.threads)
                    print(
                        f"{name:>14} {preset:>8} {'yes' if labelled else 'no':>6} {seconds:8.1f} {seen / 1e9:8.2f} "
                        f"{said / 1e9:8.2f} {said / seen:6.2f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
