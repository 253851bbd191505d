# SPDX-License-Identifier: Apache-2.0
"""What landmarks, surfaces and kept structures do, beside mutual information alone on the same pairs.

    python Testing/benchmarks/steering.py [--seeds N]

Glands in MR and in ultrasound whose true map is known (phantom.gland), preset fast: ten landmarks placed to within
2 mm, one of them 30 mm off, and without that one; the gland's surface drawn on both sides with 1 mm of noise where the
second image shows nothing of it; a bone that stays rigid and a zone that keeps its volume. Errors are those of the map
in the gland, in mm.
"""

from __future__ import annotations

import argparse

import numpy as np
from DeepFLASHRegistrationLib.imaging.resampling import nearest
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.phantom.gland import WHOLE, make_gland
from DeepFLASHRegistrationLib.phantom.pairs import PhantomPair
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.problem.surfaces import distance
from DeepFLASHRegistrationLib.registration.metrics import map_points
from DeepFLASHRegistrationLib.registration.register import register
from DeepFLASHRegistrationLib.registration.result import Result

_INNER = (2, 3, 4, 5)
_CORRELATED_MM = 4.0  # of the noise of a surface that was drawn


def main() -> None:
    """Registers and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=4)
    count = parser.parse_args().seeds
    for seed in range(count):
        _landmarks(seed)
    for seed in range(count):
        _surfaces(seed)
    for seed in range(count):
        _kept(seed)


def _settings(**changes: object) -> Parameters:
    return Parameters.from_preset("fast", **{"similarity": "mi", **changes})


def _landmarks(seed: int) -> None:
    gland, rng = make_gland(seed), np.random.default_rng(seed)
    here, there = gland.fixed_points[:10], gland.moving_points[:10] + rng.normal(0, 2, (10, 3))
    wrong, kept = there.copy(), np.arange(10) != 3
    while True:
        off = rng.normal(size=3)
        wrong[3] = there[3] + 30 * off / np.linalg.norm(off)
        if gland.moving.grid.contains(wrong).all():
            break
    alone = register(gland.fixed, gland.moving, _settings())
    print(f"landmarks, seed {seed}: mi alone {_error(gland, alone):.2f} mm", end="")
    for name, places in (
        ("ten", (here, there)),
        ("one wrong", (here, wrong)),
        ("without it", (here[kept], there[kept])),
    ):
        points = {"fixed_points": places[0], "moving_points": places[1]}
        found = register(gland.fixed, gland.moving, _settings(landmark_weight=1.0), **points)
        ratio = _error(gland, found) / _error(gland, alone)
        print(f"; {name} {_error(gland, found):.2f} ({ratio:.2f} of mi alone{_smooth(found)})", end="")
        if name == "ten":
            start = register(gland.fixed, gland.moving, _settings(), initial_affine=found.affine)
            print(f"; mi from their alignment {_error(gland, start):.2f}", end="")
    print(flush=True)


def _surfaces(seed: int) -> None:
    gland, rng = make_gland(seed, contrast="none"), np.random.default_rng(seed)
    labels = {f"{side}_labels": _drawn(getattr(gland, f"{side}_labels"), rng) for side in ("fixed", "moving")}
    alone = register(gland.fixed, gland.moving, _settings(), **labels)
    found = register(gland.fixed, gland.moving, _settings(label_weight=1.0), **labels)
    start = register(gland.fixed, gland.moving, _settings(), initial_affine=found.affine, **labels)
    for name, each in (("mi alone", alone), ("mi from the surfaces' alignment", start), ("surfaces", found)):
        print(
            f"surfaces, seed {seed}: {name}: {_error(gland, each):.2f} mm, one minus Dice of what is inside "
            f"{1 - _inner_dice(gland, each):.2f}, Dice of the gland as drawn {each.metrics['mean_dice_after']:.3f}"
            f"{_smooth(each)}",
            flush=True,
        )


def _kept(seed: int) -> None:
    gland = make_gland(seed)
    given = {
        "initial_affine": gland.affine,
        "fixed_labels": gland.fixed_labels,
        "moving_labels": gland.moving_labels,
    }
    free = register(gland.fixed, gland.moving, _settings(similarity="lncc"), **given)
    chosen = _settings(similarity="lncc", rigid_labels=(6,), volume_labels=(2,))
    found = register(gland.fixed, gland.moving, chosen, **given)
    print(
        f"kept, seed {seed}: {found.metrics['kept']}; error {_error(gland, found):.2f} mm, free "
        f"{_error(gland, free):.2f}{_smooth(found)}",
        flush=True,
    )


def _drawn(labels: Volume, rng: np.random.Generator) -> Volume:
    """The gland alone, its surface off by 1 mm (standard deviation) in a smooth way."""
    whole = Volume(labels.grid, np.isin(labels.data, WHOLE).astype(np.int32))
    axes = [np.fft.fftfreq(n, h) for n, h in zip(labels.grid.shape, labels.grid.spacing, strict=True)]
    square = sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij"))
    blur = np.exp(-0.5 * (2 * np.pi * _CORRELATED_MM) ** 2 * square)
    waves = np.fft.ifftn(np.fft.fftn(rng.normal(size=labels.grid.shape)) * blur).real
    return Volume(labels.grid, (distance(whole, 1, 12.0).data + waves / waves.std() > 0).astype(np.int32), labels.name)


def _error(gland: PhantomPair, result: Result) -> float:
    inside = np.isin(gland.fixed_labels.data, WHOLE)
    points = gland.fixed.grid.index_to_physical(np.argwhere(inside))
    found = map_points(points, result.fixed_to_moving, result.fixed_to_moving.grid)
    return float(np.linalg.norm(found - points - gland.fixed_to_moving[inside], axis=1).mean())


def _inner_dice(gland: PhantomPair, result: Result) -> float:
    """Mean Dice of the structures inside, carried voxel by voxel."""
    grid = gland.fixed.grid
    points = grid.index_to_physical(np.moveaxis(np.indices(grid.shape), 0, -1).reshape(-1, 3))
    index = np.rint(
        gland.moving.grid.physical_to_index(map_points(points, result.fixed_to_moving, result.fixed_to_moving.grid))
    )
    seen = ((index >= 0) & (index < gland.moving.grid.shape)).all(1)
    carried = np.zeros(len(points), dtype=int)
    carried[seen] = gland.moving_labels.data[tuple(index[seen].astype(int).T)]
    fixed = nearest(gland.fixed_labels, grid).reshape(-1)
    both = [np.count_nonzero((fixed == n) & (carried == n)) for n in _INNER]
    sizes = [np.count_nonzero(fixed == n) + np.count_nonzero(carried == n) for n in _INNER]
    return float(np.mean([2 * one / total for one, total in zip(both, sizes, strict=True)]))


def _smooth(result: Result) -> str:
    folds, spread = result.metrics["folds_strict"]["count"], result.metrics["sd_log_determinant"]
    return f", {folds} folds, sd of log J {spread:.2f}"


if __name__ == "__main__":
    main()
