# SPDX-License-Identifier: Apache-2.0
"""Made bodies of many kinds, given by formulas, whose true maps or labels are known: for judging the verdict.

A body is a list of soft ellipsoids painted over each other in a space whose unit is the body's own radius, with a
texture that belongs to it. A person is a body whose parts lie and measure a little differently; a scan of a person is
its intensities in some contrast, bent, on a grid in mm. Nothing here resembles anybody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.volume import Volume

Points = np.ndarray


@dataclass(frozen=True)
class Part:
    """An ellipsoid of a body: label 0 is drawn but not labelled."""

    name: str
    center: tuple[float, ...]
    radii: tuple[float, ...]
    label: int = 0


@dataclass(frozen=True)
class Kind:
    """A kind of body: its parts from the outside inwards, their intensities in each contrast, half its field of view
    in its own units (x, y, z), the length of that unit in mm, and how much of the intensity is texture."""

    parts: tuple[Part, ...]
    contrasts: Mapping[str, Mapping[str, float]]
    view: tuple[float, ...]
    unit_mm: float
    texture: float = 0.05
    around: float = 0.0
    edge: float = 0.04


def _mirrored(part: Part, label: int) -> Part:
    return Part(part.name, (-part.center[0], *part.center[1:]), part.radii, label)


_ABDOMEN = (
    Part("fat", (0, 0, 0), (1.0, 0.72, 2.6)),
    Part("muscle", (0, 0.02, 0), (0.9, 0.6, 2.6)),
    Part("bowel", (0.05, -0.15, -0.9), (0.55, 0.32, 0.6), 6),
    Part("liver", (-0.4, -0.08, 0.45), (0.45, 0.42, 0.45), 1),
    Part("spleen", (0.6, 0.18, 0.5), (0.18, 0.26, 0.28), 2),
    Part("gas", (0.3, -0.28, 0.45), (0.24, 0.16, 0.22), 3),
    Part("kidney", (0.42, 0.24, -0.1), (0.15, 0.14, 0.28), 4),
    Part("kidney", (-0.42, 0.24, -0.22), (0.15, 0.14, 0.28), 5),
    Part("bone", (0, 0.42, 0), (0.17, 0.15, 2.6)),
    Part("vessel", (0.06, 0.2, 0), (0.08, 0.08, 2.6)),
)
_HEART = (
    Part("tissue", (0, 0, 0), (9, 9, 9)),
    Part("lung", (-0.95, 0.1, 0.2), (0.6, 0.9, 1.4)),
    Part("lung", (0.95, 0.25, 0.2), (0.55, 0.8, 1.4)),
    Part("tissue", (-0.4, 0.1, -1.1), (0.9, 0.8, 0.4), 4),
    Part("muscle", (0.15, -0.1, 0.05), (0.52, 0.46, 0.6), 1),
    Part("vessel", (0.18, -0.08, 0.1), (0.32, 0.28, 0.42), 2),
    Part("vessel", (-0.4, -0.25, 0.05), (0.26, 0.36, 0.48), 3),
    Part("bone", (0, 0.85, 0), (0.22, 0.22, 3.0)),
)
_HIPPOCAMPUS = (
    Part("white", (0, 0, 0), (9, 9, 9)),
    Part("gray", (0.75, 0.1, -0.1), (0.35, 1.6, 0.9)),
    Part("fluid", (0.42, 0.15, 0.38), (0.14, 0.75, 0.12)),
    Part("gray", (0.1, 0.05, -0.62), (0.85, 0.95, 0.22)),
    Part("gray", (-0.05, -0.45, 0.02), (0.26, 0.36, 0.26), 1),
    Part("gray", (0.05, 0.25, 0.06), (0.2, 0.5, 0.2), 2),
    Part("fluid", (-0.55, 0.3, 0.4), (0.24, 0.5, 0.26)),
    Part("gray", (-0.45, -0.75, -0.2), (0.26, 0.26, 0.28)),
)
_FETAL = (
    Part("fluid", (0, 0, 0), (0.86, 1.0, 0.9)),
    Part("gray", (0, -0.05, 0.08), (0.74, 0.86, 0.68), 1),
    Part("white", (0, -0.05, 0.1), (0.62, 0.72, 0.56), 2),
    Part("fluid", (0.22, 0.08, 0.14), (0.12, 0.42, 0.16), 3),
    Part("fluid", (-0.22, 0.08, 0.14), (0.12, 0.42, 0.16), 3),
    Part("gray", (0.16, -0.02, -0.08), (0.15, 0.2, 0.15), 4),
    Part("gray", (-0.16, -0.02, -0.08), (0.15, 0.2, 0.15), 4),
    Part("gray", (0, 0.52, -0.5), (0.42, 0.28, 0.24), 5),
    Part("white", (0, 0.28, -0.62), (0.14, 0.14, 0.3), 6),
)
_PROSTATE = (
    Part("tissue", (0, 0, 0), (9, 9, 9)),
    Part("fluid", (0.05, -0.5, 0.95), (0.8, 0.5, 0.6)),
    Part("gas", (0, 1.05, 0), (0.45, 0.35, 3.0)),
    Part("muscle", (0.95, -0.1, 0), (0.3, 0.9, 1.4)),
    Part("muscle", (-0.95, -0.1, 0), (0.3, 0.9, 1.4)),
    Part("gland", (0, 0.1, 0), (0.58, 0.46, 0.52), 1),
    Part("zone", (0, -0.02, 0.06), (0.34, 0.28, 0.34), 2),
)
_KNEE = (
    Part("fat", (0, 0, 0), (0.75, 0.8, 2.8)),
    Part("muscle", (0, 0.1, 0), (0.66, 0.64, 2.8)),
    Part("bone", (0, -0.02, 1.05), (0.42, 0.4, 0.95), 1),
    Part("bone", (0.02, 0.06, -1.05), (0.42, 0.38, 0.92), 2),
    Part("bone", (0, -0.6, 0.3), (0.24, 0.14, 0.26), 3),
    Part("fluid", (0, -0.35, 0.15), (0.3, 0.1, 0.35)),
    Part("vessel", (0.04, 0.5, 0), (0.08, 0.08, 2.8)),
    Part("bone", (0.48, 0.3, -1.2), (0.14, 0.14, 0.95), 4),
)

# Intensities of tissues, in the order of the contrasts' names.
_CONTRASTS = ("t1", "t2", "ct", "us")
_TISSUES = {
    "fat": (1.0, 0.8, -100, 0.6),
    "muscle": (0.45, 0.25, 50, 0.4),
    "bowel": (0.5, 0.6, 25, 0.5),
    "liver": (0.65, 0.35, 110, 0.5),
    "spleen": (0.42, 0.7, 125, 0.5),
    "gas": (0.03, 0.03, -900, 0.9),
    "kidney": (0.5, 0.85, 180, 0.35),
    "bone": (0.75, 0.5, 420, 1.0),
    "vessel": (0.3, 0.1, 220, 0.1),
    "tissue": (0.55, 0.5, 40, 0.6),
    "lung": (0.06, 0.06, -820, 0.9),
    "white": (0.95, 0.35, 32, 0.5),
    "gray": (0.62, 0.6, 40, 0.4),
    "fluid": (0.18, 1.0, 8, 0.05),
    "gland": (0.5, 0.75, 45, 0.32),
    "zone": (0.42, 0.5, 60, 0.42),
}
_TABLES = {c: {tissue: values[i] for tissue, values in _TISSUES.items()} for i, c in enumerate(_CONTRASTS)}

KINDS: dict[str, Kind] = {
    "abdomen": Kind(_ABDOMEN, _TABLES, (1.15, 0.9, 1.15), 165.0, 0.04),
    "heart": Kind(_HEART, _TABLES, (1.1, 1.0, 1.0), 80.0, 0.06),
    "hippocampus": Kind(_HIPPOCAMPUS, _TABLES, (0.75, 1.05, 0.75), 24.0, 0.12, edge=0.06),
    "fetal": Kind(_FETAL, _TABLES, (1.05, 1.15, 1.1), 45.0, 0.05),
    "prostate": Kind(_PROSTATE, _TABLES, (1.2, 1.0, 1.05), 45.0, 0.08),
    "knee": Kind(_KNEE, _TABLES, (0.9, 0.95, 1.1), 75.0, 0.05),
}


class Waves:
    """A random function of space, of about unit variance: plane waves of random direction and phase."""

    def __init__(self, rng: np.random.Generator, d: int, wavelength: tuple[float, float], count: int = 12) -> None:
        directions = rng.normal(size=(count, d))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        self.vectors = directions * (2 * np.pi / rng.uniform(*wavelength, size=(count, 1)))
        self.phases = rng.uniform(0, 2 * np.pi, count)

    def __call__(self, points: Points) -> np.ndarray:
        return np.sqrt(2 / len(self.phases)) * sum(
            np.cos(points @ vector + phase) for vector, phase in zip(self.vectors, self.phases)
        )


class Bend:
    """A smooth map of space without folds: x + sum of waves, of a root mean square `size`."""

    def __init__(self, rng: np.random.Generator, d: int, size: float, wavelength: tuple[float, float] = (1.3, 2.6)):
        self.size, self.waves = size, [Waves(rng, d, wavelength, 6) for _ in range(d)]

    def __call__(self, points: Points) -> Points:
        if not self.size:
            return points
        return points + self.size / np.sqrt(len(self.waves)) * np.stack([w(points) for w in self.waves], -1)


@dataclass(frozen=True)
class Person:
    """A body of a kind: its parts, the texture that belongs to the body, and what of it is this person's own."""

    kind: Kind
    parts: tuple[Part, ...]
    texture: Callable[[Points], np.ndarray]
    own: Callable[[Points], np.ndarray] = field(default=lambda points: 0.0)

    def intensities(self, points: Points, contrast: str) -> np.ndarray:
        """At points (..., d) of the body's space."""
        table = self.kind.contrasts[contrast]
        reach = max(table.values()) - min(table.values())
        ground = -1000.0 if contrast == "ct" else self.kind.around
        value = np.full(points.shape[:-1], ground)
        for part in self.parts:
            share = 1 / (1 + np.exp(np.clip(-self._depth(part, points) / self.kind.edge * 4, -50, 50)))
            value += share * (table[part.name] - value)
        inside = 1 / (1 + np.exp(np.clip(-self._depth(self.parts[0], points) / self.kind.edge * 4, -50, 50)))
        amplitude = self.kind.texture * (0.1 if contrast == "ct" else 1.0) * reach
        return value + inside * amplitude * (self.texture(points) + self.own(points))

    def labels(self, points: Points) -> np.ndarray:
        found = np.zeros(points.shape[:-1], np.int32)
        for part in self.parts:
            inside = self._depth(part, points) > 0
            found[inside] = part.label
        return found

    @staticmethod
    def _depth(part: Part, points: Points) -> np.ndarray:
        d = points.shape[-1]
        level = np.sqrt((((points - np.array(part.center[:d])) / np.array(part.radii[:d])) ** 2).sum(-1))
        return (1 - level) * min(part.radii[:d])


def person(kind: str, seed: int, jitter: float = 0.0, body: int = 0) -> Person:
    """A person of a kind. Those of one `body` and no jitter are the same but for what else is asked."""
    which, d = KINDS[kind], len(KINDS[kind].view)
    rng = np.random.default_rng([sum(map(ord, kind)), body])
    texture = Waves(rng, d, (0.25, 0.7), 24)
    mine = np.random.default_rng([sum(map(ord, kind)), body, seed + 1])
    own = Waves(mine, d, (0.2, 0.5), 16)
    parts = []
    for part in which.parts:
        move = mine.normal(0, 0.5 * jitter, d) * np.minimum(np.array(part.radii), 0.6)
        grow = np.exp(mine.normal(0, 0.6 * jitter, d))
        parts.append(
            Part(part.name, tuple(np.array(part.center) + move), tuple(np.array(part.radii) * grow), part.label)
        )
    share = 0.6 if jitter else 0.15
    return Person(which, tuple(parts), texture, lambda points: share * own(points))


def retina(seed: int) -> Callable[[Points], np.ndarray]:
    """Intensities of a fundus at points (..., 2) of the unit disk: dark vessels that branch on a bright ground."""
    rng = np.random.default_rng([7, seed])
    segments: list[tuple[np.ndarray, np.ndarray, float]] = []
    for start in np.linspace(0, 2 * np.pi, 5)[:-1] + rng.uniform(0.2, 0.8):
        grow = [(np.array([0.45, 0.0]), start, 0.045)]
        while grow:
            at, angle, width = grow.pop()
            for _ in range(int(rng.integers(3, 6))):
                angle += rng.normal(0, 0.25)
                end = at + 0.13 * np.array([np.cos(angle), np.sin(angle)])
                segments.append((at, end, width))
                at = end
                if np.linalg.norm(at) > 1:
                    break
            if width > 0.018 and np.linalg.norm(at) < 0.95:
                grow += [
                    (at, angle + rng.uniform(0.3, 0.7), width * 0.7),
                    (at, angle - rng.uniform(0.3, 0.7), 0.7 * width),
                ]

    def intensities(points: Points) -> np.ndarray:
        radius = np.linalg.norm(points, axis=-1)
        value = 0.75 - 0.2 * radius**2
        value = value + 0.35 * np.exp(-(((points - [0.45, 0]) / 0.12) ** 2).sum(-1))
        for a, b, width in segments:
            along = np.clip(((points - a) @ (b - a)) / ((b - a) @ (b - a)), 0, 1)
            away = np.linalg.norm(points - a - along[..., None] * (b - a), axis=-1)
            value = value - 0.35 * np.exp(-((away / width) ** 2)) * (value > 0.3)
        return value / (1 + np.exp((radius - 0.97) * 60))

    return intensities


def grid_of(
    view: Sequence[float], unit_mm: float, voxels: int, thick: int = 1, cut: tuple[float, float] = (0.0, 0.0)
) -> Grid:
    """A grid over the box -view … view (x, y, z), of which a part `cut` is left out at the low and high end of the last
    axis; `voxels` along its longest edge, `thick` times fewer along the last axis."""
    d = len(view)
    low, high = -np.array(view, float), np.array(view, float)
    length = high[-1] - low[-1]
    low[-1], high[-1] = low[-1] + cut[0] * length, high[-1] - cut[1] * length
    step = 2 * max(view) / voxels
    steps = np.full(d, step)
    steps[-1] *= thick
    shape = np.maximum(2, np.round((high - low) / steps).astype(int))
    affine = np.eye(d + 1)
    affine[:d, :d] = np.eye(d)[:, ::-1] * (steps[::-1] * unit_mm)
    affine[:d, d] = (low + steps / 2) * unit_mm
    return Grid(tuple(int(n) for n in shape[::-1]), affine)


def places(grid: Grid) -> Points:
    """LPS mm (*shape, d) of all voxel centers."""
    return grid.index_to_physical(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1))


def scanned(values: np.ndarray, grid: Grid, rng: np.random.Generator, noise: float, name: str) -> Volume:
    """Intensities with noise relative to their range, as an image."""
    reach = float(np.percentile(values, 99) - np.percentile(values, 1))
    return Volume(grid, (values + noise * reach * rng.standard_normal(values.shape)).astype(np.float32), name)
