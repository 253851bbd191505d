# SPDX-License-Identifier: Apache-2.0
"""Programs that stand for Slurm's: a script is copied before sbatch returns, and run by this computer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_SBATCH = """#!/bin/bash
# The last argument is the script; each job or task of an array runs in a process group of its own.
copy=$(mktemp "$FAKE_SLURM/job-XXXXXX")
cp "${@: -1}" "$copy"
number=$$
tasks=$(sed -n 's/^#SBATCH --array=1-//p' "$copy")
for task in $(seq "${tasks:-1}"); do
  export SLURM_ARRAY_JOB_ID=$number SLURM_ARRAY_TASK_ID=$task
  setsid bash "$copy" < /dev/null > "$copy.$task.log" 2>&1 &
  echo $! >> "$FAKE_SLURM/pids-$number"
done
echo "Submitted batch job $number"
"""
_SCANCEL = """#!/bin/bash
for process in $(cat "$FAKE_SLURM/pids-$1"); do kill -TERM -- "-$process"; done
"""


# Of a cluster on which jobs wait for ever.
BUSY = (
    """#!/bin/bash
cp "${@: -1}" "$(mktemp "$FAKE_SLURM/job-XXXXXX")"
echo $$ >> "$FAKE_SLURM/asked"
echo "Submitted batch job $$"
""",
    """#!/bin/bash
echo "$1" >> "$FAKE_SLURM/cancelled"
""",
)


def put_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch, texts: tuple[str, str] = (_SBATCH, _SCANCEL)) -> Path:
    """Makes sbatch and scancel known; returns the folder with the scripts, what they print (*.log), their processes."""
    programs, state = folder / "programs", folder / "state"
    programs.mkdir()
    state.mkdir()
    for name, text in zip(("sbatch", "scancel"), texts):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(state))
    return state


def ended(state: Path) -> bool:
    """Whether the first process of each job is gone, or waits only for somebody to take notice of its end."""
    processes = [text for path in state.glob("pids-*") for text in path.read_text().split()]
    return all(map(_is_gone, processes))


def _is_gone(process: str) -> bool:
    try:
        os.kill(int(process), 0)
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except ProcessLookupError:
        return True
    except FileNotFoundError:  # it ended meanwhile, or this system has no /proc
        return Path("/proc/self").exists()
