# SPDX-License-Identifier: Apache-2.0
"""ANTs' SyN and Greedy: on the working grid's images, in a process of the Python that has them.

Their packages want versions of NumPy that neither this one nor Slicer's may be brought to, so they live in an
environment of their own, whose Python the environment variable DEEPFLASH_PEERS names.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..imaging.grid import Grid
from ..imaging.volume import Volume
from ..problem.problem import Problem
from ..support.errors import Cancelled, InputError
from . import peer_program
from .answered import FoundMap, answered
from .registry import Estimated, Plan, Watch

PEERS = "DEEPFLASH_PEERS"
# In the note that says which program found a map, between its name and its settings.
RUN_AS = "was run as"
_TITLES = {"ants": "ANTs", "greedy": "Greedy"}
_PACKAGES = {"ants": ("ants", "antspyx"), "greedy": ("picsl_greedy", "picsl-greedy")}
_ASKED_EVERY, _LAST_WORDS = 0.1, 2000
_MOST_ASKING = 30.0  # seconds


def estimate(problem: Problem, plan: Plan, device: str, initial: Mapping[str, Any] | None, watch: Watch) -> Estimated:
    """The peer's map, in the form that the parameters ask for."""
    if initial is not None:
        raise InputError("Another program starts from the images alone. Leave the velocity or map out.")
    name = plan.parameters.method.removesuffix("+flash")
    part = 0.85 if plan.parameters.dense else 0.6
    forth, back, said = _asked(name, problem, plan.parameters.similarity, watch, part)
    found = answered(problem, plan, device, FoundMap(_TITLES[name], forth, back), watch, part)
    return Estimated(**{**vars(found), "notes": (said, *found.notes)})


def peers_python(named: str | None = None) -> Path:
    """The Python that has the peers.

    Args:
        named: its path; by default what DEEPFLASH_PEERS says.

    Raises:
        InputError: none is named, or it is none.
    """
    named = os.environ.get(PEERS, "") if named is None else named
    found = shutil.which(named) if named else None
    if found is None:
        what = f"{named} is no program." if named else f"no Python with them is named ({PEERS})."
        raise InputError(
            f"ANTs and Greedy live in an environment of their own: {what} Make one: python -m venv peers; "
            f"peers/bin/pip install antspyx picsl-greedy; and name its Python: export {PEERS}=$PWD/peers/bin/python, "
            "or in Slicer below the method."
        )
    return Path(found)


def checked_peers(named: str, method: str) -> str:
    """The Python that has a method's program, found out by asking it, in a fraction of a second.

    Args:
        named: its path; where it is empty, what DEEPFLASH_PEERS says.

    Raises:
        InputError: none is named, it is none, or it lacks the package.
    """
    python = peers_python(named or None)
    module, package = _PACKAGES[method.removesuffix("+flash")]
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    try:
        asked = subprocess.run(
            [str(python), "-I", "-c", code], stdin=subprocess.DEVNULL, capture_output=True, timeout=_MOST_ASKING
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"{python}: cannot be run ({error}). Name another Python.") from error
    if asked.returncode == 1 and not asked.stderr:
        raise InputError(f"{python} has no {package}. Install it there: {python} -m pip install {package}.")
    if asked.returncode:
        raise InputError(f"{python}: is no Python that can be used. Name the one of the environment with {package}.")
    return str(python)


def _asked(
    name: str, problem: Problem, similarity: str, watch: Watch, part: float
) -> tuple[np.ndarray, np.ndarray, str]:
    """u and w on the working grid (d, *shape), mm along its array axes, and what was run, in words."""
    import torch

    from ..imaging.io import write_volume
    from ..imaging.transforms import read_displacement_field

    python = peers_python()
    grid = Grid(problem.grid.shape, problem.grid.affine)  # a slice of space is a plane to them
    with tempfile.TemporaryDirectory(prefix="deepflash-peer-") as folder:
        paths = {key: str(Path(folder) / f"{key}.nii.gz") for key in ("fixed", "moving", "forth", "back")}
        for key, image in (("fixed", problem.fixed), ("moving", problem.moving)):
            write_volume(paths[key], Volume(grid, image))
        given = {"program": name, "similarity": similarity, "threads": torch.get_num_threads(), **paths}
        answer = _run(python, given, Path(folder), watch, part)
        fields = []
        for key in ("forth", "back"):
            there, values = read_displacement_field(paths[key])
            if not there.same_as(grid, 1e-3) or not np.isfinite(values).all():
                raise RuntimeError(f"{_TITLES[name]} returned a field of other voxels, or one that is not finite.")
            along = values @ np.linalg.inv(grid.direction).T.astype(np.float32)
            fields.append(np.ascontiguousarray(np.moveaxis(along, -1, 0)))
    return (*fields, f"{answer['version']} {RUN_AS} {answer['settings']}")


def _run(python: Path, given: Mapping[str, Any], folder: Path, watch: Watch, part: float) -> dict[str, Any]:
    """What the program says at its end.

    Raises:
        Cancelled: that was wanted; the process is gone.
        InputError: the package is missing.
        RuntimeError: the process failed or died.
    """
    title, started = _TITLES[given["program"]], time.monotonic()
    with open(folder / "told.txt", "w+b") as told:
        command = [str(python), "-I", peer_program.__file__, json.dumps(given)]
        with _process(command, told, folder) as process:
            while process.poll() is None:
                if watch.cancel():
                    raise Cancelled(f"Cancelled before {title} was done.")
                # Nobody knows how long it takes: half of what is left each minute.
                done = 1 - 0.5 ** ((time.monotonic() - started) / 60)
                watch.tell(phase="level", progress=0.2 + (part - 0.2) * done, message=f"{title} is running")
                time.sleep(_ASKED_EVERY)
        told.seek(0)
        text = told.read().decode("utf-8", "replace")
    answer = folder / peer_program.ANSWER
    if not answer.exists():
        raise RuntimeError(f"{title} ended with exit status {process.returncode}: {text[-_LAST_WORDS:].strip()}")
    values = json.loads(answer.read_text(encoding="utf-8"))
    if "missing" in values:
        raise InputError(
            f"{python} has no {values['missing']}. Install it there: {python} -m pip install {values['missing']}."
        )
    return values


@contextlib.contextmanager
def _process(command: list[str], told: Any, folder: Path) -> Iterator[subprocess.Popen]:
    """A process, in a group of its own where there are any, that does not outlive the block."""
    posix = os.name == "posix"
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=told, stderr=subprocess.STDOUT, cwd=folder, start_new_session=posix
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            if posix:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
            process.wait()
