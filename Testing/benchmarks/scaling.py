# SPDX-License-Identifier: Apache-2.0
"""Seconds and peak memory of the command against the number of voxels, files and start-up included.

    python Testing/benchmarks/scaling.py [--sizes 64,96,128,192,256] [--preset default]

The pair is made on the spot: two smooth textured balls, one of them bent. Printed per size: seconds, seconds per
million voxels (which must not grow), peak resident memory.
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

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "DeepFLASHRegistration"))

from DeepFLASHRegistrationLib import Grid, Volume, write_volume


def textured_ball(size: int, spacing: float, bend: float) -> Volume:
    """A ball that fills most of the field of view, with texture at several scales."""
    affine = np.diag([spacing] * 3 + [1.0])[[2, 1, 0, 3]]
    half = size * spacing / 2
    x = (np.arange(size) + 0.5) * spacing - half
    z, y, x = np.meshgrid(x, x, x, indexing="ij", sparse=True)
    z, y, x = (c / half for c in np.broadcast_arrays(z, y, x))
    x, y, z = (x + bend * np.sin(2.5 * y), y + bend * np.sin(2.2 * z + 1), z + bend * np.sin(2.8 * x + 2))
    radius = np.sqrt(x * x + y * y + z * z)
    texture = sum(
        np.cos(f * x + a) * np.cos(f * y + 2 * a) * np.cos(f * z + 3 * a) for f, a in ((6, 0.3), (13, 1.1), (27, 2))
    )
    data = np.where(radius < 0.85, np.clip(0.5 + 0.15 * texture, 0.05, 1), 0)
    return Volume(Grid((size,) * 3, affine), data.astype(np.float32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="64,96,128,192,256")
    parser.add_argument("--preset", default="default")
    parser.add_argument("--extent-mm", type=float, default=192.0)
    options = parser.parse_args()
    print(f"{'voxels':>8} {'seconds':>8} {'s/Mvoxel':>9} {'peak GB':>8}")
    for size in map(int, options.sizes.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            for name, bend in (("fixed", 0.0), ("moving", 0.06)):
                write_volume(f"{folder}/{name}.nii.gz", textured_ball(size, options.extent_mm / size, bend))
            command = [
                sys.executable,
                "-m",
                "DeepFLASHRegistrationLib.cli",
                "register",
                f"{folder}/fixed.nii.gz",
                f"{folder}/moving.nii.gz",
                "-o",
                f"{folder}/out",
                "--preset",
                options.preset,
                "--quiet",
            ]
            environment = dict(os.environ, PYTHONPATH=sys.path[0])
            start = time.perf_counter()
            child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(child.pid, 0)
            seconds = time.perf_counter() - start
            if status:
                sys.exit(f"The command failed at size {size}.")
        peak = usage.ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)
        print(f"{size:>6}^3 {seconds:8.1f} {seconds / size**3 * 1e6:9.2f} {peak:8.2f}", flush=True)


if __name__ == "__main__":
    main()
