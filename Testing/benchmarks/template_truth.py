# SPDX-License-Identifier: Apache-2.0
"""A template of heads whose middle is known: how far it lies from the anatomy of which all were made.

    python Testing/benchmarks/template_truth.py [--subjects 8] [--voxel-mm 2] [--preset fast] [--rounds 4]

One head is moved along geodesics whose velocities have the mean zero, and drawn anew at the end of each, with noise.
From the template to a subject leads what was found, from there to the head what was planted: together they should move
nothing.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from DeepFLASHRegistrationLib.cohorts.template_files import SUBJECTS
from DeepFLASHRegistrationLib.cohorts.template_how import How
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.io import read_labels, write_volume
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.phantom.anatomy import T1, Anatomy
from DeepFLASHRegistrationLib.problem.deformation import Deformation
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.registration.metrics import grid_points
from DeepFLASHRegistrationLib.results.velocity import load_result
from DeepFLASHRegistrationLib.training.dataset import read_dataset
from template import made, pairwise

# Around the head, along S, P, L.
_BOX_MM = (168, 204, 168)
# Of the planted velocities: coefficients along each axis, and how far they take the point that moves most.
_MODES, _LARGEST_MM = 9, 8.0
_NOISE = 0.03


def box(voxel_mm: float) -> Grid:
    """A grid around the head, whose middle lies at the origin."""
    shape = tuple(round(length / voxel_mm) for length in _BOX_MM)
    matrix = np.eye(4)
    matrix[:3, :3] = np.eye(3)[::-1] * voxel_mm
    matrix[:3, 3] = -(np.array(shape[::-1]) - 1) / 2 * voxel_mm
    return Grid(shape, matrix)


def planted(number: int, grid: Grid) -> Deformation:
    """From a subject (fixed) to the head (moving), where its velocity begins; those of each two are opposite."""
    rng = np.random.default_rng(number // 2)
    index = np.stack(np.meshgrid(*3 * [np.arange(_MODES)], indexing="ij")) // 2
    velocity = rng.normal(size=(3, *3 * [_MODES])) / (1 + np.square(index).sum(0)) ** 1.5
    velocity[:, 0, 0, 0] = 0

    def along(factor: float) -> Deformation:
        return Deformation(
            domain=grid,
            unit_mm=1.25,
            velocity=(factor * (-1) ** number * velocity).astype(np.float32),
            alpha=22.0,
            power=1.5,
            gamma=1.0,
            metric_step=None,
            affine=np.eye(4),
            margin_mm=0.0,
        )

    factor, coarse = 1.0, box(6.0)
    for _ in range(4):
        moved = along(factor).displacement(coarse, "fixed_to_moving")
        factor *= _LARGEST_MM / np.linalg.norm(moved, axis=-1).max()
    return along(factor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", type=int, default=8)
    parser.add_argument("--voxel-mm", type=float, default=2.0)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    grid, head = box(options.voxel_mm), Anatomy(np.random.default_rng(0))
    points = grid_points(grid, limit=None).reshape(-1, 3)
    with tempfile.TemporaryDirectory() as folder:
        data, maps = Path(folder) / "heads", {}
        data.mkdir()
        for number in range(options.subjects):
            name, maps[f"s{number}"] = f"s{number}", planted(number, grid)
            labels, image = head.render(maps[name].points(points, "fixed_to_moving"), T1, options.voxel_mm)
            image = image + (image > 0) * np.random.default_rng(number).normal(size=image.shape) * _NOISE
            write_volume(data / f"{name}.nii.gz", Volume(grid, image.reshape(grid.shape).astype(np.float32)))
            write_volume(data / f"{name}_labels.nii.gz", Volume(grid, labels.reshape(grid.shape)))
        moves = [np.linalg.norm(each.displacement(grid, "fixed_to_moving"), axis=-1) for each in maps.values()]
        print(f"planted: moves of {np.mean(moves):.2f} mm on average, {np.max(moves):.2f} at most", flush=True)
        parameters = Parameters.from_preset(options.preset)
        run, seconds = made(read_dataset(data), Path(folder) / "T", parameters, How(options.rounds), options.workers)
        labels = read_labels(run.out / "labels.nii.gz")
        there = grid_points(labels.grid, limit=None).reshape(-1, 3)
        truth, _ = head.render(there, T1, options.voxel_mm)
        away = []
        for name, planted_map in maps.items():
            found = load_result(run.out / SUBJECTS / name).deformation
            between = found.points(there, "fixed_to_moving")
            away.append((planted_map.points(between, "fixed_to_moving") - there)[truth > 0])
        away = np.array(away) / options.voxel_mm
        middle, each = np.linalg.norm(away.mean(0), axis=-1), np.linalg.norm(away, axis=-1)
        overlap = pairwise([labels.data, truth.reshape(labels.grid.shape)])
        print(
            f"{options.subjects} subjects, {options.voxel_mm:g} mm, {seconds:.0f} s: the template lies "
            f"{middle.mean():.3f} voxels from the head on average, "
            f"{np.quantile(middle, 0.95):.3f} (95 %), {middle.max():.3f} at most; "
            f"through single subjects {each.mean():.3f} voxels; Dice of its labels {overlap:.3f}"
        )


if __name__ == "__main__":
    main()
