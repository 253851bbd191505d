# SPDX-License-Identifier: Apache-2.0
"""The alignments and registrations of a template as jobs, each known again by what it is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..imaging.io import read_volume
from ..jobs.job import Digests, Job, key_of
from ..problem.reading import PairFiles
from ..results.velocity import VELOCITY
from ..training.dataset import SubjectFiles
from .many import Settings, plain_settings
from .pairs import NamedPair
from .template_averages import with_further
from .template_files import ASYMMETRY, AVERAGES, LABELS, MASK, MEAN, POSES, ROUNDS, SPACE, STANDARD, SUBJECTS, TEMPLATE
from .template_how import How
from .template_mirror import mirrored
from .written_once import write_image

MIRRORED = "mirrored.nii.gz"
_PREPARING = ("normalization", "window_low", "window_high", "bias_correction")


@dataclass
class TemplateJobs:
    """The jobs of a template in a folder.

    Attributes:
        out: the folder, absolute.
        subjects: their files, by name.
        settings, how, channels: as those of the template.
        digests: of input files.
        cut: whether some subject does not show all of its object.
        pairs: of each job that was made, by its name.
    """

    out: Path
    subjects: Mapping[str, SubjectFiles]
    settings: Settings
    how: How
    channels: int
    digests: Digests
    cut: bool = False
    pairs: dict[str, NamedPair] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._given, self._decisive = plain_settings(self.settings)
        self._given["disk"] = str(self.out)

    @property
    def prepared(self) -> dict[str, Any]:
        """The parameters by which intensities are made comparable."""
        return {name: getattr(self.settings.parameters, name) for name in _PREPARING}

    @property
    def labelled(self) -> bool:
        """Whether all subjects have labels."""
        return all(each.labels is not None for each in self.subjects.values())

    def average(self, name: str | int) -> Path:
        """The image that an average is."""
        return self.out / AVERAGES / str(name) / TEMPLATE

    def mean(self, number: int) -> Path:
        """The mean of the velocities with which a round's geodesics begin."""
        return self.average(number).with_name(MEAN)

    def pose(self, name: str) -> Path:
        """The affine map from the template to a subject."""
        return self.out / POSES / f"{name}.tfm"

    def alignment(self, kind: str, fixed: Path, name: str) -> Job:
        """A subject aligned with an image, "rigid" or "affine"."""
        files = self.subjects[name]
        mask = None if kind == "rigid" else self._mask(fixed)
        pair = PairFiles(str(fixed), str(files.image.absolute()), fixed_mask=mask, moving_mask=_text(files.mask))
        return self._job(f"{POSES}/{kind}/{name}", "align_files", pair, {"kind": kind}, self.prepared)

    def posing(self, image: Path) -> Job:
        """What tells the pose in which the template shall lie: an average of the subjects, aligned with the image in
        whose pose that is, or with its own mirror image."""
        mask = self._mask(image)
        if self.how.mirrored:
            other = image.with_name(MIRRORED)
            write_image(other, mirrored(read_volume(image)))
            name, pair = "mirrored", PairFiles(str(image), str(other), fixed_mask=mask)
        else:
            name, pair = "like", PairFiles(str(Path(self.how.like).absolute()), str(image), moving_mask=mask)
        return self._job(f"{POSES}/{name}", "align_files", pair, {"kind": "rigid"}, self.prepared)

    def to_standard(self) -> Job:
        """The template registered to a standard space."""
        image = self.out / TEMPLATE
        labels = str(self.out / LABELS) if self.labelled else None
        pair = PairFiles(
            str(Path(self.how.standard).absolute()), str(image), moving_labels=labels, moving_mask=self._mask(image)
        )
        more = {"outputs": ["warped", *(["labels"] if self.labelled else []), "report"]}
        return self._job(STANDARD, "register_files", pair, more, self._decisive)

    def registration(self, number: int, fixed: Path, name: str) -> Job:
        """A subject registered to the template of a round."""
        files = self.subjects[name]
        pair = PairFiles(
            str(fixed),
            str(files.image.absolute()),
            fixed_mask=self._mask(fixed),
            moving_mask=_text(files.mask),
            transform=str(self.pose(name)) if number == 1 else None,
            **self._channels(fixed, name),
        )
        start = None if number == 1 else self._begun("round", number - 1, name)
        more = {"start": start, "outputs": ["warped"]}
        return self._job(f"{ROUNDS}/{number}/{SUBJECTS}/{name}", "register_files", pair, more, self._decisive)

    def settled(self, fixed: Path, name: str) -> Job:
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

    def asymmetry(self, folder: Path) -> Job:
        """The template's mirror image registered to it, in the domain of a subject's result on it."""
        images, others = (
            with_further(place, self.channels) for place in (self.out / TEMPLATE, self.out / SPACE / MIRRORED)
        )
        for image, other in zip(images, others, strict=True):
            write_image(other, mirrored(read_volume(image)))
        (fixed, *fixed_channels), (moving, *moving_channels) = (map(str, paths) for paths in (images, others))
        pair = PairFiles(fixed, moving, fixed_channels=tuple(fixed_channels), moving_channels=tuple(moving_channels))
        more = {"start": {"domain": str(folder)}, "outputs": []}
        return self._job(ASYMMETRY, "register_files", pair, more, self._decisive)

    def _mask(self, fixed: Path) -> str | None:
        return str(fixed.with_name(MASK)) if self.cut else None

    def _channels(self, fixed: Path, name: str) -> dict[str, tuple[str, ...]]:
        return {
            "fixed_channels": tuple(map(str, with_further(fixed, self.channels)[1:])),
            "moving_channels": tuple(str(path.absolute()) for path in self.subjects[name].channels),
        }

    def _begun(self, kind: str, number: int, name: str) -> dict[str, str]:
        folder = self.out / ROUNDS / str(number) / SUBJECTS / name
        return {kind: str(folder), "mean": str(self.mean(number))}

    def _job(self, name: str, task: str, pair: PairFiles, more: Mapping[str, Any], decisive: Mapping[str, Any]) -> Job:
        def key() -> str:
            inputs = {what: self.digests.of(Path(file)) for what, file in pair.every().items()}
            how = {what: value for what, value in more.items() if what != "start"}
            start = dict(more.get("start") or {})
            # Where files lie does not count, but what is in them does.
            begun = {"mean": self.digests.of(Path(start.pop("mean")))} if "mean" in start else {}
            begun |= {kind: self.digests.of(Path(folder) / VELOCITY) for kind, folder in start.items()}
            return key_of({"task": task, "inputs": inputs, "start": begun, **decisive, **how})

        job = Job(name, key, task, {"pair": vars(pair), **self._given, **more})
        self.pairs[name] = NamedPair(0, name, pair)
        return job


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())
