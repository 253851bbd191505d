# SPDX-License-Identifier: Apache-2.0
"""Many pairs in one call against one pair alone, start-up and files included.

    python Testing/benchmarks/many.py [--images FOLDER] [--pairs 10] [--preset fast] [--repeats 3]

In turn, so that all meet the same load: `deepflash register` of one pair with all threads, and with one thread; then
`register-many` of all pairs with one at a time and all threads, and with the number at once that it chooses by itself.
Printed: median seconds, and how many times one pair that is. Without a folder of images, pairs are made on the spot.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIBRARY = str(Path(__file__).resolve().parents[2] / "DeepFLASHRegistration")
sys.path.insert(0, LIBRARY)

from DeepFLASHRegistrationLib import write_volume
from DeepFLASHRegistrationLib.imaging.files import IMAGES
from DeepFLASHRegistrationLib.support.processors import cores
from scaling import textured_ball


def images(options: argparse.Namespace, folder: Path) -> list[Path]:
    """One more than there are pairs."""
    if options.images is not None:
        return sorted(path.absolute() for path in options.images.iterdir() if path.name.endswith(IMAGES))
    for number in range(options.pairs + 1):
        bent = textured_ball(options.size, 192 / options.size, 0.006 * number)
        write_volume(folder / f"{number:03}.nii.gz", bent)
    return sorted(folder.glob("*.nii.gz"))


def timed(*arguments: str) -> float:
    """Seconds of a command."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "DeepFLASHRegistrationLib.cli", *arguments, "-q"]
    environment = {**os.environ, "PYTHONPATH": LIBRARY}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of images (default: made ones)")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", type=int, default=64, help="voxels per axis of made images")
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = images(options, folder)[: options.pairs + 1]
        table = folder / "pairs.csv"
        lines = [f'"{fixed}","{moving}"' for fixed, moving in zip(files, files[1:], strict=False)]
        table.write_text("\n".join(["fixed,moving", *lines]) + "\n", encoding="utf-8")
        for _ in range(options.repeats):
            for what, start in (
                ("one pair", ("register", str(files[0]), str(files[1]))),
                ("on one thread", ("register", str(files[0]), str(files[1]), "--threads", "1")),
                ("one at a time", ("register-many", str(table), "--workers", "1")),
                ("several at once", ("register-many", str(table))),
            ):
                out = folder / "out"
                seconds.setdefault(what, []).append(timed(*start, "-o", str(out), "--preset", options.preset))
                shutil.rmtree(out)
    one = statistics.median(seconds["one pair"])
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(f"{len(lines)} pairs, {options.preset}, {cores()} cores, load at the end {load:.1f}")
    for what, values in seconds.items():
        median = statistics.median(values)
        print(f"{what:16} {median:7.1f} s  {median / one:5.2f} times one pair")


if __name__ == "__main__":
    main()
