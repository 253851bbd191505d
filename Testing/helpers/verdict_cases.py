# SPDX-License-Identifier: Apache-2.0
"""Registrations of which it is known how right they are: made ones, and real ones where their images are present.

Each is a pair of small images, a linear map to start from (near the truth, or wrong on purpose), and what to judge the
result by: the true map, or labels that the registration does not see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.intensities import foreground
from DeepFLASHRegistrationLib.imaging.io import read_labels, read_volume
from DeepFLASHRegistrationLib.imaging.landmarks import Landmarks
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.phantom.pairs import PhantomPair, make_pair
from DeepFLASHRegistrationLib.problem.subject import Subject
from DeepFLASHRegistrationLib.registration.metrics import map_points
from made_anatomies import KINDS, Bend, Waves, grid_of, person, places, retina, scanned

LEFT, FRONT, UP = (1, 0, 0), (0, 1, 0), (0, 0, 1)
Motion = Callable[[np.ndarray], np.ndarray]


@dataclass
class Case:
    """A registration to be judged.

    Attributes:
        family: the kind of case, of which there are several.
        initial: (d+1, d+1) LPS mm, fixed to moving, to start from.
        truth: the true map of points (n, d) in mm, where it is known.
        labels: of fixed and moving image, kept from the registration.
        parameters: changes of the preset "fast".
        mismatched: the images show different things, or the evidence given with them is wrong: nothing can be right.
    """

    family: str
    name: str
    fixed: Subject
    moving: Subject
    initial: np.ndarray
    truth: Motion | None = None
    labels: tuple[Volume, Volume] | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    mismatched: bool = False


def turn(d: int, degrees: float, axis: Any = UP, center: Any = 0.0) -> np.ndarray:
    """(d+1, d+1): a turn about an axis (none in a plane) through a center."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    m = np.eye(d + 1)
    if d == 2:
        m[:2, :2] = [[c, -s], [s, c]]
    else:
        x, y, z = np.array(axis, float) / np.linalg.norm(axis)
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        m[:3, :3] += s * cross + (1 - c) * cross @ cross
    center = np.broadcast_to(center, d)
    m[:d, d] = center - m[:d, :d] @ center
    return m


def shift(away: Any) -> np.ndarray:
    m = np.eye(len(away) + 1)
    m[:-1, -1] = away
    return m


def _nearly(rng: np.random.Generator, d: int, size_mm: float, center: Any = 0.0) -> np.ndarray:
    """What an alignment is off by: a few degrees, and a fortieth of the size."""
    return shift(rng.normal(size=d) * 0.025 * size_mm) @ turn(d, rng.uniform(1, 4), rng.normal(size=3), center)


def body(
    family: str,
    kind: str,
    seed: int,
    contrasts: tuple[str, str],
    *,
    jitter: float = 0.0,
    wrong: np.ndarray | None = None,
    other: tuple[str, int] | None = None,
    cuts: tuple[tuple[float, float], tuple[float, float]] = ((0, 0), (0, 0)),
    thick: tuple[int, int] = (1, 1),
    noise: float = 0.03,
    given: str = "",
    parameters: dict[str, Any] | None = None,
    mirrored: bool = False,
) -> Case:
    """A made body of a kind, the fixed one bent, the moving one turned, moved and scaled.

    jitter: people differ, and only labels tell how right a result is. wrong: what is done to the start beside; other:
    another kind of body as the moving one; cuts: parts of both fields of view that are left out; thick: slices; given:
    "masks", "labels", "shuffled" labels, "landmarks", or "mispaired" ones.
    """
    rng = np.random.default_rng([seed, sum(map(ord, family))])
    known, d = KINDS[kind], 3
    ours = person(kind, 2 * seed, jitter, seed)
    theirs = person(*other) if other else person(kind, 2 * seed + 1, jitter, seed) if jitter else ours
    size, their_size = known.unit_mm, theirs.kind.unit_mm
    bend = Bend(rng, d, 0.05)
    affine = turn(d, rng.uniform(3, 9), rng.normal(size=3))
    affine[:d, :d] *= rng.uniform(0.94, 1.06)
    affine[:d, d] = rng.normal(size=d) * 0.15 * size
    grids = [
        grid_of(known.view, size, 32, thick[0], cuts[0]),
        grid_of([1.08 * v for v in theirs.kind.view], their_size, 32, thick[1], cuts[1]),
    ]
    grids[1] = Grid(grids[1].shape, affine @ grids[1].affine)
    back = np.linalg.inv(affine)
    at = bend(places(grids[0]) / size), (places(grids[1]) @ back[:d, :d].T + back[:d, d]) / their_size
    if mirrored:
        at[1][..., 0] *= -1
    images = [
        scanned(who.intensities(x, contrast), grid, rng, noise, name)
        for who, x, contrast, grid, name in zip((ours, theirs), at, contrasts, grids, ("fixed", "moving"), strict=True)
    ]
    labels = tuple(
        Volume(grid, who.labels(x), f"{image.name} labels")
        for who, x, grid, image in zip((ours, theirs), at, grids, images, strict=True)
    )

    def truth(points: np.ndarray) -> np.ndarray:
        return bend(points / size) * size @ affine[:d, :d].T + affine[:d, d]

    exact = not (jitter or other or mirrored)
    initial = affine @ _nearly(rng, d, size) @ (np.eye(d + 1) if wrong is None else wrong)
    fixed, moving = (Subject(image) for image in images)
    fixed, moving = _with(fixed, moving, labels, given, truth, known.view, size, rng)
    return Case(
        family,
        f"{kind} {contrasts[0]}-{contrasts[1]} {seed}",
        fixed,
        moving,
        initial,
        truth if exact else None,
        None if other else labels,
        dict(parameters or {}),
        mismatched=bool(other) or mirrored or given in ("shuffled", "mispaired"),
    )


def _with(
    fixed: Subject,
    moving: Subject,
    labels: tuple[Volume, Volume],
    given: str,
    truth: Motion,
    view: tuple[float, ...],
    size: float,
    rng: np.random.Generator,
) -> tuple[Subject, Subject]:
    if given == "masks":
        masks = [replace(each, data=(each.data > 0).astype(np.uint8)) for each in labels]
        return replace(fixed, mask=masks[0]), replace(moving, mask=masks[1])
    if given in ("labels", "shuffled"):
        other = labels[1]
        if given == "shuffled":
            found = np.unique(other.data)[1:]
            table = np.zeros(found.max() + 1, np.int32)
            table[found] = np.roll(found, 1)
            other = replace(other, data=table[other.data])
        return replace(fixed, labels=(labels[0],)), replace(moving, labels=(other,))
    if given in ("landmarks", "mispaired"):
        reach = 0.7 * size * np.array(view)
        points = rng.uniform(-reach, reach, (40, len(view)))
        there = truth(points) + rng.normal(size=points.shape) * 0.01 * size
        inside = fixed.grid.contains(points) & moving.grid.contains(there)
        points, there = points[inside][:12], there[inside][:12]
        if given == "mispaired":
            there = np.roll(there, 3, axis=0)
        names = ("",) * len(points)
        return replace(fixed, landmarks=Landmarks(points, names, "fixed")), replace(
            moving, landmarks=Landmarks(there, names, "moving")
        )
    return fixed, moving


@lru_cache(maxsize=2)
def _pair(seed: int, contrast: str) -> PhantomPair:
    return make_pair(seed, (42, 48, 42), 4.0, contrast)


def head(
    family: str,
    seed: int,
    contrast: str,
    *,
    wrong: np.ndarray | None = None,
    cut: tuple[int, float] | None = None,
    thick: tuple[int, int] = (1, 1),
    scale: float = 1.0,
    parameters: dict[str, Any] | None = None,
) -> Case:
    """The project's phantom at 4 mm. cut: (axis, part) of the moving image's field of view that is left out; scale: of
    all lengths."""
    pair = _pair(seed, contrast)
    rng = np.random.default_rng([seed, sum(map(ord, family))])
    volumes = [pair.fixed, pair.moving, pair.fixed_labels, pair.moving_labels]
    if cut:
        volumes[1], volumes[3] = _cut(volumes[1], *cut), _cut(volumes[3], *cut)
    volumes = [_thickened(v, thick[i % 2], i > 1) for i, v in enumerate(volumes)]
    center = pair.fixed.grid.index_to_physical((np.array(pair.fixed.grid.shape) - 1) / 2)
    initial = pair.affine @ _nearly(rng, 3, 100.0, center)
    if wrong is not None:
        initial = initial @ shift(center) @ wrong @ shift(-center)
    larger = np.diag([scale, scale, scale, 1.0])
    volumes = [replace(v, grid=Grid(v.grid.shape, larger @ v.grid.affine)) for v in volumes]

    def truth(points: np.ndarray) -> np.ndarray:
        return scale * map_points(points / scale, pair.fixed_to_moving, pair.fixed.grid)

    return Case(
        family,
        f"head {contrast} {seed}",
        Subject(volumes[0]),
        Subject(volumes[1]),
        larger @ initial @ np.linalg.inv(larger),
        truth,
        (volumes[2], volumes[3]),
        dict(parameters or {}),
    )


def _cut(volume: Volume, axis: int, part: float) -> Volume:
    keep = [slice(None)] * volume.ndim
    keep[axis] = slice(int(part * volume.data.shape[axis]), None)
    first = [s.start or 0 for s in keep]
    affine = volume.grid.affine.copy()
    affine[:-1, -1] = volume.grid.index_to_physical(np.array(first, float))
    data = np.ascontiguousarray(volume.data[tuple(keep)])
    return replace(volume, grid=Grid(data.shape, affine), data=data)


def _thickened(volume: Volume, count: int, labels: bool) -> Volume:
    """Slices of `count` voxels' thickness along the first axis."""
    if count == 1:
        return volume
    slabs = volume.data.shape[0] // count
    data = volume.data[: slabs * count].reshape(slabs, count, *volume.data.shape[1:])
    data = data[:, count // 2] if labels else data.mean(1, dtype=np.float32)
    affine = volume.grid.affine.copy()
    affine[:-1, -1] = volume.grid.index_to_physical(np.eye(volume.ndim)[0] * (count - 1) / 2)
    affine[:-1, 0] *= count
    return replace(volume, grid=Grid(data.shape, affine), data=np.ascontiguousarray(data))


def fundus(family: str, seed: int, *, degrees: float = 0.0, other: int | None = None, gamma: float = 1.0) -> Case:
    """A made fundus photograph of 10 mm, bent; the other one of somebody's other eye."""
    rng = np.random.default_rng([seed, sum(map(ord, family))])
    size, bend = 10.0, Bend(rng, 2, 0.04)
    affine = turn(2, rng.uniform(3, 9))
    affine[:2, 2] = rng.normal(size=2)
    fixed_grid, grid = grid_of((1.1, 1.05), size, 112), grid_of((1.15, 1.1), size, 112)
    grid = Grid(grid.shape, affine @ grid.affine)
    back = np.linalg.inv(affine)
    own = (places(grid) @ back[:2, :2].T + back[:2, 2]) / size
    fixed = scanned(retina(seed)(bend(places(fixed_grid) / size)), fixed_grid, rng, 0.02, "fixed")
    if other is not None:
        own[..., 0] *= -1  # a left eye and a right one
    values = np.clip(retina(seed if other is None else other)(own), 0, None) ** gamma

    def truth(points: np.ndarray) -> np.ndarray:
        return bend(points / size) * size @ affine[:2, :2].T + affine[:2, 2]

    return Case(
        family,
        f"fundus {seed}",
        Subject(fixed),
        Subject(scanned(values, grid, rng, 0.02, "moving")),
        affine @ _nearly(rng, 2, size) @ turn(2, degrees),
        truth if other is None else None,
        mismatched=other is not None,
    )


def unrelated(family: str, seed: int, shape: tuple[int, ...], crop: bool) -> Case:
    """Two random textures, filling the field of view or inside ellipsoids."""
    d = len(shape)
    grid = Grid(shape, np.eye(d + 1)[:, [*range(d)[::-1], d]])
    subjects = []
    for side, name in enumerate(("fixed", "moving")):
        rng = np.random.default_rng([seed, side])
        values = Waves(rng, d, (7, 25), 30)(places(grid))
        if not crop:
            middle = places(grid) - (np.array(shape[::-1]) - 1) / 2
            away = np.sqrt(((middle / (np.array(shape[::-1]) * rng.uniform(0.36, 0.42))) ** 2).sum(-1))
            values = (1 + 0.3 * values) / (1 + np.exp((away - 1) * 20))
        subjects.append(Subject(scanned(values, grid, rng, 0.02, name)))
    return Case(family, f"textures {seed}", *subjects, np.eye(d + 1), mismatched=True)


# ------------------------------------------------------------------------------------------------------ the made cases


def made() -> Iterator[partial[Case]]:
    """Makers of all cases that need no image of anybody."""
    half = [turn(3, 180, axis) for axis in (LEFT, FRONT, UP, LEFT)]
    upside, face_down = half[0], half[2]
    for i in range(4):
        c = ("same", "different")[i % 2]
        yield partial(head, "head, one contrast", i, "same")
        yield partial(head, "head, two contrasts", i, "different")
        yield partial(head, "thick slices", i, c, thick=((1, 4), (4, 1), (3, 3), (1, 3))[i])
        yield partial(head, "one-sided field of view", i, c, cut=(i % 3, 0.35))
        yield partial(head, "mouse", i, "same", scale=0.1)
        yield partial(head, "small sigma", i, "different", parameters={"sigma": (0.02, 0.02, 0.01, 0.005)[i]})
        yield partial(head, "head upside down", i, c, wrong=upside)
        yield partial(head, "head face down", i, c, wrong=face_down)
        yield partial(head, "head, quarter turn", i, c, wrong=turn(3, 90, (LEFT, FRONT, UP, LEFT)[i]))
        yield partial(head, "head, astray", i, c, wrong=shift(45.0 * np.eye(3)[i % 3]))
        p = (0.0, 0.12)[i % 2]
        yield partial(body, "abdomen CT", "abdomen", i, ("ct", "ct"), jitter=p)
        yield partial(body, "CT of other coverage", "abdomen", 10 + i, ("ct", "ct"), cuts=_COVERAGE[i])
        yield partial(body, "abdomen MR", "abdomen", 20 + i, ("t1", ("t1", "t2")[i // 2]), jitter=p)
        yield partial(body, "heart", "heart", 30 + i, ("t1", ("t1", "t2")[i // 2]), jitter=p)
        yield partial(body, "crops", "hippocampus", 40 + i, ("t1", "t1"), jitter=0.06 * i)
        yield partial(body, "crops turned", "hippocampus", 50 + i, ("t1", "t1"), jitter=0.06 * i, wrong=half[i])
        yield partial(body, "fetal", "fetal", 60 + i, ("t2", "t2"), jitter=0.05 * i)
        yield partial(body, "fetal upside down", "fetal", 70 + i, ("t2", "t2"), jitter=0.05 * i, wrong=upside)
        yield partial(body, "prostate, two contrasts", "prostate", 80 + i, ("us", "t2"), noise=0.06, **_MASKS[i // 2])
        yield partial(
            body, "prostate turned", "prostate", 90 + i, ("us", "t2"), noise=0.06, wrong=half[i], **_MASKS[i // 2]
        )
        yield partial(body, "foregrounds of two contrasts", ("knee", "abdomen")[i % 2], 100 + i, ("t1", "ct"))
        yield partial(
            body,
            "body turned",
            ("abdomen", "heart", "knee", "abdomen")[i],
            110 + i,
            _BODIES[i],
            wrong=half[2 * (i % 2)],
        )
        yield partial(body, "wrong organ", *_ORGANS[i][0], ("t1", "t1"), other=_ORGANS[i][1])
        yield partial(body, "shuffled labels", _FOUR[i], 130 + i, ("t1", "t1"), given="shuffled")
        yield partial(body, "landmarks mispaired", _FOUR[i], 140 + i, ("t1", "t1"), given="mispaired")
        yield partial(body, "labels given", _FOUR[i], 150 + i, ("t1", "t1"), jitter=0.1, given="labels")
        yield partial(body, "landmarks given", _FOUR[i], 160 + i, ("t1", "t1"), given="landmarks")
        yield partial(fundus, "fundus", i, gamma=(1, 1, 0.6, 1.5)[i])
        yield partial(fundus, "fundus turned", 10 + i, degrees=(180, 90, 180, 120)[i])
        yield partial(fundus, "fundus of the other eye", 20 + i, other=120 + i)
        yield partial(unrelated, "unrelated", i, ((44, 46, 42), (100, 104))[i % 2], i < 2)


_COVERAGE = (((0, 0.4), (0, 0)), ((0, 0), (0.4, 0)), ((0.3, 0), (0, 0.3)), ((0, 0.2), (0.2, 0)))
_MASKS: tuple[dict[str, str], ...] = ({}, {"given": "masks"})
_BODIES = (("ct", "ct"), ("t1", "t1"), ("t1", "t1"), ("t2", "t2"))
_FOUR = ("abdomen", "fetal", "knee", "hippocampus")
_ORGANS = (
    (("abdomen", 120), ("fetal", 3)),
    (("heart", 121), ("abdomen", 3)),
    (("knee", 122), ("prostate", 3)),
    (("prostate", 123), ("heart", 3)),
)


# ------------------------------------------------------------------------------------------------------ the real cases


def real(data: Path) -> Iterator[partial[Case]]:
    """Makers of the cases for which the folder holds images: hippocampus, oasis-brains, oasis-2d."""
    crops = sorted((data / "hippocampus" / "images").glob("*.nii.gz"))
    brains = sorted((data / "oasis-brains").glob("*_SS.nii.gz"))
    slices = sorted((data / "oasis-2d").glob("*.nrrd"))
    for i in range(16 if len(crops) > 100 else 0):
        yield partial(_crops, "real crops", crops[2 * i], crops[2 * i + 1])
        if i % 3 == 0:
            wrong = turn(3, 180, (LEFT, FRONT, UP)[(i // 3) % 3]) if i < 12 else turn(3, 90, UP)
            yield partial(_crops, "real crops turned", crops[60 + i], crops[90 + i], wrong)
    for i in range(4 if len(brains) > 12 else 0):
        yield partial(_brains, "real brains", brains[i], brains[i + 1])
        yield partial(
            _brains, "real brains turned", brains[i + 5], brains[i + 8], turn(3, 180, (LEFT, FRONT, UP, LEFT)[i])
        )
        yield partial(_brains, "real brains astray", brains[i + 8], brains[i + 2], shift(40.0 * np.eye(3)[i % 3]))
        if len(crops) > 100:
            yield partial(_strangers, "real, wrong organ", crops[i], brains[i])
    for i in range(4 if len(slices) > 50 else 0):
        yield partial(_slices, "real slices turned", slices[i], slices[i + 30], (180, 90, 180, 120)[i])


def _middle(volume: Volume) -> np.ndarray:
    return volume.grid.index_to_physical(np.argwhere(foreground(volume)).mean(0))


def _onto(fixed: Volume, moving: Volume, wrong: np.ndarray | None) -> np.ndarray:
    """Center on center, with a turn about it."""
    matrix = shift(_middle(moving))
    return (matrix if wrong is None else matrix @ wrong) @ shift(-_middle(fixed))


def _crops(family: str, first: Path, second: Path, wrong: np.ndarray | None = None) -> Case:
    images = [read_volume(path) for path in (first, second)]
    labels = tuple(read_labels(path.parent.parent / "labels" / path.name) for path in (first, second))
    name = f"{first.name[:15]} {second.name[:15]}"
    return Case(family, name, *map(Subject, images), _onto(*images, wrong), labels=labels)


def _brains(family: str, first: Path, second: Path, wrong: np.ndarray | None = None) -> Case:
    images = [_shrunk(read_volume(path), False) for path in (first, second)]
    labels = tuple(_shrunk(read_labels(str(path).replace("_SS", "_glm")), True) for path in (first, second))
    return Case(
        family, f"{first.name[:4]} {second.name[:4]}", *map(Subject, images), _onto(*images, wrong), labels=labels
    )


def _strangers(family: str, first: Path, second: Path) -> Case:
    images = read_volume(first), _shrunk(read_volume(second), False)
    return Case(
        family, f"{first.name[:15]} {second.name[:4]}", *map(Subject, images), _onto(*images, None), mismatched=True
    )


def _slices(family: str, first: Path, second: Path, degrees: float) -> Case:
    images = [read_volume(path) for path in (first, second)]
    initial = _onto(*images, turn(2, degrees))
    return Case(family, f"{first.stem} {second.stem}", *map(Subject, images), initial, mismatched=True)


def _shrunk(volume: Volume, labels: bool, count: int = 3) -> Volume:
    """Blocks of `count` voxels averaged, or their middle ones."""
    shape = [n // count for n in volume.data.shape]
    data = volume.data[tuple(slice(0, n * count) for n in shape)].reshape([x for n in shape for x in (n, count)])
    odd = tuple(range(1, 2 * volume.ndim, 2))
    data = data.mean(odd, dtype=np.float32) if not labels else data[(slice(None), count // 2) * volume.ndim]
    affine = volume.grid.affine.copy()
    affine[:-1, -1] = volume.grid.index_to_physical(np.full(volume.ndim, (count - 1) / 2))
    affine[:-1, :-1] *= count
    return Volume(Grid(data.shape, affine), np.ascontiguousarray(data), volume.name)
