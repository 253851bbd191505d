# SPDX-License-Identifier: Apache-2.0
"""A skull-stripped head as a function of space: labels and intensities at any point, at any resolution.

The head frame is in mm along L, P, S, with its origin in the middle of the brain. Every structure is a signed distance
(positive inside), exact enough near its surface to give both the label (its sign) and the share of a voxel that the
surface cuts off. Structures are painted over each other from the outside inwards. Sulci are sheets that stand upright
on the brain's surface where a narrow-band random function of the direction vanishes: such zero sets meander like
gyri do.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np

# label: (name, color); the numbers and colors are FreeSurfer's, which Slicer and most tools know by name.
LABELS: dict[int, tuple[str, tuple[int, int, int]]] = {
    2: ("Left-Cerebral-White-Matter", (245, 245, 245)),
    3: ("Left-Cerebral-Cortex", (205, 62, 78)),
    4: ("Left-Lateral-Ventricle", (120, 18, 134)),
    7: ("Left-Cerebellum-White-Matter", (220, 248, 164)),
    8: ("Left-Cerebellum-Cortex", (230, 148, 34)),
    10: ("Left-Thalamus", (0, 118, 14)),
    11: ("Left-Caudate", (122, 186, 220)),
    12: ("Left-Putamen", (236, 13, 176)),
    13: ("Left-Pallidum", (12, 48, 255)),
    14: ("3rd-Ventricle", (204, 182, 142)),
    15: ("4th-Ventricle", (42, 204, 164)),
    16: ("Brain-Stem", (119, 159, 176)),
    17: ("Left-Hippocampus", (220, 216, 20)),
    24: ("CSF", (60, 60, 60)),
    41: ("Right-Cerebral-White-Matter", (245, 245, 245)),
    42: ("Right-Cerebral-Cortex", (205, 62, 78)),
    43: ("Right-Lateral-Ventricle", (120, 18, 134)),
    46: ("Right-Cerebellum-White-Matter", (220, 248, 164)),
    47: ("Right-Cerebellum-Cortex", (230, 148, 34)),
    49: ("Right-Thalamus", (0, 118, 14)),
    50: ("Right-Caudate", (122, 186, 220)),
    51: ("Right-Putamen", (236, 13, 176)),
    52: ("Right-Pallidum", (12, 48, 255)),
    53: ("Right-Hippocampus", (220, 216, 20)),
}
_RIGHT_OF = {2: 41, 3: 42, 4: 43, 7: 46, 8: 47, 10: 49, 11: 50, 12: 51, 13: 52, 17: 53}

# Relative intensities (T1, T2) of the left (or only) label; white matter of T1 and fluid of T2 are 1.
_INTENSITIES = {
    2: (1.00, 0.38),
    3: (0.68, 0.58),
    4: (0.20, 1.00),
    7: (0.97, 0.40),
    8: (0.66, 0.56),
    10: (0.82, 0.47),
    11: (0.72, 0.54),
    12: (0.77, 0.49),
    13: (0.90, 0.32),
    14: (0.20, 1.00),
    15: (0.20, 1.00),
    16: (0.92, 0.43),
    17: (0.70, 0.60),
    24: (0.26, 0.92),
}
T1, T2 = ({label: pair[i] for label, pair in _INTENSITIES.items()} for i in (0, 1))

# Named points of the head frame in mm; those with x > 0 have a mirror image on the right.
_LANDMARKS = {
    "frontal horn": (12.0, -37.0, 3.0),
    "occipital horn": (23.0, 51.0, 1.0),
    "temporal horn": (34.0, -6.0, -25.0),
    "caudate head": (15.0, -24.0, 4.0),
    "thalamus": (11.0, 7.0, 4.0),
    "putamen": (26.0, -5.0, 1.0),
    "hippocampus": (27.0, 6.0, -20.0),
    "genu of corpus callosum": (0.0, -36.0, 4.0),
    "splenium of corpus callosum": (0.0, 43.0, 8.0),
    "4th ventricle": (0.0, 29.0, -37.0),
    "pons": (0.0, 8.0, -33.0),
}

_CHUNK = 1 << 15  # points at a time: a dozen temporaries stay in the cache
_LOBE_CENTER = (15.0, 0.0, 4.0)  # mm; sulci run towards this point (mirrored on the right)
_LOBE_RADII = (50.0, 80.0, 56.0)  # mm, of the ellipsoid on which their pattern is drawn
_CLEAR = 50.0  # mm, a distance that no part of the brain has from a surface


class Anatomy:
    """One person's head; the folding, the ventricles' width and the tissue's texture are drawn from `rng`."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._folds = _Waves(rng, 28, wavelength=(19.0, 25.0), asymmetry=1.8)
        self._swell = _Waves(rng, 6, wavelength=(60.0, 90.0), asymmetry=0.3)
        self._wobble = _Waves(rng, 6, wavelength=(22.0, 36.0), asymmetry=0.3)
        self._texture = _Waves(rng, 6, wavelength=(14.0, 34.0), asymmetry=1.0)
        self._lean = rng.uniform(0, 2 * np.pi, size=2)
        self._ventricles = float(np.clip(np.exp(rng.normal(0.0, 0.12)), 0.8, 1.25))

    def render(
        self, points: np.ndarray, contrast: Mapping[int, float], voxel_mm: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Labels and noise-free intensities at points of the head frame.

        Args:
            points: (n, 3) mm along L, P, S.
            contrast: relative intensity of each left (or only) label, such as T1 or T2.
            voxel_mm: width over which an intensity passes from one tissue to the next (partial volume).

        Returns:
            (n,) uint8 labels of LABELS, 0 outside the brain, and (n,) float32 intensities, 0 outside.
        """
        labels = np.zeros(len(points), dtype=np.uint8)
        intensities = np.zeros(len(points), dtype=np.float32)
        for start in range(0, len(points), _CHUNK):
            x, y, z = np.array(points[start : start + _CHUNK].T, dtype=np.float32, order="C")
            near = np.flatnonzero((x / 76) ** 2 + ((y - 2) / 96) ** 2 + ((z + 4) / 90) ** 2 < 1)
            if near.size:
                x, y, z = x[near], y[near], z[near]
                labels[start + near], intensities[start + near] = self._paint(x, y, z, contrast, voxel_mm)
        return labels, intensities

    def _paint(
        self, x: np.ndarray, y: np.ndarray, z: np.ndarray, contrast: Mapping[int, float], voxel_mm: float
    ) -> tuple[np.ndarray, np.ndarray]:
        x = x - self._meander(y, z)
        side = np.abs(x)
        cerebellum, stem = _cerebellum(side, y, z), _stem(side, y, z)
        # The tentorium: a film of fluid between the lobes above and the cerebellum.
        hull = _minimum(_cerebrum(side, y, z), -cerebellum - 1.2, 2.0)
        inside = np.flatnonzero(_maximum(_maximum(hull, cerebellum, 6.0), stem, 6.0) > -1.3)
        labels = np.zeros(x.shape, dtype=np.uint8)
        intensities = np.zeros(x.shape, dtype=np.float32)
        if not inside.size:
            return labels, intensities
        x, side, y, z, hull, cerebellum, stem = (a[inside] for a in (x, side, y, z, hull, cerebellum, stem))
        canvas = _Canvas(x > 0, contrast, voxel_mm, 24)
        pial, thickness = self._cortex(x, side, y, z, hull)
        canvas.paint(3, pial)
        white = pial - thickness
        canvas.paint(2, white)
        self._paint_cerebellum(canvas, x, side, y, z, cerebellum)
        canvas.paint(16, stem)
        canvas.paint(17, np.minimum(_tube(side, y, z, _HIPPOCAMPUS), pial - 0.5))
        # The cisterns around the midbrain.
        canvas.paint(24, np.minimum(1.1 - np.abs(stem + 1.3), np.minimum(np.minimum(-9 - z, z + 27), y - 7)))
        for label, shape in _NUCLEI.items():
            canvas.paint(label, np.minimum(shape(side, y, z), white - 0.6))
        wider = self._ventricles
        canvas.paint(4, _tube(side, y, z, _LATERAL_VENTRICLE, wider))
        third = np.minimum(_ellipsoid(side, y, z, (0, 1, -4), (7, 13, 9)), 1.6 * wider - side)
        # The thalami touch in its middle.
        canvas.paint(14, np.minimum(third, -_ellipsoid(side, y, z, (0, 3, 0), (4, 4, 3))))
        canvas.paint(15, _ellipsoid(side, y, z, (0, 29, -37), (7.5, 4.5, 9)))
        labels[inside] = canvas.labels
        intensities[inside] = canvas.intensities * (1 + 0.03 * self._texture.values(x, y, z))
        return labels, intensities

    def _meander(self, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """How far the midplane is off the plane x = 0, in mm: nobody is quite symmetric."""
        return (1.3 * np.sin(y / 21 + self._lean[0]) + 0.9 * np.sin(z / 15 + self._lean[1])).astype(np.float32)

    def landmarks(self) -> dict[str, np.ndarray]:
        """Name -> (3,) position (L, P, S) in mm in the head frame."""
        points = {}
        for name, (x, y, z) in _LANDMARKS.items():
            for word, sign in (("left ", 1), ("right ", -1)) if x else (("", 1),):
                points[word + name] = np.array([sign * x + float(self._meander(np.float64(y), np.float64(z))), y, z])
        return points

    def _cortex(
        self, x: np.ndarray, side: np.ndarray, y: np.ndarray, z: np.ndarray, hull: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Distance below the pial surface (fluid where negative), and the thickness of the gray matter."""
        # Between the hemispheres: a sheet in the midplane, outside the ellipse that the corpus callosum rims.
        rim = ellipse_distance(y, z, (4.0, 2.0), (45.0, 26.0))
        medial = np.hypot(side, np.maximum(rim, 0)) - 0.7
        outer = _minimum(hull, medial, 1.5)
        depth = _minimum(outer, _sylvian(side, y, z), 1.5)

        swell = self._swell.values(x, y, z)
        convex = _blend(medial - hull, 8.0)
        value, slope = self._pattern(x > 0, side, y, z, convex)
        sheet = np.abs(value) / np.sqrt(slope * slope + (value / 8) ** 2 + np.float32(1e-6))
        # Shallower on the medial wall, and where its pattern meets that of the convexity.
        floor = 9 + 5 * convex + 4.0 * swell - 20 * convex * (1 - convex)
        column = np.minimum(rim, 24 - side)
        sulcus = np.sqrt(sheet**2 + np.maximum(outer - floor, 0) ** 2 + np.maximum(column, 0) ** 2)
        # Sulci gape at the surface and close towards their floor.
        width = 0.5 + 1.0 * np.exp(-np.maximum(outer, 0) / 3.5)
        pial = _minimum(depth, sulcus - width, 1.2)
        # No cortex where the hemispheres grow out of the diencephalon and the brain stem.
        core = _ellipsoid(side, y, z, (0, 5, -3), (20, 27, 21))
        thickness = 3.0 + 0.35 * swell
        return np.maximum(pial, np.minimum(core, hull + 1) + thickness), thickness

    def _pattern(
        self, left: np.ndarray, side: np.ndarray, y: np.ndarray, z: np.ndarray, convex: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The function whose zeros are the sulci, and the length of its gradient.

        It is drawn on the surface and continued inwards: on the convexity (`convex` near 1) towards the middle of the
        hemisphere, from an ellipsoid of its size, on the medial wall (`convex` near 0) sideways.
        """
        rx, ry, rz = (v - np.float32(c) for v, c in zip((side, y, z), _LOBE_CENTER, strict=True))
        nx, ny, nz = (r * np.float32(1 / a**2) for r, a in zip((rx, ry, rz), _LOBE_RADII, strict=True))
        level = np.sqrt(rx * nx + ry * ny + rz * nz) + np.float32(0.02)
        bend = 2.5 * self._wobble.values(side, y, z)
        flat = 1 - convex
        stretch = convex / level + flat
        value, (gx, gy, gz) = self._folds.values_and_gradient(
            left, convex * rx / level - flat * np.float32(_LOBE_CENTER[0]) + bend, stretch * ry - bend, stretch * rz
        )
        # Chain rule through r / level, whose own gradient is n / level; sideways there is no slope.
        radial = convex * (gx * rx + gy * ry + gz * rz) / level**3
        gx, gy, gz = convex / level * gx - radial * nx, stretch * gy - radial * ny, stretch * gz - radial * nz
        return value, np.sqrt(gx * gx + gy * gy + gz * gz)

    def _paint_cerebellum(
        self, canvas: _Canvas, x: np.ndarray, side: np.ndarray, y: np.ndarray, z: np.ndarray, cerebellum: np.ndarray
    ) -> None:
        """Folia fan out from the roof of the fourth ventricle; white matter sends a branch into each lobule."""
        py, pz = y - 31.0, z + 40.0
        reach = np.sqrt(py * py + pz * pz + (0.35 * side) ** 2) + 1
        angle = np.arctan2(pz, py) + 0.10 * self._wobble.values(x, y, z)
        lobule = np.abs(np.sin(5.5 * angle)) * reach / 5.5
        branch = np.abs(np.cos(5.5 * angle)) * reach / 5.5
        folium = np.abs(np.sin(16.5 * angle)) * reach / 16.5
        fissure = np.hypot(lobule, np.maximum(cerebellum - 9, 0)) - 0.75
        fine = np.hypot(folium, np.maximum(cerebellum - 3.5, 0)) - 0.45
        canvas.paint(8, np.minimum(cerebellum, np.minimum(fissure, fine)))
        center = _maximum(_ellipsoid(side, y, z, (17, 38, -41), (17, 11, 8)), cerebellum - 13, 2.0)
        tree = np.minimum(cerebellum - 3.8, 1.3 - branch)
        canvas.paint(7, np.minimum(np.maximum(center, tree), cerebellum - 2.5))


class _Canvas:
    """Labels and intensities of points, painted one structure over the other."""

    def __init__(self, left: np.ndarray, contrast: Mapping[int, float], voxel_mm: float, ground: int) -> None:
        self.left, self.contrast, self.voxel_mm = left, contrast, voxel_mm
        self.labels = np.full(left.shape, ground, dtype=np.uint8)
        self.intensities = np.full(left.shape, contrast[ground], dtype=np.float32)

    def paint(self, label: int, distance: np.ndarray) -> None:
        """Covers what `distance` (positive inside, mm) says; a label of the left becomes that of the right there."""
        inside = distance > 0
        self.labels[inside] = label
        if label in _RIGHT_OF:
            self.labels[inside & ~self.left] = _RIGHT_OF[label]
        share = np.clip(distance / self.voxel_mm + 0.5, 0, 1)
        self.intensities += share * (self.contrast[label] - self.intensities)


class _Waves:
    """A random function of space: plane waves of random direction and phase, of unit variance.

    The phases of left and right differ by about `asymmetry` radians: hemispheres resemble, but do not mirror, each
    other.
    """

    def __init__(self, rng: np.random.Generator, count: int, wavelength: tuple[float, float], asymmetry: float) -> None:
        directions = rng.normal(size=(count, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        lengths = rng.uniform(*wavelength, size=(count, 1))
        self.vectors = (directions * (2 * np.pi / lengths)).astype(np.float32)
        phases = rng.uniform(0, 2 * np.pi, size=count)
        shift = rng.normal(0.0, asymmetry, size=count) / 2
        self.phases = np.stack([phases - shift, phases + shift]).astype(np.float32)
        self.amplitude = np.float32(np.sqrt(2 / count))

    def values(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """At points of the head frame; symmetric apart from the phases, which change smoothly across the midplane."""
        side = np.sqrt(x * x + 4)
        balance = (x / side + 1) / 2
        total = np.zeros_like(x)
        for (kx, ky, kz), right, left in zip(self.vectors, *self.phases, strict=True):
            total += np.cos(kx * side + ky * y + kz * z + right + (left - right) * balance)
        return self.amplitude * total

    def values_and_gradient(
        self, left: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """At points of one hemisphere (mirrored on the right)."""
        total, *gradient = (np.zeros_like(x) for _ in range(4))
        for vector, *phase in zip(self.vectors, *self.phases, strict=True):
            angle = vector[0] * x + vector[1] * y + vector[2] * z + np.where(left, phase[1], phase[0])
            total += np.cos(angle)
            sine = np.sin(angle)
            for k, g in zip(vector, gradient, strict=True):
                g -= k * sine
        return self.amplitude * total, [self.amplitude * g for g in gradient]


def _blend(difference: np.ndarray, radius: float) -> np.ndarray:
    """0 below -radius, 1 above radius, smooth between."""
    t = np.clip(difference / np.float32(2 * radius) + np.float32(0.5), 0, 1)
    return t * t * (3 - 2 * t)


def _minimum(a: np.ndarray, b: np.ndarray, radius: float) -> np.ndarray:
    """The smaller distance (intersection), with the edge rounded over `radius` mm."""
    blend = np.maximum(radius - np.abs(a - b), 0)
    return np.minimum(a, b) - blend * blend / np.float32(4 * radius)


def _maximum(a: np.ndarray, b: np.ndarray, radius: float) -> np.ndarray:
    """The larger distance (union), with the crease filled over `radius` mm."""
    blend = np.maximum(radius - np.abs(a - b), 0)
    return np.maximum(a, b) + blend * blend / np.float32(4 * radius)


def _ellipsoid(
    x: np.ndarray,
    y: np.ndarray,
    z: np.ndarray,
    center: tuple[float, float, float],
    radii: tuple[float, float, float],
    yaw: float = 0.0,
    pitch: float = 0.0,
) -> np.ndarray:
    """First-order distance to an ellipsoid turned by `yaw` in the axial and `pitch` in the sagittal plane (degrees)."""
    x, y, z = x - np.float32(center[0]), y - np.float32(center[1]), z - np.float32(center[2])
    if yaw:
        c, s = np.float32(np.cos(np.radians(yaw))), np.float32(np.sin(np.radians(yaw)))
        x, y = c * x + s * y, c * y - s * x
    if pitch:
        c, s = np.float32(np.cos(np.radians(pitch))), np.float32(np.sin(np.radians(pitch)))
        y, z = c * y + s * z, c * z - s * y
    x, y, z = (v * np.float32(1 / r) for v, r in zip((x, y, z), radii, strict=True))
    level = np.sqrt(x * x + y * y + z * z)
    x, y, z = (v * np.float32(1 / r) for v, r in zip((x, y, z), radii, strict=True))
    return level * (1 - level) / (np.sqrt(x * x + y * y + z * z) + np.float32(1e-6))


def ellipse_distance(
    y: np.ndarray, z: np.ndarray, center: tuple[float, float], radii: tuple[float, float]
) -> np.ndarray:
    """First-order distance to an ellipse of a plane, positive inside."""
    y, z = (y - np.float32(center[0])) / np.float32(radii[0]), (z - np.float32(center[1])) / np.float32(radii[1])
    level = np.maximum(np.sqrt(y * y + z * z), np.float32(1e-3))  # above 0, so that the center too lies inside
    return level * (1 - level) / (np.sqrt((y / radii[0]) ** 2 + (z / radii[1]) ** 2) + np.float32(1e-6))


def _tube(
    x: np.ndarray, y: np.ndarray, z: np.ndarray, branches: tuple[tuple[tuple[float, ...], ...], ...], wider: float = 1.0
) -> np.ndarray:
    """Distance to tubes along polylines of nodes (x, y, z, radius)."""
    result = np.full_like(x, -_CLEAR)
    for nodes in branches:
        for start, end in itertools.pairwise(nodes):
            a, ab = np.float32(start), np.float32(end) - np.float32(start)
            dx, dy, dz = x - a[0], y - a[1], z - a[2]
            t = np.clip((dx * ab[0] + dy * ab[1] + dz * ab[2]) / (ab[:3] @ ab[:3]), 0, 1)
            dx, dy, dz = dx - t * ab[0], dy - t * ab[1], dz - t * ab[2]
            distance = (a[3] + t * ab[3]) * np.float32(wider) - np.sqrt(dx * dx + dy * dy + dz * dz)
            result = _maximum(result, distance, 2.0)
    return result


def _cerebrum(side: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    # Egg-shaped from above (frontal lobes are narrower), flatter below than above.
    wide = side * (1 - 0.0011 * y)
    height = np.where(z > 8, np.float32(60), np.float32(38))
    level = np.sqrt(((wide - 13) / 51) ** 2 + (y / 83) ** 2 + ((z - 8) / height) ** 2)
    slope = np.sqrt(((wide - 13) / 51**2) ** 2 + (y / 83**2) ** 2 + ((z - 8) / height**2) ** 2)
    main = level * (1 - level) / (slope + 1e-6)
    temporal = _ellipsoid(side, y, z, (42, -6, -25), (19.5, 38, 16), yaw=-6, pitch=-12)
    return _maximum(main, temporal, 5.0)


def _cerebellum(side: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    lobe = _ellipsoid(side, y, z, (23, 47, -43), (31, 26, 22), yaw=18)
    vermis = _ellipsoid(side, y, z, (0, 47, -38), (11, 22, 20))
    return _maximum(lobe, vermis, 6.0)


def _stem(side: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    axis = _tube(side, y, z, (((0, 13, -10, 11), (0, 17, -30, 11), (0, 24, -55, 7.5), (0, 26, -74, 6)),))
    pons = _ellipsoid(side, y, z, (0, 9, -33), (16, 10.5, 12.5))
    peduncle = _tube(side, y, z, (((10, 14, -34, 7), (20, 30, -40, 5)),))
    return np.minimum(_maximum(_maximum(axis, pons, 4.0), peduncle, 4.0), z + 72)


def _sylvian(side: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The fissure above the temporal lobe, and the insula at its bottom: distance to its walls."""
    height = z - (-9 + 0.22 * y + 0.25 * (side - 37) + 1.3 * np.sin(y / 7))
    beyond = np.maximum(np.maximum(-34 - y, y - 34), 0)
    cleft = np.sqrt(height * height + np.maximum(37 - side, 0) ** 2 + beyond * beyond)
    wall = side - (38 - 0.004 * (y + 5) ** 2 - 0.012 * (height - 4) ** 2 + 0.7 * np.sin(y / 3))
    insula = np.sqrt(
        wall * wall + np.maximum(np.abs(height - 4) - 11, 0) ** 2 + np.maximum(np.maximum(-27 - y, y - 17), 0) ** 2
    )
    return np.minimum(cleft, insula) - 0.9


_LATERAL_VENTRICLE = (
    (
        (13, -38, 2, 1.8),
        (8.5, -27, 9, 5.0),
        (6.8, -6, 16.5, 5.0),
        (11, 14, 17, 5.0),
        (20, 29, 9, 7.0),
        (25, 36, 4, 5.6),
        (23, 54, 1, 1.8),
    ),
    ((23, 33, 5, 5.2), (33, 20, -10, 3.6), (34.5, -2, -23, 2.4), (33.5, -9, -26, 1.4)),
)
_CAUDATE = (((13.5, -28, 2, 5.6), (15.5, -20, 6, 6.2), (16, -6, 15, 4.4), (18.5, 8, 19, 3.0), (23.5, 20, 17, 1.8)),)
_HIPPOCAMPUS = (((24, -10, -23, 4.2), (27, 2, -20, 4.4), (27, 16, -13, 3.6), (23, 26, -6, 2.6)),)
_NUCLEI = {
    12: lambda x, y, z: _ellipsoid(x, y, z, (26, -5, 2), (6.2, 18, 11.5), yaw=-12, pitch=6),
    13: lambda x, y, z: _ellipsoid(x, y, z, (19.5, -3, -1), (4.6, 11.5, 8), yaw=-22),
    10: lambda x, y, z: _ellipsoid(x, y, z, (11, 7, 4), (8.6, 14.5, 9.5), yaw=-24),
    11: lambda x, y, z: _tube(x, y, z, _CAUDATE),
}
