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

import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..alignment.mean_pose import mean_pose
from ..imaging.grid import Grid
from ..imaging.intensities import background_value
from ..imaging.io import read_grid, selection, write_volume
from ..imaging.segmentation import is_segmentation, numbering, read_segmentation
from ..imaging.transforms import write_affine
from ..imaging.volume import Volume
from ..jobs.job import Job, key_of
from ..jobs.ledger import Done, Failed, Ledger, Place
from ..jobs.pool import Ended
from ..problem.parameters import Parameters
from ..problem.problem import scaled
from ..problem.reading import PairFiles
from ..problem.subject import Subject
from ..results.velocity import VELOCITY
from ..support.errors import InputError
from ..training.dataset import Dataset
from .many import Settings, plain_settings, run_jobs
from .own_velocity import check_own_velocity
from .pairs import NamedPair, checked_name
from .template_images import (
    AVERAGES,
    common_grid,
    displacement_figures,
    far_away,
    mean_geodesic,
    moved_along,
    posed_mean,
    sharpness,
    shown,
    voted_labels,
    warped_mean,
)

TEMPLATE, LABELS, AGREEMENT = "template.nii.gz", "labels.nii.gz", "labels_agreement.nii.gz"
POSES, ROUNDS, SUBJECTS = "poses", "rounds", "subjects"
_KINDS = ("rigid", "affine")
# Of a template's subjects at least so many must be left.
_LEAST = 2


@dataclass(frozen=True)
class How:
    """How a template is made.

    Attributes:
        rounds: of registration and averaging.
        average: of the warped images, one of AVERAGES.
        voxel_mm: of the template; 0 for that of the subjects.
        start: the image that all are aligned with first; "" for the subject of middle size.
    """

    rounds: int = 4
    average: str = "mean"
    voxel_mm: float = 0.0
    start: str = ""

    def check(self, parameters: Parameters) -> None:
        """InputError for what no template can be made by."""
        if not 1 <= self.rounds <= 50:
            raise InputError(f"--rounds {self.rounds}: must lie between 1 and 50.")
        if self.average not in AVERAGES:
            raise InputError(f"--average {self.average}: must be one of {', '.join(AVERAGES)}.")
        if not (self.voxel_mm == 0 or 1e-3 <= self.voxel_mm <= 1e3):
            raise InputError(f"--voxel-mm {self.voxel_mm:g}: must lie between 0.001 and 1000, or be 0.")
        if self.start and not selection(self.start)[0].exists():
            raise InputError(f"--start {self.start}: there is no such file. Check the path.")
        check_own_velocity(
            parameters,
            "a template has no landmarks, labels or further images by which subjects could be steered",
            "which have no mean",
        )


@dataclass
class Round:
    """What came of a round: by how many voxels the mean geodesic moves the template (before it was moved), and how
    sharp the average is."""

    number: int
    mean_voxels: float
    largest_voxels: float
    sharpness: float


@dataclass
class _Read:
    """What is known of a subject from its voxels: its grid, the box around what it shows, and whether that is all of
    its object."""

    grid: Grid
    corners: np.ndarray
    whole: bool

    @property
    def voxel_mm(self) -> float:
        """Edge of a cube as large as its voxels."""
        return float(self.grid.voxel_volume ** (1 / self.grid.ndim))

    @property
    def size(self) -> float:
        """Of the box, in mm³ (mm² of a slice)."""
        return float(np.prod(self.corners.max(0) - self.corners.min(0)))


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

    def __post_init__(self) -> None:
        """Opens the folder.

        Raises:
            InputError: a template cannot be made so; the folder holds something else.
        """
        self.how.check(self.settings.parameters)
        self.subjects = {checked_name(s.name, str(self.dataset.path)): s for s in self.dataset.subjects}
        self.ledger = Ledger(self.out, self.force, self.settings.run)
        self.out = self.ledger.folder.absolute()
        self._digests = self.ledger.digests()
        self._read: dict[str, _Read] = {}
        self._pairs: dict[str, NamedPair] = {}
        self._given, self._decisive = plain_settings(self.settings)
        self._given["disk"] = str(self.out)

    @property
    def names(self) -> list[str]:
        """Of all alignments and registrations, if none fails."""
        folders = [f"{POSES}/{kind}" for kind in _KINDS]
        folders += [f"{ROUNDS}/{number}/{SUBJECTS}" for number in range(1, self.how.rounds + 1)]
        return [f"{folder}/{name}" for folder in (*folders, SUBJECTS) for name in self.subjects]

    @property
    def count(self) -> int:
        """Alignments and registrations in all, if none fails."""
        return len(self.names)

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
        say("Reading the subjects")
        self.ledger.plan(self.names)
        self._look()
        image, poses = self._first(), {}
        for kind in _KINDS:
            found = self._work([self._alignment(kind, image, name) for name in self.left], ended, progress)
            maps = {name.rpartition("/")[2]: np.array(each.value["matrix"]) for name, each in found.items()}
            middle = np.linalg.inv(mean_pose([maps[name] for name in sorted(maps)]))
            poses = {name: matrix @ middle for name, matrix in maps.items()}
            image = self.out / ROUNDS / ("0" if kind == "affine" else kind) / TEMPLATE
            say(f"Averaging the {kind} poses")
            grid = self._grid(poses)
            _write_image(image, self._of_poses(poses, grid))
        for name, matrix in poses.items():
            self._write_pose(name, matrix, grid)
        for number in range(1, self.how.rounds + 1):
            jobs = [self._registration(number, image, name) for name in self.left]
            self._work(jobs, ended, progress)
            say(f"Averaging round {number}")
            image = self._averaged(number, grid)
        self._work([self._settled(image, name) for name in self.left], ended, progress)
        say("Averaging the template")
        self._finish(grid)

    # ------------------------------------------------------------------------------------------------ the poses

    def _look(self) -> None:
        self._check_segments()
        for name in list(self.left):
            try:
                subject = self.subjects[name].read()
            except InputError as error:
                self._fail(name, str(error))
                continue
            whole = background_value(subject.image) is not None
            self._read[name] = _Read(subject.grid, shown(subject), whole)
        self._check_left()
        if self.how.start:
            ndim, own = read_grid(self.how.start).ndim, self._read[self.left[0]].grid.ndim
            if ndim != own:
                raise InputError(
                    f"--start {self.how.start}: has {ndim} dimensions, the subjects {own}. Choose another image."
                )

    def _check_segments(self) -> None:
        """Labels are voted for by their numbers, which must mean the same in all segmentations."""
        names: dict[int, tuple[str, Path]] = {}
        numbers: dict[str, tuple[int, Path]] = {}
        for files in self.subjects.values():
            if files.labels is None or not is_segmentation(files.labels):
                continue
            for name, number in numbering(read_segmentation(files.labels)).items():
                for known, key, value in ((names, number, name), (numbers, name, number)):
                    other, where = known.setdefault(key, (value, files.labels))
                    if other != value:
                        raise InputError(
                            f"{files.labels}: segment {name} has the number {number}, but in {where} {key} stands for "
                            f"{other}. Number the segments of all subjects alike, or export label maps of one table."
                        )

    def _first(self) -> Path:
        if self.how.start:
            return Path(self.how.start).absolute()
        ordered = sorted(self.left, key=lambda name: (self._read[name].size, name))
        return self.subjects[ordered[len(ordered) // 2]].image.absolute()

    def _grid(self, poses: Mapping[str, np.ndarray]) -> Grid:
        names = sorted(poses)
        boxes = []
        for name in names:
            back, corners = np.linalg.inv(poses[name]), self._read[name].corners
            boxes.append(corners @ back[:-1, :-1].T + back[:-1, -1])
        voxel = self.how.voxel_mm or float(np.median([self._read[name].voxel_mm for name in names]))
        whole = [self._read[name].whole for name in names]
        return common_grid(boxes, whole, voxel, self._read[names[0]].grid)

    def _of_poses(self, poses: Mapping[str, np.ndarray], grid: Grid) -> Volume:
        def posed() -> Iterator[tuple[Subject, np.ndarray]]:
            for name in sorted(poses):
                yield scaled(self.subjects[name].read(), self.settings.parameters), poses[name]

        return posed_mean(posed(), grid, self.how.average)

    def _write_pose(self, name: str, matrix: np.ndarray, grid: Grid) -> None:
        own = self._read[name].grid
        _write_once(self._pose(name), lambda path: write_affine(path, matrix, grid, own))

    def _pose(self, name: str) -> Path:
        return self.out / POSES / f"{name}.tfm"

    # --------------------------------------------------------------------------------------------------- the jobs

    def _alignment(self, kind: str, fixed: Path, name: str) -> Job:
        files = self.subjects[name]
        pair = PairFiles(str(fixed), str(files.image.absolute()), moving_mask=_text(files.mask))
        normalization = self.settings.parameters.normalization
        return self._job(
            f"{POSES}/{kind}/{name}", "align_files", pair, {"kind": kind}, {"normalization": normalization}
        )

    def _registration(self, number: int, fixed: Path, name: str) -> Job:
        files = self.subjects[name]
        pair = PairFiles(
            str(fixed),
            str(files.image.absolute()),
            moving_mask=_text(files.mask),
            transform=str(self._pose(name)) if number == 1 else None,
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
            moving_mask=_text(files.mask),
        )
        outputs = {"warped", *(["labels"] if files.labels else []), *(self.settings.outputs or ())}
        more = {"start": self._begun("settled", self.how.rounds, name), "outputs": sorted(outputs)}
        return self._job(f"{SUBJECTS}/{name}", "register_files", pair, more, self._decisive)

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

        run_jobs(self.ledger, open_, [self._pairs[job.name] for job in open_], self.settings, told, progress)
        self._check_left()
        return found

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
        whole = all(self._read[name].whole for name in self.left)
        average = warped_mean(folders, grid, whole, self.how.average)
        geodesic, _ = mean_geodesic(folders)
        self.rounds.append(Round(number, **displacement_figures(geodesic, average), sharpness=sharpness(average)))
        _write_once(self._mean(number), lambda path: np.save(path, geodesic.velocity))
        path = self.out / ROUNDS / str(number) / TEMPLATE
        _write_image(path, moved_along(average, geodesic))
        return path

    def _mean(self, number: int) -> Path:
        """The mean of the velocities with which a round's geodesics begin."""
        return self.out / ROUNDS / str(number) / "mean_velocity.npy"

    def _finish(self, grid: Grid) -> None:
        folders = [self.last(name) for name in sorted(self.left)]
        whole = all(self._read[name].whole for name in self.left)
        template = warped_mean(folders, grid, whole, self.how.average)
        _write_image(self.out / TEMPLATE, template)
        geodesic, self.lengths = mean_geodesic(folders)
        self.left_over = displacement_figures(geodesic, template)
        if self.labelled:
            labels, agreement = voted_labels([folder / LABELS for folder in folders], grid)
            _write_image(self.out / LABELS, labels)
            _write_image(self.out / AGREEMENT, agreement)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())


def _write_once(path: Path, write: Callable[[Path], Any]) -> None:
    """Has a file written, unless the very same is there already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(6)}.{path.name}")
    try:
        write(temporary)
        if not (path.is_file() and path.read_bytes() == temporary.read_bytes()):
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_image(path: Path, volume: Volume) -> None:
    _write_once(path, lambda temporary: write_volume(temporary, volume))
