# SPDX-License-Identifier: Apache-2.0
"""A series whose true maps are known: searches from rest against searches from the neighbour, and smoothed in time.

    python Testing/benchmarks/series.py [--images FIXED MOVING] [--items 20] [--motion 2] [--noise 0.03] [--preset fast]

The geodesic from one image to another gives the motion: items are the first image, moved by that geodesic's velocity
times motion · sin², there and back as in a heartbeat, with noise. Each is registered onto the first from rest and from
its neighbour, in turn, so that both meet the same load. Printed: seconds of the search and error against the true maps
over the object, of both, their ratios, and the error after smoothing the velocities over 1 and 2 items. Without images,
textured balls are made.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "DeepFLASHRegistration"))

from DeepFLASHRegistrationLib import Parameters, register
from DeepFLASHRegistrationLib.cohorts.series_order import from_reference, weights_in_time
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.intensities import foreground
from DeepFLASHRegistrationLib.imaging.io import read_volume
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.problem.deformation import deformation_from
from DeepFLASHRegistrationLib.problem.resampling import linear
from DeepFLASHRegistrationLib.registration.warping import warp
from scaling import textured_ball


def two_images(options: argparse.Namespace) -> list[Volume]:
    """Images of about 1 on one grid of size³ voxels; of two files the second is taken to lie on the first."""
    if options.images is None:
        step = 192 / options.size
        return [textured_ball(options.size, step, bent) for bent in (0.0, 0.03)]
    found = []
    for path in options.images:
        image = read_volume(path)
        affine = image.grid.affine @ np.diag([*(n / options.size for n in image.grid.shape), 1])
        data = linear(image, Grid((options.size,) * 3, affine))
        found.append(Volume(found[0].grid if found else Grid(data.shape, affine), data / np.percentile(data, 99)))
    return found


def moved(base: dict[str, Any], amount: float) -> dict[str, Any]:
    """Result.velocity times an amount."""
    return {**base, "velocity": (amount * base["velocity"]).astype(np.float32)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, nargs=2, metavar=("FIXED", "MOVING"))
    parser.add_argument("--size", type=int, default=64, help="voxels per axis")
    parser.add_argument("--items", type=int, default=20)
    parser.add_argument("--motion", type=float, default=2.0, help="times the geodesic from one image to the other")
    parser.add_argument("--noise", type=float, default=0.03, help="standard deviation; images go up to about 1")
    parser.add_argument("--preset", default="fast")
    options = parser.parse_args()
    parameters = Parameters.from_preset(options.preset, initial_alignment="none")
    warm = replace(parameters, iterations=(0, *parameters.iterations[1:]))
    first, other = two_images(options)
    grid, random = first.grid, np.random.default_rng(0)
    base = register(first, other, parameters, threads=1).velocity
    object_ = foreground(first)
    truths, items = [], []
    for number in range(options.items):
        true = deformation_from(moved(base, options.motion * np.sin(np.pi * number / options.items) ** 2))
        data = warp(first, grid, true.displacement(grid, "moving_to_fixed"))
        data = data + random.normal(0, options.noise, grid.shape)
        truths.append(true.displacement(grid, "fixed_to_moving")[object_])
        items.append(Volume(grid, data.astype(np.float32), f"item {number}"))

    def error(velocity: dict[str, Any], number: int) -> float:
        found = deformation_from(velocity).displacement(grid, "fixed_to_moving")[object_]
        return float(np.linalg.norm(found - truths[number], axis=-1).mean())

    found = {0: moved(base, 0.0)}
    rows = []
    for number, neighbour in from_reference(options.items, 0, cyclic=True):
        row = [float(np.linalg.norm(truths[number], axis=-1).mean())]
        start = found[neighbour] if neighbour else None
        for settings, initial in ((parameters, None), (warm if neighbour else parameters, start)):
            result = register(items[0], items[number], settings, initial_velocity=initial, threads=1)
            row += [result.timings["level"], error(result.velocity, number)]
        found[number] = result.velocity
        rows.append(row)
        print("item {:2d}: moves {:.2f} mm; from rest {:.2f} s, error {:.3f} mm; from its neighbour {:.2f} s, {:.3f} mm"
              .format(number, *row), flush=True)  # fmt: skip
    means, medians = np.mean(rows, axis=0), np.median(rows, axis=0)
    print(f"{options.items} items of {options.size}³, {options.preset}, noise {options.noise:g}")
    print(f"search, median: {medians[1]:.2f} s from rest, {medians[3]:.2f} s ({medians[3] / medians[1]:.2f} times)")
    print(f"error, mean: {means[2]:.3f} mm from rest, {means[4]:.3f} mm ({means[4] / means[2]:.2f} times)")
    for sigma in (1.0, 2.0):
        errors = []
        for number in range(1, options.items):
            weights = weights_in_time(options.items, number, sigma, cyclic=True)
            mean = sum(weight * found[each]["velocity"] for each, weight in weights.items())
            errors.append(error({**base, "velocity": mean.astype(np.float32)}, number))
        print(f"smoothed over {sigma:g} items: {np.mean(errors):.3f} mm ({np.mean(errors) / means[4]:.2f} times)")


if __name__ == "__main__":
    main()
