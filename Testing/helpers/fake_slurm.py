# SPDX-License-Identifier: Apache-2.0
"""Programs that stand for Slurm's: a script is copied before sbatch returns, and run by this computer."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

_SBATCH = """#!/bin/bash
# The last argument is the script; each job or task of an array runs in a process group of its own.
copy=$(mktemp "$FAKE_SLURM/job-XXXXXX")
cp "${@: -1}" "$copy"
number=$(ls "$FAKE_SLURM" | grep -c '^job-')
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


def put_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes the programs known; returns the folder with the scripts, what they print (*.log) and their processes."""
    programs, state = folder / "programs", folder / "state"
    programs.mkdir()
    state.mkdir()
    for name, text in (("sbatch", _SBATCH), ("scancel", _SCANCEL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(state))
    return state


def ended(state: Path) -> bool:
    """Whether no process of any job is left."""
    processes = [int(text) for path in state.glob("pids-*") for text in path.read_text().split()]
    # Until it has made its group, a process is known by its own number alone.
    return not any(_is_there(ask, process) for process in processes for ask in (os.kill, os.killpg))


def _is_there(ask: Callable[[int, int], None], process: int) -> bool:
    try:
        ask(process, 0)
        return True
    except ProcessLookupError:
        return False
