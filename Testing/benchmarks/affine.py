# SPDX-License-Identifier: Apache-2.0
"""Robustness and speed of the affine alignment on turned and moved brains.

In every case one brain of a random pair is turned by up to 30 degrees about a random axis through its center and moved
by up to 60 mm, alternately by its header alone (moving image), by resampling it on another grid (moving image) and by
the header of the fixed image. The figure is how far the corners of the fixed brain's bounding box land from where the
alignment of the unturned pair takes them, in mm.

    python Testing/benchmarks/affine.py --data FOLDER --cases 50
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "DeepFLASHRegistration"))

from DeepFLASHRegistrationLib.alignment.affine import align
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.intensities import foreground
from DeepFLASHRegistrationLib.imaging.io import read_volume
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.imaging.working_grid import working_grid
from DeepFLASHRegistrationLib.problem.resampling import linear


def random_turn(rng: np.random.Generator, center: np.ndarray) -> np.ndarray:
    """A (4, 4) rigid motion of up to 30 degrees about `center` and up to 60 mm."""
    axis, away = rng.normal(size=(2, 3))
    turn = sitk.VersorTransform((axis / np.linalg.norm(axis)).tolist(), float(np.deg2rad(rng.uniform(0, 30))))
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(turn.GetMatrix()).reshape(3, 3)
    matrix[:3, 3] = center - matrix[:3, :3] @ center + away / np.linalg.norm(away) * rng.uniform(0, 60)
    return matrix


def turned_header(volume: Volume, turn: np.ndarray) -> Volume:
    return replace(volume, grid=Grid(volume.grid.shape, turn @ volume.grid.affine))


def turned_resampled(volume: Volume, turn: np.ndarray) -> Volume:
    """The volume resampled on a grid of the same axes that holds all of the turned one."""
    corners = volume.grid.corners() @ turn[:3, :3].T + turn[:3, 3]
    index = volume.grid.physical_to_index(corners)
    low = np.floor(index.min(0)).astype(int)
    grid = volume.grid.padded(-low, np.ceil(index.max(0)).astype(int) - np.array(volume.grid.shape) + 1)
    return replace(volume, grid=grid, data=linear(volume, grid, np.linalg.inv(turn)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    folder = Path(os.environ.get("DEEPFLASH_DATA", "data")) / "oasis-brains"
    parser.add_argument("--data", type=Path, default=folder, help="default: oasis-brains in the folder DEEPFLASH_DATA")
    parser.add_argument("--cases", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    files = sorted(arguments.data.glob("*_SS.nii.gz"))
    if len(files) < 2:
        print(f"Skipped: {arguments.data} holds no two brains *_SS.nii.gz. Give their folder with --data.")
        return
    rng = np.random.default_rng(arguments.seed)
    unturned: dict[tuple[int, int], np.ndarray] = {}
    errors, seconds, busy, mirrored = [], [], [], 0
    for case in range(arguments.cases):
        a, b = (int(i) for i in rng.choice(len(files), 2, replace=False))
        fixed, moving = read_volume(files[a]), read_volume(files[b])
        corners = working_grid(fixed).corners()
        corners = np.concatenate([corners, np.ones((8, 1))], 1)
        if (a, b) not in unturned:
            unturned[a, b] = align(fixed, moving, threads=arguments.threads).matrix
        way = ("moving header", "moving resampled", "fixed header")[case % 3]
        inside = np.argwhere(foreground(fixed if way == "fixed header" else moving))
        grid = fixed.grid if way == "fixed header" else moving.grid
        turn = random_turn(rng, grid.index_to_physical(inside.mean(0)))
        make = turned_resampled if way == "moving resampled" else turned_header
        turned = make(fixed if way == "fixed header" else moving, turn)
        start, used = time.perf_counter(), time.process_time()
        if way == "fixed header":
            found = align(turned, moving, threads=arguments.threads).matrix @ turn
        else:
            found = np.linalg.inv(turn) @ align(fixed, turned, threads=arguments.threads).matrix
        seconds.append(time.perf_counter() - start)
        busy.append(time.process_time() - used)
        apart = np.linalg.norm(corners @ (found - unturned[a, b]).T, axis=1)
        errors.append(apart.max())
        mirrored += np.linalg.det(found) <= 0
        print(
            f"{case:3} {files[a].name[:4]}:{files[b].name[:4]} {way:16} {errors[-1]:8.3f} mm "
            f"{seconds[-1]:6.2f} s ({busy[-1]:.2f} s of processor time)",
            flush=True,
        )
    print(
        f"\n{len(errors)} cases: corner error max {max(errors):.3f} mm, mean {np.mean(errors):.3f} mm, "
        f"within 2 mm {sum(e <= 2 for e in errors)}, mirrored {mirrored}; seconds max {max(seconds):.2f}, "
        f"median {np.median(seconds):.2f}; processor time max {max(busy):.2f}, median {np.median(busy):.2f}"
    )


if __name__ == "__main__":
    main()
