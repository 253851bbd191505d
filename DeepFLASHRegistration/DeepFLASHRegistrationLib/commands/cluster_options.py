# SPDX-License-Identifier: Apache-2.0
"""Options that say where many jobs are worked on: here, by workers of a Dask cluster, or as an array job of Slurm."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..support.errors import InputError
from .options import positive

if TYPE_CHECKING:
    from ..cohorts.many import Settings
    from ..jobs.dask_workers import DaskWorkers
    from ..jobs.ledger import Ledger
    from ..jobs.slurm import Slurm

# Sequential seconds of all jobs on a computer of reference, and bytes that one takes at most.
Estimate = tuple[float, int]

_JOBS = 8
_MEMORY_BYTES = 4 * 2**30  # where nothing tells how much one takes
# Of the time that a computer of reference takes: nodes may be slower, and start at different times.
_SLACK, _LEAST_SECONDS, _STEP_SECONDS = 2.0, 1800, 600
# What the command of an array has not, since its script has it.
_OF_THE_SCRIPT = ("--jobs", "--walltime", "--slurm-option")


def cluster_options(parser: argparse.ArgumentParser) -> None:
    """--memory-gb, --scheduler, --cluster, --jobs, --walltime, --interface, --slurm-option, --array, --print-sbatch."""
    group = parser.add_argument_group("many computers (docs/cohorts.md)")
    group.add_argument(
        "--memory-gb", type=_amount, metavar="X", help="memory of each process at most (default: as much as it takes)"
    )
    group.add_argument("--scheduler", metavar="ADDRESS", help="work by the workers of a Dask scheduler that runs there")
    group.add_argument("--cluster", choices=["slurm"], help="have Slurm run workers of Dask for as long as this lasts")
    group.add_argument(
        "--jobs", type=positive, metavar="N", help=f"jobs of Slurm, or tasks of the array (default: {_JOBS})"
    )
    group.add_argument(
        "--walltime", type=_time, metavar="TIME", help="of each job of Slurm, such as 4:00:00 (default: estimated)"
    )
    group.add_argument("--interface", default="", metavar="NAME", help="network between the nodes, such as ib0")
    group.add_argument(
        "--slurm-option",
        action="append",
        default=[],
        metavar="OPTION",
        help="of sbatch besides, such as --slurm-option=--partition=long; may be given several times",
    )
    group.add_argument(
        "--array",
        type=_share,
        metavar="I/N",
        help="begin with the I-th of N shares, beside N - 1 calls with the others",
    )
    group.add_argument(
        "--print-sbatch", action="store_true", help="print a script for sbatch that does all of this as an array job"
    )


class Workplace:
    """Where the jobs of a command are worked on; closes what was opened for it.

    >>> with Workplace(options) as workplace:
    ...     settings = workplace.settings(settings)
    ...     dask = workplace.workers(ledger, 40, lambda: (3600.0, 2**30))
    """

    def __init__(self, options: argparse.Namespace) -> None:
        """InputError for options that do not go together, or cannot be had here."""
        self._options = options
        self._opened = contextlib.ExitStack()
        self._client: Any = None
        _check_together(options)

    def __enter__(self) -> Workplace:
        """Connects to the scheduler, if one was named."""
        options = self._options
        if options.scheduler:
            from ..jobs.dask_clusters import running_scheduler

            self._client = self._opened.enter_context(running_scheduler(options.scheduler))
        elif options.cluster:
            from ..jobs.dask_clusters import check_slurm
            from ..jobs.ledger import STATE

            check_slurm(_slurm(options, 1, (0.0, 0)), options.output / STATE)
        return self

    def __exit__(self, *exception: object) -> None:
        self._opened.close()

    def settings(self, settings: Settings) -> Settings:
        """With what the options say of a process, and of the run that this call belongs to."""
        from ..jobs.ledger import Run

        memory = self._options.memory_gb
        run = Run(alike=self._options.array is not None)
        if self._options.array and "SLURM_ARRAY_JOB_ID" in os.environ:
            run = dataclasses.replace(run, id=f"slurm {os.environ['SLURM_ARRAY_JOB_ID']}")
        return dataclasses.replace(
            settings,
            memory=None if memory is None else int(memory * 2**30),
            share=self._options.array or (1, 1),
            run=run,
        )

    def workers(self, ledger: Ledger, count: int, estimate: Callable[[], Estimate]) -> DaskWorkers | None:
        """Workers of Dask for so many jobs; None if the work is done by processes on this computer.

        Raises:
            InputError: several computers cannot share the folder.
        """
        options = self._options
        if not (options.array or options.scheduler or options.cluster):
            return None
        from ..jobs.dask_workers import NO_LOCKS, DaskWorkers
        from ..jobs.ledger import STATE
        from ..support.file_lock import knows_locks

        state = ledger.folder.absolute() / STATE
        if not knows_locks(state):
            raise InputError(f"{ledger.folder}: {NO_LOCKS}")
        if options.array:
            return None
        if options.cluster:
            from ..jobs.dask_clusters import slurm_cluster

            slurm = _slurm(options, count, estimate())
            print(f"Asking Slurm for {slurm.jobs} jobs of {slurm.megabytes} MB", file=sys.stderr, flush=True)
            self._client = self._opened.enter_context(slurm_cluster(slurm, state))
            seats = slurm.jobs
        else:
            seats = options.jobs or sum(self._client.nthreads().values())
        process = {} if options.memory_gb is None else {"memory_bytes": int(options.memory_gb * 2**30)}
        found = DaskWorkers(self._client, seats, process)
        self._opened.callback(found.close)
        return found


def sbatch_text(options: argparse.Namespace, count: int, estimate: Estimate) -> str:
    """The script that --print-sbatch prints, for so many jobs."""
    from ..jobs.slurm import array_script

    slurm = _slurm(options, count, estimate)
    ours = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    ours.add_argument("--print-sbatch", action="store_true")
    for name in _OF_THE_SCRIPT:
        ours.add_argument(name, action="append")
    command = [sys.executable, "-m", "DeepFLASHRegistrationLib.cli", *ours.parse_known_args(options.given)[1]]
    for name, given, value in (
        ("--workers", options.workers, slurm.processes),
        ("--threads", options.threads, slurm.cores),
    ):
        if given is None:
            command += [name, str(value)]
    return array_script(command, slurm, Path.cwd(), f"deepflash-{options.given[0]}")


def _slurm(options: argparse.Namespace, count: int, estimate: Estimate) -> Slurm:
    from ..jobs.slurm import Slurm

    seconds, memory = estimate
    jobs = min(options.jobs or _JOBS, max(1, count))
    processes = (options.workers or 1) if options.print_sbatch else 1
    threads = max(1, (options.threads or processes) // processes)
    walltime = options.walltime
    if walltime is None:
        needed = max(_LEAST_SECONDS, _SLACK * seconds / (jobs * processes))
        walltime = _STEP_SECONDS * math.ceil(needed / _STEP_SECONDS)
    if options.memory_gb is not None:
        memory = int(options.memory_gb * 2**30)
    return Slurm(
        jobs,
        walltime,
        memory or _MEMORY_BYTES,
        threads,
        processes,
        options.device.startswith("cuda"),
        tuple(options.slurm_option),
        options.interface,
    )


def _check_together(options: argparse.Namespace) -> None:
    ways = {"--scheduler": options.scheduler, "--cluster": options.cluster, "--array": options.array}
    ways["--print-sbatch"] = options.print_sbatch
    chosen = [name for name, given in ways.items() if given]
    if len(chosen) > 1:
        raise InputError(f"{' and '.join(chosen)}: choose one of them.")
    if options.workers and (options.scheduler or options.cluster):
        raise InputError(f"--workers: are processes on this computer; with {chosen[0]}, --jobs says how many at once.")
    slurm = options.cluster or options.print_sbatch
    for name, given, may in (
        ("--walltime", options.walltime, slurm),
        ("--slurm-option", options.slurm_option, slurm),
        ("--interface", options.interface, options.cluster),
        ("--jobs", options.jobs, slurm or options.scheduler),
    ):
        if given and not may:
            where = "--cluster slurm" if name == "--interface" else "--cluster slurm or --print-sbatch"
            raise InputError(f"{name}: says something only with {where}. Add that, or leave {name} out.")


def _share(text: str) -> tuple[int, int]:
    try:
        number, count = (int(part) for part in text.split("/"))
    except ValueError:
        number, count = 0, 0
    if not 1 <= number <= count:
        raise argparse.ArgumentTypeError(f"must be a number and how many there are, 1/8 to 8/8, not {text}")
    return number, count


def _amount(text: str) -> float:
    value = float(text)
    if not 0.5 <= value <= 1e5:
        raise argparse.ArgumentTypeError(f"must lie between 0.5 and 100000, not {text}")
    return value


def _time(text: str) -> int:
    from ..jobs.slurm import seconds_of

    try:
        return seconds_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be a time such as 30, 4:00:00 or 1-12, not {text}") from error
