# SPDX-License-Identifier: Apache-2.0
"""Images of many subjects, as a folder or a table names them: found, checked, split by subject, paired.

A folder holds

    images/a.nii.gz …    with labels/a.nii.gz … and masks/a.nii.gz … where there are any, or
    a.nii.gz …           with a_labels.nii.gz … and a_mask.nii.gz … where there are any;

a table (.csv, .tsv) has a line of titles and one line per image, with the columns `image`, and, where there are any,
`subject` (scans of one person share it), `labels`, `mask` and `channels` (further images of the same scan, several with
"|" between them). Its paths are relative to the table's folder; other columns are ignored.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..imaging.files import IMAGES, stem
from ..imaging.grid import Grid
from ..problem.reading import read_subject
from ..problem.subject import Subject
from ..support.errors import InputError
from ..support.tables import read_table

_COLUMNS = ("image", "subject", "labels", "mask", "channels")
# Voxels this many times larger or smaller than those of most images are a wrong unit or another kind of image.
_SPACING_RATIO = 2.0
# How many pairs are listed to draw from; of more, pairs are drawn blindly until they are all different.
_LISTED_PAIRS = 100_000
_SHOWN = 8


@dataclass(frozen=True)
class SubjectFiles:
    """One image and what belongs to it, as files.

    Attributes:
        name: of the image, unique in its data set.
        subject: the person; images of one person are never split.
        image, labels, mask: files, or a DICOM folder.
        channels: further images of the same scan.
    """

    name: str
    subject: str
    image: Path
    labels: Path | None = None
    mask: Path | None = None
    channels: tuple[Path, ...] = ()

    def read(self) -> Subject:
        """The volumes.

        Raises:
            InputError: a file is missing, damaged, of the wrong kind, or lies elsewhere than its image.
        """
        return read_subject(self.image, self.labels, self.mask, name=self.name, channels=self.channels).checked()


@dataclass(frozen=True)
class Dataset:
    """Images in the order of their names; ``skipped`` says what was left out, and why."""

    path: Path
    subjects: tuple[SubjectFiles, ...]
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.subjects)

    @property
    def persons(self) -> list[str]:
        """Names of the persons, each once."""
        return list(dict.fromkeys(s.subject for s in self.subjects))

    def named(self, names: Iterable[str]) -> Dataset:
        """The images of persons, or of the persons of images; InputError for a name that is neither."""
        known = {s.subject: s.subject for s in self.subjects} | {s.name: s.subject for s in self.subjects}
        wanted = set()
        for name in names:
            if name not in known:
                raise InputError(
                    f"{self.path}: has no subject {name!r}{_suggestion(name, known)}. It has {len(self.persons)}: "
                    f"{_listed(self.persons)}."
                )
            wanted.add(known[name])
        return replace(self, subjects=tuple(s for s in self.subjects if s.subject in wanted))


def read_dataset(
    path: str | Path,
    *,
    need_labels: bool = False,
    skip_broken: bool = False,
    voxels: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Finds and checks the images of a folder or table (see the module).

    Args:
        path: folder or table.
        need_labels: an image without labels cannot be used.
        skip_broken: leave out what cannot be used instead of refusing everything.
        voxels: read every file to its end; otherwise only headers.
        progress: told how many of how many images are checked.

    Raises:
        InputError: nothing there, fewer than two subjects, or images that cannot be used, all of them named: files that
            are missing or damaged, without labels where they are needed, of another dimension than most, or with voxels
            of quite another size.
    """
    path = Path(path)
    if path.is_dir():
        found, problems = _from_folder(path)
    elif path.is_file():
        found, problems = _from_table(path), {}
    else:
        raise InputError(f"{path}: there is no such folder or table. Check the path.")
    if not found and not problems:
        raise InputError(f"{path}: holds no images. {_LAYOUT}")
    _check_unique(path, found)
    grids: dict[str, Grid] = {}
    for number, subject in enumerate(found):
        try:
            grids[subject.name] = _checked(subject, need_labels, voxels)
        except InputError as error:
            problems[subject.name] = str(error)
        if progress is not None:
            progress(number + 1, len(found))
    problems |= _unlike_the_others({s.name: (s.image, grids[s.name]) for s in found if s.name in grids})
    if problems and not skip_broken:
        raise InputError(
            f"{path}: {len(problems)} of {len(found)} images cannot be used:\n"
            + "\n".join(f"  {text}" for text in list(problems.values())[:_SHOWN])
            + (f"\n  … and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else "")
            + "\nMend or remove them, or leave them out with --skip-broken."
        )
    dataset = Dataset(path, tuple(s for s in found if s.name not in problems), tuple(problems.values()))
    if len(dataset.persons) < 2:
        left = f" ({len(problems)} were left out, the first: {dataset.skipped[0]})" if problems else ""
        raise InputError(
            f"{path}: has {len(dataset.persons) or 'no'} subject{left}. Pairs of different subjects are needed: give "
            "images of at least two."
        )
    return dataset


_LAYOUT = (
    "Give a folder with images/ (and labels/, masks/ of the same file names), a folder of images (with x_labels, "
    "x_mask beside x), or a table with the columns image, subject, labels, mask, channels."
)


# ------------------------------------------------------------------------------------------------------- finding


def _images(folder: Path) -> list[Path]:
    files = (p for p in folder.iterdir() if p.name.lower().endswith(IMAGES) and not p.name.startswith("."))
    return sorted(p for p in files if not p.is_dir())


def _from_folder(folder: Path) -> tuple[list[SubjectFiles], dict[str, str]]:
    """Subjects, and what belongs to none by its name."""
    try:
        if (folder / "images").is_dir():
            files = {"image": _images(folder / "images")}
            for key, name in (("labels", "labels"), ("mask", "masks")):
                files[key] = _images(folder / name) if (folder / name).is_dir() else []
            keyed = {key: [(stem(p), p) for p in group] for key, group in files.items()}
        else:
            keyed = {"image": [], "labels": [], "mask": []}
            for path in _images(folder):
                name = stem(path)
                key = next((k for k in ("labels", "mask") if name.endswith(f"_{k}")), "image")
                keyed[key].append((name.removesuffix(f"_{key}"), path))
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror}). Check its permissions.") from error
    for group in keyed.values():
        _check_names(folder, group)
    companions = {key: dict(keyed[key]) for key in ("labels", "mask")}
    found = [
        SubjectFiles(name, name, path, companions["labels"].pop(name, None), companions["mask"].pop(name, None))
        for name, path in keyed["image"]
    ]
    alone = [path for group in companions.values() for path in group.values()]
    return found, {str(path): f"{path}: belongs to an image that is missing" for path in alone}


def _check_names(folder: Path, group: Sequence[tuple[str, Path]]) -> None:
    for name, count in Counter(name for name, _ in group).items():
        if count > 1:
            files = ", ".join(path.name for other, path in group if other == name)
            raise InputError(f"{folder}: {files} have the same name. Keep one of them.")


def _from_table(path: Path) -> list[SubjectFiles]:
    table = read_table(path)
    if "image" not in table.titles:
        raise InputError(f"{path}: has no column {'image'!r}, but: {', '.join(table.titles) or 'nothing'}.")
    for title in table.titles:
        meant = difflib.get_close_matches(title, _COLUMNS, 1, 0.8)
        if meant and title not in _COLUMNS and meant[0] not in table.titles:
            raise InputError(f"{path}: has a column {title!r}. Rename it to {meant[0]!r}, or to something else.")
    rows = [row for row in table.rows if any(row.cells.get(key) for key in _COLUMNS)]
    for row in rows:
        if not row.cells["image"]:
            raise InputError(f"{path}: line {row.line} names no image.")
    names = _short_names([Path(row.cells["image"]) for row in rows])
    return [
        SubjectFiles(
            name,
            row.cells.get("subject") or name,
            path.parent / row.cells["image"],
            *(path.parent / row.cells[key] if row.cells.get(key) else None for key in ("labels", "mask")),
            tuple(path.parent / each.strip() for each in (row.cells.get("channels") or "").split("|") if each.strip()),
        )
        for name, row in zip(names, rows)
    ]


def _short_names(paths: Sequence[Path]) -> list[str]:
    """The files' names without suffix; where these are not unique (a/t1.nii, b/t1.nii), the whole path."""
    short = [stem(p) for p in paths]
    if len(set(short)) == len(short):
        return short
    return ["-".join([*(x for x in p.parent.parts if x not in ("..", p.anchor)), stem(p)]) for p in paths]


def _check_unique(path: Path, found: Sequence[SubjectFiles]) -> None:
    for what, values in (("the image", [str(s.image) for s in found]), ("the name", [s.name for s in found])):
        twice = [value for value, count in Counter(values).items() if count > 1]
        if twice:
            raise InputError(f"{path}: has {what} {twice[0]} twice. Every image may occur once.")


# ------------------------------------------------------------------------------------------------------ checking


def _checked(subject: SubjectFiles, need_labels: bool, voxels: bool) -> Grid:
    """The grid of a subject's image; InputError if its files cannot be used."""
    from ..imaging.io import read_grid

    if need_labels and subject.labels is None:
        raise InputError(f"{subject.image}: has no labels, which are needed here")
    for file in (subject.image, subject.labels, subject.mask, *subject.channels):
        if file is not None and not file.exists():
            raise InputError(f"{file}: there is no such file")
    if voxels:
        return subject.read().grid
    grid = read_grid(subject.image)
    for file in (subject.labels, subject.mask):
        if file is not None and not _meet(grid, read_grid(file)):
            raise InputError(f"{file}: lies outside {subject.image}")
    return grid


def _meet(one: Grid, two: Grid) -> bool:
    """Whether the boxes around two fields of view have a point in common."""
    if one.ndim != two.ndim:
        return False
    a, b = one.corners(), two.corners()
    return bool((a.min(0) <= b.max(0)).all() and (b.min(0) <= a.max(0)).all())


def _unlike_the_others(grids: dict[str, tuple[Path, Grid]]) -> dict[str, str]:
    """What is against images whose dimension or voxels differ from those of most."""
    problems = {}
    usual = Counter(grid.ndim for _, grid in grids.values()).most_common(1)
    alike = {}
    for name, (path, grid) in grids.items():
        if grid.ndim == usual[0][0]:
            # Axes in any order: how an image is stored does not matter.
            alike[name] = np.sort(grid.spacing)
        else:
            problems[name] = f"{path}: has {grid.ndim} dimensions, most images have {usual[0][0]}"
    if not alike:
        return problems
    middle = np.median(np.stack(list(alike.values())), axis=0)
    for name, spacing in alike.items():
        if np.maximum(spacing / middle, middle / spacing).max() > _SPACING_RATIO:
            problems[name] = (
                f"{grids[name][0]}: has voxels of {_size(spacing)} mm, most images of about {_size(middle)} mm "
                "(another unit? else resample it)"
            )
    return problems


def _size(spacing: np.ndarray) -> str:
    return " x ".join(f"{h:.3g}" for h in spacing)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


def _suggestion(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


# --------------------------------------------------------------------------------------------- splits and pairs


def split(dataset: Dataset, validation: str) -> tuple[Dataset, Dataset]:
    """Training and validation images, no person on both sides.

    Args:
        dataset: to be split.
        validation: a fraction of the persons such as "0.1", chosen by the hash of their names and so always alike; or
            names, separated by commas; or a text file with one name per line. "0": none.

    Raises:
        InputError: unknown names, or a side with too few persons to make a pair.
    """
    persons = dataset.persons
    held_out = set(chosen(dataset, validation).persons)
    if held_out and (len(held_out) < 2 or len(persons) - len(held_out) < 2):
        raise InputError(
            f"{dataset.path}: {len(held_out)} of {len(persons)} subjects for validation leave "
            f"{len(persons) - len(held_out)} to train on. Both sides need two; give more subjects, or --validation 0."
        )
    sides = ([s for s in dataset.subjects if (s.subject in held_out) == side] for side in (False, True))
    training, rest = (replace(dataset, subjects=tuple(side)) for side in sides)
    return training, rest


def chosen(dataset: Dataset, who: str) -> Dataset:
    """The images of some persons, named as for `split`."""
    fraction = _fraction(who)
    if fraction is None:
        return dataset.named(_names(who))
    persons = dataset.persons
    count = max(2, round(fraction * len(persons))) if fraction else 0
    return dataset.named(sorted(persons, key=lambda name: hashlib.sha256(name.encode()).digest())[:count])


def _fraction(text: str) -> float | None:
    """The text as a fraction; None for anything else, also for a name that is a number."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value < 1 else None


def _names(text: str) -> list[str]:
    """Names separated by commas, or the lines of the file that the text names."""
    file = Path(text)
    try:
        if "," not in text and file.is_file():
            lines = (line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
            return [line for line in lines if line]
    except (OSError, ValueError) as error:
        raise InputError(f"{text}: cannot be read ({error}). Give a text file with one name per line.") from error
    return [name.strip() for name in text.split(",") if name.strip()]


def draw_pairs(dataset: Dataset, count: int, seed: int = 0) -> list[tuple[SubjectFiles, SubjectFiles]]:
    """Ordered pairs (fixed, moving) of different persons, all different, drawn at random; all there are if these are
    fewer. The first of a larger draw with the same seed are those of a smaller one."""
    rng = random.Random(seed)
    everyone = dataset.subjects
    if len(everyone) ** 2 <= _LISTED_PAIRS:
        pairs = [(a, b) for a, b in itertools.permutations(everyone, 2) if a.subject != b.subject]
        rng.shuffle(pairs)
        return pairs[:count]
    sizes = Counter(s.subject for s in everyone)
    count = min(count, len(everyone) ** 2 - sum(n * n for n in sizes.values()))
    drawn: dict[tuple[str, str], tuple[SubjectFiles, SubjectFiles]] = {}
    while len(drawn) < count:
        fixed, moving = rng.choice(everyone), rng.choice(everyone)
        if fixed.subject != moving.subject:
            drawn.setdefault((fixed.name, moving.name), (fixed, moving))
    return list(drawn.values())
