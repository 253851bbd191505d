# SPDX-License-Identifier: Apache-2.0
"""An unbiased template of many subjects: the image in the middle of them all, found in rounds.

    poses      each subject aligned with a first image, and the mean of the logarithms of these maps taken as the
               middle; once rigidly and, on the average image of that, once affinely
    rounds     each subject registered to the template, in its affine pose; the warped images averaged; the average
               moved along the geodesic of the mean velocity
    settled    from each velocity their mean taken, so that the template lies in the middle; what that gives averaged

Every registration is a job, known again by what it is made of: interrupted, the same command goes on where it was.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..alignment.mean_pose import mean_pose
from ..imaging.grid import Grid
from ..imaging.intensities import background_value
from ..imaging.io import read_grid, read_volume
from ..imaging.transforms import write_affine
from ..jobs.job import Job, key_of
from ..jobs.ledger import Done, Failed, Ledger, Place
from ..jobs.pool import Ended
from ..problem.problem import scaled
from ..problem.reading import PairFiles
from ..problem.subject import Subject
from ..results.velocity import VELOCITY
from ..support.errors import InputError
from ..training.dataset import Dataset
from .many import Processes, Settings, plain_settings, run_jobs
from .pairs import NamedPair, checked_name
from .template_files import (
    AGREEMENT,
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
from .template_images import (
    Average,
    common_grid,
    displacement_figures,
    far_away,
    mean_geodesic,
    posed_mean,
    sharpness,
    shown,
    voted_labels,
    warped_mean,
)
from .template_mirror import centered_boxes, mirrored, upright
from .template_subjects import Known, channel_count, named_structures
from .written_once import write_image, write_once

_KINDS = ("rigid", "affine")
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
        self._digests = self.ledger.digests()
        self._read: dict[str, Known] = {}
        self._pairs: dict[str, NamedPair] = {}
        self._given, self._decisive = plain_settings(self.settings)
        self._given["disk"] = str(self.out)

    @property
    def names(self) -> list[str]:
        """Of all alignments and registrations, if none fails."""
        folders = [f"{POSES}/{kind}" for kind in _KINDS]
        folders += [f"{ROUNDS}/{number}/{SUBJECTS}" for number in range(1, self.how.rounds + 1)]
        more = {f"{POSES}/like": self.how.like, f"{POSES}/mirrored": self.how.mirrored, STANDARD: self.how.standard}
        found = [f"{folder}/{name}" for folder in (*folders, SUBJECTS) for name in self.subjects]
        return found + [name for name, asked in more.items() if asked]

    @property
    def count(self) -> int:
        """Alignments and registrations in all, if none fails."""
        return len(self.names)

    @property
    def done(self) -> int:
        """How many of them are done, by this call or before."""
        return sum(self.ledger.done(name) is not None for name in self.names)

    @property
    def cut(self) -> bool:
        """Whether some subject does not show all of its object."""
        return not all(self._read[name].whole for name in self.left)

    @property
    def labelled(self) -> bool:
        """Whether all subjects have labels."""
        return all(each.labels is not None for each in self.subjects.values())

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
            found = self._work([self._alignment(kind, image, name) for name in self.left], ended, progress)
            maps = {name.rpartition("/")[2]: np.array(each.value["matrix"]) for name, each in found.items()}
            self.middle = np.linalg.inv(mean_pose([maps[name] for name in sorted(maps)]))
            if kind == "affine" and (self.how.like or self.how.mirrored):
                # Rigid, so that sizes stay those of the middle.
                found_pose = np.array(self._one(self._posing(image), ended, progress).value["matrix"])
                if self.how.mirrored:
                    found_pose = upright(found_pose, read_grid(image).center)
                self.middle = self.middle @ found_pose
            poses = {name: matrix @ self.middle for name, matrix in maps.items()}
            image = self.out / ROUNDS / ("0" if kind == "affine" else kind) / TEMPLATE
            say(f"Averaging the {kind} poses")
            # The rigid average tells where the plane between left and right lies.
            both = self.how.mirrored and kind == "affine"
            grid = self._grid(poses, both)
            averages = [self._of_poses(poses, grid, both, channel) for channel in range(self.channels + 1)]
            self._write(image, averages)
        for name, matrix in poses.items():
            self._write_pose(name, matrix, grid)
        for number in range(1, self.how.rounds + 1):
            fixed = image
            jobs = [self._registration(number, fixed, name) for name in self.left]
            self._work(jobs, ended, progress)
            say(f"Averaging round {number}")
            image = self._averaged(number, grid)
        self._work([self._settled(image, name) for name in self.left], ended, progress)
        say("Averaging the template")
        self._finish(grid)
        posed = self.out / ROUNDS / _KINDS[0] / TEMPLATE
        known = {POSED: posed, MEAN: self._mean(self.how.rounds)}
        known |= dict(zip([REGISTERED, *further(REGISTERED, self.channels)], self._with_further(fixed), strict=True))
        if self.cut:
            known |= {mask_of(POSED): posed.with_name(MASK), mask_of(REGISTERED): fixed.with_name(MASK)}
        for name, file in known.items():
            write_once(self.out / SPACE / name, lambda path, file=file: shutil.copyfile(file, path))
        if self.how.standard:
            self._one(self._to_standard(), ended, progress)

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

    def _grid(self, poses: Mapping[str, np.ndarray], both: bool) -> Grid:
        if self.how.like:
            return read_grid(self.how.like)
        names = sorted(poses)
        boxes = []
        for name in names:
            back, corners = np.linalg.inv(poses[name]), self._read[name].corners
            boxes.append(corners @ back[:-1, :-1].T + back[:-1, -1])
        if both:
            boxes = centered_boxes(boxes)
        voxel = self.how.voxel_mm or float(np.median([self._read[name].voxel_mm for name in names]))
        whole = [self._read[name].whole for name in names] * (len(boxes) // len(names))
        return common_grid(boxes, whole, voxel, self._read[names[0]].grid, both)

    def _write(self, path: Path, averages: Sequence[Average]) -> None:
        """The images of a template, and, where subjects are cut, what of them is compared."""
        for where, average in zip(self._with_further(path), averages, strict=True):
            write_image(where, average.image)
        if self.cut:
            write_image(path.with_name(MASK), averages[0].mask)

    def _with_further(self, image: Path) -> list[Path]:
        """An image of the template, and those of its further images beside it."""
        return [image, *(image.with_name(name) for name in further(image.name, self.channels))]

    def _of_poses(self, poses: Mapping[str, np.ndarray], grid: Grid, both: bool, channel: int) -> Average:
        def posed() -> Iterator[tuple[Subject, np.ndarray]]:
            for name in sorted(poses):
                subject = self.subjects[name].read()
                yield scaled((subject, *subject.channels)[channel], self.settings.parameters), poses[name]

        return posed_mean(posed(), grid, self.how.average, both)

    def _write_pose(self, name: str, matrix: np.ndarray, grid: Grid) -> None:
        own = self._read[name].grid
        write_once(self._pose(name), lambda path: write_affine(path, matrix, grid, own))

    def _pose(self, name: str) -> Path:
        return self.out / POSES / f"{name}.tfm"

    # --------------------------------------------------------------------------------------------------- the jobs

    def _alignment(self, kind: str, fixed: Path, name: str) -> Job:
        files = self.subjects[name]
        mask = None if kind == _KINDS[0] else self._mask(fixed)
        pair = PairFiles(str(fixed), str(files.image.absolute()), fixed_mask=mask, moving_mask=_text(files.mask))
        normalization = self.settings.parameters.normalization
        return self._job(
            f"{POSES}/{kind}/{name}", "align_files", pair, {"kind": kind}, {"normalization": normalization}
        )

    def _posing(self, image: Path) -> Job:
        """What tells the pose in which the template shall lie: an average of the subjects, aligned with the image in
        whose pose that is, or with its own mirror image."""
        mask = self._mask(image)
        if self.how.mirrored:
            other = image.with_name("mirrored.nii.gz")
            write_image(other, mirrored(read_volume(image)))
            name, pair = "mirrored", PairFiles(str(image), str(other), fixed_mask=mask)
        else:
            name, pair = "like", PairFiles(str(Path(self.how.like).absolute()), str(image), moving_mask=mask)
        decisive = {"normalization": self.settings.parameters.normalization}
        return self._job(f"{POSES}/{name}", "align_files", pair, {"kind": "rigid"}, decisive)

    def _to_standard(self) -> Job:
        image = self.out / TEMPLATE
        labels = str(self.out / LABELS) if self.labelled else None
        pair = PairFiles(
            str(Path(self.how.standard).absolute()), str(image), moving_labels=labels, moving_mask=self._mask(image)
        )
        more = {"outputs": ["warped", *(["labels"] if self.labelled else []), "report"]}
        return self._job(STANDARD, "register_files", pair, more, self._decisive)

    def _registration(self, number: int, fixed: Path, name: str) -> Job:
        files = self.subjects[name]
        pair = PairFiles(
            str(fixed),
            str(files.image.absolute()),
            fixed_mask=self._mask(fixed),
            moving_mask=_text(files.mask),
            transform=str(self._pose(name)) if number == 1 else None,
            **self._channels(fixed, name),
        )
        start = None if number == 1 else self._begun("round", number - 1, name)
        more = {"start": start, "outputs": ["warped"]}
        return self._job(f"{ROUNDS}/{number}/{SUBJECTS}/{name}", "register_files", pair, more, self._decisive)

    def _settled(self, fixed: Path, name: str) -> Job:
        """A subject on the template, by the velocity of the last round less the mean of all."""
        files = self.subjects[name]
        pair = PairFiles(
            str(fixed),
            str(files.image.absolute()),
            moving_labels=_text(files.labels),
            fixed_mask=self._mask(fixed),
            moving_mask=_text(files.mask),
            **self._channels(fixed, name),
        )
        outputs = {"warped", *(["labels"] if files.labels else []), *(self.settings.outputs or ())}
        more = {"start": self._begun("settled", self.how.rounds, name), "outputs": sorted(outputs)}
        return self._job(f"{SUBJECTS}/{name}", "register_files", pair, more, self._decisive)

    def _mask(self, fixed: Path) -> str | None:
        return str(fixed.with_name(MASK)) if self.cut else None

    def _channels(self, fixed: Path, name: str) -> dict[str, tuple[str, ...]]:
        return {
            "fixed_channels": tuple(map(str, self._with_further(fixed)[1:])),
            "moving_channels": tuple(str(path.absolute()) for path in self.subjects[name].channels),
        }

    def _begun(self, kind: str, number: int, name: str) -> dict[str, str]:
        folder = self.out / ROUNDS / str(number) / SUBJECTS / name
        return {kind: str(folder), "mean": str(self._mean(number))}

    def _job(self, name: str, task: str, pair: PairFiles, more: Mapping[str, Any], decisive: Mapping[str, Any]) -> Job:
        def key() -> str:
            inputs = {what: self._digests.of(Path(file)) for what, file in pair.every().items()}
            how = {what: value for what, value in more.items() if what != "start"}
            start = dict(more.get("start") or {})
            # Where files lie does not count, but what is in them does.
            begun = {"mean": self._digests.of(Path(start.pop("mean")))} if start else {}
            begun |= {kind: self._digests.of(Path(folder) / VELOCITY) for kind, folder in start.items()}
            return key_of({"task": task, "inputs": inputs, "start": begun, **decisive, **how})

        job = Job(name, key, task, {"pair": vars(pair), **self._given, **more})
        self._pairs[name] = NamedPair(0, name, pair)
        return job

    def _work(
        self,
        jobs: Sequence[Job],
        ended: Callable[[Ended], None],
        progress: Callable[[Job, Mapping[str, Any]], None],
    ) -> dict[str, Done]:
        """What the jobs gave, by name; subjects whose job failed are left out from then on."""
        found: dict[str, Done] = {}
        open_ = []
        for job in jobs:
            place = self.ledger.place(job)
            self.ledger.check(job, place)
            if place is Place.DONE:
                found[job.name] = self.ledger.done(job.name)
            else:
                open_.append(job)

        def told(end: Ended) -> None:
            if isinstance(end.result, Done):
                found[end.job.name] = end.result
            else:
                self._fail(end.job.name.rpartition("/")[2], end.result.message)
            ended(end)

        if open_:
            # Until all is done again.
            for path in (SUMMARY, VOLUMES):
                (self.out / path).unlink(missing_ok=True)
        pairs = [self._pairs[job.name] for job in open_]
        run_jobs(self.ledger, open_, pairs, self.settings, told, progress, processes=self._processes)
        self._check_left()
        return found

    def _one(
        self, job: Job, ended: Callable[[Ended], None], progress: Callable[[Job, Mapping[str, Any]], None]
    ) -> Done:
        """What a job gave on which more than one subject depends; InputError if it failed."""
        found = self._work([job], ended, progress)
        if job.name not in found:
            failed = self.failed.pop(job.name.rpartition("/")[2])
            raise InputError(f"{self._pairs[job.name].files.fixed}: {failed.message}")
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

    # -------------------------------------------------------------------------------------------------- the rounds

    def _averaged(self, number: int, grid: Grid) -> Path:
        """The image that the round ends in."""
        folders = [self.out / ROUNDS / str(number) / SUBJECTS / name for name in sorted(self.left)]
        averages = self._means(folders, grid)
        average = averages[0].image
        geodesic, _ = mean_geodesic(folders, self.how.mirrored)
        self.rounds.append(Round(number, **displacement_figures(geodesic, average), sharpness=sharpness(average)))
        write_once(self._mean(number), lambda path: np.save(path, geodesic.velocity))
        path = self.out / ROUNDS / str(number) / TEMPLATE
        self._write(path, [each.moved_along(geodesic) for each in averages])
        return path

    def _means(self, folders: Sequence[Path], grid: Grid) -> list[Average]:
        """The average of each image of the subjects, through the results in the folders."""
        names = sorted(self.left)
        how = not self.cut, self.how.average, self.how.mirrored
        files = [None, *([self.subjects[name].channels[n] for name in names] for n in range(self.channels))]
        return [warped_mean(folders, grid, *how, each) for each in files]

    def _mean(self, number: int) -> Path:
        """The mean of the velocities with which a round's geodesics begin."""
        return self.out / ROUNDS / str(number) / "mean_velocity.npy"

    def _finish(self, grid: Grid) -> None:
        folders = [self.last(name) for name in sorted(self.left)]
        averages = self._means(folders, grid)
        self._write(self.out / TEMPLATE, averages)
        template = averages[0].image
        geodesic, self.lengths = mean_geodesic(folders, self.how.mirrored)
        self.domain = geodesic.domain
        self.left_over = displacement_figures(geodesic, template)
        if self.labelled:
            labels, agreement = voted_labels([folder / LABELS for folder in folders], grid)
            write_image(self.out / LABELS, labels)
            write_image(self.out / AGREEMENT, agreement)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())
