# SPDX-License-Identifier: Apache-2.0
"""Pairs of small synthetic objects given by formulas in mm, so that they can be sampled exactly on any grid."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.registration.result import Result

_RADII = np.array([36.0, 42.0, 30.0])
# Centers and radii (mm) of parts inside the object; their values tell them apart, their number is their label + 1.
_PARTS = [((-14.0, 12.0, 4.0), 10.0, 0.9), ((15.0, 8.0, -5.0), 9.0, 0.25), ((2.0, -18.0, 6.0), 12.0, 0.7)]

# Few iterations on few voxels: enough to see that the images approach each other.
QUICK: dict[str, Any] = {"resolutions": (2, 1), "bands": (7, 11), "iterations": (5, 4)}


class Registered(NamedTuple):
    """A result and what it was computed from."""

    result: Result
    fixed: Volume
    moving: Volume
    labels: Volume
    fixed_labels: Volume


class Saved(NamedTuple):
    """A result and the folder it was saved to."""

    result: Result
    folder: Path
    fixed: Volume
    moving: Volume


def quick(preset: str = "default", **changes: Any) -> Parameters:
    """Settings that take a fraction of a second on 32^3 voxels."""
    return Parameters.from_preset(preset, **{**QUICK, **changes})


def bend(points: np.ndarray) -> np.ndarray:
    """A smooth map of space, up to 5 mm, whose inverse no test needs."""
    x = points / 24.0
    turned = np.roll(x, 1, axis=-1)
    return points + 3.0 * np.sin(turned) + 2.0 * np.cos(1.3 * x + 0.4)


def _scaled(points: np.ndarray, center: Sequence[float], radii: Any) -> np.ndarray:
    d = points.shape[-1]
    return np.sqrt((((points - np.array(center)[:d]) / np.broadcast_to(radii, 3)[:d]) ** 2).sum(-1))


def intensities(points: np.ndarray, inverted: bool = False) -> np.ndarray:
    """The object at LPS mm (..., d): an ellipsoid with parts and a shading, or its negative; 0 outside."""
    edge = 3.0
    value = 0.5 + 0.1 * np.sin(points[..., 0] / 9) * np.cos(points[..., 1] / 11)
    for center, radius, level in _PARTS:
        inside = 1 / (1 + np.exp((_scaled(points, center, radius) - 1) * radius / edge * 2))
        value = value + (level - value) * inside
    if inverted:
        value = 1.15 - value
    outer = _scaled(points, (0, 0, 0), _RADII)
    value = value / (1 + np.exp((outer - 1) * 10))
    return np.where(outer < 1.25, value, 0)


def parts(points: np.ndarray) -> np.ndarray:
    """Labels at LPS mm (..., d): 1 the object, 2 to 4 its parts, 0 outside."""
    label = (_scaled(points, (0, 0, 0), _RADII) < 1).astype(np.int32)
    for number, (center, radius, _) in enumerate(_PARTS):
        label[_scaled(points, center, radius) < 1] = number + 2
    return label


def box(shape: Sequence[int], spacing: Any, direction: np.ndarray | None = None, center: Any = 0.0) -> Grid:
    """A grid about a center; direction's columns are the array's axes in LPS (default: z, y, x)."""
    d = len(shape)
    direction = np.eye(d)[:, ::-1] if direction is None else direction
    affine = np.eye(d + 1)
    affine[:d, :d] = direction * np.broadcast_to(np.asarray(spacing, dtype=np.float64), (d,))
    affine[:d, d] = np.broadcast_to(center, (d,)) - affine[:d, :d] @ ((np.array(shape) - 1) / 2)
    return Grid(tuple(shape), affine)


def places(grid: Grid) -> np.ndarray:
    """LPS mm (*shape, d) of all voxel centers."""
    return grid.index_to_physical(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1))


def turn(degrees: float, axis: Sequence[float] = (1, 2, 3)) -> np.ndarray:
    """Rotation matrix (3, 3)."""
    angle, (x, y, z) = np.deg2rad(degrees), np.array(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def fixed_image(grid: Grid | None = None, shift: Any = 0.0) -> Volume:
    """The bent object (by default on 30 x 32 x 28 voxels of 3.2 mm), moved by a shift."""
    grid = grid or box((30, 32, 28), 3.2)
    return Volume(grid, intensities(bend(places(grid) - shift)).astype(np.float32), "fixed.nii.gz")


def moving_image(grid: Grid | None = None, shift: Any = 0.0) -> Volume:
    """The object itself in units of its own (by default on 32 x 30 x 30 voxels of 3 x 3.2 x 3.1 mm)."""
    grid = grid or box((32, 30, 30), (3.0, 3.2, 3.1))
    return Volume(grid, (1000 * intensities(places(grid) - shift)).astype(np.float32), "moving.nii.gz")


def fixed_labels(grid: Grid | None = None) -> Volume:
    """Labels of the bent object."""
    grid = grid or box((30, 32, 28), 3.2)
    return Volume(grid, parts(bend(places(grid))), "fixed labels")


def moving_labels(grid: Grid | None = None) -> Volume:
    """Labels of the object."""
    grid = grid or box((32, 30, 30), (3.0, 3.2, 3.1))
    return Volume(grid, parts(places(grid)), "moving labels")


def storages(d: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(axis order, axes stored backwards): 48 in 3-D, 8 in 2-D."""
    flips = [f for k in range(d + 1) for f in itertools.combinations(range(d), k)]
    return [(order, flip) for order in itertools.permutations(range(d)) for flip in flips]


def stored(volume: Volume, order: tuple[int, ...], flip: tuple[int, ...]) -> Volume:
    """The same voxels in another storage order."""
    grid, d = volume.grid, volume.ndim
    matrix = np.eye(d + 1)
    for axis in flip:
        matrix[axis, axis], matrix[axis, d] = -1, grid.shape[axis] - 1
    affine = (grid.affine @ matrix)[:, [*order, d]]
    data = np.ascontiguousarray(np.flip(volume.data, flip).transpose(order))
    return Volume(Grid(data.shape, affine), data, volume.name, volume.notes)


def disks(shape: tuple[int, int] = (48, 52), spacing: float = 2.0) -> tuple[Volume, Volume]:
    """A 2-D pair: sections of both objects."""
    grid = box(shape, spacing)
    fixed = Volume(grid, intensities(bend(places(grid))).astype(np.float32), "fixed.nii.gz")
    return fixed, Volume(grid, (1000 * intensities(places(grid))).astype(np.float32), "moving.nii.gz")


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation of two arrays."""
    return float(np.corrcoef(a.ravel().astype(np.float64), b.ravel().astype(np.float64))[0, 1])


def interrupt(*_: Any, **__: Any) -> None:
    """In the place of any function: Ctrl-C while it runs."""
    signal.raise_signal(signal.SIGINT)
    time.sleep(5)


# Options of the command line for a registration of a sixth of a second.
TINY_OPTIONS = ["--resolutions", "1", "--bands", "9", "--iterations", "3", "--init", "none", "--threads", "1"]


def write_tiny_pair(folder: Path) -> tuple[Path, Path]:
    """Files fixed.nii.gz and moving.nii.gz of about 18^3 voxels, with labels and landmarks beside them."""
    from DeepFLASHRegistrationLib.imaging.io import write_volume
    from DeepFLASHRegistrationLib.imaging.points import write_points

    fixed, moving = box((18, 20, 17), 5.2), box((19, 18, 18), (5.0, 5.5, 5.3))
    write_volume(folder / "fixed.nii.gz", fixed_image(fixed))
    write_volume(folder / "moving.nii.gz", moving_image(moving))
    write_volume(folder / "fixed_labels.nii.gz", fixed_labels(fixed))
    write_volume(folder / "moving_labels.nii.gz", moving_labels(moving))
    points = np.array([(0.0, 0, 0), (-14, 12, 4), (15, 8, -5), (2, -18, 6)])
    write_points(folder / "fixed.csv", points)
    write_points(folder / "moving.csv", bend(points))
    return folder / "fixed.nii.gz", folder / "moving.nii.gz"


def registered() -> Registered:
    """The object, turned and moved far away on an oblique anisotropic grid, registered to its bent version."""
    from DeepFLASHRegistrationLib.registration.register import register

    affine = np.eye(4)
    affine[:3, :3] = turn(14) @ np.diag([1.05, 0.97, 1.02])
    affine[:3, 3] = (40, -25, 130)
    grid = box((26, 34, 36), (4.1, 3.0, 3.2), turn(-25, (0, 1, 1))[:, [2, 0, 1]], affine[:3, 3])
    back = np.linalg.inv(affine)
    own = places(grid) @ back[:3, :3].T + back[:3, 3]
    moving = Volume(grid, (1000 * intensities(own)).astype(np.float32), "moving.nii.gz")
    labels = Volume(grid, parts(own), "labels.nii.gz")
    fixed, labels_of_fixed = fixed_image(), fixed_labels()
    result = register(
        fixed, moving, quick(), moving_labels=labels, fixed_labels=labels_of_fixed, initial_affine=affine, threads=1
    )
    return Registered(result, fixed, moving, labels, labels_of_fixed)


def saved(found: Registered, folder: Path) -> Saved:
    """The same as files."""
    from DeepFLASHRegistrationLib.results.folder import save_result

    save_result(found.result, folder, found.fixed, found.moving, found.fixed_labels)
    return Saved(found.result, folder, found.fixed, found.moving)
