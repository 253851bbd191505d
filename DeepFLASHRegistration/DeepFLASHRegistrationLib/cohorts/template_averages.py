# SPDX-License-Identifier: Apache-2.0
"""Averages of a template's subjects, each with what follows from it, written into a folder of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..alignment.mean_pose import mean_pose
from ..imaging.grid import Grid
from ..imaging.io import read_grid, write_volume
from ..problem.parameters import Parameters
from ..problem.problem import scaled
from ..problem.subject import Subject
from ..results.plain import grid_values
from ..results.velocity import load_result
from ..training.dataset import SubjectFiles
from .template_files import AGREEMENT, AXIS, LABELS, MASK, MEAN, TEMPLATE, further
from .template_how import How
from .template_images import (
    Average,
    common_grid,
    displacement_figures,
    mean_geodesic,
    posed_mean,
    sharpness,
    voted_labels,
    warped_mean,
)
from .template_mirror import centered_boxes
from .template_sides import to_mirror
from .template_subjects import Known


def with_further(image: Path, count: int) -> list[Path]:
    """An image of the template, and those of its further images beside it."""
    return [image, *(image.with_name(name) for name in further(image.name, count))]


@dataclass(frozen=True)
class Averaging:
    """What averages are taken of, and how. Each function makes a folder, writes the template there, its further
    images, and the mask where some subjects are cut, and returns plain values.

    Attributes:
        subjects: files by name, in order.
        known: what is known of each from its voxels.
        how, parameters: of the template.
        channels: how many further images each has.
    """

    subjects: Mapping[str, SubjectFiles]
    known: Mapping[str, Known]
    how: How
    parameters: Parameters
    channels: int

    @property
    def cut(self) -> bool:
        """Whether some subject does not show all of its object."""
        return not all(self.known[name].whole for name in self.subjects)

    def posed(
        self, folder: Path, maps: Mapping[str, np.ndarray], pose: np.ndarray | None, both: bool
    ) -> dict[str, Any]:
        """In the middle of poses.

        Args:
            folder: to be made.
            maps: (d+1, d+1) LPS mm, from a first image to each subject.
            pose: (d+1, d+1), rigid, from where the template shall lie to the middle; None to leave it there.
            both: mirror images count, too.

        Returns:
            {"middle": from the template to the first image, "poses": from it to each subject}.
        """
        middle = np.linalg.inv(mean_pose([maps[name] for name in self.subjects]))
        if pose is not None:
            middle = middle @ pose
        poses = {name: maps[name] @ middle for name in self.subjects}
        grid = self._grid(poses, both)

        def subjects(channel: int) -> Iterator[tuple[Subject, np.ndarray]]:
            for name, files in self.subjects.items():
                subject = files.read()
                yield scaled((subject, *subject.channels)[channel], self.parameters), poses[name]

        averages = [posed_mean(subjects(n), grid, self.how.average, both) for n in range(self.channels + 1)]
        self._write(folder, averages)
        return {"middle": middle.tolist(), "poses": {name: pose.tolist() for name, pose in poses.items()}}

    def moved(self, folder: Path, results: Sequence[Path], grid: Grid) -> dict[str, float]:
        """Of registered subjects, moved along the geodesic of their mean velocity, which is written beside it; the
        figures of a round."""
        averages = self._means(results, grid)
        geodesic, _ = mean_geodesic(results, self.how.mirrored)
        self._write(folder, [each.moved_along(geodesic) for each in averages])
        np.save(folder / MEAN, geodesic.velocity)
        image = averages[0].image
        return {**displacement_figures(geodesic, image), "sharpness": sharpness(image)}

    def settled(self, folder: Path, results: Sequence[Path], grid: Grid, labels: Sequence[Path]) -> dict[str, Any]:
        """Of registered subjects whose mean velocity is zero, and of their labels on the grid, if there are some.

        Returns:
            {"lengths": of their geodesics, by name, "left_over": figures of the mean deformation, "domain": a grid}.
        """
        averages = self._means(results, grid)
        self._write(folder, averages)
        geodesic, lengths = mean_geodesic(results, self.how.mirrored)
        if labels:
            for name, image in zip((LABELS, AGREEMENT), voted_labels(labels, grid), strict=True):
                write_volume(folder / name, image)
        left_over = displacement_figures(geodesic, averages[0].image)
        return {"lengths": lengths, "left_over": left_over, "domain": grid_values(geodesic.domain)}

    def sides(self, folder: Path, results: Sequence[Path], asymmetry: Path | None) -> dict[str, float]:
        """How far each registered subject lies on the way to the template's mirror image, which a result leads to; of
        nobody, without one. No image is written."""
        folder.mkdir()
        if asymmetry is None:
            return {}
        axis = -load_result(asymmetry).deformation.end_velocity()
        np.save(folder / AXIS, axis)
        return {result.name: to_mirror(load_result(result).deformation, axis) for result in results}

    def _grid(self, poses: Mapping[str, np.ndarray], both: bool) -> Grid:
        if self.how.like:
            return read_grid(self.how.like)
        known = [self.known[name] for name in poses]
        boxes = []
        for name, pose in poses.items():
            back, corners = np.linalg.inv(pose), self.known[name].corners
            boxes.append(corners @ back[:-1, :-1].T + back[:-1, -1])
        if both:
            boxes = centered_boxes(boxes)
        voxel = self.how.voxel_mm or float(np.median([each.voxel_mm for each in known]))
        whole = [each.whole for each in known] * (len(boxes) // len(known))
        return common_grid(boxes, whole, voxel, known[0].grid, both)

    def _means(self, results: Sequence[Path], grid: Grid) -> list[Average]:
        """The average of each image of the subjects."""
        how = not self.cut, self.how.average, self.how.mirrored
        files = [None, *([each.channels[n] for each in self.subjects.values()] for n in range(self.channels))]
        return [warped_mean(results, grid, *how, each) for each in files]

    def _write(self, folder: Path, averages: Sequence[Average]) -> None:
        folder.mkdir()
        for path, average in zip(with_further(folder / TEMPLATE, self.channels), averages, strict=True):
            write_volume(path, average.image)
        if self.cut:
            write_volume(folder / MASK, averages[0].mask)
