# SPDX-License-Identifier: Apache-2.0
"""An unbiased template of many subjects: the image in the middle of them all, found in rounds.

    poses      each subject aligned with a first image, and the mean of the logarithms of these maps taken as the
               middle; once rigidly and, on the average image of that, once affinely
    rounds     each subject registered to the template, in its affine pose; the warped images averaged; the average
               moved along the geodesic of the mean velocity
    settled    from each velocity their mean taken, so that the template lies in the middle; what that gives averaged

Every alignment, registration and average is a job, known again by what it is made of and done once: interrupted, the
same command goes on where it was, and of several that share the work all go on from the same averages.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..imaging.grid import Grid
from ..imaging.intensities import background_value
from ..imaging.io import read_grid
from ..imaging.transforms import write_affine
from ..jobs.here import done_here
from ..jobs.job import Job, key_of
from ..jobs.ledger import Done, Failed, Ledger, Place
from ..jobs.pool import Ended
from ..results.plain import grid_from
from ..support.errors import InputError
from ..training.dataset import Dataset
from .many import Processes, Settings, run_jobs
from .pairs import checked_name
from .template_averages import Averaging, with_further
from .template_files import (
    AGREEMENT,
    ASYMMETRY,
    AVERAGES,
    AXIS,
    LABELS,
    MASK,
    MEAN,
    POSED,
    POSES,
    REGISTERED,
    ROUNDS,
    SPACE,
    STANDARD,
    SUBJECTS,
    SUMMARY,
    TEMPLATE,
    VOLUMES,
    further,
    mask_of,
)
from .template_how import How
from .template_images import far_away, shown
from .template_jobs import TemplateJobs
from .template_mirror import upright
from .template_sides import flipped
from .template_subjects import Known, channel_count, named_structures
from .written_once import write_once

_KINDS, _SETTLED, _SIDES = ("rigid", "affine"), "settled", "sides"
# Files in SPACE that tell left from right.
_OF_SIDES = (AXIS, "mirrored")
# Of a template's subjects at least so many must be left.
_LEAST = 2


@dataclass
class Round:
    """What came of a round: by how many voxels the mean geodesic moves the template (before it was moved), and how
    sharp the average is."""

    number: int
    mean_voxels: float
    largest_voxels: float
    sharpness: float


@dataclass
class TemplateRun:
    """A template, and what has become of it in a folder.

    >>> run = TemplateRun(read_dataset("scans"), "T", Settings(Parameters.from_preset("fast")), How())
    >>> run.run(print)
    """

    dataset: Dataset
    out: Path
    settings: Settings
    how: How
    force: bool = False
    rounds: list[Round] = field(default_factory=list)
    failed: dict[str, Failed] = field(default_factory=dict)
    lengths: dict[str, float] = field(default_factory=dict)
    left_over: dict[str, float] = field(default_factory=dict)
    structures: dict[int, str] = field(default_factory=dict)
    sides: dict[str, float] = field(default_factory=dict)
    domain: Grid | None = None
    middle: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Opens the folder.

        Raises:
            InputError: a template cannot be made so; the folder holds something else.
        """
        self.how.check(self.settings.parameters)
        self.subjects = {checked_name(s.name, str(self.dataset.path)): s for s in self.dataset.subjects}
        self.channels = channel_count(self.dataset.path, self.subjects, self.settings.parameters)
        self.ledger = Ledger(self.out, self.force, self.settings.run)
        self.out = self.ledger.folder.absolute()
        # Of what follows from the results alone, and is made again where they are others.
        self._derived = Ledger(self.out, True, self.settings.run)
        self._digests = self.ledger.digests()
        self._read: dict[str, Known] = {}
        self._jobs = TemplateJobs(self.out, self.subjects, self.settings, self.how, self.channels, self._digests)
        # Whether left and right of it can be told apart.
        self._sided = not self.how.mirrored and read_grid(self.dataset.subjects[0].image).ndim == 3

    @property
    def names(self) -> list[str]:
        """Of all jobs, if none fails."""
        folders = [f"{POSES}/{kind}" for kind in _KINDS]
        folders += [f"{ROUNDS}/{number}/{SUBJECTS}" for number in range(1, self.how.rounds + 1)]
        more = {f"{POSES}/like": self.how.like, f"{POSES}/mirrored": self.how.mirrored, STANDARD: self.how.standard}
        more |= {ASYMMETRY: self._sided, f"{AVERAGES}/{_SIDES}": self._sided}
        found = [f"{folder}/{name}" for folder in (*folders, SUBJECTS) for name in self.subjects]
        found += [f"{AVERAGES}/{each}" for each in (*_KINDS, *range(1, self.how.rounds + 1), _SETTLED)]
        return found + [name for name, asked in more.items() if asked]

    @property
    def count(self) -> int:
        """Jobs in all, if none fails."""
        return len(self.names)

    @property
    def done(self) -> int:
        """How many of them are done, by this call or before."""
        return sum(self.ledger.done(name) is not None for name in self.names)

    @property
    def labelled(self) -> bool:
        """Whether all subjects have labels."""
        return self._jobs.labelled

    @property
    def cut(self) -> bool:
        """Whether some subject does not show all of its object."""
        return self._jobs.cut

    @property
    def left(self) -> list[str]:
        """Names of the subjects of which nothing failed yet."""
        return [name for name in self.subjects if name not in self.failed]

    def last(self, name: str) -> Path:
        """The folder of a subject's result on the template."""
        return self.out / SUBJECTS / name

    def labels_digest(self, name: str) -> str:
        """SHA-256 of a subject's labels; "" without them."""
        path = self.subjects[name].labels
        return "" if path is None or not path.exists() else self._digests.of(path.absolute())

    def far(self) -> list[str]:
        """Subjects that lie far from the rest, by the length of their geodesics."""
        return far_away(self.lengths) if len(self.lengths) > 2 else []

    def run(
        self,
        ended: Callable[[Ended], None],
        progress: Callable[[Job, Mapping[str, Any]], None] = lambda *_: None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Makes what is not made yet. A subject that fails is left out of all that follows.

        Args:
            ended: called with the end of each job.
            progress: called with what each tells on its way.
            say: called with what is done between jobs.

        Raises:
            InputError: fewer than two subjects are left.
            RuntimeError: torch is missing, or there is no such device.
        """
        with Processes(self.settings.memory) as self._processes:
            self._run(ended, progress, say)

    def _run(
        self,
        ended: Callable[[Ended], None],
        progress: Callable[[Job, Mapping[str, Any]], None],
        say: Callable[[str], None],
    ) -> None:
        say("Reading the subjects")
        self.ledger.plan(self.names)
        self._look()
        image, poses = self._first(), {}
        for kind in _KINDS:
            jobs = [self._jobs.alignment(kind, image, name) for name in self.left]
            found = self._work(jobs, ended, progress)
            pose, posing = None, []
            if kind == "affine" and (self.how.like or self.how.mirrored):
                # Rigid, so that sizes stay those of the middle.
                posing = [self._jobs.posing(image)]
                pose = np.array(self._one(posing[0], ended, progress).value["matrix"])
                if self.how.mirrored:
                    pose = upright(pose, read_grid(image).center)
            say(f"Averaging the {kind} poses")
            value = self._posed(kind, [*(job for job in jobs if job.name in found), *posing], found, pose, ended)
            self.middle, poses = np.array(value["middle"]), value["poses"]
            image = self._jobs.average(kind)
        grid = read_grid(image)
        for name, matrix in poses.items():
            self._write_pose(name, np.array(matrix), grid)
        for number in range(1, self.how.rounds + 1):
            fixed = image
            jobs = [self._jobs.registration(number, fixed, name) for name in self.left]
            found = self._work(jobs, ended, progress)
            say(f"Averaging round {number}")
            self._end_round(number, [job for job in jobs if job.name in found], grid, ended)
            image = self._jobs.average(number)
        jobs = [self._jobs.settled(image, name) for name in self.left]
        found = self._work(jobs, ended, progress)
        say("Averaging the template")
        self._finish([job for job in jobs if job.name in found], grid, ended)
        self._keep_space(fixed)
        if self._sided:
            self._tell_sides([job for job in jobs if job.name in found], ended, progress)
        if self.how.standard:
            self._one(self._jobs.to_standard(), ended, progress)

    # ------------------------------------------------------------------------------------------------ the poses

    def _look(self) -> None:
        self.structures = named_structures(self.subjects.values())
        for name in list(self.left):
            try:
                subject = self.subjects[name].read()
            except InputError as error:
                self._fail(name, str(error))
                continue
            whole = background_value(subject.image) is not None
            self._read[name] = Known(subject.grid, shown(subject), whole)
        self._check_left()
        for name in ("start", "like", "standard"):
            file = getattr(self.how, name)
            ndim, own = read_grid(file).ndim if file else 0, self._read[self.left[0]].grid.ndim
            if file and ndim != own:
                raise InputError(f"--{name} {file}: has {ndim} dimensions, the subjects {own}. Choose another image.")

    def _first(self) -> Path:
        if self.how.start:
            return Path(self.how.start).absolute()
        ordered = sorted(self.left, key=lambda name: (self._read[name].size, name))
        return self.subjects[ordered[len(ordered) // 2]].image.absolute()

    def _write_pose(self, name: str, matrix: np.ndarray, grid: Grid) -> None:
        own = self._read[name].grid
        write_once(self._jobs.pose(name), lambda path: write_affine(path, matrix, grid, own))

    # --------------------------------------------------------------------------------------------------- the jobs

    def _work(
        self,
        jobs: Sequence[Job],
        ended: Callable[[Ended], None],
        progress: Callable[[Job, Mapping[str, Any]], None],
        ledger: Ledger | None = None,
    ) -> dict[str, Done]:
        """What the jobs gave, by name; subjects whose job failed are left out from then on."""
        ledger = ledger or self.ledger
        found: dict[str, Done] = {}
        open_ = []
        for job in jobs:
            place = ledger.place(job)
            ledger.check(job, place)
            if place is Place.DONE:
                found[job.name] = ledger.done(job.name)
            else:
                open_.append(job)

        def told(end: Ended) -> None:
            if isinstance(end.result, Done):
                found[end.job.name] = end.result
            else:
                self._fail(end.job.name.rpartition("/")[2], end.result.message)
            ended(end)

        if open_:
            self._reopen()
        pairs = [self._jobs.pairs[job.name] for job in open_]
        run_jobs(ledger, open_, pairs, self.settings, told, progress, processes=self._processes)
        self._check_left()
        return found

    def _reopen(self) -> None:
        """Until all is done again, nobody shall take the folder for a template."""
        for path in (SUMMARY, VOLUMES):
            (self.out / path).unlink(missing_ok=True)

    def _one(
        self,
        job: Job,
        ended: Callable[[Ended], None],
        progress: Callable[[Job, Mapping[str, Any]], None],
        ledger: Ledger | None = None,
    ) -> Done:
        """What a job gave on which more than one subject depends; InputError if it failed."""
        found = self._work([job], ended, progress, ledger)
        if job.name not in found:
            failed = self.failed.pop(job.name.rpartition("/")[2])
            raise InputError(f"{self._jobs.pairs[job.name].files.fixed}: {failed.message}")
        return found[job.name]

    def _fail(self, name: str, message: str) -> None:
        self.failed[name] = Failed(message, 1)

    def _check_left(self) -> None:
        if len(self.left) < _LEAST:
            first = next(iter(self.failed.items()), None)
            why = f" ({first[0]}: {first[1].message})" if first else ""
            raise InputError(
                f"{self.dataset.path}: {len(self.left)} of {len(self.subjects)} subjects can be used{why}. A template "
                "needs two."
            )
        self._jobs.cut = not all(self._read[name].whole for name in self.left)

    # ------------------------------------------------------------------------------------------------ the averages

    def _averaging(self) -> Averaging:
        subjects = {name: self.subjects[name] for name in sorted(self.left)}
        return Averaging(subjects, self._read, self.how, self.settings.parameters, self.channels)

    def _averaged(
        self,
        name: str | int,
        of: Sequence[Job],
        make: Callable[[Path], dict[str, Any]],
        ended: Callable[[Ended], None],
    ) -> dict[str, Any]:
        """What an average of the results of jobs gave; made here, unless somebody else was first. One of other results
        is replaced: it can be made again from these."""

        def key() -> str:
            subjects = [self.subjects[name] for name in sorted(self.left)]
            files = [self.how.like, *(path for each in subjects for path in (*each.channels, each.mask))]
            how = [self.how.average, self.how.mirrored, self.how.voxel_mm, self.cut, self._jobs.prepared]
            digests = [self._digests.of(Path(file).absolute()) if file else "" for file in files]
            return key_of({"task": AVERAGES, "of": {job.name: job.key for job in of}, "files": digests, "how": how})

        def made(folder: Path) -> dict[str, Any]:
            if name == _SETTLED:  # other averages change the template by jobs that they decide
                self._reopen()
            return make(folder)

        job = Job(f"{AVERAGES}/{name}", key, AVERAGES)
        if self._derived.complete(job):
            return self.ledger.done(job.name).value
        # Whatever ends the process meanwhile, the same command goes on.
        end = done_here(self._derived, job, made, sys.maxsize)
        if isinstance(end.result, Failed):
            raise InputError(f"{self.out / job.name}: {end.result.message}")
        ended(end)
        return end.result.value

    def _posed(
        self,
        kind: str,
        of: Sequence[Job],
        found: Mapping[str, Done],
        pose: np.ndarray | None,
        ended: Callable[[Ended], None],
    ) -> dict[str, Any]:
        """The average in the poses that were found, the middle of these, and each from there."""
        maps = {name.rpartition("/")[2]: np.array(each.value["matrix"]) for name, each in found.items()}
        # The rigid average tells where the plane between left and right lies.
        both = self.how.mirrored and kind == "affine"
        averaging = self._averaging()
        return self._averaged(kind, of, lambda folder: averaging.posed(folder, maps, pose, both), ended)

    def _end_round(self, number: int, of: Sequence[Job], grid: Grid, ended: Callable[[Ended], None]) -> None:
        folders = [self.out / ROUNDS / str(number) / SUBJECTS / name for name in sorted(self.left)]
        averaging = self._averaging()
        value = self._averaged(number, of, lambda folder: averaging.moved(folder, folders, grid), ended)
        self.rounds.append(Round(number, **value))

    def _finish(self, of: Sequence[Job], grid: Grid, ended: Callable[[Ended], None]) -> None:
        folders = [self.last(name) for name in sorted(self.left)]
        labels = [folder / LABELS for folder in folders] if self.labelled else []
        averaging = self._averaging()
        value = self._averaged(_SETTLED, of, lambda folder: averaging.settled(folder, folders, grid, labels), ended)
        self.lengths, self.left_over, self.domain = value["lengths"], value["left_over"], grid_from(value["domain"])
        names = [TEMPLATE, *further(TEMPLATE, self.channels), *([MASK] if self.cut else [])]
        names += [LABELS, AGREEMENT] if self.labelled else []
        # Of an earlier template.
        for path in (*self.out.glob("template_[0-9].nii.gz"), *(self.out / each for each in (MASK, LABELS, AGREEMENT))):
            if path.name not in names:
                path.unlink(missing_ok=True)
        self._copied({self.out / name: self._jobs.average(_SETTLED).with_name(name) for name in names})

    def _keep_space(self, fixed: Path) -> None:
        """What new subjects are brought to the template by; ``fixed``: what its own were registered to at last."""
        posed = self._jobs.average(_KINDS[0])
        known = {POSED: posed, MEAN: self._jobs.mean(self.how.rounds)}
        known |= dict(
            zip([REGISTERED, *further(REGISTERED, self.channels)], with_further(fixed, self.channels), strict=True)
        )
        if self.cut:
            known |= {mask_of(POSED): posed.with_name(MASK), mask_of(REGISTERED): fixed.with_name(MASK)}
        for path in (self.out / SPACE).glob("*.n*"):
            if path.name not in known and not (self._sided and path.name.startswith(_OF_SIDES)):
                path.unlink()
        self._copied({self.out / SPACE / name: file for name, file in known.items()})

    def _tell_sides(
        self, of: Sequence[Job], ended: Callable[[Ended], None], progress: Callable[[Job, Mapping[str, Any]], None]
    ) -> None:
        """Who is flipped left to right, which distances of brains do not show."""
        folders = [self.last(name) for name in sorted(self.left)]
        job, asymmetry = self._jobs.asymmetry(folders[0]), None
        try:
            figures = self._one(job, ended, progress, self._derived).value
            asymmetry = None if figures["verdict"]["level"] == "failed" else self.out / ASYMMETRY
        except InputError:
            pass  # then nothing is said of anybody
        averaging = self._averaging()
        more = [] if asymmetry is None else [job]
        self.sides = self._averaged(
            _SIDES, [*of, *more], lambda folder: averaging.sides(folder, folders, asymmetry), ended
        )
        if self.sides:
            self._copied({self.out / SPACE / AXIS: self._jobs.average(_SIDES).with_name(AXIS)})

    def flipped(self) -> list[str]:
        """Subjects whose sides seem exchanged."""
        return flipped(self.sides)

    def _copied(self, files: Mapping[Path, Path]) -> None:
        for to, source in files.items():
            write_once(to, lambda path, source=source: shutil.copyfile(source, path))
