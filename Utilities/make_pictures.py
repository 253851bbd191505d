# SPDX-License-Identifier: Apache-2.0
"""Makes the pictures of the README from a real run: python Utilities/make_pictures.py [RESULT_FOLDER PHANTOM_FOLDER].

Without arguments the phantom is made and registered first (as `make demo` does).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "DeepFLASHRegistration"))

from DeepFLASHRegistrationLib import Grid, Volume, read_volume
from DeepFLASHRegistrationLib.commands import main as cli
from DeepFLASHRegistrationLib.imaging.intensities import foreground
from DeepFLASHRegistrationLib.imaging.transforms import read_displacement_field
from DeepFLASHRegistrationLib.problem.resampling import linear
from DeepFLASHRegistrationLib.registration.warping import warp
from DeepFLASHRegistrationLib.report import pixels, views

_GAP, _SCALE, _SPACING_MM = 6, 2, 8.0


def grid_lines(grid: Grid, spacing_mm: float, normal: np.ndarray) -> Volume:
    """An image of planes every few millimeters across a grid's axes, but the axis nearest to ``normal``."""
    lines = np.zeros(grid.shape, dtype=np.float32)
    through = int(np.argmax(np.abs(grid.direction.T @ normal)))
    for axis, (n, step) in enumerate(zip(grid.shape, grid.spacing, strict=True)):
        if axis == through:
            continue
        profile = (np.abs((np.arange(n) * step) % spacing_mm) < step).astype(np.float32)
        shape = [1] * grid.ndim
        shape[axis] = -1
        lines = np.maximum(lines, profile.reshape(shape))
    return Volume(grid, lines)


def make(result: Path, phantom: Path, path: Path) -> None:
    """Fixed, moving before, warped, deformation grid and Jacobian, in three planes each."""
    fixed, moving, warped, log_jacobian = (
        read_volume(f)
        for f in (
            phantom / "fixed.nii.gz",
            phantom / "moving.nii.gz",
            result / "warped.nii.gz",
            result / "log_jacobian.nii.gz",
        )
    )
    grid, field = read_displacement_field(result / "fixed_to_moving.nii.gz")
    inner = tuple(slice((a - b) // 2, (a - b) // 2 + b) for a, b in zip(grid.shape, fixed.grid.shape, strict=True))
    before = linear(moving, fixed.grid)
    inside = foreground(fixed)  # all of the head, dark ventricles too
    center = views.foreground_center(fixed.data)
    rows = []
    for view in views.views(fixed.grid):

        def gray(data: np.ndarray, view: views.View = view) -> np.ndarray:
            cut = view.cut(data, center)
            picture = pixels.gray(cut, pixels.window([cut]))
            return pixels.to_bytes(picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, -1))

        jacobian = pixels.to_bytes(pixels.diverging(view.cut(log_jacobian.data, center) / np.log(4)))
        outside = ~view.cut(inside, center)
        jacobian[outside] = 0
        planes = grid_lines(moving.grid, _SPACING_MM, fixed.grid.direction[:, view.normal])
        lines = warp(planes, fixed.grid, field[inner])
        with_grid = gray(warped.data).astype(np.float32)
        strength = np.clip(view.cut(lines, center), 0, 1)[..., None]
        with_grid = with_grid * (1 - 0.75 * strength) + np.array([255, 190, 60]) * 0.75 * strength
        panels = [gray(fixed.data), gray(before), gray(warped.data), with_grid.astype(np.uint8), jacobian]
        rows.append([np.repeat(np.repeat(p, _SCALE, 0), _SCALE, 1) for p in panels])
    width = max(p.shape[1] for row in rows for p in row)
    lines_ = []
    for row in rows:
        padded = [
            np.pad(p, ((_GAP, _GAP), ((width - p.shape[1]) // 2 + _GAP, (width - p.shape[1] + 1) // 2 + _GAP), (0, 0)))
            for p in row
        ]
        lines_.append(np.concatenate(padded, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pixels.png(np.concatenate(lines_, 0)))


def main() -> None:
    target = ROOT / "docs" / "images" / "result.png"
    if len(sys.argv) == 3:
        make(Path(sys.argv[1]), Path(sys.argv[2]), target)
        return
    with tempfile.TemporaryDirectory() as folder:
        phantom, result = f"{folder}/phantom", f"{folder}/result"
        if cli.main(["phantom", phantom]) or cli.main(
            ["register", f"{phantom}/fixed.nii.gz", f"{phantom}/moving.nii.gz", "-o", result]
        ):
            sys.exit(1)
        make(Path(result), Path(phantom), target)


if __name__ == "__main__":
    main()
