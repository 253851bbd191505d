# SPDX-License-Identifier: Apache-2.0
"""The images of a data set in BIDS, and the masks and labels that derivatives have of them, found by their names."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..imaging.io import read_grid
from ..support.errors import InputError

DESCRIPTION = "dataset_description.json"
_NAME = re.compile(r"((?:[a-zA-Z]+-[a-zA-Z0-9+]+_)+)([a-zA-Z0-9]+)\.nii(?:\.gz)?")
# What names of derivatives have, and those of raw images do not.
_DERIVED = ("space", "desc", "res", "den", "label", "from", "to", "mode")
_MASK = {"desc": "brain"}, "mask"


@dataclass(frozen=True)
class Choice:
    """What of a data set is asked for.

    Attributes:
        participants, sessions: labels, with or without sub- and ses-; () for all.
        suffix: of the images, as T1w.
        derivatives: folders of derivatives to look for masks and labels in; None for each in derivatives/.
        masks: whether brain masks are looked for.
        labels: how label maps are named after the entities of their image, as "desc-aseg_dseg"; "" for none.
    """

    participants: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    suffix: str = "T1w"
    derivatives: tuple[Path, ...] | None = None
    masks: bool = True
    labels: str = ""


@dataclass(frozen=True)
class BidsImage:
    """An image of a data set.

    Attributes:
        path: of the file.
        folder: of the file, within the data set, as "sub-01/ses-1/anat".
        entities: of its name, in their order, the first of which is sub.
        suffix: T1w, ...
        mask, labels: files of derivatives.
        notes: what is not as one may expect.
    """

    path: Path
    folder: str
    entities: Mapping[str, str]
    suffix: str
    mask: Path | None = None
    labels: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def stem(self) -> str:
        """The entities, as names of files begin."""
        return "_".join(f"{key}-{value}" for key, value in self.entities.items())

    @property
    def name(self) -> str:
        """Of the file, without its end."""
        return f"{self.stem}_{self.suffix}"

    @property
    def participant(self) -> str:
        """As sub-01."""
        return f"sub-{self.entities['sub']}"


@dataclass(frozen=True)
class BidsDataset:
    """The images of a data set that were asked for.

    Attributes:
        folder: of the data set.
        title: its name.
        images: sorted by their names.
        derivatives: folders in which masks and labels were looked for.
        notes: on the whole.
    """

    folder: Path
    title: str
    images: tuple[BidsImage, ...]
    derivatives: tuple[Path, ...] = ()
    notes: tuple[str, ...] = field(default=())


def read_bids(folder: str | os.PathLike, choice: Choice, out: Path | None = None) -> BidsDataset:
    """Finds the images of a data set, and what belongs to them. No voxels are read.

    Args:
        folder: of the data set.
        choice: what is asked for.
        out: folder of results, which is none of the derivatives.

    Raises:
        InputError: no data set in BIDS; a participant or session that is not there; no such image; an image, or what
            belongs to it, that is not known for sure.
    """
    folder = Path(folder)
    description = read_description(folder)
    participants = _asked(
        "participant",
        "sub-",
        choice.participants,
        [path.name for path in folder.glob("sub-*") if path.is_dir()],
        folder,
    )
    derivatives = _derivatives(folder, choice, out)
    found, without = [], []
    for participant in participants:
        images = _images(folder, participant, choice.suffix)
        if images:
            found += [(image, images) for image in images]
        else:
            without.append(participant)
    if without and (choice.participants or not found):
        raise InputError(_nothing(folder, without, choice.suffix))
    sessions = sorted({f"ses-{image.entities['ses']}" for image, _ in found if "ses" in image.entities})
    if choice.sessions:
        asked = _asked("session", "ses-", choice.sessions, sessions, folder)
        found = [(image, all_of) for image, all_of in found if f"ses-{image.entities.get('ses')}" in asked]
    if not found:
        raise InputError(f"{folder}: of the chosen participants none has a session {' or '.join(choice.sessions)}.")
    labels = _labels_asked(choice.labels)
    images = tuple(_with_belongings(image, all_of, derivatives, choice, labels) for image, all_of in found)
    return BidsDataset(folder, description["Name"], images, derivatives, tuple(_notes(images, without, choice)))


def read_description(folder: Path) -> Mapping[str, Any]:
    """dataset_description.json of a data set; InputError where there is none."""
    path = folder / DESCRIPTION
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder. Give the folder of a data set in BIDS.")
    if not path.is_file():
        raise InputError(
            f"{folder}: has no {DESCRIPTION}, and so is no data set in BIDS. Give the folder that holds the sub-* "
            'folders, with a dataset_description.json: {"Name": "…", "BIDSVersion": "1.10.0"} at the least.'
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(found, dict):
            raise ValueError("it is no object")
        return {**found, "Name": str(found.get("Name") or folder.resolve().name)}
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}). Mend the JSON in it.") from error


def parsed(name: str) -> tuple[dict[str, str], str] | None:
    """Entities and suffix of a NIfTI file's name; None for one that BIDS does not allow."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    pairs = [each.split("-", 1) for each in match[1].rstrip("_").split("_")]
    entities = dict(pairs)
    return (entities, match[2]) if len(entities) == len(pairs) else None


def _asked(kind: str, prefix: str, labels: Sequence[str], there: Iterable[str], folder: Path) -> list[str]:
    """The folders of the labels that were asked for, all without any."""
    there = sorted(there)
    if not there:
        raise InputError(f"{folder}: has no {kind}s ({prefix}*). Give the folder of a data set in BIDS.")
    wanted = list(dict.fromkeys(prefix + label.removeprefix(prefix) for label in labels))
    for name in wanted:
        if name not in there:
            labels_there = [each.removeprefix(prefix) for each in there]
            near = [prefix + label for label in difflib.get_close_matches(name.removeprefix(prefix), labels_there)]
            shown = ", ".join(near or there[:5]) + ("" if near or len(there) <= 5 else ", …")
            raise InputError(
                f"--{kind}-label {name.removeprefix(prefix)}: {folder} has no {name}. {'Near it' if near else 'There'} "
                f"{'is' if len(near or there) == 1 else 'are'}: {shown}."
            )
    return wanted or there


def _derivatives(folder: Path, choice: Choice, out: Path | None) -> tuple[Path, ...]:
    if choice.derivatives is not None:
        for path in choice.derivatives:
            if not path.is_dir():
                raise InputError(f"--derivatives {path}: there is no such folder.")
        return choice.derivatives
    own = None if out is None else out.resolve()
    found = sorted(path for path in (folder / "derivatives").glob("*") if path.is_dir())
    return tuple(path for path in found if path.resolve() != own)


def _images(folder: Path, participant: str, suffix: str) -> list[BidsImage]:
    """The raw images of a suffix that a participant has; InputError for a name that is no name in BIDS."""
    found: dict[str, BidsImage] = {}
    for path in sorted([*folder.glob(f"{participant}/*/*_{suffix}.nii*"), *_of_sessions(folder, participant, suffix)]):
        if not path.name.endswith((".nii", ".nii.gz")) or path.name.startswith("."):
            continue  # ._NAME is what macOS leaves beside a file on other disks
        parts = parsed(path.name)
        place = path.parent.relative_to(folder).as_posix()
        if parts is None or next(iter(parts[0])) != "sub":
            raise InputError(f"{path}: is no name by BIDS. Name it as sub-01_ses-1_run-1_{suffix}.nii.gz.")
        entities = parts[0]
        session = re.search(r"ses-([^/]+)", place)
        if f"sub-{entities['sub']}" != participant or entities.get("ses") != (session and session[1]):
            raise InputError(f"{path}: its name says another participant or session than its folder. Rename it.")
        if not set(_DERIVED).isdisjoint(entities):
            continue
        if not path.exists():
            raise InputError(f"{path}: is a link to what is not here. Fetch it (datalad get, git annex get).")
        image = BidsImage(path, place, entities, suffix)
        if image.name in found:
            raise InputError(f"{path}: lies beside {found[image.name].path.name}. Remove one of them.")
        found[image.name] = image
    return list(found.values())


def _of_sessions(folder: Path, participant: str, suffix: str) -> Iterable[Path]:
    return folder.glob(f"{participant}/ses-*/*/*_{suffix}.nii*")


def _nothing(folder: Path, without: Sequence[str], suffix: str) -> str:
    shown = ", ".join(without[:5]) + (", …" if len(without) > 5 else "")
    text = f"{folder}: no *_{suffix}.nii.gz of {shown}. "
    derived = next(folder.glob(f"{without[0]}/**/*_desc-*_{suffix}.nii*"), None)
    if derived is not None:
        return (
            f"{text}{derived.name} is a derivative: give the data set that it was made of as BIDS_DIR, and this one as "
            "--derivatives."
        )
    names = [_NAME.fullmatch(path.name) for path in folder.glob(f"{without[0]}/**/*.nii*")]
    others = sorted({match[2] for match in names if match})
    there = f" There is: {', '.join(others)}." if others else ""
    return f"{text}Choose other participants, or another kind of images (--suffix).{there}"


# ------------------------------------------------------------------------------------------- what belongs to an image


def _labels_asked(text: str) -> tuple[dict[str, str], str] | None:
    if not text:
        return None
    found = parsed(f"sub-x_{text}.nii.gz")
    if found is None:
        raise InputError(f"--labels {text}: is no end of a name by BIDS. Give it as dseg or desc-aseg_dseg.")
    return {key: value for key, value in found[0].items() if key != "sub"}, found[1]


def _with_belongings(
    image: BidsImage,
    all_of: Sequence[BidsImage],
    derivatives: Sequence[Path],
    choice: Choice,
    labels: tuple[dict[str, str], str] | None,
) -> BidsImage:
    """An image with its mask and labels; ``all_of``: the images of its participant."""
    found: dict[str, Path | None] = {}
    notes: list[str] = []
    for what, wanted in (("mask", _MASK if choice.masks else None), ("labels", labels)):
        found[what], said = (None, ()) if wanted is None else _belonging(image, all_of, derivatives, wanted)
        notes += said
        if found[what] is not None and image.suffix != "T1w" and not _on_grid(found[what], image.path):
            remedy = "--no-masks" if what == "mask" else "no --labels"
            raise InputError(
                f"{found[what]}: lies on other voxels than {image.path.name}, and so is of another image, as of the "
                f"T1w. Name derivatives that have one of it (--derivatives), or use none ({remedy})."
            )
    return replace(image, mask=found["mask"], labels=found["labels"], notes=tuple(notes))


def _belonging(
    image: BidsImage,
    all_of: Sequence[BidsImage],
    derivatives: Sequence[Path],
    wanted: tuple[Mapping[str, str], str],
) -> tuple[Path | None, list[str]]:
    """The one file of derivatives that has the wanted entities and suffix, and beyond them none but the image's; and
    notes. One that several images could be meant by is of their average, and so of none of them."""
    more, suffix = wanted
    datatype = image.folder.rsplit("/", 1)[-1]
    best: list[Path] = []
    shared, notes = -1, []
    for folder in derivatives:
        within = folder / image.participant
        places = [within / datatype]
        if "ses" in image.entities:
            places.append(within / f"ses-{image.entities['ses']}" / datatype)
        for path in sorted(path for place in places for path in place.glob(f"*_{suffix}.nii*")):
            parts = parsed(path.name)
            if parts is None or parts[1] != suffix or any(parts[0].get(key) != value for key, value in more.items()):
                continue
            own = {key: value for key, value in parts[0].items() if key not in more}
            if not own.items() <= image.entities.items():
                continue
            meant = [each for each in all_of if own.items() <= each.entities.items()]
            if len(meant) > 1:
                notes.append(f"{path}: is not used, since it is of {len(meant)} images together.")
            elif len(own) >= shared:
                best = [*(best if len(own) == shared else []), path]
                shared = len(own)
    if len(best) > 1:
        raise InputError(
            f"{image.path.name}: {best[0]} and {best[1]} could both belong to it. Name the derivatives to use: "
            "--derivatives FOLDER."
        )
    return (best[0] if best else None), notes


def _on_grid(one: Path, other: Path) -> bool:
    a, b = read_grid(one), read_grid(other)
    return a.shape == b.shape and np.allclose(a.affine, b.affine, atol=1e-2)


def _notes(images: Sequence[BidsImage], without: Sequence[str], choice: Choice) -> Iterable[str]:
    if without:
        shown = ", ".join(without[:6]) + (", …" if len(without) > 6 else "")
        yield f"Left out, since there is no *_{choice.suffix}.nii.gz: {shown}."
    yield from dict.fromkeys(note for image in images for note in image.notes)
    bare = [image.name for image in images if image.mask is None]
    if choice.masks and bare:
        shown = ", ".join(bare[:6]) + (", …" if len(bare) > 6 else "")
        yield (
            f"No brain mask (desc-brain_mask) in derivatives of {len(bare)} of {len(images)} images, which are "
            f"registered as they are, with all of the head that they show: {shown}."
        )
    unlabelled = [image.name for image in images if image.labels is None]
    if choice.labels and unlabelled:
        shown = ", ".join(unlabelled[:6]) + (", …" if len(unlabelled) > 6 else "")
        yield f"No *_{choice.labels}.nii.gz of {len(unlabelled)} of {len(images)} images: {shown}."
