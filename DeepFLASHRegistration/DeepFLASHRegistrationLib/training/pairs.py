# SPDX-License-Identifier: Apache-2.0
"""Pairs to train on: subjects kept ready in memory, aligned to one of them, joined and varied at random.

A pair becomes the same `Problem` that a registration makes of two images, so that a predictor meets in use what it met
in training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..alignment.affine import align
from ..geodesics.band import Band, Lattice, Metric, Upsampler
from ..geodesics.flow import Flow
from ..geodesics.objective import Pair
from ..geodesics.sampling import NonFiniteField, Sampler
from ..geodesics.shooting import Shooting
from ..imaging.resampling import nearest
from ..imaging.volume import Volume
from ..problem.parameters import Parameters
from ..problem.problem import Problem
from ..problem.subject import Subject


@dataclass(frozen=True)
class Variation:
    """How pairs are varied at random; all zero leaves them as they are.

    Attributes:
        misalignment: part of the pairs that are only centered on each other, and as many somewhere between.
        turn: standard deviation of the angles, in degrees, and of the relative scales and shears, in percent.
        shift_mm: standard deviation of the shift.
        contrast: standard deviation of the logarithm of gamma.
        bias: standard deviation of a smooth relative change of intensity.
        deformation_mm: root mean square of a random geodesic by which the moving image is deformed first.
        mirror: whether half of the pairs are seen in a mirror that exchanges left and right.
    """

    misalignment: float = 0.25
    turn: float = 2.0
    shift_mm: float = 1.0
    contrast: float = 0.1
    bias: float = 0.05
    deformation_mm: float = 0.0
    mirror: bool = False


@dataclass(frozen=True)
class _Aligned:
    subject: Subject
    to_first: np.ndarray  # points of the first subject -> points of this one, LPS mm
    center: np.ndarray


@dataclass(frozen=True)
class Example:
    """A pair on its working grid; labels are integers on it, (*shape)."""

    problem: Problem
    pair: Pair
    fixed_labels: Tensor | None
    moving_labels: Tensor | None


class AlignedSubjects:
    """Subjects with comparable intensities, aligned to the first of them.

    Args:
        subjects: with images as `problem.scaled` scales them.
        parameters: of the registrations that are learned.
        unit_mm: the geodesics' unit of length.
    """

    def __init__(self, subjects: Sequence[Subject], parameters: Parameters, unit_mm: float, multiple: int):
        self.parameters, self.unit_mm, self.multiple = parameters, unit_mm, multiple
        self._subjects: list[_Aligned] = []
        for subject in subjects:
            image = subject.image
            matrix = align(subjects[0].image, image, "affine").matrix if self._subjects else np.eye(image.ndim + 1)
            self._subjects.append(_Aligned(subject, matrix, _center(image)))

        images = [subject.image for subject in subjects]
        self.ndim = images[0].ndim
        self.spacing_mm = float(np.median([image.grid.spacing.min() for image in images]))
        lengths = np.array([_extent(image) for image in images])
        self.extent_mm = (float(lengths.min()), float(lengths.max()))

    def __len__(self) -> int:
        return len(self._subjects)

    @property
    def images(self) -> list[Volume]:
        """Of all subjects, as they were given."""
        return [each.subject.image for each in self._subjects]

    def example(
        self,
        fixed: int,
        moving: int,
        variation: Variation | None = None,
        seed: Sequence[int] = (),
        device: str = "cpu",
        matrix: np.ndarray | None = None,
    ) -> Example:
        """The pair of two subjects, varied by what ``seed`` draws.

        ``matrix``: fixed -> moving, LPS mm, instead of the alignment by way of the first subject.
        """
        one, two = self._subjects[fixed], self._subjects[moving]
        if matrix is None:
            matrix = two.to_first @ np.linalg.inv(one.to_first)
        sides = [one.subject, two.subject]
        rng = np.random.default_rng(seed)
        if variation is not None:
            matrix = _misaligned(matrix, one.center, two.center, variation, rng)
            sides = [side.with_image(_recolored(side.image, variation, rng)) for side in sides]
            if variation.mirror and rng.random() < 0.5:
                flip = np.diag([-1.0] + [1.0] * (len(matrix) - 1))
                matrix = flip @ matrix @ flip
                sides = [side.posed(flip) for side in sides]
        problem = Problem(*sides, matrix, self.parameters, unit_mm=self.unit_mm, multiple=self.multiple)
        pair = problem.pair(device)
        found = [None, None]
        labels = [side.label_map for side in sides]
        if labels[0] is not None and labels[1] is not None:
            found = [
                torch.from_numpy(nearest(x, problem.grid, m).astype(np.int64)).to(device)
                for x, m in zip(labels, (None, matrix), strict=True)
            ]
        if variation is not None and variation.deformation_mm > 0:
            pair, found[1] = _deformed(pair, found[1], variation.deformation_mm / self.unit_mm, problem, rng)
        return Example(problem, pair, *found)


def swapped(pair: Pair) -> Pair:
    """The same images with their roles exchanged."""
    return Pair(
        pair.moving,
        pair.fixed,
        pair.moving_mask,
        pair.fixed_mask,
        pair.moving_view,
        pair.fixed_view,
        pair.lengths,
    )


def _center(image: Volume) -> np.ndarray:
    """Center of the foreground's box, LPS mm."""
    from ..imaging.intensities import foreground

    at = np.argwhere(foreground(image))
    return image.grid.index_to_physical((at.min(0) + at.max(0)) / 2)


def _extent(image: Volume) -> np.ndarray:
    """Lengths of the foreground's box along the array's axes, mm."""
    from ..imaging.intensities import foreground

    at = np.argwhere(foreground(image))
    return (at.max(0) - at.min(0) + 1) * image.grid.spacing


def _misaligned(
    matrix: np.ndarray, center: np.ndarray, other: np.ndarray, variation: Variation, rng: np.random.Generator
) -> np.ndarray:
    d = len(center)
    draw = rng.random()
    part = 1.0 if draw > 2 * variation.misalignment else 0.0 if draw < variation.misalignment else rng.random()
    if part < 1:
        centered = np.eye(d + 1)
        centered[:d, d] = other - center
        matrix = centered + part * (matrix - centered)
    change = np.eye(d + 1)
    change[:d, :d] += rng.normal(0, np.radians(variation.turn), (d, d))
    change[:d, d] = center - change[:d, :d] @ center + rng.normal(0, variation.shift_mm, d)
    return matrix @ change


def _recolored(volume: Volume, variation: Variation, rng: np.random.Generator) -> Volume:
    gamma = float(np.exp(rng.normal(0, variation.contrast)))
    data = np.clip(volume.data, 0, None) ** np.float32(gamma)
    for axis, n in enumerate(data.shape):
        # A product of slow waves along the axes: as smooth as a receiving coil's.
        wave = 1 + rng.normal(0, variation.bias) * np.cos(
            np.pi * (np.arange(n) / n * rng.uniform(0.5, 2) + rng.random())
        )
        shape = [1] * data.ndim
        shape[axis] = -1
        data = data * wave.astype(np.float32).reshape(shape)
    return volume.with_data(data.astype(np.float32))


def _deformed(
    pair: Pair, labels: Tensor | None, amplitude: float, problem: Problem, rng: np.random.Generator
) -> tuple[Pair, Tensor | None]:
    """The moving image after a random geodesic of this root mean square (in units of length)."""
    shape, lengths = tuple(pair.moving.shape), pair.lengths
    device = pair.moving.device
    longest = max(lengths)
    band = Band(tuple(2 * round((15 * length / longest - 1) / 2) + 1 for length in lengths), lengths)
    shooting = Shooting(band, Metric(18.0, 3.0), torch.float32, device)
    noise = torch.from_numpy(rng.standard_normal((len(shape), *band.modes)).astype(np.float32)).to(device)
    v0 = noise * shooting.K.sqrt()
    v0 = v0 * (amplitude * abs(rng.normal(0.8, 0.4)) / v0.square().sum().sqrt())
    lattice = Lattice.cells(tuple(max(4, n // 3) for n in shape), lengths)
    cells = Lattice.cells(shape, lengths)
    flow = Flow(band, lattice, torch.float32, device, problem.window(str(device))(lattice))
    with torch.no_grad():
        trajectory = shooting.shoot(v0, shooting.recommended_steps(v0, 0.4))
        if not shooting.drift(trajectory) < 0.1:
            return pair, labels
        try:
            u = Upsampler(lattice, cells, torch.float32, device)(flow.fixed_to_moving(trajectory))
            sample = Sampler(cells, cells, torch.float32, device)
            image, mask = sample(torch.stack([pair.moving, pair.moving_mask]), u)
            if labels is not None:
                labels = sample(labels[None].float(), u, mode="nearest")[0].long()
        except NonFiniteField:
            return pair, labels
    return dataclasses.replace(pair, moving=image, moving_mask=(mask > 0.5).float()), labels
