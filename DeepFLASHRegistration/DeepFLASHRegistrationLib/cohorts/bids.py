# SPDX-License-Identifier: Apache-2.0
"""The images of a data set in BIDS, each registered to a template, and what derivatives they get."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..jobs.job import Job, key_of
from ..jobs.ledger import Done, Failed, Ledger, Place
from ..jobs.pool import Ended
from ..problem.reading import PairFiles
from ..results.velocity import VELOCITY
from ..support.errors import InputError
from .bids_dataset import BidsDataset, BidsImage
from .bids_files import BACK, FORTH, OUTPUTS, TRANSFORMS, Derivatives, read_record, write_subject_page
from .bids_folder import WORK, check_apart, describe, own_description
from .bids_space import Space
from .many import Settings, pair_job, plain_settings, run_jobs
from .own_velocity import check_own_velocity
from .pairs import NamedPair, Pairs

TASK = "write_maps"
_REGISTRATIONS, _MAPS = "registrations", "maps"


def registration_name(image: BidsImage, to: str) -> str:
    """Of the job that registers an image to a space."""
    return f"{_REGISTRATIONS}/{image.name}_to-{to}"


class BidsRun:
    """The images of a data set, and what has become of them in a folder.

    >>> run = BidsRun(read_bids("ds", Choice()), read_space("template.nii.gz"), Path("out"), Settings())
    >>> run.run(print)
    """

    def __init__(
        self,
        dataset: BidsDataset,
        space: Space,
        out: Path,
        settings: Settings,
        work: Path | None = None,
        transforms: Sequence[str] = (),
        labels: str = "",
        force: bool = False,
    ) -> None:
        """Opens the folders, finds out what is done, and puts that in its place.

        Args:
            dataset, space: what is registered, and to what.
            out: folder of derivatives.
            settings: of the registrations; what they write is chosen here.
            work: folder of the jobs; None for one within `out`.
            transforms: of TRANSFORMS, what else the maps are written as.
            labels: as Choice.labels.
            force: replace what is of other inputs or parameters.

        Raises:
            InputError: a folder lies where none may, or is of something else; an image has a result of other inputs or
                parameters, and `force` is not set.
        """
        self.dataset, self.space, self.out = dataset, space, out
        self.work = out / WORK if work is None else work
        check_own_velocity(settings.parameters, "it is of one pair alone", "of which these derivatives are made")
        check_apart(dataset.folder, out)
        check_apart(dataset.folder, self.work, "WORK")
        if self.work.resolve() == out.resolve():
            raise InputError(f"{out}: is OUT and the folder of work at once. Give -w another one, or leave it out.")
        own_description(out, self.work)
        if space.to == dataset.images[0].suffix:
            raise InputError(f"--template-name {space.name}: is what the images are called. Choose another name.")
        self._transforms = tuple(dict.fromkeys(transforms))
        self.settings = Settings(**{**vars(settings), "outputs": OUTPUTS})
        given, decisive = plain_settings(self.settings)
        self.ledger = Ledger(self.work, force)
        given["disk"] = str(self.ledger.folder.absolute())
        digests = self.ledger.digests()
        self._images = {registration_name(image, space.to): image for image in dataset.images}
        self.pairs = Pairs(
            dataset.folder, tuple(NamedPair(0, name, self._files(image)) for name, image in self._images.items())
        )
        self._jobs = {pair.name: pair_job(pair, given, decisive, digests) for pair in self.pairs.rows}
        self._derivatives = Derivatives(dataset, space, out, labels)
        self.open = [pair for pair in self.pairs.rows if not self._is_done(pair.name, force)]
        # By the name of a job, why its derivatives are not where they belong.
        self.lacking: dict[str, str] = {}
        describe(out, dataset, self._derivatives.links)
        for name in self._images.keys() - {pair.name for pair in self.open}:
            self._place(name)

    def _files(self, image: BidsImage) -> PairFiles:
        """A brain is compared with a brain: the template's mask counts where the image has one."""
        fixed_mask = self.space.mask if image.mask is not None else None
        files = (self.space.image, image.path, self.space.labels, image.labels, fixed_mask, image.mask)
        return PairFiles(*(None if path is None else str(path.absolute()) for path in files))

    def _is_done(self, name: str, force: bool) -> bool:
        job = self._jobs[name]
        place = self.ledger.place(job)
        record_path = self._derivatives.record_path(self._images[name])
        if record_path.exists() and not force:
            record = read_record(record_path)
            if record is None:
                raise InputError(
                    f"{record_path}: is damaged, or was not written by this program. Add --force to write it anew, or "
                    "choose another OUT."
                )
            if record["Key"] != job.key:
                raise InputError(
                    f"{record_path}: is of other inputs or parameters. Choose another OUT or --template-name, or add "
                    "--force to replace it."
                )
        if place is Place.DONE:
            return True
        self.ledger.check(job, place)
        return False

    def run(
        self,
        ended: Callable[[Ended], None],
        progress: Callable[[Job, Mapping[str, Any]], None] = lambda *_: None,
    ) -> None:
        """Registers what is not done, then writes the maps that were asked for; what fails stops nothing else.

        Args:
            ended: called with the end of each registration, once its derivatives are in their place.
            progress: called with what each job tells on its way, as register() does.

        Raises:
            RuntimeError: torch is missing, or there is no such device.
        """

        def registered(end: Ended) -> None:
            if isinstance(end.result, Done):
                self._place(end.job.name)
                self._write_page(self._images[end.job.name].participant)
            ended(end)

        self.ledger.plan(self._jobs)
        jobs = [self._jobs[pair.name] for pair in self.open]
        run_jobs(self.ledger, jobs, self.open, self.settings, registered, progress)
        self._write_maps(progress)
        # Of all: what another run did meanwhile belongs there too.
        for participant in dict.fromkeys(image.participant for image in self.dataset.images):
            self._write_page(participant)

    def _write_maps(self, progress: Callable[[Job, Mapping[str, Any]], None]) -> None:
        of: dict[str, NamedPair] = {}
        jobs = []
        for pair in self.pairs.rows:
            for kind in self._transforms if self.ledger.done(pair.name) else ():
                job = self._map_job(pair.name, kind)
                if self.ledger.place(job) is not Place.DONE:
                    jobs.append(job)
                    of[job.name] = pair

        def written(end: Ended) -> None:
            if isinstance(end.result, Failed):
                self.lacking[end.job.name] = end.result.message
            else:
                self._place(of[end.job.name].name)

        run_jobs(self.ledger, jobs, [of[job.name] for job in jobs], self.settings, written, progress)

    def _map_job(self, name: str, kind: str) -> Job:
        key = self._jobs[name].key
        velocity = self.ledger.folder.absolute() / name / VELOCITY
        files = {f"{FORTH}{TRANSFORMS[kind]}": "fixed", f"{BACK}{TRANSFORMS[kind]}": "moving"}
        return Job(
            f"{_MAPS}/{kind}/{name.partition('/')[2]}",
            lambda: key_of({"task": TASK, "files": files, "of": key}),
            TASK,
            {"velocity": str(velocity), "files": files},
        )

    def _place(self, name: str) -> None:
        """Puts the derivatives of an image that are there in their place."""
        done = self.ledger.done(name)
        maps = {kind: self._map_job(name, kind) for kind in TRANSFORMS}
        there = {
            kind: self.ledger.folder / job.name
            for kind, job in maps.items()
            if (self.ledger.folder / job.name).exists() and self.ledger.place(job) is Place.DONE
        }
        image, key, folder = self._images[name], self._jobs[name].key, self.ledger.folder / name
        self._guarded(name, partial(self._derivatives.place, image, key, done, folder, there))

    def _write_page(self, participant: str) -> None:
        self._guarded(participant, partial(write_subject_page, self.out, participant))

    def _guarded(self, name: str, put: Callable[[], None]) -> None:
        """What cannot be written of one image stops none of the others."""
        try:
            put()
        except (OSError, InputError, LookupError, ValueError) as error:
            self.lacking[name] = str(error)
