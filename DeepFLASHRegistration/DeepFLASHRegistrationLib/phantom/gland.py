# SPDX-License-Identifier: Apache-2.0
"""A gland that two modalities show, which agree in little or nothing: what intensities alone do not register.

A prostate, about: an outer zone, an inner one, a duct, a lesion and a cyst, in soft tissue with a bone before it. The
fixed image is MR-like; the moving one ultrasound-like, with speckle and a shading along its depth.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..imaging.grid import Grid
from ..imaging.volume import Volume
from ..registration.metrics import grid_points
from .anatomy import _blend, _ellipsoid, _Waves
from .pairs import PhantomPair, _apply, _displacement_on, _oblique_grid, _random_affine, _random_geodesic

GLAND_LABELS = {1: "outer zone", 2: "inner zone", 3: "duct", 4: "lesion", 5: "cyst", 6: "bone"}
# The gland: all that its contour holds, of which the others are inner structures; and what lies outside.
WHOLE = (1, 2, 3, 4, 5)

_MR = {0: 0.35, 1: 0.75, 2: 0.5, 3: 0.85, 4: 0.3, 5: 0.95, 6: 0.08}
# Of ultrasound that shows the anatomy faintly, and of one that shows nothing of it.
_ULTRASOUND = {
    "different": {0: 0.55, 1: 0.42, 2: 0.5, 3: 0.34, 4: 0.45, 5: 0.3, 6: 0.75},
    "none": dict.fromkeys(range(7), 0.5),
}
# The deformation of a gland that a probe presses is smoother, for its size, than what two heads differ by.
_SCALE, _ALPHA = 0.6, 45.0
_SPECKLE = 0.35
# Of the gland's shape: by how much the base is wider, and how deep the hollow is, in mm.
_TAPER, _HOLLOW = 0.25, 4.0


def make_gland(
    seed: int = 0,
    shape: tuple[int, int, int] = (64, 64, 64),
    spacing_mm: float = 1.5,
    contrast: str = "different",
    largest_displacement_mm: float = 9.0,
) -> PhantomPair:
    """Draws a gland in an MR-like image, and the same one, deformed, in an ultrasound-like image.

    Args:
        seed: the same seed makes the same pair.
        shape: voxels of the fixed image, slowest axis (inferior to superior) first; the moving image has as many.
        spacing_mm: of both images; the gland measures 48 x 36 x 42 mm.
        contrast: "different", of which mutual information sees a little; "none": only the place of what was drawn by
            hand (labels, landmarks) tells anything.
        largest_displacement_mm: of the deformation without the affine map.

    Returns:
        PhantomPair, whose labels are those of GLAND_LABELS and whose landmarks are middles and ends of structures.

    Raises:
        ValueError: an unknown contrast, or no gentle deformation of that size.
        RuntimeError: torch is not installed.
    """
    if contrast not in _ULTRASOUND:
        raise ValueError(f"contrast must be one of {', '.join(_ULTRASOUND)}, not {contrast!r}.")
    person, motion, deformation, fixed_scan, moving_scan = (
        np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(5)
    )
    gland = _Gland(person)
    middle = motion.uniform(-12, 12, 3)
    affine, drawn = _random_affine(motion, middle)
    fixed_grid = _oblique_grid(shape, spacing_mm, middle, fixed_scan, (2, 1, 0), (1, 1, 1))
    moving_grid = _oblique_grid(shape, spacing_mm, _apply(affine, middle), moving_scan, (0, 2, 1), (-1, -1, 1))
    large, found = _random_geodesic(deformation, middle, largest_displacement_mm / _SCALE, _ALPHA)
    inverse = np.linalg.inv(affine)

    def deformed(points: np.ndarray, reverse: bool = False) -> np.ndarray:
        return middle + _SCALE * (large(middle + (points - middle) / _SCALE, reverse) - middle)

    def to_moving(points: np.ndarray) -> np.ndarray:
        return _apply(affine, deformed(points))

    def to_fixed(points: np.ndarray) -> np.ndarray:
        return deformed(_apply(inverse, points), reverse=True)

    fixed_to_moving = _displacement_on(fixed_grid, to_moving)
    moving_to_fixed = _displacement_on(moving_grid, to_fixed)
    fixed, fixed_labels = _magnetic_resonance(gland, fixed_grid, middle, fixed_scan)
    moving, moving_labels = _ultrasound(gland, moving_grid, moving_to_fixed, middle, _ULTRASOUND[contrast], moving_scan)
    fixed_points = np.stack(list(gland.landmarks.values())) + middle
    return PhantomPair(
        fixed,
        moving,
        fixed_labels,
        moving_labels,
        fixed_to_moving,
        moving_to_fixed,
        affine,
        fixed_points,
        to_moving(fixed_points),
        tuple(gland.landmarks),
        GLAND_LABELS,
        {
            "seed": int(seed),
            "shape": list(shape),
            "spacing_mm": float(spacing_mm),
            "contrast": contrast,
            **drawn,
            **found,
        },
    )


class _Gland:
    """What is where, in mm from the gland's middle: x to the left, y to the back, z upwards."""

    def __init__(self, rng: np.random.Generator) -> None:
        vary = rng.uniform(0.9, 1.1, (6, 3))
        self.outer = tuple(np.array((25.0, 16.0, 20.0)) * vary[0])
        self.inner = tuple(np.array((15.0, 9.0, 13.0)) * vary[1])
        self.lesion = tuple(np.array((11.0, 6.0, -5.0)) * vary[2])
        self.cyst = tuple(np.array((-9.0, 6.0, 6.0)) * vary[3])
        self.bone = tuple(np.array((0.0, -33.0, 4.0)) * vary[4])
        self.surface = _Waves(rng, 6, (20.0, 35.0), 1.0)
        self.texture = _Waves(rng, 24, (8.0, 25.0), 1.0)
        a, b, c = self.outer
        self.landmarks = {
            name: np.array(place, dtype=np.float64)
            for name, place in (
                ("apex", (0, 0, -0.8 * c)),
                ("base", (0, 0, 0.8 * c)),
                ("left", (0.8 * a, 0, 0)),
                ("right", (-0.8 * a, 0, 0)),
                ("front", (0, -0.8 * b, 0)),
                ("back", (0, 0.8 * b, 0)),
                ("lesion", self.lesion),
                ("cyst", self.cyst),
                ("middle", (0, 0, 0)),
                ("left front", (0.5 * a, -0.5 * b, 0.4 * c)),
                ("right front", (-0.5 * a, -0.5 * b, -0.4 * c)),
                ("bone", self.bone),
            )
        }

    def labels(self, points: np.ndarray) -> np.ndarray:
        """Labels (n,) uint8 at points (n, 3)."""
        x, y, z = points.T.astype(np.float32)
        # Narrow at the apex, broad at the base, and hollow behind, where the rectum lies.
        wide = 1 + np.float32(_TAPER) * np.tanh(z / self.outer[2])
        hollow = np.float32(_HOLLOW) * np.exp(-np.square(x / (0.5 * self.outer[0])))
        whole = _ellipsoid(x / wide, (y + hollow * (y > 0)) / wide, z, (0, 0, 0), self.outer)
        whole = whole + np.float32(0.8) * self.surface.values(x, y, z)
        found = np.zeros(len(points), dtype=np.uint8)
        found[_ellipsoid(x, y, z, self.bone, (22, 6, 9)) > 0] = 6
        found[whole > 0] = 1
        inside = whole > 1
        for label, distance in (
            (2, _ellipsoid(x, y, z, (0, -3, 3), self.inner)),
            (3, 2.5 - np.hypot(x, y + 2)),
            (4, _ellipsoid(x, y, z, self.lesion, (5, 4, 5))),
            (5, _ellipsoid(x, y, z, self.cyst, (4, 4, 4))),
        ):
            found[inside & (distance > 0)] = label
        return found


def _painted(labels: np.ndarray, contrast: Mapping[int, float]) -> np.ndarray:
    table = np.zeros(256, dtype=np.float32)
    table[list(contrast)] = list(contrast.values())
    return table[labels]


def _magnetic_resonance(
    gland: _Gland, grid: Grid, middle: np.ndarray, rng: np.random.Generator
) -> tuple[Volume, Volume]:
    points = grid_points(grid, limit=None) - middle
    labels = gland.labels(points)
    signal = _painted(labels, _MR) + np.float32(0.05) * gland.texture.values(*points.T.astype(np.float32))
    noise = rng.standard_normal((2, len(points)), dtype=np.float32) * np.float32(0.03)
    image = np.rint(900 * np.hypot(signal + noise[0], noise[1]))
    return Volume(grid, image.reshape(grid.shape), "fixed"), Volume(grid, labels.reshape(grid.shape), "fixed labels")


def _ultrasound(
    gland: _Gland,
    grid: Grid,
    displacement: np.ndarray,
    middle: np.ndarray,
    contrast: Mapping[int, float],
    rng: np.random.Generator,
) -> tuple[Volume, Volume]:
    """Speckle is in the probe's frame and has nothing of the anatomy: what MR-like textures show is not seen."""
    places = grid_points(grid, limit=None)
    labels = gland.labels(places + displacement.reshape(-1, 3) - middle)
    signal = _painted(labels, contrast)
    center = places.mean(0)
    offsets = (places - center).astype(np.float32)
    shading = _Waves(rng, 8, (30.0, 90.0), 1.0).values(*offsets.T)
    depth = offsets[:, 1] / np.abs(offsets[:, 1]).max()
    signal = signal * (1 + np.float32(0.1) * shading) * (1 - np.float32(0.25) * depth)
    waves = rng.standard_normal((2, len(places)), dtype=np.float32)
    speckle = np.hypot(*waves) / np.float32(np.sqrt(np.pi / 2)) - 1
    image = np.rint(255 * np.clip(signal * (1 + np.float32(_SPECKLE) * speckle), 0, 1))
    near = _blend(np.float32(1.05) - np.linalg.norm(offsets / (grid.extent.max() / 2), axis=1).astype(np.float32), 0.02)
    image = np.rint(image * near)
    return (
        Volume(grid, image.reshape(grid.shape).astype(np.float32), "moving"),
        Volume(grid, labels.reshape(grid.shape), "moving labels"),
    )
