# SPDX-License-Identifier: Apache-2.0
"""Pairs of images whose true deformation is known: two heads, and the paper's bull's eye."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..imaging.grid import Grid
from ..imaging.io import write_volume
from ..imaging.points import write_points
from ..imaging.transforms import write_affine, write_displacement_field
from ..imaging.volume import Volume
from ..registration.metrics import grid_points
from ..support.output_folder import whole_folder
from .anatomy import LABELS, T1, T2, Anatomy, ellipse_distance

if TYPE_CHECKING:
    from torch import Tensor

CONTRASTS = ("different", "same")

# The metric from whose prior the velocity is drawn, lengths in units of 1.25 mm as everywhere. Smoother than the
# registration's own: a draw from that has as much energy at every frequency, which no two heads differ by.
_UNIT_MM = 1.25
_ALPHA, _POWER = 45.0, 6.0
_MODES = 15  # along the longest axis
_DOMAIN_MM = (192, 216, 192)  # periodic box around the head, along S, P, L
_TABLE_MM = 2.5  # lattice on which velocities are tabulated
_MAP_MM = 3.0  # distance of the points that are carried along
_SMALLEST_DETERMINANT = 0.25  # of the deformation; wilder draws are drawn again
_ATTEMPTS = 20
_CHUNK = 1 << 16  # points carried at a time
_SCALE = 900.0  # intensity of the brightest tissue
_BIAS = 0.15  # largest relative deviation of the bias field
_NOISE = 0.022  # standard deviation of the noise, relative to the brightest tissue


@dataclass(frozen=True, eq=False)
class PhantomPair:
    """Two images of heads, what is in them, and the true map between them.

    Attributes:
        fixed, moving: float32 images, 0 outside the brain.
        fixed_labels, moving_labels: uint8, on the grids of the images, of `label_names`.
        fixed_to_moving: float32 (*fixed.grid.shape, 3), LPS mm: the true displacement, affine part included.
        moving_to_fixed: float32 (*moving.grid.shape, 3), LPS mm: its inverse.
        affine: (4, 4), LPS mm, fixed -> moving: the affine part, applied after the deformation.
        fixed_points, moving_points: (n, 3) LPS mm, corresponding landmarks called `point_names`.
        label_names: label -> name.
        parameters: what the pair was made with, and what came out (plain values).
    """

    fixed: Volume
    moving: Volume
    fixed_labels: Volume
    moving_labels: Volume
    fixed_to_moving: np.ndarray
    moving_to_fixed: np.ndarray
    affine: np.ndarray
    fixed_points: np.ndarray
    moving_points: np.ndarray
    point_names: tuple[str, ...]
    label_names: dict[int, str]
    parameters: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Bullseye:
    """The paper's 2-D example: two pairs of concentric ellipses.

    Attributes:
        fixed, moving: float32 images in [0, 1]: ground 0, outer ellipse 0.5, inner ellipse 1.
        fixed_labels, moving_labels: uint8, 1 the outer ellipse's ring, 2 the inner ellipse.
        half_axes: "fixed" and "moving" -> (inner a, inner b, outer a, outer b) in pixels.
    """

    fixed: Volume
    moving: Volume
    fixed_labels: Volume
    moving_labels: Volume
    half_axes: dict[str, tuple[float, float, float, float]]


# ---------------------------------------------------------------- the two heads


def make_pair(
    seed: int = 0,
    shape: Sequence[int] = (112, 128, 112),
    spacing_mm: float = 1.5,
    contrast: str = "different",
    largest_displacement_mm: float = 9.0,
) -> PhantomPair:
    """Draws a head, and the same head deformed by a random geodesic and a random affine map.

    The geodesic's initial velocity is a draw from the Gaussian prior N(0, K) of the metric, scaled so that the
    deformation moves no point of the brain by more than, and one by about, `largest_displacement_mm`. The moving head
    is not a resampled image: the anatomy itself is evaluated where the map leads. Bias field and Rician noise come
    last, and differ. The moving image is stored in sagittal slices; both grids are oblique.

    Args:
        seed: the same seed makes the same pair.
        shape: voxels of the fixed image, slowest axis (inferior to superior) first; the moving image has as many.
        spacing_mm: of both images. The brain measures about 165 x 130 x 145 mm; a smaller field of view cuts it.
        contrast: "different" for a T1-like fixed and a T2-like moving image, "same" for two T1-like ones.
        largest_displacement_mm: 0 to 15, of the deformation without the affine map.

    Raises:
        ValueError: an argument outside its range.
        RuntimeError: torch is not installed.
    """
    shape = tuple(int(n) for n in shape)
    _check(shape, spacing_mm, contrast, largest_displacement_mm)
    # One stream each, so that a change of the image's shape leaves the person and the map as they are.
    person, motion, deformation, fixed_scan, moving_scan = (
        np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(5)
    )
    anatomy = Anatomy(person)
    head = motion.uniform(-12, 12, 3)  # where the fixed head's middle lies in the scanner, LPS mm
    affine, drawn = _random_affine(motion, head)
    fixed_grid = _oblique_grid(shape, spacing_mm, head, fixed_scan, (2, 1, 0), (1, 1, 1))
    moving_grid = _oblique_grid(shape, spacing_mm, _apply(affine, head), moving_scan, (0, 2, 1), (-1, -1, 1))
    geodesic, found = _random_geodesic(deformation, head, largest_displacement_mm)
    inverse = np.linalg.inv(affine)

    def to_moving(points: np.ndarray) -> np.ndarray:
        return _apply(affine, geodesic(points))

    def to_fixed(points: np.ndarray) -> np.ndarray:
        return geodesic(_apply(inverse, points), reverse=True)

    fixed_to_moving = _displacement_on(fixed_grid, to_moving)
    moving_to_fixed = _displacement_on(moving_grid, to_fixed)
    tables = (T1, T2 if contrast == "different" else T1)
    fixed, fixed_labels = _scan(anatomy, fixed_grid, None, head, tables[0], fixed_scan, "fixed")
    moving, moving_labels = _scan(anatomy, moving_grid, moving_to_fixed, head, tables[1], moving_scan, "moving")
    landmarks = anatomy.landmarks()
    fixed_points = np.stack(list(landmarks.values())) + head
    parameters = {
        "seed": int(seed),
        "shape": list(shape),
        "spacing_mm": float(spacing_mm),
        "contrast": contrast,
        "largest_displacement_mm": float(largest_displacement_mm),
        **drawn,
        **found,
        "fixed_contrast": "T1",
        "moving_contrast": "T2" if contrast == "different" else "T1",
        "largest_bias": _BIAS,
        "noise": _NOISE * _SCALE,
        "affine": affine.tolist(),
    }
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
        tuple(landmarks),
        {label: name for label, (name, _) in LABELS.items()},
        parameters,
    )


def _check(shape: tuple[int, ...], spacing_mm: float, contrast: str, largest_displacement_mm: float) -> None:
    if len(shape) != 3 or min(shape) < 16:
        raise ValueError(f"shape must be three numbers of voxels of at least 16, not {shape}.")
    if not 0.3 <= spacing_mm <= 10:
        raise ValueError(f"spacing_mm must lie between 0.3 and 10, not {spacing_mm}.")
    if contrast not in CONTRASTS:
        raise ValueError(f"contrast must be one of {', '.join(CONTRASTS)}, not {contrast!r}.")
    if not 0 <= largest_displacement_mm <= 15:
        raise ValueError(f"largest_displacement_mm must lie between 0 and 15, not {largest_displacement_mm}.")


def _apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def _rotation(axis: np.ndarray, degrees: float) -> np.ndarray:
    """Rodrigues' formula."""
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = math.radians(degrees)
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


def _oblique_grid(
    shape: tuple[int, ...],
    spacing_mm: float,
    center: np.ndarray,
    rng: np.random.Generator,
    axes: tuple[int, int, int],
    signs: tuple[int, int, int],
) -> Grid:
    """A grid around `center`, off by a few mm, its axes tilted by a few degrees from +-L, +-P, +-S.

    Array axis a runs along LPS axis axes[a], backwards where signs[a] is -1; `shape` is that along S, P, L.
    """
    tilt = _rotation(rng.normal(size=3), rng.uniform(4, 8))
    shape = tuple(shape[2 - a] for a in axes)
    affine = np.eye(4)
    affine[:3, :3] = tilt[:, axes] * signs * spacing_mm
    affine[:3, 3] = center + rng.uniform(-2, 2, 3) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


def _random_affine(rng: np.random.Generator, center: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """A rotation of 6 to 10 degrees and scales of 0.95 to 1.05 about `center`, then a shift of 8 to 12 mm."""
    degrees, length = float(rng.uniform(6, 10)), float(rng.uniform(8, 12))
    direction = rng.normal(size=3)
    scales = rng.uniform(0.95, 1.05, 3)
    matrix = np.eye(4)
    matrix[:3, :3] = _rotation(rng.normal(size=3), degrees) * scales
    matrix[:3, 3] = center + length * direction / np.linalg.norm(direction) - matrix[:3, :3] @ center
    return matrix, {"rotation_degrees": degrees, "translation_mm": length, "scales": scales.tolist()}


class _Geodesic:
    """The maps of a geodesic at any point, before the affine.

    Points are carried by RK4 along the velocity, which is tabulated on a lattice in space and at the nodes in time that
    RK4 asks for. Both directions follow the same tabulated velocity, so they are each other's inverse but for the error
    of RK4. Beyond its domain the velocity continues as it is on the border.
    """

    def __init__(self, shooting: Any, velocity: Tensor, domain: Grid, table_mm: float) -> None:
        import torch

        from ..geodesics.band import Evaluator, Lattice
        from ..geodesics.sampling import Sampler

        lattice = Lattice.cells(tuple(math.ceil(n / table_mm) for n in domain.extent), shooting.band.lengths)
        evaluate = Evaluator(shooting.band, lattice)
        self.sampler = Sampler(lattice, lattice)
        self.steps = shooting.recommended_steps(velocity, 0.15, least=8)
        trajectory = shooting.shoot(velocity, self.steps, "rk4")
        nodes = [trajectory.velocities[0]]
        for middle, end in zip(trajectory.middles, trajectory.velocities[1:], strict=True):
            nodes += [middle, end]
        # The sampler's coordinates run from -1 to 1 between the outermost nodes, last axis first.
        factor = np.array([2 / (s * (n - 1)) for s, n in zip(lattice.step, lattice.shape, strict=True)])
        flipped = torch.as_tensor(factor[::-1].copy(), dtype=torch.float32).reshape(3, 1, 1, 1)
        self.nodes = [evaluate(v.float()).flip(0) * flipped for v in nodes]
        self.matrix = ((domain.direction / _UNIT_MM) * factor)[:, ::-1]
        corner = domain.index_to_physical(np.full(3, -0.5))
        self.origin = corner + domain.direction @ (np.array(lattice.origin) * _UNIT_MM)
        self.to_mm = np.linalg.inv(self.matrix)

    def __call__(self, points: np.ndarray, reverse: bool = False) -> np.ndarray:
        """LPS mm (n, 3) -> LPS mm: fixed to moving or, with `reverse`, moving to fixed."""
        import torch

        # dx/dt = v takes moving points to fixed ones; the other map runs back in time.
        nodes, dt = (self.nodes, 1 / self.steps) if reverse else (self.nodes[::-1], -1 / self.steps)
        result = np.empty(points.shape)
        for start in range(0, len(points), _CHUNK):
            part = points[start : start + _CHUNK]
            x = first = torch.as_tensor((part - self.origin) @ self.matrix - 1, dtype=torch.float32)
            for step in range(self.steps):
                begin, middle, end = nodes[2 * step : 2 * step + 3]
                k1 = self._velocity(begin, x)
                k2 = self._velocity(middle, x + dt / 2 * k1)
                k3 = self._velocity(middle, x + dt / 2 * k2)
                k4 = self._velocity(end, x + dt * k3)
                x = x + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            result[start : start + _CHUNK] = part + (x - first).double().numpy() @ self.to_mm
        return result

    def _velocity(self, table: Tensor, x: Tensor) -> Tensor:
        return self.sampler.at(table, x.reshape(1, -1, 1, 1, 3)).reshape(3, -1).T


def _random_geodesic(
    rng: np.random.Generator, head: np.ndarray, largest_mm: float, alpha: float = _ALPHA
) -> tuple[_Geodesic, dict[str, Any]]:
    """A geodesic whose largest displacement in the brain is `largest_mm` to a percent; ``alpha``: of the prior."""
    try:
        import torch
    except ImportError as error:
        raise RuntimeError(
            "PyTorch is needed to draw a geodesic. In Slicer, install the PyTorch extension and its "
            "PyTorch; elsewhere run: pip install torch"
        ) from error

    from ..geodesics.band import Band, Lattice, Metric
    from ..geodesics.jacobian import smallest_determinant
    from ..geodesics.shooting import Shooting

    # The same box whatever the images: axes along S, P, L, cells of 1 mm.
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[::-1]
    affine[:3, 3] = head - (np.array(_DOMAIN_MM[::-1]) - 1) / 2
    domain = Grid(_DOMAIN_MM, affine)
    lengths = domain.extent / _UNIT_MM
    modes = tuple(2 * round((_MODES * n / lengths.max() - 1) / 2) + 1 for n in lengths)
    band = Band(modes, tuple(map(float, lengths)))
    shooting = Shooting(band, Metric(alpha, _POWER), torch.float64)
    # Where displacement and determinant are measured: a coarse lattice over the box of the brain.
    coarse = Lattice((30, 34, 28), (5.0,) * 3, (0.0,) * 3)
    index = np.moveaxis(np.indices(coarse.shape), 0, -1)
    box = (index - (np.array(coarse.shape) - 1) / 2) * 5.0
    points = (box[..., ::-1] + head).reshape(-1, 3)
    brain = ((box / (72, 84, 66)) ** 2).sum(-1) < 1
    for _ in range(_ATTEMPTS):
        draw = torch.as_tensor(rng.normal(size=(3, *modes))) * shooting.K.sqrt()
        draw[:, 0, 0, 0] = 0  # a translation is the affine's business
        velocity, u = draw, np.zeros((3, *coarse.shape))
        reach = float(shooting.product(draw).square().sum(0).max().sqrt()) * _UNIT_MM
        for _ in range(3 if largest_mm else 0):
            velocity = velocity * (largest_mm / reach)
            geodesic = _Geodesic(shooting, velocity, domain, 2 * _TABLE_MM)
            u = (geodesic(points) - points).T[::-1].reshape(3, *coarse.shape)
            reach = float(np.linalg.norm(u, axis=0)[brain].max())
        if not largest_mm:
            velocity, reach = draw * 0, 0.0
        determinant = smallest_determinant(torch.as_tensor(u.copy()), coarse)
        if determinant > _SMALLEST_DETERMINANT:
            break
    else:
        raise ValueError(f"No geodesic of {largest_mm} mm is gentle enough. Choose a smaller largest displacement.")
    geodesic = _Geodesic(shooting, velocity, domain, _TABLE_MM)
    return geodesic, {
        "alpha": alpha,
        "power": _POWER,
        "modes": list(modes),
        "time_steps": geodesic.steps,
        "largest_displacement_found_mm": reach,
        "smallest_determinant": determinant,
        "geodesic_energy": float(shooting.energy(velocity)),
    }


def _displacement_on(grid: Grid, move: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Displacement (*grid.shape, 3), float32 LPS mm, of a smooth map, from points about 3 mm apart."""
    import torch

    from ..geodesics.band import Lattice, Upsampler

    factor = [max(1, round(_MAP_MM / s)) for s in grid.spacing]
    # One node before the grid and two behind, which cubic interpolation asks for.
    shape = tuple((n - 1) // f + 4 for n, f in zip(grid.shape, factor, strict=True))
    index = (np.moveaxis(np.indices(shape), 0, -1).reshape(-1, 3) - 1) * factor
    points = grid.index_to_physical(index)
    values = torch.as_tensor((move(points) - points).T.reshape(3, *shape), dtype=torch.float32)
    source = Lattice(shape, tuple(map(float, factor)), tuple(-float(f) for f in factor))
    target = Lattice(grid.shape, (1.0,) * 3, (0.0,) * 3)
    return np.ascontiguousarray(np.moveaxis(Upsampler(source, target)(values).numpy(), 0, -1))


def _scan(
    anatomy: Anatomy,
    grid: Grid,
    displacement: np.ndarray | None,
    head: np.ndarray,
    contrast: Mapping[int, float],
    rng: np.random.Generator,
    name: str,
) -> tuple[Volume, Volume]:
    """Image and labels on a grid of the anatomy at the displaced points, with bias field and Rician noise."""
    points = grid_points(grid, limit=None)
    if displacement is not None:
        points += displacement.reshape(-1, 3)
    labels, signal = anatomy.render(points - head, contrast, float(grid.spacing.max()))
    labels, signal = labels.reshape(grid.shape), signal.reshape(grid.shape)
    inside = labels > 0
    signal = signal[inside] * np.float32(_SCALE) * _bias(inside, rng)
    noise = rng.standard_normal((2, signal.size), dtype=np.float32) * np.float32(_NOISE * _SCALE)
    image = np.zeros(grid.shape, dtype=np.float32)
    # Whole numbers, as scanners store them; 0 is what a skull stripper left out.
    image[inside] = np.maximum(np.rint(np.hypot(signal + noise[0], noise[1])), 1)
    return Volume(grid, image, name), Volume(grid, labels, f"{name} labels")


def _bias(inside: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Factors around 1, from a random quadratic over the field of view, at the voxels inside (n,)."""
    axes = np.meshgrid(*[np.linspace(-1, 1, n, dtype=np.float32) for n in inside.shape], indexing="ij", sparse=True)
    total = np.zeros(inside.shape, dtype=np.float32)
    linear, quadratic = rng.normal(size=(2, 3)).astype(np.float32)
    for x, a, b in zip(axes, linear, quadratic, strict=True):
        total += a * x + b * x * x
    values = total[inside]
    if not values.size:
        return values
    values -= values.mean()
    return np.exp(values * np.float32(_BIAS / max(float(np.abs(values).max()), 1e-6)))


# ---------------------------------------------------------------- the bull's eye


def bullseye(seed: int = 0) -> Bullseye:
    """Two images of concentric ellipses, 100 x 100 pixels of 1 mm (Wang & Zhang, CVPR 2020, section 4.1).

    Inner half axes are drawn from N(4, 2^2), outer ones from N(13, 4^2), independently along both axes and for both
    images. So that every draw is a bull's eye, inner ones are clipped to 1.5 ... 8 pixels and outer ones to at least 3
    pixels more than the inner one, at most 40.
    """
    rng = np.random.default_rng(seed)
    grid = Grid((100, 100), np.eye(3))
    y, x = (a.astype(np.float32) for a in np.indices(grid.shape))
    volumes, half_axes = {}, {}
    for name in ("fixed", "moving"):
        inner = np.clip(rng.normal(4.0, 2.0, 2), 1.5, 8.0)
        outer = np.clip(rng.normal(13.0, 4.0, 2), inner + 3, 40.0)
        half_axes[name] = (*map(float, inner), *map(float, outer))
        image, labels = np.zeros(grid.shape, dtype=np.float32), np.zeros(grid.shape, dtype=np.uint8)
        for label, axes in ((1, outer), (2, inner)):
            distance = ellipse_distance(x, y, (50.0, 50.0), (float(axes[0]), float(axes[1])))
            labels[distance > 0] = label
            image += np.clip(distance + 0.5, 0, 1) * np.float32(0.5)
        volumes[name] = Volume(grid, image, name)
        volumes[f"{name}_labels"] = Volume(grid, labels, f"{name} labels")
    return Bullseye(**volumes, half_axes=half_axes)


# ---------------------------------------------------------------- files

_FILES = (
    *(f"{name}{rest}" for name in ("fixed", "moving") for rest in (".nii.gz", "_labels.nii.gz", "_points.mrk.json")),
    *("truth_fixed_to_moving.nii.gz", "truth_moving_to_fixed.nii.gz", "truth_affine.tfm"),
    *("labels.ctbl", "phantom.json"),
)


def write_pair(folder: str | os.PathLike, pair: PhantomPair | Bullseye, force: bool = False) -> dict[str, Path]:
    """Writes a pair: images, labels and a JSON file of its parameters; of heads also the truth and landmarks.

    The truth is written as ITK displacement fields in LPS mm, affine part included: `truth_fixed_to_moving.nii.gz` on
    the fixed and `truth_moving_to_fixed.nii.gz` on the moving grid. `labels.ctbl` is Slicer's table of their
    names and colors.

    Args:
        folder: made if needed; the files appear in it all at once, at the end.
        force: replace an earlier pair, of either kind; files of other names stay.

    Returns:
        What it is (the file's name without its endings) -> path.

    Raises:
        InputError: the folder holds files and `force` is not set, is a file, or cannot be written.
        OSError: the disk is full or fails; nothing is left behind, and an earlier pair is as it was.
    """
    with whole_folder(folder, _FILES, force) as temporary:
        _write_files(temporary, pair)
        names = sorted(path.name for path in temporary.iterdir())
    return {name.partition(".")[0]: Path(folder) / name for name in names}


def _write_files(folder: Path, pair: PhantomPair | Bullseye) -> None:
    heads = isinstance(pair, PhantomPair)
    for name in ("fixed", "moving"):
        image: Volume = getattr(pair, name)
        # The heads' intensities are whole numbers.
        write_volume(folder / f"{name}.nii.gz", image.with_data(image.data.astype(np.int16)) if heads else image)
        write_volume(folder / f"{name}_labels.nii.gz", getattr(pair, f"{name}_labels"))
    if not heads:
        content: dict[str, Any] = {"half_axes": pair.half_axes}
    else:
        content = {**pair.parameters, "label_names": pair.label_names}
        write_displacement_field(folder / "truth_fixed_to_moving.nii.gz", pair.fixed.grid, pair.fixed_to_moving)
        write_displacement_field(folder / "truth_moving_to_fixed.nii.gz", pair.moving.grid, pair.moving_to_fixed)
        write_affine(folder / "truth_affine.tfm", pair.affine)
        for name in ("fixed_points", "moving_points"):
            write_points(folder / f"{name}.mrk.json", getattr(pair, name), list(pair.point_names))
        rows = [f"{label} {name} {' '.join(map(str, color))} 255\n" for label, (name, color) in LABELS.items()]
        (folder / "labels.ctbl").write_text("# Color table file\n0 Background 0 0 0 0\n" + "".join(rows))
    (folder / "phantom.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
