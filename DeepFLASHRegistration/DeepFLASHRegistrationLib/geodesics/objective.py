# SPDX-License-Identifier: Apache-2.0
"""The energy of FLASH for two images at one level of resolution, and its gradient.

    E(v0) = D(S∘ψ₁, T)/(2σ²) + ½ ∫⟨Lv0, v0⟩ / |mask|

D is the mean dissimilarity over the mask and |mask| its volume, so that neither the resolution nor the empty space
around the object changes what σ means. Multiplied by the number of voxels in the mask this is the energy of FLASH
(Zhang & Fletcher, IJCV 2019). What D compares decides a `Compared`: images here, the map itself in known_map.py.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from .band import Band, Lattice, Metric, Upsampler
from .captured import Captured, require
from .flow import BandLimitedFlow, Flow
from .resizing import resized
from .sampling import NonFiniteField, Sampler
from .shooting import Shooting
from .similarities import make_similarity

# A discrete geodesic whose energy ⟨Lv, v⟩ changes by more than this fraction is none: more time steps are needed.
ENERGY_DRIFT = 0.3
# Arguments of Shooting.recommended_steps by integrator. Two steps of fourth order keep the energy to 0.2 % where eight
# of the multistep change it by 4 % (brains, band 47), and a step of the map costs more than two evaluations of EPDiff.
_STEPPING = {
    "euler": {"per_step": 0.5, "least": 3},
    "multistep": {"per_step": 0.5, "least": 3},
    "midpoint": {"per_step": 0.5, "least": 3},
    "rk4": {"per_step": 1.25, "least": 2},
}


class Side(Protocol):
    """What a map of one direction leads to.

    Attributes:
        direction: of the map, "fixed_to_moving" or "moving_to_fixed".
        cells: those of the level's cells where it looks.
        covered: their weights' part of the domain.
        weight: how much its dissimilarity counts in the energy.
        steers: whether it is told apart from the dissimilarity of what is registered, which it helps.
        square: whether the dissimilarity is all but a square of the displacement.
    """

    direction: str
    cells: Lattice
    covered: float
    weight: float
    steers: bool
    square: bool

    def at_rest(self) -> Tensor:
        """Dissimilarity where the map is the identity."""

    def __call__(self, displacement: Tensor) -> tuple[Tensor, Any]:
        """Dissimilarity for a map (d, *map lattice) minus the identity; and what was seen, a named tuple of tensors of
        which ``displacement`` is one."""

    def curvature(self, sight: Any) -> Tensor:
        """Its second derivatives by the displacement at each of the cells where this was seen, of Gauss and Newton:
        the upper triangles as `upper` orders them, (d(d + 1)/2, *cells)."""


@runtime_checkable
class Stiff(Protocol):
    """A side whose dissimilarity is, all but little, the square of one number, which many places decide together."""

    weight: float

    def residual(self, displacement: Tensor) -> Tensor:
        """That number, of a map (d, *map lattice) minus the identity."""


class Compared(Protocol):
    """What an energy compares, on cells of the domain.

    Attributes:
        lengths: edges of the domain.
        like: any tensor on the cells.
        data_part: of the dissimilarity's curvature, what a direction of Gauss and Newton trusts.
        weights: for each side where it is compared, (*shape).
    """

    lengths: tuple[float, ...]
    data_part: float

    @property
    def like(self) -> Tensor: ...

    @property
    def weights(self) -> tuple[Tensor, ...]: ...

    def reduced(self, factors: Sequence[int]) -> Compared:
        """On cells of ``factors`` voxels per axis (which must divide the shape)."""

    def sides(self, objective: Objective, velocity: Tensor) -> list[Side]:
        """Of an objective that has all but these, whose search starts at the velocity."""


def upper(d: int) -> list[tuple[int, int]]:
    """Indices of the upper triangle of a matrix, row by row."""
    return [(i, j) for i in range(d) for j in range(i, d)]


@dataclass(frozen=True)
class Pair:
    """Two images on the same cells of the domain: fixed, moving (*shape); weights (*shape) of 0..1.

    fixed_mask and moving_mask say where the similarity is measured (the latter if symmetric), fixed_view and
    moving_view (None: everywhere) where an image means anything; similarity: by which they are compared, that of the
    settings if it is "".
    """

    fixed: Tensor
    moving: Tensor
    fixed_mask: Tensor
    moving_mask: Tensor
    fixed_view: Tensor | None
    moving_view: Tensor | None
    lengths: tuple[float, ...]
    similarity: str = ""
    # A step of Gauss and Newton that is damped in the metric (Levenberg, Marquardt): the similarity is far from
    # quadratic over the steps that pay.
    data_part: ClassVar[float] = 0.03

    @property
    def like(self) -> Tensor:
        return self.fixed

    @property
    def weights(self) -> tuple[Tensor, ...]:
        return self.fixed_mask, self.moving_mask

    def reduced(self, factors: Sequence[int]) -> Pair:
        """On cells of ``factors`` voxels per axis (which must divide the shape); masks and views averaged over them."""
        if all(f == 1 for f in factors):
            return self
        if any(n % f for n, f in zip(self.fixed.shape, factors, strict=True)):
            raise ValueError(f"Blocks of {tuple(factors)} voxels do not divide a shape of {tuple(self.fixed.shape)}.")
        pool = F.avg_pool3d if self.fixed.ndim == 3 else F.avg_pool2d
        shape = [n // f for n, f in zip(self.fixed.shape, factors, strict=True)]

        def reduce(x: Tensor | None) -> Tensor | None:
            return None if x is None else pool(x[None, None], tuple(factors))[0, 0]

        images = (resized(x, shape) for x in (self.fixed, self.moving))
        weights = map(reduce, (self.fixed_mask, self.moving_mask, self.fixed_view, self.moving_view))
        return Pair(*images, *weights, self.lengths, self.similarity)

    def sides(self, objective: Objective, velocity: Tensor) -> list[Side]:
        sides = [_ImageSide(objective, "fixed_to_moving", self, velocity)]
        if objective.settings.symmetric:
            sides.append(_ImageSide(objective, "moving_to_fixed", self, velocity))
        for side in sides:
            side.weight = 1 / len(sides)
        return sides


class Part(NamedTuple):
    """One of several things that a geodesic is to fit, by how much its dissimilarity counts, and whether it steers."""

    compared: Compared
    weight: float
    steers: bool = False


@dataclass(frozen=True)
class Together:
    """Several things that one geodesic is to fit, on the same cells of the domain; the first decides what covers it."""

    parts: tuple[Part, ...]

    @property
    def lengths(self) -> tuple[float, ...]:
        return self.parts[0].compared.lengths

    @property
    def data_part(self) -> float:
        return self.parts[0].compared.data_part

    @property
    def like(self) -> Tensor:
        return self.parts[0].compared.like

    @property
    def weights(self) -> tuple[Tensor, ...]:
        return tuple(weight for part in self.parts for weight in part.compared.weights)

    def reduced(self, factors: Sequence[int]) -> Together:
        """Each on cells of ``factors`` voxels per axis."""
        return Together(tuple(part._replace(compared=part.compared.reduced(factors)) for part in self.parts))

    def sides(self, objective: Objective, velocity: Tensor) -> list[Side]:
        every: list[Side] = []
        for part in self.parts:
            for side in part.compared.sides(objective, velocity):
                side.weight, side.steers = part.weight * side.weight, part.steers
                every.append(side)
        return every


@dataclass(frozen=True)
class Level:
    """One stage: voxels averaged per axis, band, metric, window radius in voxels per axis, most iterations."""

    factors: tuple[int, ...]
    band: Band
    metric: Metric
    radius: tuple[float, ...]
    iterations: int
    map_step: float  # lattice of the map, in units of length


@dataclass(frozen=True)
class Settings:
    """What all levels share."""

    similarity: str = "lncc"
    symmetric: bool = False
    sigma: float = 0.05
    integrator: str = "multistep"
    steps: int = 0
    band_limited_map: bool = False
    tolerance: float = 1e-4
    search: str = "gauss-newton"  # a name in search.directions.DIRECTIONS


class NoGeodesic(ArithmeticError):
    """What was shot drifts, or its energy is no number."""


class Displaced(NamedTuple):
    """What a side saw that looks at the map alone: that minus the identity, on the objective's map lattice."""

    displacement: Tensor


class Sight(NamedTuple):
    """What an image's side saw: its map minus the identity on the objective's map lattice; in its box of the level's
    cells the warped image, and that image's derivatives by the displacement there, (d, *box)."""

    displacement: Tensor
    warped: Tensor
    slope: Tensor


@dataclass(frozen=True)
class Evaluation:
    """E at one velocity and its parts; gradient with respect to the coefficients of v0, (d, *modes), None where E is
    infinite; what each side saw; and the gradients (k, d, *modes) of the sides' residuals, see Stiff."""

    energy: float
    dissimilarity: float
    regularization: float
    gradient: Tensor | None
    sights: tuple[Any, ...]
    normals: Tensor | None = None

    @property
    def displacement(self) -> Tensor:
        """The map fixed_to_moving minus the identity."""
        return self.sights[0].displacement

    @property
    def warped(self) -> Tensor:
        """The warped moving image in the first side's box."""
        return self.sights[0].warped


class _Values(NamedTuple):
    """An Evaluation on the device: energy, dissimilarity and regularization (3,), the gradient, the sights, and the
    normals."""

    figures: Tensor
    gradient: Tensor
    sights: tuple[Any, ...]
    normals: Tensor


_INFINITE = Evaluation(math.inf, math.inf, math.inf, None, ())


class _ImageSide:
    """See Side: one image resampled onto the other, compared inside a mask."""

    steers = square = False

    def __init__(self, objective: Objective, direction: str, pair: Pair, velocity: Tensor):
        forth = (pair.fixed, pair.fixed_mask, pair.fixed_view), (pair.moving, pair.moving_view)
        back = (pair.moving, pair.moving_mask, pair.moving_view), (pair.fixed, pair.fixed_view)
        (still, mask, own_view), (warped, view) = forth if direction == "fixed_to_moving" else back
        dtype, device, cells, radius = still.dtype, still.device, objective.cells, objective.level.radius
        # The similarity sees only the box around the mask: half the voxels of a head, and none that do not count.
        lower, end = box(mask > 0, tuple(math.ceil(r) + 1 for r in radius))
        self.crop = tuple(slice(a, b) for a, b in zip(lower, end, strict=True))
        part = self.cells = cells.box(lower, end)
        self.direction = direction
        self.upsample = Upsampler(objective.flow.lattice, part, dtype, device)
        # Between coarse cells the image is smooth: it is continued to the finest ones, and linear between those.
        self.warped = resized(warped, objective.finest.shape)[None]
        self.sample = Sampler(part, objective.finest, dtype, device)
        mask = mask[self.crop]
        support = None if own_view is None else own_view[self.crop]
        if view is not None:
            # Where the warped image ends is judged once a level, with the map the level starts from: a mask that moved
            # with every step would reward steps that push voxels out of it.
            with torch.no_grad(), contextlib.suppress(NonFiniteField):
                u = self.upsample(objective.map(velocity, direction))
                seen = Sampler(part, cells, dtype, device)(view[None], u, padding="zeros")[0]
                if float((mask * seen).sum()) > 0.05 * float(mask.sum()):
                    mask = mask * seen
                    support = seen if support is None else support * seen
        if support is not None:
            support = (support > 0.5).to(dtype)
        name = pair.similarity or objective.settings.similarity
        self.similarity = make_similarity(name, still[self.crop].contiguous(), mask, radius, support)
        self.covered = float(mask.sum()) / math.prod(cells.shape)

    def at_rest(self) -> Tensor:
        """Dissimilarity of the images as they lie."""
        lattice = self.sample.lattice
        still = self.warped.new_zeros(lattice.ndim, *lattice.shape)
        return self.similarity(self.sample(self.warped, still)[0])

    def __call__(self, displacement: Tensor) -> tuple[Tensor, Sight]:
        """Dissimilarity, and what was seen in the box ``crop``, for a map (d, *map lattice) minus the identity."""
        warped, slope = self.sample.with_slope(self.warped, self.upsample(displacement))
        return self.similarity(warped[0]), Sight(displacement.detach(), warped[0].detach(), slope)

    def curvature(self, sight: Sight) -> Tensor:
        weight = self.similarity.curvature(sight.warped)
        return torch.stack([weight * sight.slope[i] * sight.slope[j] for i, j in upper(len(sight.slope))])


class Objective:
    """E and its gradient at one level.

    Attributes:
        data: what is compared, on the level's voxels.
        cells: these.
        finest: the voxels that they consist of.
        like: any tensor on the cells.
        window: lattice -> weights by which the velocity is damped where the map is followed, or None.
        evaluation, product: calls of the evaluation, and of whatever multiplies by its curvature.
    """

    def __init__(
        self,
        compared: Compared,
        level: Level,
        settings: Settings,
        window: Callable[[Lattice], Tensor] | None,
        velocity: Tensor,
        often: bool = False,
    ):
        """
        Args:
            velocity: where the search starts, (d, *modes); it decides the number of time steps.
            often: whether so much is evaluated that recording it pays.
        """
        data = self.data = compared.reduced(level.factors)
        self.like, lengths = data.like, compared.lengths
        self.level, self.settings, self.window = level, settings, window
        self.cells = Lattice.cells(tuple(self.like.shape), lengths)
        self.finest = Lattice.cells(tuple(compared.like.shape), lengths)
        map_shape = tuple(
            max(4, min(n, math.ceil(length / level.map_step - 1e-6)))
            for n, length in zip(self.cells.shape, lengths, strict=True)
        )
        self.shooting, self.flow = self._engines(Lattice.cells(map_shape, lengths))
        self.steps = self.chosen_steps(velocity)
        self.sides = data.sides(self, velocity)
        self.data_weight = 1 / (2 * settings.sigma**2)
        self.metric_weight = 0.5 / self.sides[0].covered
        self.voxel = max(self.cells.step)
        self.evaluation, self.product = Captured(often), Captured(often)

    def _engines(self, lattice: Lattice) -> tuple[Any, Any]:
        """What shoots, and what follows the map on a lattice."""
        level, dtype, device = self.level, self.like.dtype, self.like.device
        # A recording reads them where they are.
        self._held = [
            level.band.derivation(axis, step, dtype, device)
            for axis in range(level.band.ndim)
            for step in (None, level.metric.step)
        ]
        shooting = Shooting(level.band, level.metric, dtype, device)
        if self.settings.band_limited_map:
            return shooting, BandLimitedFlow(shooting, lattice)
        window = None if self.window is None else self.window(lattice)
        return shooting, Flow(level.band, lattice, dtype, device, window)

    def chosen_steps(self, velocity: Tensor) -> int:
        """The time steps that are prescribed, or else suffice for a velocity."""
        return self.settings.steps or self.shooting.recommended_steps(velocity, **_STEPPING[self.settings.integrator])

    def map(self, velocity: Tensor, direction: str) -> Tensor:
        """The map of a geodesic minus the identity, (d, *map lattice)."""
        return getattr(self.flow, direction)(self.shooting.shoot(velocity, self.steps, self.settings.integrator))

    def __call__(self, velocity: Tensor) -> Evaluation:
        """E, its parts and gradient; infinite where the geodesic is not finite or its energy drifts."""
        try:
            found = self.evaluation(self._values, velocity, key=self.steps)
        except (NonFiniteField, NoGeodesic):
            return _INFINITE
        return Evaluation(*found.figures.tolist(), *found[1:])

    def _values(self, velocity: Tensor) -> _Values:
        v = velocity.detach().requires_grad_()
        trajectory = self.shooting.shoot(v, self.steps, self.settings.integrator)
        norm = self.shooting.energy(v)
        require(self.shooting.drift_of(trajectory) <= ENERGY_DRIFT, NoGeodesic("The geodesic's energy drifts."))
        maps = [getattr(self.flow, side.direction)(trajectory) for side in self.sides]
        terms, sights = zip(*(side(u) for side, u in zip(self.sides, maps, strict=True)), strict=True)
        dissimilarity, steering = self._sums(terms)
        regularization = self.metric_weight * norm
        energy = self.data_weight * (dissimilarity + steering) + regularization
        require(torch.isfinite(energy.detach()), NoGeodesic("The energy is no number."))
        normals = [
            torch.autograd.grad(side.residual(u), v, retain_graph=True)[0]
            for side, u in zip(self.sides, maps, strict=True)
            if isinstance(side, Stiff)
        ]
        (gradient,) = torch.autograd.grad(energy, v)
        require(torch.isfinite(gradient).all(), NoGeodesic("The energy's gradient is no number."))
        figures = torch.stack([energy, dissimilarity, regularization]).detach()
        return _Values(figures, gradient, sights, torch.stack(normals) if normals else v.detach().new_zeros(0))

    def at_rest(self) -> float:
        """E where v0 is zero: the images as they lie."""
        return self.data_weight * sum(self._sums([float(side.at_rest()) for side in self.sides]))

    def _sums(self, terms: Sequence[Any]) -> tuple[Any, Any]:
        """Of the sides' terms, the dissimilarity of what is registered, and the sum of those that steer."""
        parts = [side.weight * term for side, term in zip(self.sides, terms, strict=True)]
        steers = [side.steers for side in self.sides]
        return tuple(
            sum(part for part, apart in zip(parts, steers, strict=True) if apart is which) for which in (False, True)
        )

    def evaluate_safely(self, velocity: Tensor, refinements: float = math.inf) -> Evaluation:
        """Evaluate; where the geodesic drifts, with more time steps if these are free to be chosen, up to so often."""
        result = self(velocity)
        while result.gradient is None and refinements > 0 and self.refine():
            result, refinements = self(velocity), refinements - 1
        return result

    def refine(self) -> bool:
        """Take half as many time steps again; False if they are prescribed or enough for anything sane."""
        if self.settings.steps or self.steps >= 64:
            return False
        self.steps = math.ceil(1.5 * self.steps)
        return True

    def largest_displacement(self, direction: Tensor) -> float:
        """Largest length of a velocity field on the map's lattice, in voxels of the level."""
        with torch.no_grad():
            values = self.flow.evaluate(direction)
            return float(values.square().sum(0).max().sqrt()) / self.voxel


def box(inside: Tensor, reach: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The first and the end of the indices around what is inside, wider by a reach, along each axis."""
    lower, upper = [], []
    for axis, r in enumerate(reach):
        others = tuple(a for a in range(inside.ndim) if a != axis)
        used = torch.nonzero(inside.any(dim=others)).flatten()
        lower.append(max(0, int(used[0]) - r))
        upper.append(min(inside.shape[axis], int(used[-1]) + 1 + r))
    return tuple(lower), tuple(upper)
