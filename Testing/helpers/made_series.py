# SPDX-License-Identifier: Apache-2.0
"""A beating object given by formulas in mm, whose motion from any item back to the first is known exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import registration_pairs as pairs
from DeepFLASHRegistrationLib.imaging import io
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.image_files.series import write_series
from DeepFLASHRegistrationLib.imaging.volume import Volume

# A whole heartbeat of five items: how far each is bent.
BEAT = (0.0, 1.2, 2.0, 1.8, 0.8)
GRID = pairs.box((18, 20, 17), 5.2)
SECONDS = 0.04
OPTIONS = ["--resolutions", "2,1", "--bands", "7,9", "--iterations", "4,4", "--threads", "1"]


def back(points: np.ndarray, amount: float) -> np.ndarray:
    """Where points (..., d) of an item that is bent so far lie in the first item."""
    return points + amount * (pairs.bend(points) - points)


def frames(beat: tuple[float, ...] = BEAT, grid: Grid = GRID) -> np.ndarray:
    """The items, float32 (count, *grid.shape)."""
    at = pairs.places(grid)
    return np.stack([pairs.intensities(back(at, amount)) for amount in beat]).astype(np.float32)


def labels(amount: float, grid: Grid = GRID) -> np.ndarray:
    """The labels of an item."""
    return pairs.parts(back(pairs.places(grid), amount))


def write_made_series(folder: Path, beat: tuple[float, ...] = BEAT) -> tuple[Path, Path]:
    """Files of the series and of the labels of its first item."""
    write_series(folder / "cine.nii.gz", GRID, iter(frames(beat)), len(beat), SECONDS)
    io.write_volume(folder / "labels.nii.gz", Volume(GRID, labels(beat[0])))
    return folder / "cine.nii.gz", folder / "labels.nii.gz"
