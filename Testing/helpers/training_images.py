# SPDX-License-Identifier: Apache-2.0
"""Small images of many "subjects": an ellipsoid with two parts, of other proportions and in another place in each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.io import write_volume
from DeepFLASHRegistrationLib.imaging.volume import Volume

# Options of the command line for a registration of a fraction of a second.
TINY_OPTIONS = ["--resolutions", "1", "--bands", "7", "--iterations", "8", "--init", "none", "--sigma", "0.02"]


def subject(number: int, shape: tuple[int, ...] = (20, 22, 18), spacing: float = 4.0) -> tuple[Volume, Volume]:
    """Image and labels (1 the object, 2 its right part, 3 its left one) of a subject."""
    rng = np.random.default_rng(number)
    d = len(shape)
    affine = np.eye(d + 1)
    affine[:d, :d] = spacing * np.eye(d)[:, ::-1]
    grid = Grid(shape, affine)
    at = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) - (np.array(shape) - 1) / 2
    at = (at - rng.normal(0, 0.5, d)) / (np.array(shape) * 0.36 * np.exp(rng.normal(0, 0.1, d)))
    outer = np.sqrt((at**2).sum(-1))
    side = np.where(at[..., -1] > 0, 2, 3)
    inner = np.sqrt(((np.abs(at) - np.eye(d)[-1] * 0.45) ** 2).sum(-1))
    labels = np.where(inner < 0.4, side, outer < 1).astype(np.int32)
    image = 100 / (1 + np.exp(np.clip((outer - 1) * 12, -40, 40))) * (0.5 + 0.5 / (1 + np.exp((inner - 0.4) * 14)))
    image = np.where(outer < 1.4, image, 0)
    return Volume(grid, image.astype(np.float32), f"s{number}"), Volume(grid, labels, f"s{number} labels")


def write_subjects(folder: Path, count: int, labels: bool = True, **more: object) -> Path:
    """A folder images/ (and labels/) of subjects s0, s1, …"""
    for name in ("images", "labels") if labels else ("images",):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        image, own = subject(number, **more)
        write_volume(folder / "images" / f"s{number}.nii.gz", image)
        if labels:
            write_volume(folder / "labels" / f"s{number}.nii.gz", own)
    return folder
