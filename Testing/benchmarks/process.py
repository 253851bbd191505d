# SPDX-License-Identifier: Apache-2.0
"""What the child process costs: its start, and a job with images and a result of realistic size.

    python Testing/benchmarks/process.py [--size 128] [--jobs 20] [--register]

The task (`fields` of Testing/process/child_tasks.py) computes nothing: what remains is the child's own cost for
two images there, and three images and two displacement fields back. The longest poll is how long a
GUI's timer was held up. With --register also a real registration, and what it takes longer than the task itself.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from pathlib import Path

import numpy as np

TESTING = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTING.parent / "DeepFLASHRegistration"))

from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.process import RegistrationProcess


def timed(process: RegistrationProcess, task: str, arguments: dict) -> tuple[float, float]:
    """Seconds until the result is here and was read once, and the longest that `submit` or `poll` took."""
    began = time.perf_counter()
    job = process.submit(task, arguments)
    longest = time.perf_counter() - began
    while not job.done:
        before = time.perf_counter()
        process.poll()
        longest = max(longest, time.perf_counter() - before)
        time.sleep(0.001)
    if job.error:
        raise job.error
    if isinstance(job.result, dict) and "warped" in job.result:
        # Mapped arrays are read when they are used: that belongs to the cost.
        for value in job.result.values():
            (value.data if isinstance(value, Volume) else value).sum()
    return time.perf_counter() - began, longest


def registered(process: RegistrationProcess, arguments: dict) -> tuple[float, float]:
    """Seconds of a registration at the lowest settings, and how much of them the task did not take itself."""
    parameters = Parameters.from_preset("fast", iterations=(1, 0), initial_alignment="none")
    job = process.submit("register", {**arguments, "parameters": parameters, "device": "cpu", "threads": 1})
    process.wait()
    return job.seconds["total"], job.seconds["total"] - job.seconds["task"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="voxels per axis (128)")
    parser.add_argument("--jobs", type=int, default=20, help="warm jobs to time (20)")
    parser.add_argument("--register", action="store_true", help="also time real, short registrations")
    options = parser.parse_args()
    shape = (options.size,) * 3
    volume = Volume(Grid(shape, np.eye(4)), np.random.default_rng(0).random(shape, dtype=np.float32))
    arguments = {"fixed": volume, "moving": volume}
    environment = {"PYTHONPATH": str(TESTING / "process")}
    with RegistrationProcess(tasks="child_tasks", environment=environment) as process:
        cold, longest_cold = timed(process, "fields", arguments)
        torch, _ = timed(process, "devices", {})
        warm, longest = zip(*(timed(process, "fields", arguments) for _ in range(options.jobs)), strict=True)
        overheads = [registered(process, arguments) for _ in range(4 * options.register)]
        before = time.perf_counter()
        process.close()
        closing = time.perf_counter() - before
    print(f"first job, start of the child included   {cold:.3f} s (longest poll {1e3 * longest_cold:.1f} ms)")
    print(f"import of torch in the child             {torch:.3f} s")
    print(
        f"warm job of {options.size}^3: median {statistics.median(warm):.3f} s, largest {max(warm):.3f} s "
        f"(longest poll {1e3 * max(longest):.1f} ms)"
    )
    if overheads:
        total, overhead = zip(*overheads[1:], strict=True)
        print(f"register() of one iteration: {min(total):.2f} s, of which the child's overhead {max(overhead):.3f} s")
    print(f"close                                    {closing:.3f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"largest memory of the parent             {peak:.0f} MB")


if __name__ == "__main__":
    main()
