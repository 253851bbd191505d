# SPDX-License-Identifier: Apache-2.0
"""What of a training pair is drawn on the host: which subjects, how they lie, and how their images look.

Few and small numbers, of fixed shapes, as arrays that are copied to the device; what has the size of an image (noise,
random geodesics) is drawn there. Everything follows from a seed and the number of the update.

How images look follows SynthMorph (Hoffmann et al., IEEE TMI 2022) and cornucopia: means of labels uniform over 25 to
225 of 255, their spread 5 to 25, bias fields, gamma, blur, thick slices, cropped edges. Beside it each pair has a
*clean* look, the same for both images, by which it is judged: so similarity teaches pairs of different contrast too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..learning.feature_net import MULTIPLE
from ..support.errors import InputError
from .pack import FIRST_OUTSIDE, Pack, known_part

_CODES = 256
_BIAS_POINTS = 4
_EDGES = np.array([[-0.5], [0.5]])  # of a voxel, from its middle


@dataclass(frozen=True)
class Variety:
    """How much pairs are varied.

    Attributes:
        labels_at_once: how many labels a pair is judged by.
        painted: part of the pairs of a set with images and labels that are painted from the labels.
        contrasts: part of the pairs of which the sides differ in contrast.
        stripped: part of the painted pairs without what lies outside (labels from FIRST_OUTSIDE on).
        deformation: largest root mean square of the random geodesics, in voxels.
        turn, scale, shift: standard deviations of what is left of misalignment: degrees, relative, voxels.
        pose_turn, pose_shift: the same of the pose that both sides share.
        degraded: part of the images that are blurred or have thick slices.
        cropped: part of the images whose edges are cut off.
    """

    labels_at_once: int = 24
    painted: float = 0.15
    contrasts: float = 0.6
    stripped: float = 0.6
    deformation: float = 2.0
    turn: float = 2.0
    scale: float = 0.03
    shift: float = 1.2
    pose_turn: float = 6.0
    pose_shift: float = 3.0
    degraded: float = 0.4
    cropped: float = 0.15


class Drawing:
    """Draws pairs of several packs.

    Args:
        packs: on one grid.
        mix: by name, how often pairs come from each; sets that it does not name are not drawn from.
        variety: of the pairs.
        pairs: how many at once.

    Raises:
        InputError: the packs do not fit each other or the mix.
    """

    def __init__(self, packs: Sequence[Pack], mix: Mapping[str, float], variety: Variety, pairs: int = 1):
        self.packs = [pack for pack in packs if mix.get(pack.name, 0) > 0]
        for name in mix:
            if name not in [pack.name for pack in packs]:
                raise InputError(f"There is no pack {name!r}. There are: {', '.join(p.name for p in packs)}.")
        if not self.packs:
            raise InputError("The mix leaves no pack to draw from. Give at least one a share above 0.")
        self.shape, self.spacing_mm = self.packs[0].shape, self.packs[0].spacing_mm
        for pack in self.packs:
            if pack.shape != self.shape or abs(pack.spacing_mm - self.spacing_mm) > 1e-6:
                raise InputError(
                    f"The packs {self.packs[0].name} and {pack.name} have different grids: {self.shape} and "
                    f"{pack.shape} voxels of {self.spacing_mm:g} and {pack.spacing_mm:g} mm. Pack them alike."
                )
            if len(pack.trained) < 2:
                raise InputError(
                    f"{pack.name}: has {len(pack.trained)} subject to train on; pairs need two. Pack more subjects, or "
                    "keep fewer of them aside."
                )
            if any(n % MULTIPLE for n in pack.shape):
                raise InputError(
                    f"{pack.name}: has a grid of {pack.shape} voxels; multiples of {MULTIPLE} are needed. Pack "
                    "the data again."
                )
        shares = np.array([mix[pack.name] for pack in self.packs], float)
        self.shares = shares / shares.sum()
        self.variety, self.pairs = variety, pairs
        self._first: list[tuple[int, int]] = []  # of images and of labels of each pack, in `volumes`
        count = 1
        for pack in self.packs:
            images = count if pack.images is not None else -1
            count += 0 if pack.images is None else len(pack)
            labels = count if pack.labels is not None else -1
            count += 0 if pack.labels is None else len(pack)
            self._first.append((images, labels))
        self._present = [
            None
            if pack.labels is None
            else [np.flatnonzero(np.bincount(x.ravel(), minlength=_CODES)) for x in pack.labels]
            for pack in self.packs
        ]

    def volumes(self) -> np.ndarray:
        """All images and label maps, uint8 (n, *shape), in the order that draws count; the first one is empty."""
        parts = [np.zeros((1, *self.shape), np.uint8)]
        for pack in self.packs:
            parts += [x for x in (pack.images, pack.labels) if x is not None]
        return np.concatenate(parts)

    def extents(self) -> np.ndarray:
        """Of each of the `volumes` the first and the last voxel that it knows along each axis, float32 (n, 2, d): all,
        unless the image was cut out of a larger one."""
        whole = np.array([[-np.inf] * len(self.shape), [np.inf] * len(self.shape)], np.float32)
        found = [whole]
        for pack in self.packs:
            if pack.images is not None:
                parts = [known_part(pack, i) for i in range(len(pack))]
                found += [whole if part is None else part + _EDGES for part in parts]
            if pack.labels is not None:
                found += [whole] * len(pack)
        return np.stack(found).astype(np.float32)

    def momenta(self) -> np.ndarray | None:
        """Of pairs that draws count ("taught"), float16 (n, d, *shape); None if there are none."""
        return None

    def draw(self, seed: Sequence[int]) -> dict[str, np.ndarray]:
        """One update's pairs: images 2k and 2k + 1 are a pair. Shapes and types are always the same."""
        rng = np.random.default_rng(seed)
        rows = [self._pair(rng) for _ in range(self.pairs)]
        return {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}

    def plain(self, name: str, fixed: int, moving: int, seed: Sequence[int] = (0,)) -> dict[str, np.ndarray]:
        """A pair as it is, for validation; a pack without images is painted, each side in a contrast of its own."""
        number = [pack.name for pack in self.packs].index(name)
        pack, rng = self.packs[number], np.random.default_rng(seed)
        still = Variety(self.variety.labels_at_once, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0)
        painted = pack.images is None
        found = self._placed(rng, number, (fixed, moving), painted, still)
        found |= self._looks(rng, pack, painted, painted, True, still)
        found["rms"][:] = 0
        return as_scanned(found)

    def _pair(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        variety = self.variety
        number = int(rng.choice(len(self.packs), p=self.shares))
        pack = self.packs[number]
        painted = pack.images is None or (pack.labels is not None and rng.random() < variety.painted)
        chosen = tuple(int(i) for i in rng.choice(pack.trained, 2, replace=False))
        found = self._placed(rng, number, chosen, painted, variety)
        different = rng.random() < variety.contrasts
        return found | self._looks(rng, pack, painted, different, rng.random() < variety.stripped, variety)

    # ---------------------------------------------------------------------------------------------------------- place

    def _placed(
        self, rng: np.random.Generator, number: int, chosen: tuple[int, int], painted: bool, variety: Variety
    ) -> dict[str, np.ndarray]:
        pack, (images, labels) = self.packs[number], self._first[number]
        to_moving = pack.affines[chosen[1]] @ np.linalg.inv(pack.affines[chosen[0]])
        center = (np.array(self.shape) - 1) / 2
        pose = _turned(rng, center, variety.pose_turn, variety.scale, variety.pose_shift)
        if variety.pose_turn and rng.random() < 0.5:
            # Left and right lie along the last axis of upright arrays.
            pose = pose @ mirror(self.shape, [axis == len(center) - 1 for axis in range(len(center))])
        rest = _turned(rng, center, variety.turn, variety.scale, variety.shift)
        matrices = np.stack([pose, to_moving @ pose @ rest])[:, :-1]
        weights = np.zeros(variety.labels_at_once)
        codes = np.zeros(variety.labels_at_once)
        if labels >= 0:
            both = np.intersect1d(*(self._present[number][i] for i in chosen))
            both = both[(both > 0) & (both < FIRST_OUTSIDE)]
            take = rng.permutation(both)[: variety.labels_at_once]
            codes[: len(take)], weights[: len(take)] = take, 1
        code_at = labels if painted else images
        return {
            "codes": np.array([code_at + i for i in chosen], np.int64),
            "labels": np.array([labels + i if labels >= 0 else 0 for i in chosen], np.int64),
            "matrices": matrices.astype(np.float32),
            "rms": (variety.deformation * np.abs(rng.uniform(0, 1, 2))).astype(np.float32),
            "chosen": np.repeat(codes[None], 2, 0).astype(np.float32),
            "chosen_weights": np.repeat(weights[None], 2, 0).astype(np.float32),
        }

    # ---------------------------------------------------------------------------------------------------------- looks

    def _looks(
        self, rng: np.random.Generator, pack: Pack, painted: bool, different: bool, stripped: bool, variety: Variety
    ) -> dict[str, np.ndarray]:
        mean, spread = np.zeros((2, _CODES)), np.zeros((2, _CODES))
        if painted:
            clean, _ = _paint(rng, pack.alike, stripped)
            mean[0], spread[0] = _paint(rng, pack.alike, stripped)
            mean[1], spread[1] = _paint(rng, pack.alike, stripped)
            if not different:
                change = rng.normal(0, 0.03, _CODES)[_looking(pack.alike, stripped)]
                mean[1] = np.clip(mean[0] + change - change[0], 0, 1)
                spread[1] = spread[0]
        else:
            clean = np.arange(_CODES) / (_CODES - 1)
            mean[:] = clean
            if different:
                for side in {0: (0,), 1: (1,), 2: (0, 1)}[int(rng.integers(3))]:
                    mean[side] = _curve(rng)
        found = {"clean": np.repeat(clean[None], 2, 0), "mean": mean, "spread": spread}
        found["gamma"] = np.exp(rng.normal(0, 0.25, 2))
        found["bias"] = rng.normal(0, 1, (2, 1, *[_BIAS_POINTS] * len(self.shape))) * rng.uniform(
            0, 0.35, (2, *[1] * (1 + len(self.shape)))
        )
        found["noise"] = rng.uniform(0, 1, (2, 2)) ** 2 * np.array([0.12, 0.04])
        matrices = [[np.eye(n) for n in self.shape] for _ in range(2)]
        for side in range(2):
            if rng.random() < variety.degraded:
                matrices[side] = _degraded(rng, self.shape)
            if rng.random() < variety.cropped:
                axis = int(rng.integers(len(self.shape)))
                n, cut = self.shape[axis], int(self.shape[axis] * rng.uniform(0.05, 0.25))
                kept = np.ones(n)
                kept[:cut] = 0
                matrices[side][axis] = (kept if rng.random() < 0.5 else kept[::-1])[:, None] * matrices[side][axis]
        for axis in range(len(self.shape)):
            found[f"resolution_{axis}"] = np.stack([matrices[side][axis] for side in range(2)])
        return {key: np.ascontiguousarray(value, np.float32) for key, value in found.items()}


def mirror(shape: Sequence[int], axes: Sequence[bool]) -> np.ndarray:
    """The affine map that turns arrays of this shape round along some of their axes."""
    flip = np.eye(len(shape) + 1)
    for axis in np.flatnonzero(axes):
        flip[axis, axis], flip[axis, -1] = -1, shape[axis] - 1
    return flip


def as_scanned(draw: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A draw whose images keep their intensities."""
    for key in ("gamma", "bias", "noise"):
        draw[key][:] = 1 if key == "gamma" else 0
    return draw


def _turned(rng: np.random.Generator, center: np.ndarray, turn: float, scale: float, shift: float) -> np.ndarray:
    """A small affine map about a center."""
    d = len(center)
    angles = rng.normal(0, np.radians(turn), (d, d)) if turn else np.zeros((d, d))
    skew = np.triu(angles, 1)
    linear = np.eye(d) + skew - skew.T + rng.normal(0, 1, (d, d)) * scale * (0.4 + 0.6 * np.eye(d))
    matrix = np.eye(d + 1)
    matrix[:d, :d] = linear
    matrix[:d, d] = center - linear @ center + (rng.normal(0, shift, d) if shift else 0)
    return matrix


def _paint(rng: np.random.Generator, alike: Sequence[int], stripped: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mean and spread of each label."""
    mean, spread = rng.uniform(25, 225, _CODES) / 255, rng.uniform(5, 25, _CODES) / 255
    mean[0] = rng.uniform(0, 0.2) if rng.random() < 0.15 else 0  # air is not always black
    spread[0] = 0
    like = _looking(alike, stripped)
    return mean[like], spread[like]


def _looking(alike: Sequence[int], stripped: bool) -> np.ndarray:
    """The code whose look each code has."""
    like = np.arange(_CODES)
    like[: len(alike)] = alike
    if stripped:
        like[FIRST_OUTSIDE:] = 0
    return like


def _curve(rng: np.random.Generator) -> np.ndarray:
    """Other intensities for those of an image, smooth, not always monotone; background stays dark."""
    knots = np.array([0.0, 0.12, 0.3, 0.5, 0.7, 0.85, 1.0])
    kind = rng.integers(3)
    if kind == 0:
        values = 1 - knots + rng.normal(0, 0.1, len(knots))
    elif kind == 1:
        values = rng.uniform(0.1, 1, len(knots))
    else:
        values = np.sort(rng.uniform(0.05, 1, len(knots)))
    x = np.arange(_CODES) / (_CODES - 1)
    curve = np.interp(x, knots, np.clip(values, 0.02, 1))
    edge = rng.uniform(0.015, 0.06)  # how fast the rim of a stripped image rises from the background
    return curve * np.clip(x / edge, 0, 1)


def _degraded(rng: np.random.Generator, shape: tuple[int, ...]) -> list[np.ndarray]:
    """What a scanner's point spread, and half of the time slices of several voxels, make of each axis."""
    matrices = []
    thick = int(rng.integers(len(shape))) if rng.random() < 0.5 else -1
    for axis, n in enumerate(shape):
        at = np.arange(n)
        sigma = rng.uniform(0.2, 1.0)
        matrix = np.exp(-0.5 * ((at[:, None] - at) / sigma) ** 2)
        if axis == thick:
            size = rng.uniform(1.5, 5)
            centers = np.arange(rng.uniform(0, size) - size, n + size, size)
            slices = np.clip((size + 1) / 2 - np.abs(centers[:, None] - at), 0, 1) + 1e-9
            slices /= slices.sum(1, keepdims=True)
            position = (at - centers[0]) / size
            weights = np.clip(1 - np.abs(position[:, None] - np.arange(len(centers))), 0, None)
            matrix = weights @ slices
        matrices.append(matrix / matrix.sum(1, keepdims=True))
    return matrices
