# SPDX-License-Identifier: Apache-2.0
"""The items of a series registered onto one of them, onto their mean, or each onto the one before."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..imaging.image_files.series import write_series
from ..imaging.io import read_labels, read_volume, selection, write_volume
from ..imaging.time_series import Series
from ..imaging.volume import Volume
from ..jobs.here import done_here
from ..jobs.job import Digests, Job, key_of
from ..jobs.ledger import Done, Failed, Ledger, Place
from ..jobs.pool import Ended
from ..problem.parameters import Parameters
from ..problem.reading import PairFiles
from ..problem.subject import check_dimensions
from ..support.errors import InputError
from .many import Processes, Settings, plain_settings, run_jobs
from .pairs import NamedPair
from .series_how import MEAN, PREVIOUS, How
from .series_order import from_reference, weights_in_time

TASK = "register_item"
REFERENCE, WARPED, LABELS = "reference.nii.gz", "warped.nii.gz", "labels.nii.gz"
# Folders of the results: of each item onto the one before, of each onto the reference, and of means over time.
STEPS, ITEMS, SMOOTHED = "steps", "items", "smoothed"


@dataclass(frozen=True)
class Item:
    """What has become of an item of the series; ``result`` is None while nothing has."""

    number: int
    source: str
    folder: Path
    result: Done | Failed | None


class SeriesRun:
    """A series, and what has become of it in a folder.

    >>> run = SeriesRun(read_series(["cine.nii.gz"]), "out", Settings(), How(reference=0))
    >>> run.run(print)
    >>> run.write_warped()
    """

    def __init__(
        self, series: Series, out: str | os.PathLike, settings: Settings, how: How, force: bool = False
    ) -> None:
        """Opens the folder, and finds out what is done.

        Raises:
            InputError: the series cannot be registered so, or an item of it cannot be used; the folder holds something
                else, or, without `force`, a result of other inputs or parameters.
        """
        parameters = replace(settings.parameters, initial_alignment="none")
        how.check(len(series), parameters)
        self.series, self.how = series, how
        self._reference = self._read_reference()
        outputs = sorted({"warped", *(settings.outputs or ())})
        self.settings = replace(settings, parameters=parameters, outputs=outputs)
        self.ledger = Ledger(out, force, settings.run)
        self.out = self.ledger.folder.absolute()
        self._digests = self.ledger.digests()
        self._pairs: dict[str, NamedPair] = {}
        self._jobs: dict[str, Job] = {}
        # Items that can be worked on at once, since nothing but the reference comes before them; None for all.
        self._chains: int | None = None
        self._make_jobs()
        self.open = [job for job in self._jobs.values() if not self._is_done(job)]

    @property
    def last(self) -> str:
        """The folder of what the series ends in."""
        return SMOOTHED if self.how.smooth else ITEMS

    @property
    def count(self) -> int:
        """Registrations in all."""
        return len(self._jobs)

    @property
    def parameters(self) -> Parameters:
        """Of each registration."""
        return self.settings.parameters

    def items(self, failed: Mapping[str, Failed] | None = None) -> list[Item]:
        """What is known of all items; `failed`: by name, what failed before it was begun."""
        found = []
        for number, source in enumerate(self.series.names):
            name = _name(self.last, number)
            result = self.ledger.done(name) or self.ledger.failed(name) or (failed or {}).get(name)
            found.append(Item(number, source, self.out / name, result))
        return found

    def run(
        self,
        ended: Callable[[Ended], None],
        progress: Callable[[Job, Mapping[str, Any]], None] = lambda *_: None,
    ) -> None:
        """Registers what is not done; an item that fails stops none that does not need it.

        Args:
            ended: called with the end of each job, which `Ended.job.name` names.
            progress: called with what each tells on its way, as register() does.

        Raises:
            RuntimeError: torch is missing, or there is no such device.
        """
        if not self.open:
            return
        self.ledger.plan(self._jobs)
        write_volume(self.out / REFERENCE, self._reference)
        smoothed = [job for job in self.open if job.name.startswith(f"{SMOOTHED}/")]
        with Processes(self.settings.memory) as processes:
            for jobs, most in (([job for job in self.open if job not in smoothed], self._chains), (smoothed, None)):
                pairs = [self._pairs[job.name] for job in jobs]
                run_jobs(self.ledger, jobs, pairs, self.settings, ended, progress, most, processes)

    def run_here(
        self,
        work: Callable[[Job, dict[str, Any]], Any],
        ended: Callable[[Ended], None] = lambda end: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """As `run`, one after the other in this process, which is a warm child itself.

        Args:
            work: fills the folder of a job, as its task does, given the arguments; returns what the task returns.
            ended: called with the end of each.
            cancelled: asked while another process works on an item.

        Raises:
            Cancelled: by `work`; what it worked on does not count as tried.
        """
        if self.open:
            write_volume(self.out / REFERENCE, self._reference)
        machine = {"device": self.settings.device, "threads": self.settings.threads}
        for job in self.open:
            given = {**job.arguments, **machine, "next": None}
            end = done_here(
                self.ledger,
                job,
                lambda folder, job=job, given=given: work(job, {**given, "folder": folder}),
                self.settings.tries,
                cancelled,
            )
            ended(end)

    def write_warped(self) -> Path:
        """Writes all items as they lie on the reference, as one 4-D file; InputError unless all are done."""
        folders = [item.folder for item in self.items() if isinstance(item.result, Done)]
        if len(folders) < len(self.series):
            raise InputError(f"{self.out}: {len(self.series) - len(folders)} items have no result yet.")
        volumes = (read_volume(folder / WARPED).data for folder in folders)
        path = self.out / WARPED
        write_series(path, self.series.grid, volumes, len(folders), self.series.seconds)
        return path

    def write_labels(self, labels: Volume) -> list[dict[int, float]]:
        """Writes labels of the reference as they lie on every item, as one 4-D file.

        Returns:
            Of each item {label: mm³}, or mm² of a slice.
        """
        from ..registration.metrics import label_volumes
        from ..registration.warping import warp_labels
        from ..results.velocity import load_result

        grid, found = self.series.grid, []

        def volumes() -> Iterator[np.ndarray]:
            for item in self.items():
                deformation = load_result(item.folder).deformation
                there = warp_labels(labels, grid, deformation.displacement(grid, "moving_to_fixed"))
                found.append(label_volumes(there, grid.voxel_volume))
                yield there

        write_series(self.out / LABELS, grid, volumes(), len(self.series), self.series.seconds)
        return found

    # --------------------------------------------------------------------------------------------------- the jobs

    def _make_jobs(self) -> None:
        self._given, self._decisive = plain_settings(self.settings)
        self._given["disk"] = str(self.out)
        count, reference = len(self.series), self.how.reference
        if reference == PREVIOUS:
            first, around = 0, self._steps()
        else:
            first = None if reference == MEAN else int(reference)
            around = self._searches(first)
        if first is not None:
            self._rests(ITEMS, first, around[0])
        if self.how.smooth:
            self._smoothed(count, first)

    def _searches(self, first: int | None) -> list[Job]:
        """Each item registered onto the reference, from what was found for its neighbour on."""
        count = len(self.series)
        # On the mean none lies better than another: from the middle on the ways to the ends are shortest.
        begin = count // 2 if first is None else first
        order = from_reference(count, begin, self.how.cyclic)
        warm = self.parameters.method == "flash" and not self.how.independent
        if warm:
            self._chains = sum(neighbour == begin for _, neighbour in order)
        if first is None:
            order.insert(0, (begin, begin))
        jobs: dict[int, Job] = {}
        for item, neighbour in order:
            before = jobs.get(neighbour) if warm else None
            start = None if before is None else {"neighbour": str(self.out / before.name)}
            jobs[item] = self._job(ITEMS, item, REFERENCE, start, [] if before is None else [before])
        return list(jobs.values())

    def _steps(self) -> list[Job]:
        """Each item registered onto the one before, and the geodesics nearest to all steps up to each."""
        names = self.series.names
        steps = [self._job(STEPS, number, names[number - 1], None, []) for number in range(1, len(names))]
        parameters = replace(self.parameters, method="transform", as_geodesic=True, model="")
        found = []
        for number in range(1, len(names)):
            before = steps[:number]
            start = {"steps": [str(self.out / step.name) for step in before]}
            found.append(self._job(ITEMS, number, REFERENCE, start, before, parameters))
        return found

    def _rests(self, stage: str, item: int, other: Job) -> None:
        """The reference, of which nothing moves, in the space in which another item was found."""
        start = {"mean": [str(self.out / other.name)], "weights": [0.0]}
        self._job(stage, item, REFERENCE, start, [other])

    def _smoothed(self, count: int, first: int | None) -> None:
        for number in range(count):
            weights = weights_in_time(count, number, self.how.smooth, self.how.cyclic)
            if number == first:
                # That the reference rests is known, not found.
                weights = {number: 1.0}
            before = [self._jobs[_name(ITEMS, other)] for other in weights]
            start = {"mean": [str(self.out / job.name) for job in before], "weights": list(weights.values())}
            self._job(SMOOTHED, number, REFERENCE, start, before)

    def _job(
        self,
        stage: str,
        number: int,
        fixed: str,
        start: dict[str, Any] | None,
        after: Sequence[Job],
        parameters: Parameters | None = None,
    ) -> Job:
        """An item registered; fixed: an item, or REFERENCE."""
        onto = str(self.out / REFERENCE) if fixed == REFERENCE else os.path.abspath(fixed)
        moving = os.path.abspath(self.series.names[number])
        mask = None if self.how.mask is None else os.path.abspath(self.how.mask)
        files = PairFiles(onto, moving, fixed_mask=mask)
        given, decisive = self._given, self._decisive
        if parameters is not None:
            given = {**given, "parameters": parameters.to_dict()}
            decisive = {**decisive, "parameters": parameters.to_dict()}
        inputs = [_key(self._digests, each) for each in self._sources(fixed)]
        inputs.append(_key(self._digests, moving))
        # Folders do not count, wherever they lie, but what is in them does.
        how = None if start is None else {name: value for name, value in start.items() if name == "weights"}
        key = key_of(
            {
                "task": TASK,
                "inputs": inputs,
                "mask": None if mask is None else _key(self._digests, mask),
                "kind": None if start is None else next(iter(start)),
                "start": how,
                "after": [job.key for job in after],
                **decisive,
            }
        )
        name = _name(stage, number)
        job = Job(name, lambda: key, TASK, {"pair": vars(files), "start": start, **given}, tuple(after))
        self._jobs[name] = job
        self._pairs[name] = NamedPair(number, name, files)
        return job

    def _sources(self, fixed: str) -> Sequence[str]:
        """What an image that is registered onto is made of."""
        if fixed != REFERENCE:
            return [fixed]
        if self.how.reference == MEAN:
            return self.series.names
        return [self.series.names[0 if self.how.reference == PREVIOUS else int(self.how.reference)]]

    def _is_done(self, job: Job) -> bool:
        place = self.ledger.place(job)
        self.ledger.check(job, place)
        return place is Place.DONE

    def _read_reference(self) -> Volume:
        """What the items are registered onto. All of them are read, so that what cannot be used is known before the
        work."""
        if self.how.reference == MEAN:
            return self.series.mean()
        number = 0 if self.how.reference == PREVIOUS else self.how.reference
        found = [volume for at, volume in enumerate(self.series.volumes()) if at == number]
        return found[0]


def reference_labels(path: str | os.PathLike, series: Series) -> Volume:
    """Labels drawn on the reference.

    Raises:
        InputError: unreadable, of another dimension, or beside the series.
    """
    labels = read_labels(path)
    check_dimensions(Volume(series.grid, np.zeros(series.grid.shape, np.uint8), series.names[0]), labels)
    if not series.grid.contains(labels.grid.index_to_physical(np.argwhere(labels.data))).any():
        raise InputError(f"{path}: lies beside the series, with all its labels. Draw it on the reference.")
    return labels


def _key(digests: Digests, name: str) -> list[str]:
    path, which = selection(name)
    return [digests.of(path), which]


def _name(stage: str, number: int) -> str:
    return f"{stage}/{number:03d}"
