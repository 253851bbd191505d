# SPDX-License-Identifier: Apache-2.0
"""Pairs of made bodies of many kinds, whose organs lie where they should, but not quite, and the affine between them.

A body is a list of ellipsoids, painted over each other in their order. Two people have the same organs; each one's own
are moved by a part of their size and larger or smaller, and what fills the rest (bowels, vessels, the mother around a
fetus) is each one's own entirely. The moving body as a whole is larger or smaller, turned, moved.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.phantom.anatomy import T1, Anatomy

# Center and half axes in mm along L, P, S; CT value, T2-like value, label (0: drawn, but not compared).
Organ = tuple[tuple[float, float, float], tuple[float, float, float], float, float, int]
_ABDOMEN: tuple[Organ, ...] = (
    ((0, 0, 0), (160, 110, 900), -100, 0.75, 0),
    ((0, 5, 0), (138, 88, 900), 55, 0.25, 0),
    ((0, -4, 0), (125, 72, 900), -100, 0.7, 0),
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
_CHEST: tuple[Organ, ...] = (
    ((0, 0, 0), (165, 115, 900), -100, 0.75, 0),
    ((0, 0, 0), (150, 100, 900), 50, 0.3, 0),
    ((-70, 0, 20), (60, 82, 125), -830, 0.03, 1),
    ((72, 0, 20), (55, 82, 120), -830, 0.03, 2),
    ((-72, 0, -105), (68, 75, 62), 60, 0.35, 4),
    ((78, 10, -112), (55, 65, 52), 35, 0.5, 5),
    ((20, -25, -15), (52, 48, 55), 55, 0.4, 3),
    ((0, 74, 0), (22, 20, 900), 250, 0.3, 6),
    ((18, 45, 0), (13, 13, 900), 70, 0.05, 7),
    ((0, 5, 115), (9, 9, 60), -950, 0.02, 8),
)
_FETAL_HEAD: tuple[Organ, ...] = (
    ((0, -38, -32), (24, 16, 20), 0, 0.35, 0),
    ((0, 0, 0), (43, 53, 41), 0, 0.15, 0),
    ((0, 0, 0), (41, 51, 39), 0, 0.95, 0),
    ((0, 0, 0), (38, 47, 36), 0, 0.42, 1),
    ((0, 0, 0), (35, 44, 33), 0, 0.6, 2),
    ((0, -5, 14), (1.5, 40, 24), 0, 0.9, 0),
    ((11, 8, 4), (5, 20, 7), 0, 0.98, 3),
    ((-11, 8, 4), (5, 20, 7), 0, 0.98, 4),
    ((8, 2, -5), (8, 12, 8), 0, 0.4, 5),
    ((-8, 2, -5), (8, 12, 8), 0, 0.4, 6),
    ((0, 16, -32), (7, 8, 14), 0, 0.45, 7),
    ((0, 27, -24), (20, 12, 12), 0, 0.36, 8),
    ((0, 38, -28), (9, 5, 6), 0, 0.95, 0),
    ((17, -46, -18), (8, 8, 8), 0, 0.95, 0),
    ((-17, -46, -18), (8, 8, 8), 0, 0.95, 0),
)
# Around the fetal head: the mother, the amniotic fluid.
_UTERUS: tuple[Organ, ...] = (
    ((0, 0, 0), (900, 900, 900), 0, 0.35, 0),
    ((10, 15, -10), (62, 75, 66), 0, 0.92, 0),
)
_MOUSE: tuple[Organ, ...] = (
    ((0, -7.4, 0.3), (1.8, 2.2, 1.4), 0, 0.5, 2),
    ((0, 0, 0), (5, 6.6, 3.6), 0, 0.48, 1),
    ((0, 6.2, 0.3), (3.5, 2.1, 2.2), 0, 0.55, 3),
    ((0, 5.6, -2.2), (1.8, 3, 1.3), 0, 0.35, 7),
    ((0, -0.5, 1.9), (2.9, 3, 0.4), 0, 0.28, 0),
    ((2.2, -1.6, -0.2), (1.2, 1.8, 1.4), 0, 0.4, 4),
    ((-2.2, -1.6, -0.2), (1.2, 1.8, 1.4), 0, 0.4, 4),
    ((2.6, 2.2, 0.9), (1.7, 1.4, 1.1), 0, 0.58, 5),
    ((-2.6, 2.2, 0.9), (1.7, 1.4, 1.1), 0, 0.58, 5),
    ((0, 1.6, -0.8), (2, 1.7, 1.5), 0, 0.36, 6),
    ((1.1, -0.6, 1), (0.4, 1.6, 0.6), 0, 0.95, 0),
    ((-1.1, -0.6, 1), (0.4, 1.6, 0.6), 0, 0.95, 0),
)


@dataclass(frozen=True)
class Pair:
    """Two images, their labels, and the affine map (fixed to moving, LPS mm) between the bodies."""

    fixed: Volume
    moving: Volume
    fixed_labels: Volume
    moving_labels: Volume
    truth: np.ndarray


@dataclass(frozen=True)
class Kind:
    """What pairs of a kind have in common: the fixed and moving grid, ranges of the moving body's size (1: as the
    fixed one) and of the angle by which it is turned, how far it is moved, and the rest that is each one's own.

    spread: by which part of its size each organ is moved at most; surround: organs around all others; filling: number,
    lowest and highest center, smallest and largest half axis, and the (CT, T2) values to choose from; stripped: nothing
    is seen around the body, not even noise.
    """

    organs: tuple[Organ, ...]
    grids: tuple[Grid, Grid]
    size: tuple[float, float] = (0.95, 1.05)
    degrees: tuple[float, float] = (5.0, 15.0)
    shift: float = 25.0
    spread: float = 0.14
    surround: tuple[Organ, ...] = ()
    filling: tuple[int, tuple[float, ...], tuple[float, ...], tuple[float, float], tuple[tuple[float, float], ...]] = (
        0,
        (0,) * 3,
        (0,) * 3,
        (1, 1),
        ((0, 0),),
    )
    modalities: tuple[str, ...] = ("CT", "MR")
    stripped: bool = False


def box(low: tuple[float, ...], high: tuple[float, ...], spacing: tuple[float, ...]) -> Grid:
    """A grid over a box, given along L, P, S; stored slice by slice from the feet up."""
    low, high, spacing = (np.array(x, float) for x in (low, high, spacing))
    affine = np.eye(4)
    affine[:3, :3] = np.diag(spacing)[:, ::-1]
    affine[:3, 3] = low
    return Grid(tuple(int(n) for n in np.rint((high - low) / spacing)[::-1]), affine)


_BOWELS = (14, (-90, -55, -140), (90, 5, -20), (9, 20), ((-700, 0.02), (25, 0.3), (25, 0.6), (25, 0.9)))
_VESSELS = (30, (-120, -60, -80), (120, 60, 110), (4, 9), ((20, 0.3),))
_MOTHER = (40, (-95, -95, -95), (95, 95, 95), (10, 28), ((0, 0.1), (0, 0.25), (0, 0.5), (0, 0.8)))
KINDS = {
    "abdomen": Kind(
        _ABDOMEN,
        (box((-180, -130, -150), (180, 130, 120), (4, 4, 5)), box((-240, -170, -130), (240, 170, 220), (5, 5, 5))),
        size=(1.3, 1.3),
        degrees=(10, 10),
        filling=_BOWELS,
    ),
    "heart": Kind(
        _HEART,
        (box((-75, -70, -75), (80, 80, 75), (2.5, 2.5, 3)), box((-60, -65, -70), (75, 60, 65), (2, 2, 4))),
        size=(0.75, 0.9),
        degrees=(15, 30),
    ),
    "lungs": Kind(
        _CHEST,
        (box((-180, -130, -140), (180, 130, 150), (4, 4, 5)), box((-190, -140, -90), (190, 140, 190), (4, 4, 6))),
        size=(0.85, 1.0),
        filling=_VESSELS,
        modalities=("CT",),
    ),
    "fetal-brain": Kind(
        _FETAL_HEAD,
        (box((-60, -70, -60), (60, 70, 60), (1.2, 1.2, 1.2)),) * 2,
        size=(0.6, 0.75),
        degrees=(10, 25),
        shift=6.0,
        modalities=("MR",),
        stripped=True,
    ),
    "uterus": Kind(
        _FETAL_HEAD,
        (box((-70, -80, -70), (70, 80, 70), (1.4, 1.4, 2.5)),) * 2,
        size=(0.85, 1.1),
        degrees=(5, 20),
        shift=8.0,
        spread=0.08,
        surround=_UTERUS,
        filling=_MOTHER,
        modalities=("MR",),
    ),
    "mouse": Kind(
        _MOUSE,
        (box((-7, -11, -5), (7, 10, 5), (0.15,) * 3), box((-9, -12, -7), (9, 12, 7), (0.2, 0.2, 0.2))),
        size=(0.9, 1.1),
        degrees=(10, 25),
        shift=1.5,
        spread=0.06,
        modalities=("MR",),
        stripped=True,
    ),
}


def made_pair(kind: str, modality: str, seed: int) -> Pair:
    """A pair of a kind, always the same one; labels count from 4."""
    of, rng = KINDS[kind], np.random.default_rng(seed)
    truth = turn_about(tuple(rng.normal(size=3)), rng.uniform(*of.degrees), np.zeros(3))
    truth[:3, :3] *= rng.uniform(*of.size)
    truth[:3, 3] = rng.uniform(-of.shift, of.shift, 3)
    sides = []
    for i, (grid, back) in enumerate(zip(of.grids, (np.eye(4), np.linalg.inv(truth)), strict=True)):
        organs = _person(of, np.random.default_rng((seed, i)))
        points = grid.index_to_physical(np.moveaxis(np.indices(grid.shape), 0, -1)).reshape(-1, 3)
        points = points @ back[:3, :3].T + back[:3, 3]
        image, labels = _painted(organs, points, modality, rng, of.stripped)
        sides.append((Volume(grid, image.reshape(grid.shape), "body"), Volume(grid, labels.reshape(grid.shape))))
    return Pair(sides[0][0], sides[1][0], sides[0][1], sides[1][1], truth)


def _person(of: Kind, rng: np.random.Generator) -> list[Organ]:
    """The organs of one person."""
    own: list[Organ] = list(of.surround)
    number, low, high, axes, values = of.filling
    filling = []
    for _ in range(number):
        ct, t2 = values[rng.integers(len(values))]
        filling.append((rng.uniform(low, high), rng.uniform(*axes, 3), ct, t2, 0))
    # The mother lies around the child, bowels within the abdomen.
    own = own[:1] + filling + own[1:]
    for center, radii, ct, t2, label in of.organs:
        radii = np.array(radii) * np.exp(0.7 * of.spread * rng.uniform(-1, 1, 3) * (label > 0))
        away = of.spread * rng.uniform(-1, 1, 3) * np.minimum(radii, 60) * (label > 0)
        own.append((np.array(center) + away, radii, ct, t2, label))
    return own if of.surround else own[len(filling) :] + filling


def _painted(
    organs: list[Organ], points: np.ndarray, modality: str, rng: np.random.Generator, stripped: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Values and labels at points (n, 3) of the body."""
    image = np.full(len(points), -1000.0 if modality == "CT" else 0.01)
    labels, seen = np.zeros(len(points), np.int16), np.zeros(len(points), bool)
    for center, radii, ct, t2, label in organs:
        inside = (((points - center) / radii) ** 2).sum(1) < 1
        image[inside] = ct if modality == "CT" else t2
        labels[inside] = label + 3 if label else 0
        seen |= inside
    if modality == "CT":
        image = np.rint(image + rng.normal(0, 18, image.shape))
    else:
        size = points.std() * 4
        bias = np.exp(0.2 * np.sin(points @ rng.normal(0, 1, 3) / size + rng.uniform(0, 6)))
        image = 800 * np.hypot(image * bias + rng.normal(0, 0.03, image.shape), rng.normal(0, 0.03, image.shape))
    if stripped:
        image[~seen] = 0
    return image.astype(np.float32), labels


_HEADS = {
    # Size of the moving head, spacing of its voxels, intensities that are not those of T1.
    "small-head": ((0.5, 0.65), (2, 2, 2), {}),
    "infant's-head": ((0.5, 0.65), (2, 2, 2), {2: 0.62, 7: 0.62, 3: 0.8, 8: 0.8}),
    "thick-slices": ((0.93, 1.08), (1.5, 1.5, 7), {}),
}
HEADS = tuple(_HEADS)


def made_heads(kind: str, seed: int) -> Pair:
    """A head and a smaller one of another age, or one of thick slices; labels count from 5."""
    size, spacing, changed = _HEADS[kind]
    rng = np.random.default_rng(seed)
    truth = turn_about(tuple(rng.normal(size=3)), rng.uniform(5, 25), np.zeros(3))
    truth[:3, :3] = truth[:3, :3] @ np.diag(rng.uniform(*size) * np.array([1.08, 0.92, 1.0]))
    truth[:3, 3] = rng.uniform(-60, 60, 3) if max(size) < 0.9 else rng.uniform(-15, 15, 3)
    grids = box((-90, -110, -90), (90, 110, 90), (2, 2, 2)), box((-130, -130, -130), (130, 130, 130), spacing)
    sides = []
    for i, (grid, back) in enumerate(zip(grids, (np.eye(4), np.linalg.inv(truth)), strict=True)):
        points = grid.index_to_physical(np.moveaxis(np.indices(grid.shape), 0, -1)).reshape(-1, 3)
        points = points @ back[:3, :3].T + back[:3, 3]
        labels, image = Anatomy(np.random.default_rng((seed, i))).render(points, {**T1, **changed} if i else T1, 2.0)
        noise = np.where(image > 0, rng.normal(0, 0.03, image.shape), 0)
        image = (900 * np.maximum(image + noise, 0)).astype(np.float32)
        labels = np.where(labels > 0, labels + 3, 0).astype(np.int16)
        sides.append((Volume(grid, image.reshape(grid.shape), "head"), Volume(grid, labels.reshape(grid.shape))))
    return Pair(sides[0][0], sides[1][0], sides[0][1], sides[1][1], truth)


def turn_about(axis: tuple[float, ...], degrees: float, center: np.ndarray) -> np.ndarray:
    """(4, 4) rotation about an axis through a point."""
    x, y, z = np.array(axis) / np.linalg.norm(axis)
    angle, cross = np.deg2rad(degrees), np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    matrix = np.eye(4)
    matrix[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    matrix[:3, 3] = center - matrix[:3, :3] @ center
    return matrix
