# SPDX-License-Identifier: Apache-2.0
"""What jobs are asked of Slurm, and the script of an array job, which needs no other engine (sbatch(1))."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..support.errors import InputError

# Of the command itself, beside the processes that it starts.
_OWN_BYTES = 400 * 2**20
# So long before its end a job is told to end, so that what it works on does not count as tried.
_NOTICE_SECONDS = 60
_TIME = re.compile(r"(?:(\d+)-)?(\d+(?::\d+)*)")


@dataclass(frozen=True)
class Slurm:
    """What is asked of Slurm.

    Attributes:
        jobs: at once, or the tasks of an array.
        walltime: of each, in seconds.
        memory: bytes of each process that registers.
        threads: of each such process.
        processes: in each job.
        gpu: whether each job needs one.
        options: of sbatch besides, such as "--partition=long".
        interface: of the network between the nodes, where Dask is used.
    """

    jobs: int
    walltime: int
    memory: int
    threads: int = 1
    processes: int = 1
    gpu: bool = False
    options: Sequence[str] = ()
    interface: str = ""

    @property
    def megabytes(self) -> int:
        """Memory of a job."""
        return math.ceil((_OWN_BYTES + self.processes * self.memory) / 2**20)

    @property
    def cores(self) -> int:
        """CPUs of a job."""
        return self.processes * self.threads

    @property
    def more(self) -> list[str]:
        """Directives besides those of memory, time and CPUs."""
        return [*(["--gres=gpu:1"] if self.gpu else []), *self.options]


def seconds_of(text: str) -> int:
    """Of a time as Slurm writes it: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]].

    Raises:
        ValueError: it is none.
    """
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise ValueError(text)
    days, parts = int(found[1] or 0), [int(part) for part in found[2].split(":")]
    if len(parts) > 3:
        raise ValueError(text)
    if found[1]:  # then the first is hours
        parts += [0] * (3 - len(parts))
    elif len(parts) == 1:
        parts.append(0)
    seconds = days * 86400 + sum(part * 60**power for power, part in enumerate(reversed(parts)))
    if seconds < 1:
        raise ValueError(text)
    return seconds


def slurm_time(seconds: int) -> str:
    """Hours, minutes and seconds, as Slurm reads them."""
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def array_script(command: Sequence[str], slurm: Slurm, folder: Path, name: str) -> str:
    """The script of an array job whose tasks all run one command, with `--array I/N` behind it.

    Args:
        command: words of the command.
        slurm: what is asked for.
        folder: in which the command runs.
        name: of the job.

    Raises:
        InputError: the folder cannot be named in such a script.
    """
    if "\n" in str(folder):
        raise InputError(f"{folder}: has a line break in its name. Run this in another folder.")
    directives = [
        f"--job-name={name}",
        f"--array=1-{slurm.jobs}",
        "--ntasks=1",
        f"--cpus-per-task={slurm.cores}",
        f"--mem={slurm.megabytes}M",
        f"--time={slurm_time(slurm.walltime)}",
        f"--signal=B:TERM@{_NOTICE_SECONDS}",
        *slurm.more,
    ]
    return "\n".join(
        [
            "#!/bin/bash",
            *(f"#SBATCH {each}" for each in directives),
            f"cd {shlex.quote(str(folder))} || exit 1",
            # The command takes the script's place, so that it hears that its time is up.
            f'exec {shlex.join(command)} --array "${{SLURM_ARRAY_TASK_ID}}/{slurm.jobs}"',
            "",
        ]
    )
