# SPDX-License-Identifier: Apache-2.0
"""Pairs of files registered as jobs, by as many processes as help."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import statistics
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..imaging.grid import Grid
from ..imaging.io import read_grid, selection
from ..imaging.volume import Volume
from ..jobs.job import Digests, Job, key_of
from ..jobs.ledger import Ledger, Place, Run
from ..jobs.pool import Ended, Pool
from ..jobs.worker import Worker
from ..methods.choosing import is_open, usable_models
from ..methods.consent import noncommercial_accepted
from ..methods.stages import stages
from ..methods.trained_models import AUTO, find_models, load_model
from ..problem.parameters import METHODS, Parameters
from ..process import RegistrationProcess
from ..registration.needs import seconds, sizes
from ..support import memory
from ..support.errors import InputError
from ..support.processors import cores
from .pairs import NamedPair, Pairs

if TYPE_CHECKING:
    from ..jobs.dask_workers import DaskWorkers

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
        threads: of the CPU, for all pairs at once; all if None. With `dask`, of each pair; one if None.
        workers: pairs at once; as many as help if None.
        tries: of a pair whose process dies.
        memory: bytes that each process may have at most; if None, as much as it takes.
        share: (I, N) if this is the I-th of N calls that share the work (from 1); each begins with a part of its own.
        run: that this call belongs to; one of its own if None.
        dask: workers on other computers, to be used in the place of processes on this one.
    """

    parameters: Parameters = field(default_factory=Parameters)
    outputs: Collection[str] | None = None
    device: str = "auto"
    threads: int | None = None
    workers: int | None = None
    tries: int = 3
    memory: int | None = None
    share: tuple[int, int] = (1, 1)
    run: Run | None = None
    dask: DaskWorkers | None = None


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
        self.ledger = Ledger(out, force, settings.run)
        given["disk"] = str(self.ledger.folder.absolute())
        digests = self.ledger.digests()
        self._jobs = {pair.name: pair_job(pair, given, decisive, digests) for pair in pairs.rows}
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
        self.ledger.plan(self._jobs)
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
    jobs = shared_out(jobs, settings.share)
    if settings.dask is not None:
        machine = {"device": settings.device, "threads": settings.threads or 1}
        for job in jobs:
            job.arguments = {**job.arguments, **machine}
        pool = Pool(settings.dask.seats(ledger, settings.tries), min(settings.dask.count, len(jobs)), apart=True)
        pool.run(jobs, ended, progress)
        return
    if importlib.util.find_spec("torch") is None:
        raise RuntimeError("PyTorch is needed to register images: pip install torch")
    spread = settings.share[1] > 1
    with _processes(settings.memory) as processes:
        device = _resolved(settings.device, processes)
        workers, threads = _shares(pairs, settings, device, min(most or len(jobs), len(jobs)), len(processes.gpus))
        for job in jobs:
            job.arguments = {**job.arguments, "device": device, "threads": threads}
        pool = Pool(lambda number: Worker(ledger, processes.next(number), settings.tries, spread), workers)
        pool.run(jobs, ended, progress)


def shared_out(jobs: Sequence[Job], share: tuple[int, int]) -> list[Job]:
    """The jobs in the order of one of several calls: first its own part, then what the next ones begin with, so that
    those who help others at the end do not meet."""
    number, count = share
    return [job for part in range(count) for job in jobs[(number - 1 + part) % count :: count]]


def _shares(pairs: Sequence[NamedPair], settings: Settings, device: str, most: int, gpus: int = 0) -> tuple[int, int]:
    """How many pairs at once, at most so many, and threads of each.

    On the CPU one thread a pair is fastest, as long as there are pairs and memory for all: threads of one pair wait
    for each other, and much of a registration has but one. A GPU gets one pair at a time.
    """
    count = settings.threads or cores()
    workers = settings.workers
    if workers is None:
        workers = count if device == "cpu" else max(1, gpus)
        free = memory.free_bytes()
        need = settings.memory or estimated(pairs, settings.parameters, device)[1]
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


def pair_job(pair: NamedPair, given: Mapping[str, Any], decisive: Mapping[str, Any], digests: Digests) -> Job:
    """A pair to be registered, by what `plain_settings` returns; known again by the contents of its files."""

    def key() -> str:
        which = {name: selection(file)[1] for name, file in pair.files.every().items()}
        inputs = {name: [digests.of(path), which[name]] for name, path in pair.paths().items()}
        return key_of({"task": TASK, "inputs": inputs, **decisive})

    return Job(pair.name, key, TASK, {"pair": vars(pair.files), **given})


class _Processes:
    """Makes processes; the first that is asked for may have been used before to look at the devices.

    Attributes:
        gpus: names by which CUDA knows those that are shared out, one to each process in turn; none unless there are
            several.
    """

    def __init__(self, memory_bytes: int | None = None) -> None:
        self.first: RegistrationProcess | None = None
        self.gpus: list[str] = []
        self._memory = memory_bytes

    def next(self, number: int = 0) -> RegistrationProcess:
        """The process of a worker, warm if there is one."""
        if self.gpus:
            environment = {"CUDA_VISIBLE_DEVICES": self.gpus[number % len(self.gpus)]}
            return RegistrationProcess(environment=environment, memory_bytes=self._memory)
        found, self.first = self.first, None
        return found or RegistrationProcess(memory_bytes=self._memory)

    def look(self) -> list[str]:
        """Names of the devices that torch has."""
        self.first = self.next()
        return [each["name"] for each in self.first.run("devices")["devices"]]

    def share(self, count: int) -> None:
        """Shares so many GPUs out among the processes, if there are several."""
        if count > 1:
            seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
            self.gpus = [each.strip() for each in seen.split(",") if each.strip()][:count] or list(
                map(str, range(count))
            )


@contextlib.contextmanager
def _processes(memory_bytes: int | None = None) -> Iterator[_Processes]:
    processes = _Processes(memory_bytes)
    try:
        yield processes
    finally:
        if processes.first is not None:
            processes.first.close()


def _resolved(device: str, processes: _Processes) -> str:
    """What "auto" stands for, found without torch where that can be; "cuda" stands for all GPUs."""
    if device not in ("auto", "cuda"):
        return device
    signs = any(map(os.path.exists, _GPU_SIGNS)) or shutil.which("nvidia-smi") is not None
    if not signs:
        return "cpu" if device == "auto" else device
    found = [name for name in processes.look() if name.startswith("cuda")]
    processes.share(len(found))
    return "cuda" if found else "cpu" if device == "auto" else device


def estimated(pairs: Sequence[NamedPair], parameters: Parameters, device: str) -> tuple[float, int]:
    """What registrations take, by the headers of some of the pairs.

    Returns:
        Seconds that one takes on average on a computer of reference, and bytes of host memory that the largest takes at
        most; both 0 if none can be looked at.
    """
    names = (
        [str(each.folder) for each in usable_models(parameters.method)] if is_open(parameters) else [parameters.model]
    )
    ways = [stages(replace(parameters, model=name)) for name in names]
    step = -(-len(pairs) // _LOOKED_AT)
    largest, took = 0, []
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
                took.append(sum(value for name, value in seconds(found, effective).items() if name != "start"))
    return statistics.fmean(took or [0.0]), largest


def whole(grid: Grid) -> Volume:
    """A mask of all of a grid, on few voxels: what a working grid covers while nothing is known of its object."""
    steps = [-(-n // _COARSE) for n in grid.shape]
    shape = tuple(len(range(0, n, step)) for n, step in zip(grid.shape, steps, strict=True))
    affine = grid.affine @ np.diag([*steps, 1.0])
    return Volume(replace(grid, shape=shape, affine=affine), np.ones(shape, np.uint8), "")
