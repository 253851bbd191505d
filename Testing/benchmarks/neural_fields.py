# SPDX-License-Identifier: Apache-2.0
"""Memory and seconds of NePhi by the number of voxels, beside FLASH and GradICON's instance optimization.

    python Testing/benchmarks/neural_fields.py [--sizes 64,128,256] [--steps 3]

Each size in processes of its own, on one thread: the images alone, NePhi (some steps at every level, and both maps on
all voxels), FLASH's energy and gradient at the finest level, and a step of GradICON's small network fitted to the pair.
Printed: peak resident memory beyond that of the process with the images, and seconds of a step.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

LIBRARY = Path(__file__).resolve().parents[2] / "DeepFLASHRegistration"
sys.path.insert(0, str(LIBRARY))
WAYS = ("images", "nephi", "flash", "gradicon")


def child(way: str, n: int, steps: int) -> None:
    """Prints peak bytes and seconds of a step."""
    import torch
    from DeepFLASHRegistrationLib.geodesics.band import Band, Metric
    from DeepFLASHRegistrationLib.geodesics.objective import Level, Objective, Pair, Settings
    from DeepFLASHRegistrationLib.methods.neural_pair import NeuralPair

    torch.set_num_threads(1)
    # The box counts the same in units of length whatever the voxels.
    lengths, seconds = (128.0,) * 3, 0.0
    waves = [torch.sin(torch.linspace(0, k, n)) for k in (20, 23, 29)]
    fixed = waves[0][:, None, None] * waves[1][:, None] * waves[2] * 0.5 + 0.5
    moving, mask = torch.roll(fixed, n // 32, 0), torch.zeros(n, n, n)
    mask[n // 8 : -n // 8, n // 8 : -n // 8, n // 8 : -n // 8] = 1
    pair = Pair(fixed, moving, mask, mask, None, None, lengths)
    levels = [
        Level((f,) * 3, Band((m,) * 3, lengths), Metric(24.0, 1.5, 1.0, None), (3.0,) * 3, 1, 128 * f / n)
        for f, m in ((4, 15), (2, 31), (1, 47))
    ]
    if way == "nephi":
        found = NeuralPair(pair, levels, [steps] * 3, 6.0, "lncc")
        started = time.perf_counter()
        for step in range(3 * steps):
            found.loss(step).backward()
        seconds = (time.perf_counter() - started) / (3 * steps)
        found.judged()
        found.displacement((n,) * 3)
    elif way == "flash":
        at_rest = torch.zeros(3, *levels[-1].band.modes)
        objective = Objective(pair, levels[-1], Settings(), None, at_rest)
        started = time.perf_counter()
        objective(at_rest)
        seconds = time.perf_counter() - started
    elif way == "gradicon":
        from DeepFLASHRegistrationLib.learning.icon import SIZES, IconNet
        from DeepFLASHRegistrationLib.learning.icon_loss import IconLoss

        network, loss = IconNet(3, SIZES["gradicon"]["small"], (n,) * 3, False), IconLoss("gradicon", (n,) * 3, "cpu")
        images = torch.stack([fixed, moving])
        started = time.perf_counter()
        loss(network, images, images).total.backward()
        seconds = time.perf_counter() - started
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="64,128,256")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], int(options.child[1]), options.steps)
        return
    print("  voxels  images, MB  NePhi, MB  FLASH, MB  GradICON, MB  NePhi/FLASH  NePhi/GradICON    s/step of each")
    for n in map(int, options.sizes.split(",")):
        found = {}
        for way in WAYS:
            command = [sys.executable, __file__, "--child", way, str(n), "--steps", str(options.steps)]
            # From a small process: the peak of a new one counts what its parent was before.
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            found[way] = float(said[0]), float(said[1])
        base = found["images"][0]
        more = {way: (found[way][0] - base) / 1e6 for way in WAYS}
        print(
            f"{n:>6}^3 {base / 1e6:11.0f} {more['nephi']:10.0f} {more['flash']:10.0f} {more['gradicon']:13.0f} "
            f"{more['nephi'] / max(more['flash'], 1e-9):12.2f} {more['nephi'] / max(more['gradicon'], 1e-9):15.2f} "
            + " ".join(f"{found[way][1]:8.2f}" for way in WAYS[1:]),
            flush=True,
        )


if __name__ == "__main__":
    main()
