# SPDX-License-Identifier: Apache-2.0
"""Making packs of files: every subject scaled, aligned to a reference and laid on one grid in its own pose."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..alignment.affine import align
from ..imaging.grid import Grid, stored, upright
from ..imaging.intensities import foreground
from ..imaging.resampling import nearest
from ..imaging.volume import Volume
from ..problem.parameters import Parameters
from ..problem.problem import scaled
from ..problem.resampling import linear
from ..problem.subject import Subject
from ..support.errors import InputError
from .pack import FIRST_OUTSIDE, Pack, packed

# Gray levels that are kept: their steps lie below the noise of a scan, and each halving saves a bit per voxel.
LEVELS = 64
# What is learned is learned of images scaled so, whatever the default is elsewhere.
_SCALING = Parameters(normalization="percentiles")


def common_grid(volume: Volume, shape: Sequence[int], spacing_mm: float) -> Grid:
    """An upright grid of this shape around the middle of what a volume shows."""
    grid = stored(volume.grid, *upright(volume.grid))
    inside = np.argwhere(foreground(volume))
    center = volume.grid.index_to_physical((inside.min(0) + inside.max(0)) / 2)
    affine = np.eye(grid.ndim + 1)
    affine[:-1, :-1] = grid.direction * spacing_mm
    affine[:-1, -1] = center - affine[:-1, :-1] @ ((np.array(shape) - 1) / 2)
    return Grid(tuple(shape), affine)


@dataclass(frozen=True)
class Naming:
    """What the labels of a set mean.

    Attributes:
        painted: makes an image for the alignment of a label map, for sets without images.
        outside: which labels lie around what is registered.
        ignored: labels up to this number are no structures.
        alike: labels and the one whose look they share when painted (left and right).
    """

    painted: Callable[[np.ndarray], np.ndarray] | None = None
    outside: Callable[[int], bool] = lambda value: False
    ignored: int = 0
    alike: Mapping[int, int] = field(default_factory=dict)


def pack_subjects(
    name: str,
    subjects: Sequence[tuple[str, Subject]],
    shape: Sequence[int],
    spacing_mm: float,
    *,
    reference: Volume | None = None,
    naming: Naming | None = None,
    unseen: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Pack:
    """Subjects, as they are read, on one grid.

    Args:
        name: of the set.
        subjects: names and subjects; with ``naming.painted`` the image is the label map itself.
        shape, spacing_mm: of the grid.
        reference: what all are aligned to; the first subject by default.
        naming: what its labels mean.
        unseen: names of those that are never trained on.
        progress: told how many of how many subjects are packed.

    Raises:
        InputError: fewer than two subjects, too many labels, or labels on some subjects only.
    """
    naming = naming or Naming()
    if len(subjects) < 2:
        raise InputError(f"{name}: has {len(subjects)} subject. Pairs of different subjects are needed: at least two.")
    with_labels = [subject.label_map is not None for _, subject in subjects]
    if any(with_labels) != all(with_labels):
        missing = subjects[with_labels.index(False)][0]
        raise InputError(f"{name}: {missing} has no labels, others have. Give labels for all or for none.")
    codes = _codes([s.label_map.data for _, s in subjects], naming, name) if all(with_labels) else {}
    images, labels, affines, frame = [], [], [], None
    for number, (_, subject) in enumerate(subjects):
        label_map = subject.label_map
        if naming.painted is not None:
            subject = Subject(label_map.with_data(naming.painted(label_map.data).astype(np.float32)))
        image = scaled(subject.checked(), _SCALING).image
        if frame is None:
            reference = image if reference is None else scaled(Subject(reference).checked(), _SCALING).image
            frame = common_grid(reference, shape, spacing_mm)
        matrix = np.eye(len(shape) + 1) if image is reference else align(reference, image, "affine").matrix
        grid = common_grid(image, shape, spacing_mm)
        affines.append(np.linalg.inv(grid.affine) @ matrix @ frame.affine)
        if naming.painted is None:
            values = linear(image, grid) * (LEVELS - 1)
            images.append(np.rint(values).astype(np.uint8) * np.uint8(255 // (LEVELS - 1)))
        if codes:
            table = np.zeros(max(codes) + 1, np.uint8)
            table[list(codes)] = list(codes.values())
            found = nearest(label_map.with_data(label_map.data.astype(np.int32)), grid)
            labels.append(table[np.where(found > max(codes), 0, found)])
        if progress is not None:
            progress(number + 1, len(subjects))
    names = tuple(n for n, _ in subjects)
    values = np.zeros(max(codes.values()) + 1 if codes else 0, int)
    for value, code in codes.items():
        values[code] = value
    return Pack(
        name,
        names,
        np.stack(images) if images else None,
        np.stack(labels) if labels else None,
        np.stack(affines),
        spacing_mm,
        tuple(names.index(n) for n in unseen),
        tuple(values.tolist()),
        tuple(codes.get(naming.alike.get(v, v), c) if v else c for c, v in enumerate(values.tolist())),
    )


def _codes(maps: Sequence[np.ndarray], naming: Naming, name: str) -> dict[int, int]:
    """8-bit codes of the labels."""
    values = sorted({int(v) for data in maps for v in np.unique(data) if v > 0})
    inner = [v for v in values if v > naming.ignored and not naming.outside(v)]
    outer = [v for v in values if v > naming.ignored and naming.outside(v)]
    if len(inner) >= FIRST_OUTSIDE or len(outer) > 255 - FIRST_OUTSIDE + 1:
        raise InputError(f"{name}: has {len(values)} labels; a pack holds {FIRST_OUTSIDE - 1}. Join some of them.")
    return {v: i + 1 for i, v in enumerate(inner)} | {v: FIRST_OUTSIDE + i for i, v in enumerate(outer)}


def within_limit(pack: Pack, limit_mb: float) -> tuple[bytes, tuple[str, ...]]:
    """The file of a pack of at most this size, and the subjects that it has no room for (the last ones).

    Raises:
        InputError: two subjects do not fit.
    """
    content, count = packed(pack), len(pack)
    while len(content) > limit_mb * 1e6:
        keep = min(count - 1, int(count * limit_mb * 1e6 / len(content)))
        if keep < 2:
            raise InputError(f"{pack.name}: two subjects do not fit into {limit_mb:g} MB. Allow more.")
        # Those kept aside stay: what they measure is worth more than one more to learn from.
        kept = [*pack.unseen, *[i for i in range(len(pack)) if i not in pack.unseen]][:keep]
        count, part = keep, pack.part(sorted(kept))
        content = packed(part)
    return content, tuple(n for n in pack.names if n not in (pack if count == len(pack) else part).names)
