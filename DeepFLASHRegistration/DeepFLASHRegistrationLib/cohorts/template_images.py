# SPDX-License-Identifier: Apache-2.0
"""What a template is made of: the grid that its subjects share, their mean, and that moved along the mean geodesic."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..imaging.grid import Grid
from ..imaging.intensities import background_value, foreground, normalize
from ..imaging.io import read_labels, read_volume
from ..imaging.volume import Volume, label_values
from ..problem.deformation import Deformation
from ..problem.resampling import linear
from ..problem.subject import Subject
from ..registration.warping import warp
from ..results.starts import arguments_of
from ..results.velocity import load_result
from ..support.errors import InputError
from .template_mirror import symmetric

AVERAGES = ("mean", "median")
# Voxels around what the subjects show together.
_AROUND = 4
# Voxels that fewer than this part of the subjects show hold nothing.
_SEEN = 0.25
# What more than this part shows is compared, where subjects are cut.
_MOST = 0.75
# Looked through together.
_ROWS = 8


@dataclass(frozen=True)
class Average:
    """An average image, and at each voxel which part of the subjects shows it."""

    image: Volume
    share: np.ndarray

    @property
    def mask(self) -> Volume:
        """Where most show it."""
        return Volume(self.image.grid, (self.share > _MOST).astype(np.uint8), "where most subjects are seen")

    def moved_along(self, geodesic: Deformation) -> Average:
        """Both at the end of a geodesic that starts from them."""
        share = moved_along(self.image.with_data(self.share), geodesic).data
        return Average(moved_along(self.image, geodesic), share)


def shown(subject: Subject) -> np.ndarray:
    """Corners (2**d, d) in LPS mm of the box around what a checked subject shows: its object, or, where that is cut,
    its field of view."""
    grid = subject.grid
    if background_value(subject.image) is None:
        return grid.corners()
    at = np.argwhere(foreground(subject.image))
    ends = np.array(list(itertools.product(*zip(at.min(0), at.max(0), strict=True))), dtype=np.float64)
    return grid.index_to_physical(ends)


def common_grid(
    boxes: Sequence[np.ndarray], whole: Sequence[bool], voxel_mm: float, like: Grid, centered: bool = False
) -> Grid:
    """The grid of a template: upright, of cubes, around what its subjects show.

    Args:
        boxes: corners (2**d, d) of what each shows, in the template's space.
        whole: of each, whether it shows all of its object. Around whole objects the grid holds all of them; of crops it
            holds what half of them show.
        voxel_mm: edge of its voxels.
        like: a grid of the same dimension; of slices, of their plane. If its voxels are the same cubes, those of the
            template meet them, so that images which lie in one space are not interpolated.
        centered: it lies exactly around the middle of the boxes instead.
    """
    d = like.ndim
    lowers, uppers = (np.array([end(box, axis=0) for box in boxes]) for end in (np.min, np.max))
    around = _AROUND * voxel_mm
    if np.mean(whole) >= 0.5:
        lower, upper = lowers.min(0) - around, uppers.max(0) + around
    else:
        lower, upper = np.median(lowers, axis=0), np.median(uppers, axis=0)
    shape = tuple(int(np.ceil(n)) for n in ((upper - lower) / voxel_mm + 1)[::-1])
    affine = np.eye(d + 1)
    affine[:d, :d] = voxel_mm * np.eye(d)[:, ::-1]
    first = (lower + upper) / 2 - affine[:d, :d] @ ((np.array(shape) - 1) / 2)
    if not centered and np.allclose(like.spacing, voxel_mm, rtol=1e-4, atol=0):
        first = like.index_to_physical(np.round(like.physical_to_index(first[None])))[0]
    affine[:d, d] = first
    return replace(like, shape=shape, affine=affine)


def posed_mean(subjects: Iterable[tuple[Subject, np.ndarray]], grid: Grid, how: str, both: bool = False) -> Average:
    """The average of subjects with comparable intensities, each through its affine (d+1, d+1), grid -> subject; with
    ``both`` of their mirror images, too, on a grid that is its own."""

    def images() -> Iterable[tuple[np.ndarray, np.ndarray]]:
        for subject, matrix in subjects:
            seen = Volume(subject.grid, np.ones(subject.grid.shape, np.float32))
            yield linear(subject.image, grid, matrix, 0.0), linear(seen, grid, matrix, 0.0) > 0.5

    return _average(_with_mirrored(images(), both), grid, how)


def _with_mirrored(
    images: Iterable[tuple[np.ndarray, np.ndarray]], both: bool
) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    for image, seen in images:
        yield image, seen
        if both:
            yield image[..., ::-1], seen[..., ::-1]


def warped_mean(
    folders: Sequence[Path],
    grid: Grid,
    whole: bool,
    how: str,
    both: bool = False,
    files: Sequence[Path] | None = None,
) -> Average:
    """The average of registered subjects.

    Args:
        folders: of each, with warped.nii.gz on the grid.
        whole: whether they all show all of their object.
        how, both: as for `posed_mean`.
        files: further images of theirs, which are carried there and averaged instead.
    """

    def images() -> Iterable[tuple[np.ndarray, np.ndarray]]:
        for number, folder in enumerate(folders):
            seen, field = np.ones(grid.shape, dtype=bool), None
            if not whole or files is not None:
                found = load_result(folder)
                field = found.deformation.displacement(grid, "fixed_to_moving")
            if not whole:
                points = grid.index_to_physical(np.stack(np.indices(grid.shape), -1))
                seen = found.moving_grid.contains(points + field)
            if files is None:
                warped = read_volume(folder / "warped.nii.gz")
            else:
                image = read_volume(files[number])
                warped = Volume(grid, warp(image, grid, field, outside=float(image.data.min())))
            if not warped.grid.same_as(grid):
                raise InputError(f"{folder}: lies on another grid than the template. Remove it, and begin again.")
            yield normalize(warped).data, seen

    return _average(_with_mirrored(images(), both), grid, how)


def _average(images: Iterable[tuple[np.ndarray, np.ndarray]], grid: Grid, how: str) -> Average:
    """Of images and where each is seen; 0 where too few are."""
    shape = grid.shape
    if how == "mean":
        total, seen, count = np.zeros(shape), np.zeros(shape), 0
        for image, there in images:
            total += np.where(there, image, 0)
            seen += there
            count += 1
        found = np.divide(total, seen, out=np.zeros(shape), where=seen > 0)
        image = np.where(seen >= _SEEN * count, found, 0).astype(np.float32)
        return Average(Volume(grid, image, "template"), (seen / count).astype(np.float32))
    stack = np.stack([np.where(there, image, np.nan).astype(np.float16) for image, there in images])
    found, share = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
    for start in range(0, shape[0], _ROWS):
        part = slice(start, start + _ROWS)
        share[part] = np.isfinite(stack[:, part]).mean(0)
        enough = share[part] >= max(1 / len(stack), _SEEN)
        values = stack[:, part][:, enough].astype(np.float32)
        found[part][enough] = np.nanmedian(values, axis=0)
    return Average(Volume(grid, found, "template"), share)


def mean_geodesic(folders: Sequence[Path], both: bool = False) -> tuple[Deformation, dict[str, float]]:
    """The geodesic that starts from a template with the mean of the velocities with which those to its subjects do, as
    one of which the template is the moving image; and the length of each subject's, by the name of its folder. With
    ``both`` their mirror images count, too.

    With the template as the fixed image, v0 lives in the subject; the same geodesic run backwards starts from the
    template with −v1. The affine maps stay apart.
    """
    total, lengths, first = 0.0, {}, None
    for folder in folders:
        deformation = load_result(folder).deformation
        if not isinstance(deformation, Deformation):
            raise InputError(f"{folder}: its map is no geodesic. Register again with --as-geodesic.")
        first = first or deformation
        if deformation.velocity.shape != first.velocity.shape or not deformation.domain.same_as(first.domain):
            raise InputError(f"{folder}: its velocity lives in another space than the others'. Begin in a new folder.")
        total = total - deformation.end_velocity().astype(np.float64)
        lengths[folder.name] = deformation.length()
    mean = (total / len(folders)).astype(np.float32)
    found = Deformation(**{**arguments_of(first), "velocity": mean, "affine": np.eye(first.domain.ndim + 1)})
    return symmetric(found) if both else found, lengths


def moved_along(image: Volume, geodesic: Deformation) -> Volume:
    """An image at the end of a geodesic that starts from it; between voxels by cubic splines, which blur least."""
    import SimpleITK as sitk

    grid = image.grid
    field = geodesic.displacement(grid, "fixed_to_moving") @ grid.inverse_affine[:-1, :-1].T
    # Counted in voxels, along SimpleITK's axes.
    vectors = sitk.GetImageFromArray(np.ascontiguousarray(field[..., ::-1], dtype=np.float64), isVector=True)
    source = sitk.GetImageFromArray(image.data)
    found = sitk.Resample(source, source, sitk.DisplacementFieldTransform(vectors), sitk.sitkBSpline, 0.0)
    return image.with_data(np.clip(sitk.GetArrayFromImage(found), 0, None).astype(np.float32))


def displacement_figures(geodesic: Deformation, image: Volume) -> dict[str, float]:
    """By how many voxels a geodesic moves an image's object: mean and largest."""
    field = geodesic.displacement(image.grid, "moving_to_fixed")
    moved = np.linalg.norm(field, axis=-1)[foreground(image)] / float(image.grid.spacing.min())
    return {"mean_voxels": float(moved.mean()), "largest_voxels": float(moved.max())}


def sharpness(image: Volume) -> float:
    """Mean length of the gradient over an image's object, per mm."""
    slopes = np.gradient(image.data, *map(float, image.grid.spacing))
    return float(np.sqrt(sum(np.square(slope) for slope in slopes))[foreground(image)].mean())


def voted_labels(files: Sequence[Path], grid: Grid) -> tuple[Volume, Volume]:
    """Of label maps on a grid what most say at each voxel, and which part says so.

    Of as many the one that more say of the neighbours, so that borders do not wander: given to one label for all, the
    background for example, what is split evenly would make structures smaller.
    """
    stack = np.stack([read_labels(file).data for file in files])
    low, high = int(stack.min()), int(stack.max())
    stack = stack.astype(
        next(t for t in (np.int8, np.int16, np.int32) if np.iinfo(t).min <= low <= high <= np.iinfo(t).max)
    )
    found = np.zeros(grid.shape, dtype=np.int32)
    best, most = np.zeros(grid.shape, dtype=np.float32), np.zeros(grid.shape, dtype=np.float32)
    for label in sorted(int(x) for x in label_values(stack)):
        votes = np.zeros(grid.shape, dtype=np.float32)
        for labels in stack:
            votes += labels == label
        score = votes + _around(votes) / (2 * 2 * grid.ndim * len(files))
        more = score > best
        found[more], best[more], most[more] = label, score[more], votes[more]
    share = (most / len(files)).astype(np.float32)
    return Volume(grid, found, "template labels"), Volume(grid, share, "agreement of the labels")


def _around(values: np.ndarray) -> np.ndarray:
    """The sum over the neighbours along each axis; of those beyond the border the voxel's own value."""
    total = np.zeros_like(values)
    for axis in range(values.ndim):
        padded = np.pad(values, [(int(a == axis),) * 2 for a in range(values.ndim)], mode="edge")
        for start in (0, 2):
            total += np.take(padded, range(start, start + values.shape[axis]), axis)
    return total


def far_away(lengths: Mapping[str, float]) -> list[str]:
    """Names of those that lie farther off than the others scatter."""
    most = outlier_limit(lengths.values())
    return [name for name, length in lengths.items() if length > most]


def outlier_limit(values: Iterable[float], times: float = 3.5) -> float:
    """What lies above this lies off by more than values scatter: by their median and its deviation (Iglewicz and
    Hoaglin 1993, whose limit is 3.5)."""
    values = np.array(list(values))
    middle = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(values - middle)))
    return middle + times * max(spread, 1e-12)
