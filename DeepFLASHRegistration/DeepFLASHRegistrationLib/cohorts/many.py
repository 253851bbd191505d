# SPDX-License-Identifier: Apache-2.0
"""Pairs of files registered as jobs, by as many processes as help."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..imaging.grid import Grid
from ..imaging.io import read_grid, selection
from ..imaging.volume import Volume
from ..jobs.job import Digests, Job, key_of
from ..jobs.ledger import Ledger, Place
from ..jobs.pool import Ended, Pool
from ..jobs.worker import Worker
from ..methods.choosing import is_open, usable_models
from ..methods.consent import noncommercial_accepted
from ..methods.stages import stages
from ..methods.trained_models import AUTO, find_models, load_model
from ..problem.parameters import METHODS, Parameters
from ..process import RegistrationProcess
from ..registration.needs import sizes
from ..support import memory
from ..support.errors import InputError
from ..support.processors import cores
from .pairs import NamedPair, Pairs

TASK = "register_files"
# Headers looked at to tell how much memory the largest pair takes.
_LOOKED_AT = 64
_COARSE = 64  # voxels along an axis
# Where the drivers of GPUs that torch can use show themselves: without any of them it need not be asked.
_GPU_SIGNS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


@dataclass(frozen=True)
class Settings:
    """How all pairs are registered.

    Attributes:
        parameters: of each registration.
        outputs: what is written of each, as for results.folder.save_result.
        device: "auto", "cpu", "cuda", ...
        threads: of the CPU, for all pairs at once; all if None.
        workers: pairs at once; as many as help if None.
        tries: of a pair whose process dies.
    """

    parameters: Parameters = field(default_factory=Parameters)
    outputs: Collection[str] | None = None
    device: str = "auto"
    threads: int | None = None
    workers: int | None = None
    tries: int = 3


class Many:
    """The pairs of a table, and what has become of them in a folder.

    >>> many = Many(read_pairs("pairs.tsv", "out"), "out", Settings())
    >>> many.run(print)
    """

    def __init__(self, pairs: Pairs, out: str | os.PathLike, settings: Settings, force: bool = False) -> None:
        """Opens the folder, and finds out what is done.

        Raises:
            InputError: an output is taken by something else, or, without `force`, by a result of other inputs or
                parameters; there is no such model.
        """
        self.pairs = pairs
        self.settings = settings
        given, decisive = plain_settings(settings)
        self.ledger = Ledger(out, force)
        given["disk"] = str(self.ledger.folder.absolute())
        digests = self.ledger.digests()
        self._jobs = {pair.name: _job(pair, given, decisive, digests) for pair in pairs.rows}
        self.open = [pair for pair in pairs.rows if not self._is_done(pair)]

    def _is_done(self, pair: NamedPair) -> bool:
        job = self._jobs[pair.name]
        place = self.ledger.place(job)
        if place is Place.DONE:
            return True
        try:
            self.ledger.check(job, place)
        except InputError as error:
            raise InputError(f"{self.pairs.path}, line {pair.line}, column output: {error}") from error
        return False

    def run(
        self,
        ended: Callable[[Ended], None],
        progress: Callable[[Job, Mapping[str, Any]], None] = lambda *_: None,
    ) -> None:
        """Registers all pairs that are not done; a failing one stops no other.

        Args:
            ended: called with the end of each, which `Ended.job.name` names.
            progress: called with what each tells on its way, as register() does.

        Raises:
            RuntimeError: torch is missing, or there is no such device.
        """
        jobs = [self._jobs[pair.name] for pair in self.open]
        run_jobs(self.ledger, jobs, self.open, self.settings, ended, progress)


def run_jobs(
    ledger: Ledger,
    jobs: Sequence[Job],
    pairs: Sequence[NamedPair],
    settings: Settings,
    ended: Callable[[Ended], None],
    progress: Callable[[Job, Mapping[str, Any]], None],
    most: int | None = None,
) -> None:
    """Works on jobs that register files, by as many processes as help.

    Args:
        jobs: without a device and threads, which are chosen here.
        pairs: the files of each, which tell what memory they take.
        most: how many of them can be worked on at once, where some wait for others.

    Raises:
        RuntimeError: torch is missing, or there is no such device.
    """
    if not jobs:
        return
    if importlib.util.find_spec("torch") is None:
        raise RuntimeError("PyTorch is needed to register images: pip install torch")
    with _processes() as processes:
        device = _resolved(settings.device, processes)
        workers, threads = _shares(pairs, settings, device, min(most or len(jobs), len(jobs)))
        for job in jobs:
            job.arguments = {**job.arguments, "device": device, "threads": threads}
        Pool(lambda _: Worker(ledger, processes.next(), settings.tries), workers).run(jobs, ended, progress)


def _shares(pairs: Sequence[NamedPair], settings: Settings, device: str, most: int) -> tuple[int, int]:
    """How many pairs at once, at most so many, and threads of each.

    On the CPU one thread a pair is fastest, as long as there are pairs and memory for all: threads of one pair wait
    for each other, and much of a registration has but one. A GPU gets one pair at a time.
    """
    count = settings.threads or cores()
    workers = settings.workers
    if workers is None:
        workers = count if device == "cpu" else 1
        free = memory.free_bytes()
        need = _largest_need(pairs, settings.parameters, device)
        if free is not None and need:
            workers = min(workers, int(memory.USABLE_FRACTION * free / need))
    workers = max(1, min(workers, most))
    return workers, max(1, count // workers)


def plain_settings(settings: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the task is given of the settings, and what of them decides a result."""
    parameters = settings.parameters.to_dict()
    outputs = None if settings.outputs is None else sorted(settings.outputs)
    decisive = {"parameters": dict(parameters), "outputs": outputs}
    if METHODS[settings.parameters.method].needs_model:
        if is_open(settings.parameters):
            # Which one fits follows from the images, and from these.
            usable = sorted(model.checksum for model in usable_models(settings.parameters.method))
            decisive["parameters"]["model"] = {AUTO: usable, "accepted": noncommercial_accepted() is True}
            return {"parameters": parameters, "outputs": outputs}, decisive
        # The model itself decides, not what it is called or where it lies.
        model = load_model(settings.parameters.model)
        decisive["parameters"]["model"] = model.checksum
        if parameters["model"] not in {found.name for found in find_models()}:
            # A folder, and the process has another current one.
            parameters["model"] = str(model.folder.absolute())
    return {"parameters": parameters, "outputs": outputs}, decisive


def _job(pair: NamedPair, given: Mapping[str, Any], decisive: Mapping[str, Any], digests: Digests) -> Job:
    def key() -> str:
        which = {name: selection(file)[1] for name, file in pair.files.every().items()}
        inputs = {name: [digests.of(path), which[name]] for name, path in pair.paths().items()}
        return key_of({"task": TASK, "inputs": inputs, **decisive})

    return Job(pair.name, key, TASK, {"pair": vars(pair.files), **given})


class _Processes:
    """Makes processes; the first that is asked for may have been used before to look at the devices."""

    def __init__(self) -> None:
        self.first: RegistrationProcess | None = None

    def next(self) -> RegistrationProcess:
        """A process, warm if there is one."""
        found, self.first = self.first, None
        return found or RegistrationProcess()


@contextlib.contextmanager
def _processes() -> Iterable[_Processes]:
    processes = _Processes()
    try:
        yield processes
    finally:
        if processes.first is not None:
            processes.first.close()


def _resolved(device: str, processes: _Processes) -> str:
    """What "auto" stands for, found without torch where that can be."""
    if device != "auto":
        return device
    signs = any(map(os.path.exists, _GPU_SIGNS)) or shutil.which("nvidia-smi") is not None
    if not signs:
        return "cpu"
    processes.first = processes.next()
    found = processes.first.run("devices")
    return "cuda" if any(each["name"] == "cuda" for each in found["devices"]) else "cpu"


def _largest_need(pairs: Sequence[NamedPair], parameters: Parameters, device: str) -> int:
    """Bytes of host memory that the largest of the pairs looked at takes at most; 0 if none can be looked at."""
    names = (
        [str(each.folder) for each in usable_models(parameters.method)] if is_open(parameters) else [parameters.model]
    )
    ways = [stages(replace(parameters, model=name)) for name in names]
    step = -(-len(pairs) // _LOOKED_AT)
    largest = 0
    for pair in pairs[::step]:
        # What is wrong with a pair is told when its turn comes.
        with contextlib.suppress(InputError, OSError, ValueError):
            fixed, moving = read_grid(pair.files.fixed), read_grid(pair.files.moving)
            labels = [
                grid.size if file is not None else 0
                for grid, file in ((fixed, pair.files.fixed_labels), (moving, pair.files.moving_labels))
            ]
            for effective in ways:
                found = sizes(fixed, moving, whole(fixed), effective, tuple(labels), len(pair.files.fixed_channels))
                largest = max(largest, memory.needed_bytes(found, device)[0])
    return largest


def whole(grid: Grid) -> Volume:
    """A mask of all of a grid, on few voxels: what a working grid covers while nothing is known of its object."""
    steps = [-(-n // _COARSE) for n in grid.shape]
    shape = tuple(len(range(0, n, step)) for n, step in zip(grid.shape, steps, strict=True))
    affine = grid.affine @ np.diag([*steps, 1.0])
    return Volume(replace(grid, shape=shape, affine=affine), np.ones(shape, np.uint8), "")
