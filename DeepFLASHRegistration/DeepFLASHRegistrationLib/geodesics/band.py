# SPDX-License-Identifier: Apache-2.0
"""Band-limited periodic fields: coefficients, derivatives, evaluation on lattices.

A field of the band with ``modes`` n = 2m + 1 along an axis of length Λ is a real trigonometric polynomial of degree m.
It is stored by its coefficients in the real basis

    1,  √2 cos(ωx),  √2 sin(ωx),  √2 cos(2ωx),  √2 sin(2ωx), …      ω = 2π/Λ

along every axis (a tensor product). That is the Fourier spectrum of a real field without its redundant half, so
Hermitian symmetry cannot be violated, truncation is slicing ``[:n]``, and Parseval reads mean(f²) = Σ c².

Evaluating on a lattice is one matrix product per axis. At the widths that registration needs (15 … 63 modes) that takes
about half the time of padded FFTs (Testing/benchmarks/geodesics.py), and the lattice may have any origin and step along
each axis, so cell centers of any resolution are hit exactly.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Lattice:
    """Regular points in the domain: ``origin + step * index`` along each array axis, in the domain's units."""

    shape: tuple[int, ...]
    step: tuple[float, ...]
    origin: tuple[float, ...]

    @classmethod
    def cells(cls, shape: tuple[int, ...], lengths: tuple[float, ...]) -> Lattice:
        """Centers of the cells that divide a domain of these lengths into ``shape`` equal parts."""
        step = tuple(length / n for length, n in zip(lengths, shape, strict=True))
        return cls(tuple(shape), step, tuple(s / 2 for s in step))

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def box(self, lower: tuple[int, ...], upper: tuple[int, ...]) -> Lattice:
        """The part from index ``lower`` up to, not including, ``upper``."""
        origin = tuple(o + s * i for o, s, i in zip(self.origin, self.step, lower, strict=True))
        return Lattice(tuple(b - a for a, b in zip(lower, upper, strict=True)), self.step, origin)

    def positions(self, axis: int, dtype: torch.dtype = torch.float64, device: str | torch.device = "cpu") -> Tensor:
        """Coordinates along one axis, shape (shape[axis],)."""
        index = torch.arange(self.shape[axis], dtype=torch.float64)
        return (self.origin[axis] + self.step[axis] * index).to(device=device, dtype=dtype)


@dataclass(frozen=True)
class Band:
    """The space of real trigonometric polynomials with ``modes`` (odd, per axis) on a periodic box of ``lengths``.

    Coefficient tensors have shape (..., *modes).
    """

    modes: tuple[int, ...]
    lengths: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.modes) != len(self.lengths) or len(self.modes) not in (2, 3):
            raise ValueError(f"Band: modes {self.modes} and lengths {self.lengths} must both have 2 or 3 entries.")
        if any(n < 1 or n % 2 == 0 for n in self.modes):
            raise ValueError(f"Band: modes must be odd and positive, got {self.modes}.")
        if any(not (length > 0 and math.isfinite(length)) for length in self.lengths):
            raise ValueError(f"Band: lengths must be positive and finite, got {self.lengths}.")

    @property
    def ndim(self) -> int:
        return len(self.modes)

    @property
    def volume(self) -> float:
        return math.prod(self.lengths)

    def frequencies(self, axis: int) -> Tensor:
        """Angular frequency (radians per unit) of each basis function along an axis, float64, (modes[axis],)."""
        k = (torch.arange(self.modes[axis], dtype=torch.float64) + 1).div(2, rounding_mode="floor")
        return 2 * math.pi / self.lengths[axis] * k

    def basis(self, axis: int, positions: Tensor) -> Tensor:
        """Basis functions of an axis at ``positions`` (float64, in units): (len(positions), modes[axis])."""
        frequencies = self.frequencies(axis)
        phase = positions.double()[:, None] * frequencies
        odd = torch.arange(self.modes[axis]) % 2 == 1
        values = torch.where(odd, torch.cos(phase), torch.sin(phase)) * math.sqrt(2)
        values[:, 0] = 1.0
        return values

    def derivative(self, coefficients: Tensor, axis: int, step: float | None = None) -> Tensor:
        """Partial derivative along an axis: exact, or the central difference of width ``step`` (the paper's D).

        Args:
            coefficients: (..., *modes).
            axis: spatial axis, 0 … ndim − 1.
            step: None for the exact derivative (symbol iω), else h of the symbol i sin(ωh)/h (FLASH, Zhang & Fletcher
                2019, section 3).
        """
        dim = coefficients.ndim - self.ndim + axis
        n = self.modes[axis]
        partner, signed = self.derivation(axis, step, coefficients.dtype, coefficients.device)
        view = [1] * coefficients.ndim
        view[dim] = n
        return coefficients.index_select(dim, partner) * signed.view(view)

    def reflected(self, coefficients: Tensor, axis: int, at: float) -> Tensor:
        """The field f(2 at − x) along an axis of f(x): exact, whatever the center.

        Args:
            coefficients: (..., *modes).
            axis: spatial axis, 0 … ndim − 1.
            at: center of the reflection, in units of length.
        """
        moved = coefficients.movedim(coefficients.ndim - self.ndim + axis, -1)
        turn = (2 * at * self.frequencies(axis)[1::2]).to(coefficients)
        cosine, sine = moved[..., 1::2], moved[..., 2::2]
        found = moved.clone()
        found[..., 1::2] = turn.cos() * cosine + turn.sin() * sine
        found[..., 2::2] = turn.sin() * cosine - turn.cos() * sine
        return found.movedim(-1, coefficients.ndim - self.ndim + axis)

    def derivation(
        self, axis: int, step: float | None, dtype: torch.dtype, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Which coefficient along an axis each one of a derivative comes from, and by what factor: (modes[axis],) each.

        They are kept as long as not too many others are asked for.
        """
        return _derivation(self.modes[axis], self.lengths[axis], step, dtype, device)

    def product_lattice(self) -> Lattice:
        """The coarsest lattice on which the product of two fields of the band can be projected on the band exactly.

        Frequencies of a product reach 2m; on P points they alias to P − 2m, which must stay above m.
        """
        return Lattice.cells(tuple(max(4, 4 * math.ceil((3 * (n - 1) // 2 + 1) / 4)) for n in self.modes), self.lengths)


@functools.lru_cache(maxsize=256)
def _derivation(
    n: int, length: float, step: float | None, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    # Kept, because making them takes ten times the operations of using them.
    # d/dx (a cos ωx + b sin ωx) = ωb cos ωx − ωa sin ωx: partners swap, the new sine changes sign.
    frequencies = Band((n, 1), (length, length)).frequencies(0)
    signed = frequencies.clone() if step is None else torch.sin(frequencies * step) / step
    partner = torch.arange(n)
    partner[1::2] += 1
    partner[2::2] -= 1
    signed[2::2] *= -1
    return partner.to(device), signed.to(device=device, dtype=dtype)


def fit_modes(coefficients: Tensor, modes: tuple[int, ...]) -> Tensor:
    """Truncate or zero-pad coefficients (..., *modes_in) to ``modes`` along the last axes."""
    ndim = len(modes)
    for axis, n in enumerate(modes):
        dim = coefficients.ndim - ndim + axis
        have = coefficients.shape[dim]
        if have > n:
            coefficients = coefficients.narrow(dim, 0, n)
        elif have < n:
            shape = list(coefficients.shape)
            shape[dim] = n - have
            coefficients = torch.cat([coefficients, coefficients.new_zeros(shape)], dim)
    return coefficients


def separable(x: Tensor, matrices: list[Tensor]) -> Tensor:
    """Applies one matrix (out, in) along each of the last axes of x (..., *in): (..., *out)."""
    ndim = len(matrices)
    batch, shape = x.shape[: x.ndim - ndim], list(x.shape[x.ndim - ndim :])
    # From the last axis on: one large product, then products in place over what lies behind an axis; no transposition.
    x = x.reshape(-1, shape[-1]) @ matrices[-1].t()
    shape[-1] = matrices[-1].shape[0]
    for axis in reversed(range(ndim - 1)):
        matrix, behind = matrices[axis], math.prod(shape[axis + 1 :])
        x = matrix @ x.reshape(-1, shape[axis], behind)
        shape[axis] = matrix.shape[0]
    return x.reshape(*batch, *shape)


class Evaluator:
    """Evaluates fields of a band on a lattice; projects lattice values on the band."""

    def __init__(
        self, band: Band, lattice: Lattice, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
    ):
        self.band, self.lattice = band, lattice
        basis = [band.basis(a, lattice.positions(a)) for a in range(band.ndim)]
        self._synthesis = [b.to(device=device, dtype=dtype) for b in basis]
        self._analysis = [(b / n).t().to(device=device, dtype=dtype) for b, n in zip(basis, lattice.shape, strict=True)]

    def __call__(self, coefficients: Tensor) -> Tensor:
        """(..., *modes) -> values (..., *lattice.shape)."""
        return separable(coefficients, self._synthesis)

    def project(self, values: Tensor) -> Tensor:
        """(..., *lattice.shape) -> coefficients (..., *modes) of the discrete orthogonal projection.

        Exact for trigonometric polynomials whose degree plus the band's is below the number of points, on a lattice
        that divides the whole domain (``Lattice.cells``).
        """
        return separable(values, self._analysis)


class Upsampler:
    """Interpolates lattice values at the points of another lattice parallel to it: Keys' cubic convolution (1981),
    third order, exact at the nodes; beyond the outer nodes the outer value continues."""

    def __init__(
        self, source: Lattice, target: Lattice, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
    ):
        self._matrices = [
            cubic_matrix(source, axis, target.positions(axis)).to(device=device, dtype=dtype)
            for axis in range(source.ndim)
        ]

    def __call__(self, values: Tensor) -> Tensor:
        """(..., *source.shape) -> (..., *target.shape)."""
        return separable(values, self._matrices)


def cubic_weights(source: Lattice, axis: int, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Of a lattice's points along an axis, the four between which each position lies, and their weights: (n, 4) each.

    positions: (n,) float64, in units of length.
    """
    n = source.shape[axis]
    position = ((positions - source.origin[axis]) / source.step[axis]).clamp(0, n - 1)
    base = position.floor()
    offsets = torch.arange(-1, 3)
    x = ((position - base)[:, None] - offsets).abs()
    weights = torch.where(x <= 1, 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2)
    return (base.long()[:, None] + offsets).clamp(0, n - 1), torch.where(x < 2, weights, torch.zeros_like(weights))


def cubic_matrix(source: Lattice, axis: int, positions: Tensor) -> Tensor:
    """The same as a matrix (n, source.shape[axis]), float64."""
    columns, weights = cubic_weights(source, axis, positions)
    matrix = torch.zeros(len(positions), source.shape[axis], dtype=torch.float64)
    return matrix.scatter_add_(1, columns, weights)


@dataclass(frozen=True)
class Metric:
    """The Sobolev metric ⟨Lv, w⟩ with L = (γ − α∇²)^c, diagonal in the band.

    With ``step`` h the Laplacian is the paper's discrete one, L̃(k) = (γ + 2α Σ_j (1 − cos(ω_j h))/h²)^c
    (Zhang & Fletcher 2019, eq. 5, with the frequency corrected to k/N); without it the continuous one, its limit h → 0.
    Lengths are in the domain's units, so the metric does not depend on any grid.
    """

    alpha: float
    power: float
    gamma: float = 1.0
    step: float | None = None

    def symbol(self, band: Band) -> Tensor:
        """L̃ per coefficient, float64, shape band.modes; at least γ^c."""
        total = torch.full(band.modes, float(self.gamma), dtype=torch.float64)
        for axis in range(band.ndim):
            w = band.frequencies(axis)
            part = w**2 if self.step is None else 2 * (1 - torch.cos(w * self.step)) / self.step**2
            shape = [1] * band.ndim
            shape[axis] = -1
            total = total + self.alpha * part.view(shape)
        return total**self.power


def attenuated(coefficients: Tensor, band: Band, centers: Tensor, width: float, amount: float) -> Tensor:
    """A field weakened around points: (d, *modes) minus ``amount`` times its detail under Gaussians of ``width``.

    Args:
        centers: (n, d) positions in units of length.
        width: standard deviation of the Gaussians, in units of length.
        amount: 0 changes nothing, 1 removes the detail (what a Gaussian of the same width would smooth away).
    """
    evaluate = Evaluator(band, band.product_lattice(), coefficients.dtype, coefficients.device)
    lattice = evaluate.lattice
    bump = coefficients.new_zeros(lattice.shape)
    positions = [lattice.positions(a, coefficients.dtype, coefficients.device) for a in range(band.ndim)]
    for center in centers.tolist():
        one = coefficients.new_ones(())
        for axis, x in enumerate(positions):
            distance = (x - center[axis]).abs()
            distance = torch.minimum(distance, band.lengths[axis] - distance)
            shape = [1] * band.ndim
            shape[axis] = -1
            one = one * torch.exp(-0.5 * (distance / width) ** 2).view(shape)
        bump = torch.maximum(bump, one)
    total = torch.zeros(band.modes, dtype=torch.float64)
    for axis in range(band.ndim):
        shape = [1] * band.ndim
        shape[axis] = -1
        total = total + (band.frequencies(axis) ** 2).view(shape)
    detail = coefficients * (1 - torch.exp(-0.5 * width**2 * total)).to(coefficients)
    return coefficients - amount * evaluate.project(evaluate(detail) * bump)
