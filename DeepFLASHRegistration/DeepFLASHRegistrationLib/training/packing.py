# SPDX-License-Identifier: Apache-2.0
"""Making packs of images: every subject scaled, aligned to the first and laid on one grid in its own pose."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..alignment.affine import align
from ..imaging.grid import Grid, stored, upright
from ..imaging.intensities import foreground
from ..imaging.resampling import nearest
from ..imaging.volume import Volume
from ..learning.feature_net import MULTIPLE
from ..problem.parameters import Parameters
from ..problem.problem import beyond, scaled
from ..problem.resampling import blurred, linear
from ..problem.subject import Subject
from ..support.errors import InputError
from .examples import BORDER
from .label_naming import Naming, check_naming, painted
from .pack import Pack, packed

# Gray levels that are kept: their steps lie below the noise of a scan, and each halving saves a bit per voxel.
LEVELS = 64
# What is learned is learned of images scaled so, whatever the default is elsewhere.
_SCALING = Parameters(normalization="percentiles")
_MOST_VOXELS = 60_000_000  # of a grid
_COARSER = 1.15  # by how much voxels grow at a time where resolution gives way


@dataclass(frozen=True)
class Source:
    """A subject that is read when its turn comes: its name, and what reads it."""

    name: str
    read: Callable[[], Subject]


@dataclass(frozen=True)
class Frame:
    """The grid of a pack: voxels along z, y, x, and their size."""

    shape: tuple[int, ...]
    spacing_mm: float

    def around(self, volume: Volume) -> Grid:
        """An upright grid around the middle of what a volume shows."""
        grid = stored(volume.grid, *upright(volume.grid))
        inside = np.argwhere(foreground(volume))
        center = volume.grid.index_to_physical((inside.min(0) + inside.max(0)) / 2)
        affine = np.eye(grid.ndim + 1)
        affine[:-1, :-1] = grid.direction * self.spacing_mm
        affine[:-1, -1] = center - affine[:-1, :-1] @ ((np.array(self.shape) - 1) / 2)
        return Grid(self.shape, affine)


@dataclass(frozen=True)
class _Survey:
    """What all subjects are like, before any is packed."""

    labels: tuple[tuple[int, ...], ...] | None
    extent_mm: np.ndarray
    spacing_mm: float


def pack_subjects(
    name: str,
    sources: Sequence[Source],
    frame: Frame | None = None,
    *,
    spacing_mm: float = 0.0,
    naming: Naming | None = None,
    maps_alone: bool = False,
    unseen: Sequence[str] = (),
    tell: Callable[[str], None] = lambda text: None,
) -> Pack:
    """Subjects on one grid.

    Args:
        name: of the set.
        sources: the subjects.
        frame: the grid; by default one of ``spacing_mm`` that holds what each of them shows.
        spacing_mm: of that grid; 0: about that of the images.
        naming: what their labels mean.
        maps_alone: there are no images, but label maps that images are made of; a subject's image is not looked at.
        unseen: names of those that are never trained on.
        tell: called with lines of text.

    Raises:
        InputError: fewer than two subjects, none with labels where there are maps alone, too many labels, labels on
            some subjects only or named by two schemes, or images that cannot be used.
    """
    naming = naming or Naming()
    if len(sources) < 2:
        raise InputError(f"{name}: has {len(sources)} subject. Pairs of different subjects are needed: at least two.")
    survey = _surveyed(name, sources, naming, maps_alone, tell)
    frame = frame or _frame(name, survey, spacing_mm)
    if len(frame.shape) != len(survey.extent_mm):
        raise InputError(
            f"{name}: the images have {len(survey.extent_mm)} dimensions, the grid {len(frame.shape)}. Give a --shape "
            "(or a pack to be --like) of as many."
        )
    codes, alike = {}, ()
    if survey.labels is not None:
        codes = naming.codes(sorted({v for values in survey.labels for v in values if v > naming.ignored}), name)
        alike = _alike(codes, naming)
    images, labels, affines, first = [], [], [], None
    for number, source in enumerate(sources, 1):
        subject = _read(source)
        coded = None if subject.label_map is None else _coded(subject.label_map, codes)
        image = coded.with_data(painted(coded.data, alike)) if maps_alone else scaled(subject, _SCALING).image
        grid, matrix = frame.around(image), np.eye(image.ndim + 1)
        if first is None:
            first = (image, grid)
        else:
            matrix = align(first[0], image, "affine").matrix
        affines.append(np.linalg.inv(grid.affine) @ matrix @ first[1].affine)
        if not maps_alone:
            values = linear(image, grid, None, beyond(image)).clip(0, 1) * (LEVELS - 1)
            images.append(np.rint(values).astype(np.uint8) * np.uint8(255 // (LEVELS - 1)))
        if coded is not None:
            labels.append(nearest(coded, grid))
        tell(f"{number} of {len(sources)}: {source.name}")
    names = tuple(source.name for source in sources)
    return Pack(
        name,
        names,
        np.stack(images) if images else None,
        np.stack(labels) if labels else None,
        np.stack(affines),
        frame.spacing_mm,
        tuple(names.index(n) for n in unseen),
        _values(codes),
        alike,
    )


def _read(source: Source) -> Subject:
    return source.read().checked()


def _surveyed(
    name: str, sources: Sequence[Source], naming: Naming, maps_alone: bool, tell: Callable[[str], None]
) -> _Survey:
    labels, extents, spacings = [], [], []
    for source in sources:
        subject = _read(source)
        for note in subject.notes:
            tell(note)
        if subject.label_map is not None:
            labels.append((source.name, tuple(int(v) for v in np.unique(subject.label_map.data) if v > 0)))
        shown = subject.image
        if maps_alone:
            if subject.label_map is None:
                raise InputError(f"{name}: {source.name} has no labels, of which images are to be made.")
            inner = [v for v in labels[-1][1] if naming.is_inner(v)]
            shown = subject.label_map.with_data(np.isin(subject.label_map.data, inner).astype(np.float32))
            if not inner:
                raise InputError(f"{name}: {source.name} has no label of a structure. Leave it out.")
        grid = stored(shown.grid, *upright(shown.grid))
        order, _ = upright(shown.grid)
        inside = np.argwhere(foreground(shown))[:, order]
        extents.append((inside.max(0) - inside.min(0) + 1) * grid.spacing)
        spacings.append(float(np.prod(grid.spacing) ** (1 / grid.ndim)))
        if grid.ndim != len(extents[0]):
            raise InputError(
                f"{name}: {source.name} has {grid.ndim} dimensions, {sources[0].name} {len(extents[0])}. Pack them "
                "apart."
            )
    if labels and len(labels) < len(sources):
        missing = next(s.name for s in sources if s.name not in dict(labels))
        raise InputError(f"{name}: {missing} has no labels, others have. Give labels for all or for none.")
    inner = [(subject, [v for v in values if naming.is_inner(v)]) for subject, values in labels]
    check_naming(inner, name)
    found = tuple(values for _, values in labels) if labels else None
    return _Survey(found, np.max(extents, 0), float(np.median(spacings)))


def _frame(name: str, survey: _Survey, spacing_mm: float) -> Frame:
    spacing = spacing_mm or float(f"{survey.spacing_mm:.3g}")
    wanted = survey.extent_mm / spacing + 2 * BORDER
    shape = tuple(MULTIPLE * math.ceil(n / MULTIPLE) for n in wanted)
    if math.prod(shape) > _MOST_VOXELS:
        raise InputError(
            f"{name}: a grid for all of it has {' x '.join(map(str, shape))} voxels of {spacing:g} mm, too many to "
            "train on. Give larger voxels (--spacing-mm), or a --shape."
        )
    return Frame(shape, spacing)


def _coded(labels: Volume, codes: dict[int, int]) -> Volume:
    values = np.array(sorted(codes), int)
    at = np.searchsorted(values, labels.data).clip(0, len(values) - 1)
    table = np.array([codes[v] for v in values], np.uint8)
    return labels.with_data(np.where(values[at] == labels.data, table[at], np.uint8(0)))


def _values(codes: dict[int, int]) -> tuple[int, ...]:
    values = np.zeros(max(codes.values()) + 1 if codes else 0, int)
    for value, code in codes.items():
        values[code] = value
    return tuple(values.tolist())


def _alike(codes: dict[int, int], naming: Naming) -> tuple[int, ...]:
    return tuple(codes.get(naming.alike.get(v, v), c) if v else c for c, v in enumerate(_values(codes)))


# ---------------------------------------------------------------------------------------------------------- the limit


def within_limit(pack: Pack, limit_mb: float) -> tuple[bytes, tuple[str, ...]]:
    """The file of a pack of at most this size, and the subjects that it has no room for (the last ones).

    Raises:
        InputError: two subjects do not fit.
    """
    content, count, part = packed(pack), len(pack), pack
    while len(content) > limit_mb * 1e6:
        keep = min(count - 1, int(count * limit_mb * 1e6 / len(content)))
        # Those kept aside stay: what they measure is worth more than one more to learn from.
        kept = [*pack.unseen, *pack.trained][:keep]
        if keep - len(pack.unseen) < 2:
            raise InputError(
                f"{pack.name}: two subjects to train on do not fit into {limit_mb:g} MB. Allow more (--limit-mb), or "
                "let the resolution give way (--give-way resolution)."
            )
        count, part = keep, pack.part(sorted(kept))
        content = packed(part)
    return content, tuple(n for n in pack.names if n not in part.names)


def coarsened_to_limit(pack: Pack, limit_mb: float) -> tuple[bytes, float]:
    """The file of a pack of at most this size, and the voxels of all its subjects that this took.

    Raises:
        InputError: no resolution of any use fits.
    """
    factor, content, part = 1.0, packed(pack), pack
    while len(content) > limit_mb * 1e6:
        factor *= _COARSER
        if min(pack.shape) / factor < MULTIPLE:
            raise InputError(
                f"{pack.name}: does not fit into {limit_mb:g} MB at any resolution of use. Allow more (--limit-mb), or "
                "let subjects give way (--give-way subjects)."
            )
        part = coarser(pack, factor)
        content = packed(part)
    return content, part.spacing_mm


def coarser(pack: Pack, factor: float) -> Pack:
    """The same subjects on voxels this many times larger, around the same middle."""
    d = len(pack.shape)
    shape = tuple(MULTIPLE * math.ceil(n / factor / MULTIPLE) for n in pack.shape)
    fine, matrix = Grid(pack.shape, np.eye(d + 1)), np.diag([*[factor] * d, 1.0])
    matrix[:d, d] = (np.array(pack.shape) - 1) / 2 - factor * (np.array(shape) - 1) / 2
    coarse = Grid(shape, matrix)
    sigma = [0.5 * math.sqrt(factor**2 - 1)] * d

    def image(values: np.ndarray) -> np.ndarray:
        return np.rint(linear(Volume(fine, blurred(values, sigma)), coarse)).clip(0, 255).astype(np.uint8)

    return dataclasses.replace(
        pack,
        images=None if pack.images is None else np.stack([image(x) for x in pack.images]),
        labels=None if pack.labels is None else np.stack([nearest(Volume(fine, x), coarse) for x in pack.labels]),
        affines=np.linalg.inv(matrix) @ pack.affines @ matrix,
        spacing_mm=pack.spacing_mm * factor,
    )
