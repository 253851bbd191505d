# SPDX-License-Identifier: Apache-2.0
"""The pose of an image: how it lies to the mean image of a model's training set, and how well the two agree.

A mean image is a few kB: what the training images show on average, on some thirty voxels per axis. An image is laid on
it rigidly by the ordinary alignment. That tells networks which learned where things lie where to look, and it tells a
brain from a knee.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..alignment.affine import align, align_nearby
from ..alignment.pyramid import BINS, Pyramid, Sampler, averaged
from ..imaging.grid import Grid
from ..imaging.volume import Volume

# Voxels of a mean image, in mm of an adult's brain.
VOXEL_MM = 6.0
_LEVEL = 1  # of the alignment's, at which the agreement is measured
# An object whose radius is by such a factor another than the mean image's is another object.
_OTHER_SIZE = 1.6
# Agreement that lies further below what training images have, in their standard deviations, is reported; they are
# never taken for more alike than this.
FAR, _LEAST_SPREAD = 4.0, 0.05
_FEW = 20  # points, of which nothing is told
_GRAYS = 254  # of what is seen; 0 is what is not


@dataclass(frozen=True, eq=False)
class MeanImage:
    """What training images show on average.

    Attributes:
        grid: along the axes of space, 0 about in the object's middle.
        gray: uint8 on it: 0 where too few images show anything, and from 1 (black) to 255.
        agreement: mean and standard deviation of `Pose.agreement` over training images.
        any_contrast: of `Pose.any_contrast`.
        tissue: of `Pose.tissue`; by default as of T1 images of brains and hippocampi.
    """

    grid: Grid
    gray: np.ndarray
    agreement: tuple[float, float] = (1.0, 0.0)
    any_contrast: tuple[float, float] = (1.0, 0.0)
    tissue: tuple[float, float] = (0.7, 0.05)

    @classmethod
    def of(cls, values: np.ndarray, seen: np.ndarray, grid: Grid) -> MeanImage:
        """From values of about 0..1 on a grid, and where they are known."""
        gray = 1 + np.rint(np.clip(values, 0, 1) * _GRAYS)
        return cls(grid, np.where(seen, gray, 0).astype(np.uint8))

    @property
    def image(self) -> Volume:
        """Values 0..1; 0 where nothing is known."""
        return Volume(self.grid, np.maximum(self.gray.astype(np.float32) - 1, 0) / _GRAYS, "the model's mean image")

    @property
    def seen(self) -> Volume | None:
        """Where it is known, as a mask; None for all of it."""
        return None if self.gray.all() else Volume(self.grid, (self.gray > 0).astype(np.uint8), "what it shows")

    def to_dict(self) -> dict[str, Any]:
        """Plain values of all but the grays, as a model's configuration keeps them."""
        return {
            "affine": self.grid.affine.tolist(),
            "agreement": [float(x) for x in self.agreement],
            "any_contrast": [float(x) for x in self.any_contrast],
            "tissue": [float(x) for x in self.tissue],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], gray: np.ndarray | None) -> MeanImage:
        """ValueError, TypeError or LookupError unless the values and the grays are those of a mean image."""
        if set(values) - {"tissue"} != {"affine", "agreement", "any_contrast"}:
            raise ValueError("its mean image is described by other entries")
        values = {"tissue": cls.tissue, **values}
        if gray is None or gray.dtype != np.uint8 or gray.ndim not in (2, 3) or min(gray.shape) < 2:
            raise ValueError("its mean image is missing or has another shape")
        if np.ptp(gray) == 0:
            raise ValueError("its mean image is empty")
        pairs = [tuple(float(x) for x in values[name]) for name in ("agreement", "any_contrast", "tissue")]
        if not all(len(pair) == 2 and np.isfinite(pair).all() for pair in pairs):
            raise ValueError("its mean image's statistics are none")
        return cls(Grid(gray.shape, np.array(values["affine"], dtype=np.float64)), gray, *pairs)

    def measured(self, poses: list[Pose]) -> MeanImage:
        """The same with the statistics of training images' poses."""

        def spread(values: list[float]) -> tuple[float, float]:
            return float(np.mean(values)), float(np.std(values))

        return dataclasses.replace(
            self,
            agreement=spread([pose.agreement for pose in poses]),
            any_contrast=spread([pose.any_contrast for pose in poses]),
            tissue=spread([pose.tissue for pose in poses]),
        )


@dataclass(frozen=True, eq=False)
class Pose:
    """How an image lies to a mean image.

    Attributes:
        matrix: (d+1, d+1) LPS mm, rigid: point of the image -> point of the mean image.
        agreement: correlation (-1..1) of the two over both objects, times the part of the less seen one that the other
            shows: near 1 for the same object in the same contrast.
        any_contrast: the same with the root of the correlation ratio (0..1), which takes any contrast.
        tissue: correlation over the brighter half of the mean image's object alone, in which contrasts differ most.
        turned: degrees by which the image is turned against the mean image.
        size: radius of the mean image's object over that of the image's.
        notes: the alignment's.
    """

    matrix: np.ndarray
    agreement: float
    any_contrast: float
    tissue: float
    turned: float
    size: float
    notes: tuple[str, ...] = ()

    def below(self, mean: MeanImage, any_contrast: bool = False) -> float:
        """By how many of training images' standard deviations it agrees less than they do: beyond FAR, it is unlike."""
        usual, spread = mean.any_contrast if any_contrast else mean.agreement
        return (usual - (self.any_contrast if any_contrast else self.agreement)) / max(spread, _LEAST_SPREAD)


@dataclass(frozen=True, eq=False)
class Place:
    """Where a posed model works: a grid in the space of its mean image, which lies in an image as that does."""

    mean: MeanImage
    grid: Grid

    def of(self, pose: Pose) -> Grid:
        """The grid in the space of an image, oblique as the pose is."""
        return dataclasses.replace(self.grid, affine=np.linalg.inv(pose.matrix) @ self.grid.affine)


def coarse(image: Volume, spacing_mm: float) -> Volume:
    """The image averaged over blocks of about this size, upright; no axis below four voxels."""
    image = image.upright()
    sizes = zip(image.grid.spacing, image.grid.shape, strict=True)
    factors = [max(1, min(int(spacing_mm / h + 0.501), n // 4)) for h, n in sizes]
    if max(factors) == 1:
        return image
    return Volume(image.grid.resampled(factor=factors), averaged(image.data.astype(np.float32), factors), image.name)


def pose(
    image: Volume,
    mean: MeanImage,
    mask: Volume | None = None,
    threads: int | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Pose:
    """Lays an image on a mean image of the same dimension, rigidly.

    Args:
        image: in any units.
        mask: what lies outside it does not count; on any grid.
        threads, cancelled: of the alignment.

    Raises:
        InputError: the image is empty, the mask does not meet it, or their dimensions differ.
    """
    small, other, seen = coarse(image, float(mean.grid.spacing.max())), mean.image, mean.seen
    ours, theirs = Pyramid(small, mask), Pyramid(other, seen)
    size = theirs.radius / ours.radius
    kind = "rigid" if 1 / _OTHER_SIZE < size < _OTHER_SIZE else "centers"
    found = align(small, other, kind, masks=(mask, seen), cancelled=cancelled, threads=threads)
    return _posed(ours, theirs, found.matrix, kind == "rigid", found.notes)


def pose_nearby(image: Volume, mean: MeanImage, mask: Volume | None = None) -> Pose:
    """As `pose` in a part of the time, for an image that lies about as its header says, or turned by half; one that
    lies otherwise agrees badly."""
    ours, theirs = Pyramid(coarse(image, float(mean.grid.spacing.max())), mask), Pyramid(mean.image, mean.seen)
    if not 1 / _OTHER_SIZE < theirs.radius / ours.radius < _OTHER_SIZE:
        return _posed(ours, theirs, np.eye(image.ndim + 1), False)
    return _posed(ours, theirs, align_nearby(ours, theirs), True)


def _posed(ours: Pyramid, theirs: Pyramid, matrix: np.ndarray, alike: bool, notes: tuple[str, ...] = ()) -> Pose:
    """What is measured at a map; nothing of objects that are not alike in size."""
    agreement, any_contrast = _agreement(ours, theirs, matrix) if alike else (0.0, 0.0)
    turn = matrix[:-1, :-1]
    cosine = (float(np.trace(turn)) - (len(turn) - 2)) / 2
    turned = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    tissue = _tissue(ours, theirs, matrix) if alike else 0.0
    return Pose(matrix, agreement, any_contrast, tissue, turned, theirs.radius / ours.radius, notes)


def _tissue(ours: Pyramid, theirs: Pyramid, matrix: np.ndarray) -> float:
    points, mean, bins = theirs.points(_LEVEL)
    bright = mean >= np.median(mean[bins > 0])
    points, mean, back = points[bright], mean[bright], np.linalg.inv(matrix)
    offsets = points @ back[:-1, :-1].T + back[:-1, -1] - ours.center
    here, valid = Sampler(ours, _LEVEL)(np.ascontiguousarray(offsets.T, dtype=np.float32), False)
    one, other = mean[valid].astype(np.float64), here[0][valid].astype(np.float64)
    if valid.sum() < _FEW or min(np.ptp(one), np.ptp(other)) < 1e-6:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


def carried(pose: Pose, mean: MeanImage, image: Volume, affine: np.ndarray) -> Pose:
    """The pose of an image that is aligned to one whose pose is known, so far as it agrees with the mean image there.

    Args:
        affine: (d+1, d+1) LPS mm, point of the posed image -> point of this one.
    """
    small = coarse(image, float(mean.grid.spacing.max()))
    matrix = pose.matrix @ np.linalg.inv(affine)
    ours, theirs = Pyramid(small, None), Pyramid(mean.image, mean.seen)
    agreement, any_contrast = _agreement(ours, theirs, matrix)
    return dataclasses.replace(pose, matrix=matrix, agreement=agreement, any_contrast=any_contrast, notes=())


def _agreement(ours: Pyramid, theirs: Pyramid, matrix: np.ndarray) -> tuple[float, float]:
    """Pose.agreement and any_contrast: over the points of both objects and of a rim around each."""
    values: list[tuple[np.ndarray, np.ndarray]] = []
    shown = []
    for one, other, way in ((ours, theirs, matrix), (theirs, ours, np.linalg.inv(matrix))):
        points, here, _ = one.points(_LEVEL)
        offsets = points @ way[:-1, :-1].T + way[:-1, -1] - other.center
        there, valid = Sampler(other, _LEVEL)(np.ascontiguousarray(offsets.T, dtype=np.float32), False)
        values.append((here[valid], there[0][valid]))
        shown.append(float(valid.mean()))
    first = np.concatenate([values[0][0], values[1][1]]).astype(np.float64)
    second = np.concatenate([values[0][1], values[1][0]]).astype(np.float64)
    if min(shown) == 0 or min(np.ptp(first), np.ptp(second)) < 1e-6:
        return 0.0, 0.0
    line = float(np.corrcoef(first, second)[0, 1])
    ratio = max(_explained(first, second), _explained(second, first))
    return line * min(shown), float(np.sqrt(ratio)) * min(shown)


def _explained(by: np.ndarray, values: np.ndarray) -> float:
    """Which part of the variance of the values any function of ``by`` (about 0..1) explains."""
    bins = np.clip((by * BINS).astype(np.intp), 0, BINS - 1)
    count = np.bincount(bins, minlength=BINS)
    total = np.bincount(bins, values - values.mean(), BINS)
    return float((total[count > 0] ** 2 / count[count > 0]).sum() / (values.var() * len(values)))
