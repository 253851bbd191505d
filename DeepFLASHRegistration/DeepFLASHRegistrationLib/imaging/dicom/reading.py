# SPDX-License-Identifier: Apache-2.0
"""Opening a DICOM folder, or the series that a DICOM file belongs to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...support.errors import InputError
from ..image_files.stored import StoredImage
from .elements import RT_DOSE, SEGMENTATIONS, Elements, read_elements
from .mosaic import is_mosaic, tiles_of
from .sampling import Sampling, check_sound, sampling_of
from .slices import Slice, read_slices
from .stacks import Stack, stacks_of

_COMPARED = 50  # groups; more are not looked through, which takes time
_FEW = 2  # slices: as many as a scout has of one orientation
_CLASS = 0x00080016
_DOSE_UNITS, _DOSE_TYPE, _DOSE_SUMMATION = 0x30040002, 0x30040004, 0x3004000A
# What holds no image, by the beginning of its class (PS3.6, annex A), and what to do with it.
_NO_IMAGE = {
    "1.2.840.10008.5.1.4.1.1.481.3": "the contours of a radiotherapy plan (RTSTRUCT); make a segmentation of them, in "
    "3D Slicer with SlicerRT for example, and export that as .seg.nrrd or NIfTI",
    "1.2.840.10008.5.1.4.1.1.481.5": "a radiotherapy plan (RTPLAN)",
    "1.2.840.10008.5.1.4.1.1.66.5": "the surfaces of a segmentation; export them as .stl or .vtk",
    "1.2.840.10008.5.1.4.1.1.66.1": "a registration; pass it where a transform is wanted (--init, deepflash apply)",
    "1.2.840.10008.5.1.4.1.1.66.3": "a registration; pass it where a transform is wanted (--init, deepflash apply)",
    "1.2.840.10008.5.1.4.1.1.66": "raw data",
    "1.2.840.10008.5.1.4.1.1.88": "a report (SR)",
    "1.2.840.10008.5.1.4.1.1.11": "how images are to be shown (a presentation state)",
    "1.2.840.10008.5.1.4.1.1.104": "a document",
    "1.2.840.10008.1.3.10": "a list of files (DICOMDIR)",
}


def open_folder(path: Path) -> StoredImage:
    """The one image in a folder, of one or several volumes; scouts, screenshots and the like beside it are left out.

    Raises:
        InputError: no DICOM image, several, or one that is damaged, incomplete, or lies nowhere.
    """
    return _stored(path, *stacks_in(path))


def stacks_in(path: Path) -> tuple[list[Stack], list[Stack], list[str]]:
    """The volumes of the one image in a folder, what lies beside it, and notes; InputError as for `open_folder`."""
    slices = _slices_in(path)
    if not slices:
        raise InputError(f"{path}: holds no DICOM series. Pass an image file, or the folder that holds the slices.")
    groups = _on_one_grid(stacks_of(slices))
    chosen, left_out = _main(groups)
    if chosen is None:
        raise InputError(_which(path, groups))
    return chosen, left_out, []


def open_file(path: Path) -> StoredImage | None:
    """The volumes that a DICOM file belongs to, with the other files of its series in its folder; None if it is none.

    Raises:
        InputError: no image in it, or one that is damaged, incomplete, or lies nowhere.
    """
    found = stacks_of_file(path)
    return None if found is None else _stored(path, *found)


def stacks_of_file(path: Path) -> tuple[list[Stack], list[Stack], list[str]] | None:
    """As `stacks_in`, of what a file belongs to; None if it is no DICOM. InputError as for `open_file`."""
    own = _slices_of(path)
    if own is None:
        return None
    if not own:
        raise InputError(
            f"{path}: is a DICOM file, but holds {_held(path)}. Pass an image file, or a file of a series."
        )
    series = own[0].series
    slices = own
    if series:
        slices = own + [s for s in _slices_in(path.parent, path) if s.series == series]
    groups = _on_one_grid(stacks_of(slices))
    ours = [[s for s in group if path in s.files] for group in groups]
    ours = [group for group in ours if group]
    if len(ours) > 1:
        raise InputError(_which(path, ours))
    notes = []
    others = len({f for stack in ours[0] for f in stack.files}) - 1
    if others:
        notes.append(f"read with the other {others} files of its DICOM series")
    left_out = [stack for group in groups for stack in group if stack not in ours[0]]
    return ours[0], left_out, notes


def _slices_of(file: Path) -> list[Slice] | None:
    """The slices of a file, of a mosaic its tiles; None if it is no DICOM."""
    slices = read_slices(file)
    return tiles_of(slices[0]) if slices and len(slices) == 1 and is_mosaic(slices[0].header) else slices


def _held(file: Path) -> str:
    """What a DICOM file without an image holds."""
    elements = read_elements(file)
    kind = elements.text(_CLASS).strip("\0") if elements else ""
    return next(
        (f"no image: {what}" for start, what in _NO_IMAGE.items() if f"{kind}.".startswith(f"{start}.")), "no image"
    )


def _is_segmentation(part: Slice) -> bool:
    return part.header.text(_CLASS).strip("\0") in SEGMENTATIONS


def _slices_in(folder: Path, but: Path | None = None) -> list[Slice]:
    try:
        with os.scandir(folder) as entries:
            files = sorted(Path(folder, entry.name) for entry in entries if entry.is_file())
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror}). Check the path.") from error
    return [part for file in files if but is None or not file.samefile(but) for part in _slices_of(file) or ()]


def _on_one_grid(stacks: list[Stack]) -> list[list[Stack]]:
    """Stacks that are volumes of one image: of one series, with their slices at the same places."""
    groups: list[list[Stack]] = []
    for stack in sorted(stacks, key=lambda s: (s.slices[0].series, min(part.number for part in s.slices))):
        group = next((g for g in groups[-_COMPARED:] if _same_places(g[0], stack)), None)
        if group is None:
            groups.append([stack])
        else:
            group.append(stack)
    return groups


def _same_places(a: Stack, b: Stack) -> bool:
    first, other = a.slices[0], b.slices[0]
    if (first.series, first.shape, first.color) != (
        other.series,
        other.shape,
        other.color,
    ) or first.scout != other.scout:
        return False
    if len(a.slices) != len(b.slices) or first.damage or other.damage or a.confused or b.confused:
        return False
    if first.position is None or other.position is None:
        return first.position is other.position and len(a.slices) == 1
    near = 0.01 * first.spacing.min()
    return np.abs(first.axes - other.axes).max() < 1e-3 and all(
        np.abs(p.position - q.position).max() <= max(near, 0.01) for p, q in zip(a.slices, b.slices)
    )


def _main(groups: list[list[Stack]]) -> tuple[list[Stack] | None, list[Stack]]:
    """The image that a folder is about, and what lies beside it; None if there may be several."""
    if len(groups) == 1:
        return groups[0], []
    images = [g for g in groups if not _beside_the_point(g)]
    if len(images) != 1:
        return None, []
    return images[0], [stack for group in groups if group is not images[0] for stack in group]


def _beside_the_point(group: list[Stack]) -> bool:
    """Whether it is a scout, a picture in color (a report), a segmentation, or too few slices to be a volume."""
    first = group[0].slices[0]
    return first.scout or first.color or _is_segmentation(first) or len(group[0].slices) <= _FEW


def _left_out(stacks: list[Stack]) -> str:
    listed = "; ".join(f"{stack.title}, e.g. {stack.files[0].name}" for stack in stacks[:4])
    more = f"; and {len(stacks) - 4} more" if len(stacks) > 4 else ""
    return f"left out, because it is no part of the stack: {listed}{more}. To read one of these, pass its file"


def _which(path: Path, groups: list[list[Stack]]) -> str:
    stacks = [stack for group in groups for stack in group]
    series = {stack.slices[0].series for stack in stacks}
    what = f"{len(series)} DICOM series" if len(series) == len(groups) else f"{len(groups)} stacks of DICOM slices"
    listed = "\n".join(f"  {stack.title}, e.g. {stack.files[0]}" for stack in stacks[:20])
    more = f"\n  and {len(stacks) - 20} more" if len(stacks) > 20 else ""
    return (
        f"{path}: holds {what}. Pass one file of the one you want, or put its files in a folder of their own and pass "
        f"that:\n{listed}{more}"
    )


def _stored(path: Path, stacks: list[Stack], left_out: list[Stack], notes: list[str]) -> StoredImage:
    if _is_segmentation(stacks[0].slices[0]):
        raise InputError(
            f"{path}: is a DICOM segmentation (SEG), which holds labels and no image. Pass its file where labels are "
            "wanted, --moving-labels for example."
        )
    if left_out:
        notes.append(_left_out(left_out))
        series = stacks[0].slices[0].series
        check_sound([part for stack in left_out for part in stack.slices if part.series == series])
    samplings = [sampling_of(stack, str(path)) for stack in stacks]
    notes += dict.fromkeys(note for sampling in samplings for note in sampling.notes)

    header = stacks[0].slices[0].header
    is_dose = header.text(_CLASS).strip("\0") == RT_DOSE
    if is_dose:
        notes.append(_dose_in_words(header))

    def volumes(first: int, stop: int) -> Iterator[np.ndarray]:
        return (sampling.values() for sampling in samplings[first:stop])

    first: Sampling = samplings[0]
    names = [stack.title for stack in stacks] if len(stacks) > 1 else []
    return StoredImage(
        path, first.grid, len(stacks), volumes, 3 if stacks[0].slices[0].color else 1, notes=notes, names=names,
        interpolated=any(sampling.interpolated for sampling in samplings), outside=0.0 if is_dose else None,
    )  # fmt: skip


def _dose_in_words(header: Elements) -> str:
    """What the numbers of a radiation dose are."""
    unit = {"GY": "in Gy", "RELATIVE": "relative to a value that the file does not state"}
    kind = ", ".join(filter(None, (header.text(tag) for tag in (_DOSE_TYPE, _DOSE_SUMMATION))))
    said = unit.get(header.text(_DOSE_UNITS), "of unknown unit")
    return f"is a radiation dose {said}{f' ({kind})' if kind else ''}; beyond its grid there is none"
