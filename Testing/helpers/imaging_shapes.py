# SPDX-License-Identifier: Apache-2.0
"""Synthetic images given by a formula in mm, so that they can be sampled exactly on any grid."""

from __future__ import annotations

import itertools

import numpy as np
import SimpleITK as sitk
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.volume import Volume

_RNG = np.random.default_rng(7)
_BLOBS = [(_RNG.uniform(-1, 1, 3) * (28, 36, 24), _RNG.uniform(5, 11), _RNG.uniform(0.2, 0.6) * s) for s in [1, -1] * 8]


def head_values(points: np.ndarray) -> np.ndarray:
    """A head-like object at LPS mm (..., d): an ellipsoid (80 x 104 x 68 mm) with blobs; 0 outside."""
    d = points.shape[-1]
    radius = np.sqrt(((points / np.array([40, 52, 34])[:d]) ** 2).sum(-1))
    inside = 1 / (1 + np.exp((radius - 1) * 25))
    value = 0.55 + 0.15 * points[..., 0] / 40
    for center, size, height in _BLOBS:
        value = value + height * np.exp(-((points - center[:d]) ** 2).sum(-1) / (2 * size**2))
    value = np.clip(value, 0.08, 1.2) * inside
    return np.where(inside > 0.02, value, 0)


def sampled(grid: Grid, affine: np.ndarray | None = None, name: str = "head") -> Volume:
    """The head on a grid; with an affine (d+1, d+1), the image m with m(affine(x)) = head(x)."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), -1)
    points = grid.index_to_physical(index)
    if affine is not None:
        back = np.linalg.inv(affine)
        points = points @ back[:-1, :-1].T + back[:-1, -1]
    return Volume(grid, head_values(points).astype(np.float32), name)


def centered_grid(
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
    direction: np.ndarray | None = None,
    center: tuple[float, ...] | None = None,
) -> Grid:
    """A grid with its field of view around `center`; direction's columns are the array's axes (default: z, y, x)."""
    d = len(shape)
    direction = np.eye(d)[:, ::-1] if direction is None else direction
    affine = np.eye(d + 1)
    affine[:d, :d] = direction * spacing
    affine[:d, d] = np.array(center or (0,) * d) - affine[:d, :d] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


def rotation(axis: tuple[float, ...], degrees: float) -> np.ndarray:
    """(3, 3) about an axis, or (2, 2) for an empty one."""
    angle = np.deg2rad(degrees)
    if not axis:
        return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    x, y, z = np.array(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def storages(volume: Volume) -> list[Volume]:
    """The same image in all 48 (in 2-D: 8) orders and flips of its axes."""
    result = []
    d = volume.ndim
    for order in itertools.permutations(range(d)):
        for signs in itertools.product((1, -1), repeat=d):
            grid = volume.grid
            start = [0 if s > 0 else n - 1 for s, n in zip(signs, grid.shape, strict=True)]
            affine = grid.affine.copy()
            affine[:d, :d] *= signs
            affine[:d, d] = grid.index_to_physical(start)
            data = volume.data[tuple(slice(None, None, s) for s in signs)].transpose(order)
            result.append(Volume(Grid(data.shape, affine[:, [*order, d]]), np.ascontiguousarray(data), volume.name))
    return result


def apart(first: np.ndarray, second: np.ndarray, grid: Grid) -> float:
    """Largest distance in mm between where two affine maps take the corners of a grid."""
    corners = np.concatenate([grid.corners(), np.ones((2**grid.ndim, 1))], 1)
    return float(np.linalg.norm(corners @ (first - second).T, axis=1).max())


def oblique(shape: tuple[int, ...] = (5, 6, 7)) -> Grid:
    """A small grid with turned axes and three different spacings."""
    return centered_grid(shape, (3, 1, 2), rotation((1, 2, 3), 40)[:, ::-1], (10, -20, 30))


def noise(grid: Grid, dtype: type = np.float32, *components: int) -> np.ndarray:
    """Always the same values, of some components per voxel."""
    return (np.random.default_rng(0).normal(size=(*grid.shape, *components)) * 50).astype(dtype)


def image(array: np.ndarray, grid: Grid | None = None, vector: bool = False) -> sitk.Image:
    """The array as SimpleITK has it."""
    result = sitk.GetImageFromArray(array, isVector=vector)
    return result if grid is None else grid.apply_to(result)
