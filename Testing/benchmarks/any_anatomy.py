# SPDX-License-Identifier: Apache-2.0
"""Whether the affine alignment holds for any anatomy: right or wrong, and seconds, of pairs of many kinds.

Real brains with labels (OASIS), whose voxels are made ten times smaller and larger, of one side only a half is seen,
the intensities of one side pass through curves that rise and fall, or one header is a quarter or half turn wrong; and
bodies made of ellipsoids, in which organs lie where they should, but not quite: abdomens in CT and MR, hearts, small
heads. An alignment is right if the mean Dice of the labels reaches four fifths of what an affine map that knows the
answer gives: the true one of made bodies, the one fitted to the centers of the labels of real ones.

    python Testing/benchmarks/any_anatomy.py --data FOLDER [--only abdomen] [--library DeepFLASHRegistration]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

_OWN = Path(__file__).resolve().parents[2] / "DeepFLASHRegistration"
_RIGHT = 0.8
_PAIRS = (("1000", "1001"), ("1014", "1036"), ("1008", "1017"), ("1010", "1002"))

AIR, FAT, WATER, SOFT, BONE = -1000.0, -100.0, 0.0, 45.0, 500.0
# Center and half axes in mm along L, P, S; CT value, T2-like value, label (0: drawn, but not compared).
Organ = tuple[tuple[float, float, float], tuple[float, float, float], float, float, int]
_ABDOMEN: tuple[Organ, ...] = (
    ((0, 0, 0), (160, 110, 900), FAT, 0.75, 0),
    ((0, 5, 0), (138, 88, 900), 55, 0.25, 0),
    ((0, -4, 0), (125, 72, 900), FAT, 0.7, 0),
    ((0, 68, 0), (22, 20, 900), 220, 0.35, 1),
    ((0, 40, 0), (11, 11, 900), 140, 0.05, 2),
    ((-62, -8, 60), (66, 56, 62), 65, 0.3, 3),
    ((72, 28, 68), (26, 30, 48), 60, 0.5, 4),
    ((-55, 48, -5), (27, 25, 52), 90, 0.65, 5),
    ((55, 46, 5), (27, 25, 52), 90, 0.65, 6),
    ((45, -25, 55), (42, 32, 38), 20, 0.9, 7),
    ((5, 5, 20), (45, 11, 12), 50, 0.45, 8),
    ((-60, 5, 135), (56, 64, 52), -850, 0.02, 9),
    ((65, 5, 135), (52, 64, 52), -850, 0.02, 10),
)
_HEART: tuple[Organ, ...] = (
    ((0, 0, 0), (140, 95, 900), 60, 0.4, 0),
    ((-60, 5, 30), (55, 70, 100), -800, 0.05, 0),
    ((75, 15, 30), (50, 65, 100), -800, 0.05, 0),
    ((-25, 5, -75), (95, 65, 45), 65, 0.35, 1),
    ((12, -12, -2), (52, 42, 50), 80, 0.3, 2),
    ((25, -2, -8), (22, 22, 36), 250, 0.9, 3),
    ((-8, -26, -2), (17, 13, 34), 240, 0.85, 4),
    ((8, 28, 28), (28, 18, 22), 240, 0.85, 5),
    ((-27, 2, 28), (20, 22, 22), 230, 0.8, 6),
    ((2, -8, 55), (13, 13, 40), 250, 0.95, 7),
    ((5, 68, 0), (20, 20, 900), 230, 0.3, 0),
)


@dataclass
class Case:
    """A pair, its labels, and the affine map (fixed to moving, LPS mm) that its alignment is compared with."""

    name: str
    fixed: Volume
    moving: Volume
    fixed_labels: Volume
    moving_labels: Volume
    best: np.ndarray


def scaled_header(volume: Volume, factor: float) -> Volume:
    affine = volume.grid.affine.copy()
    affine[:-1] *= factor
    return replace(volume, grid=Grid(volume.grid.shape, affine))


def moved_header(volume: Volume, motion: np.ndarray) -> Volume:
    return replace(volume, grid=Grid(volume.grid.shape, motion @ volume.grid.affine))


def half(volume: Volume, axis: int, end: int) -> Volume:
    n = volume.grid.shape[axis]
    keep, cut = slice(n // 2, None) if end else slice(0, n // 2), [0] * volume.ndim
    lower, upper = list(cut), list(cut)
    (lower if end else upper)[axis] = -(n // 2) if end else n // 2 - n
    data = volume.data[(slice(None),) * axis + (keep,)]
    return replace(volume, grid=volume.grid.padded(lower, upper), data=np.ascontiguousarray(data))


def curved(volume: Volume, values: list[float]) -> Volume:
    """Intensities through a curve with these values at equal distances, dark and bright end last; 0 stays."""
    inside = volume.data > 0
    low, high = np.percentile(volume.data[inside], (1, 99))
    data = np.interp(volume.data, np.linspace(low, high, len(values)), values)
    return volume.with_data(np.where(inside, data, 0).astype(np.float32))


def turn_about(axis: tuple[float, ...], degrees: float, center: np.ndarray) -> np.ndarray:
    x, y, z = np.array(axis) / np.linalg.norm(axis)
    angle, cross = np.deg2rad(degrees), np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    matrix = np.eye(4)
    matrix[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    matrix[:3, 3] = center - matrix[:3, :3] @ center
    return matrix


def label_centers(labels: Volume) -> dict[int, tuple[np.ndarray, int]]:
    """Center (LPS mm) and voxels of each label above 3."""
    data = labels.data.astype(np.int64).ravel()
    counts = np.bincount(data)
    index = np.indices(labels.grid.shape).reshape(labels.ndim, -1)
    sums = np.stack([np.bincount(data, i) for i in index], 1)
    present = [v for v in np.flatnonzero(counts) if v > 3]
    return {int(v): (labels.grid.index_to_physical(sums[v] / counts[v]), int(counts[v])) for v in present}


def fitted_to_labels(fixed: Volume, moving: Volume) -> np.ndarray:
    """The affine map that takes the centers of the fixed labels nearest to those of the moving ones."""
    ours, theirs = label_centers(fixed), label_centers(moving)
    common = sorted(ours.keys() & theirs.keys())
    points = np.array([[*ours[v][0], 1.0] for v in common])
    targets = np.array([theirs[v][0] for v in common])
    weights = np.sqrt([float(ours[v][1]) for v in common])[:, None]
    matrix = np.eye(4)
    matrix[:3] = np.linalg.lstsq(points * weights, targets * weights, rcond=None)[0].T
    return matrix


def mean_dice(case: Case, matrix: np.ndarray, lowest: int) -> float:
    """Mean Dice of the labels above `lowest`, where the moving image sees at all."""
    factor = [max(1, round(n / 90)) for n in case.fixed_labels.grid.shape]
    grid = case.fixed_labels.grid.resampled(factor=factor)
    fixed = resample(case.fixed_labels, grid, nearest=True)
    moving = resample(case.moving_labels, grid, matrix, nearest=True)
    # What is not seen counts neither for nor against; where the best map says it is not.
    seen = resample(case.moving_labels.with_data(np.ones(case.moving_labels.grid.shape, np.uint8)), grid, case.best)
    inside = seen > 0.5
    found = []
    for label in np.unique(fixed):
        a, b = (fixed == label) & inside, moving == label
        if label > lowest and a.any():
            found.append(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))
    return float(np.mean(found))


# ---------------------------------------------------------------- real brains


def brain_cases(folder: Path) -> Iterator[Case]:
    files = {path.name[:4]: path for path in sorted(folder.glob("*_SS.nii.gz"))}
    for a, b in _PAIRS:
        if a not in files or b not in files:
            continue
        fixed, moving = read_volume(files[a]), read_volume(files[b])
        labels = [read_volume(str(files[x]).replace("_SS", "_glm")) for x in (a, b)]
        labels = [v.with_data(np.rint(v.data).astype(np.int16)) for v in labels]
        yield from _of_one_pair(f"brain {a}:{b}", Case("", fixed, moving, *labels, fitted_to_labels(*labels)))


def _of_one_pair(name: str, case: Case) -> Iterator[Case]:
    best = case.best
    yield replace(case, name=name)
    for factor in (0.1, 10.0):
        both = [scaled_header(v, factor) for v in (case.fixed, case.moving, case.fixed_labels, case.moving_labels)]
        larger = best.copy()
        larger[:3, 3] *= factor
        yield Case(f"{name} x{factor:g}", *both, larger)
    for axis, way in enumerate(("IS", "PA", "LR")):
        for end in (0, 1):
            yield replace(
                case,
                name=f"{name} half axis {axis} {way[end]}",
                moving=half(case.moving, axis, end),
                moving_labels=half(case.moving_labels, axis, end),
            )
    for curve in ([0.2, 1.0, 0.1, 0.8], [1.0, 0.3, 0.9, 0.1]):
        yield replace(case, name=f"{name} curve {curve}", moving=curved(case.moving, curve))
    for axis in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        for degrees in (90, 180, -90):
            turn = turn_about(axis, degrees, case.moving.grid.center)
            moved = [moved_header(v, turn) for v in (case.moving, case.moving_labels)]
            yield Case(
                f"{name} header {degrees} about {axis}", case.fixed, moved[0], case.fixed_labels, moved[1], turn @ best
            )


# ---------------------------------------------------------------- made bodies


def person(organs: tuple[Organ, ...], rng: np.random.Generator, loops: int) -> list[Organ]:
    """The organs of one person: moved by up to a fifth of their size, up to 15 % larger or smaller; and bowels."""
    own = []
    for center, radii, ct, t2, label in organs:
        radii = np.array(radii) * np.exp(rng.uniform(-0.14, 0.14, 3) * (label > 0))
        away = rng.uniform(-0.2, 0.2, 3) * np.minimum(radii, 60) * (label > 0)
        own.append((np.array(center) + away, radii, ct, t2, label))
    for _ in range(loops):
        center = rng.uniform((-90, -55, -140), (90, 5, -20))
        gas = rng.random() < 0.3
        own.append((center, rng.uniform(9, 20, 3), -700.0 if gas else 25.0, 0.02 if gas else rng.uniform(0.3, 0.9), 0))
    return own


def scan(
    organs: list[Organ], grid: Grid, to_body: np.ndarray, modality: str, rng: np.random.Generator, name: str
) -> tuple[Volume, Volume]:
    """Image and labels on a grid; to_body: (4, 4), LPS mm of the grid to the body's own."""
    points = grid.index_to_physical(np.moveaxis(np.indices(grid.shape), 0, -1)).reshape(-1, 3)
    points = points @ to_body[:3, :3].T + to_body[:3, 3]
    image = np.full(len(points), AIR if modality == "CT" else 0.01)
    labels = np.zeros(len(points), np.int16)
    for center, radii, ct, t2, label in organs:
        inside = (((points - center) / radii) ** 2).sum(1) < 1
        image[inside] = ct if modality == "CT" else t2
        labels[inside] = label + 3 if label else 0
    if modality == "CT":
        image = np.rint(image + rng.normal(0, 18, image.shape))
    else:
        bias = np.exp(0.2 * np.sin(points @ rng.normal(0, 1 / 150, 3) + rng.uniform(0, 6)))
        image = 800 * np.hypot(image * bias + rng.normal(0, 0.03, image.shape), rng.normal(0, 0.03, image.shape))
    make = [image.astype(np.float32).reshape(grid.shape), labels.reshape(grid.shape)]
    return Volume(grid, make[0], name), Volume(grid, make[1], f"{name} labels")


def box(low: tuple[float, ...], high: tuple[float, ...], spacing: tuple[float, ...]) -> Grid:
    """A grid over a box, given along L, P, S; stored slice by slice from the feet up."""
    low, high, spacing = (np.array(x, float) for x in (low, high, spacing))
    affine = np.eye(4)
    affine[:3, :3] = np.diag(spacing)[:, ::-1]
    affine[:3, 3] = low
    return Grid(tuple(int(n) for n in np.rint((high - low) / spacing)[::-1]), affine)


def body_cases(kind: str, seeds: int) -> Iterator[Case]:
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        truth = np.eye(4)
        if kind == "heart":
            organs, loops, size, degrees = _HEART, 0, rng.uniform(0.75, 0.9), rng.uniform(15, 30)
            boxes = [box((-75, -70, -75), (80, 80, 75), (2.5, 2.5, 3)), box((-60, -65, -70), (75, 60, 65), (2, 2, 4))]
        else:
            organs, loops, size, degrees = _ABDOMEN, 14, 1.3, 10.0
            boxes = [
                box((-180, -130, -150), (180, 130, 120), (4, 4, 5)),
                box((-240, -170, -130), (240, 170, 220), (5, 5, 5)),
            ]
        axis = rng.normal(size=3)
        truth[:3, :3] = size * turn_about(tuple(axis), degrees, np.zeros(3))[:3, :3]
        truth[:3, 3] = rng.uniform(-25, 25, 3)
        for modality in ("CT", "MR"):
            people = [person(organs, np.random.default_rng((seed, i)), loops) for i in (1, 2)]
            fixed, ours = scan(people[0], boxes[0], np.eye(4), modality, rng, "fixed")
            moving, theirs = scan(people[1], boxes[1], np.linalg.inv(truth), modality, rng, "moving")
            yield Case(f"{kind} {modality} {seed}", fixed, moving, ours, theirs, truth)


def head_cases(seeds: int) -> Iterator[Case]:
    infant = {**T1, 2: 0.62, 7: 0.62, 3: 0.8, 8: 0.8}
    for seed in range(seeds):
        for contrast, words in ((T1, "small head"), (infant, "infant's head")):
            rng = np.random.default_rng(seed)
            truth = turn_about(tuple(rng.normal(size=3)), rng.uniform(5, 25), np.zeros(3))
            truth[:3, :3] = truth[:3, :3] @ np.diag(rng.uniform(0.5, 0.65) * np.array([1.08, 0.92, 1.0]))
            truth[:3, 3] = rng.uniform(-60, 60, 3)
            grids = [
                box((-90, -110, -90), (90, 110, 90), (2, 2, 2)),
                box((-130, -130, -130), (130, 130, 130), (2, 2, 2)),
            ]
            volumes = []
            for i, (grid, back, table) in enumerate(
                ((grids[0], np.eye(4), T1), (grids[1], np.linalg.inv(truth), contrast))
            ):
                points = grid.index_to_physical(np.moveaxis(np.indices(grid.shape), 0, -1)).reshape(-1, 3)
                labels, image = Anatomy(np.random.default_rng((seed, i))).render(
                    points @ back[:3, :3].T + back[:3, 3], table, 2.0
                )
                noise = np.where(image > 0, rng.normal(0, 0.03, image.shape), 0)
                image = (900 * np.maximum(image + noise, 0)).astype(np.float32)
                labels = np.where(labels > 0, labels + 3, 0).astype(np.int16)
                volumes.append([Volume(grid, image.reshape(grid.shape)), Volume(grid, labels.reshape(grid.shape))])
            (fixed, ours), (moving, theirs) = volumes
            yield Case(f"{words} {seed}", fixed, moving, ours, theirs, truth)


def main() -> None:
    folder = Path(os.environ.get("DEEPFLASH_DATA", "data")) / "oasis-brains"
    parser.add_argument("--data", type=Path, default=folder, help="default: oasis-brains in the folder DEEPFLASH_DATA")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--seeds", type=int, default=4, help="made bodies of each kind")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    right: dict[str, list[bool]] = {}
    seconds: dict[str, list[float]] = {}
    every = (brain_cases(arguments.data), *(body_cases(k, arguments.seeds) for k in ("abdomen", "heart")))
    for case in (c for cases in (*every, head_cases(arguments.seeds)) for c in cases):
        if arguments.only not in case.name:
            continue
        sides = [normalized(v) for v in (case.fixed, case.moving)]
        start = time.perf_counter()
        found = align(*sides, threads=arguments.threads)
        took = time.perf_counter() - start
        dice, best = (mean_dice(case, m, 3) for m in (found.matrix, case.best))
        good = dice >= _RIGHT * best
        words = case.name.split()
        kind = " ".join(
            [words[0], *(w for w in words[2:3] if words[0] == "brain"), *words[1:2] * (words[0] != "brain")]
        )
        right.setdefault(kind, []).append(good)
        seconds.setdefault(kind, []).append(took)
        print(
            f"{'right' if good else 'WRONG'} {case.name:44} Dice {dice:.3f} (best {best:.3f}) "
            f"measure {found.similarity:.3f}{' ratio' * any('contrast' in n for n in found.notes)} {took:5.2f} s",
            flush=True,
        )
    print()
    for kind, values in right.items():
        print(f"{kind:22} right {sum(values):3} of {len(values):3}, median {np.median(seconds[kind]):.2f} s")
    total = [v for values in right.values() for v in values]
    print(f"{'all':22} right {sum(total):3} of {len(total):3}")


def normalized(volume: Volume) -> Volume:
    """As a registration with its default settings hands it over."""
    return scaled(Subject(volume).checked("image"), Parameters()).image.upright()


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--library", type=Path, default=_OWN, help="folder of the library, to compare versions")
sys.path.insert(0, str(parser.parse_known_args()[0].library))

from DeepFLASHRegistrationLib.alignment.affine import align
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.io import read_volume
from DeepFLASHRegistrationLib.imaging.resampling import resample
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.phantom.anatomy import T1, Anatomy
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.problem.problem import scaled
from DeepFLASHRegistrationLib.problem.subject import Subject

if __name__ == "__main__":
    main()
