# SPDX-License-Identifier: Apache-2.0
"""Fields, images and an independent integrator of particles for the tests of the geodesics. Double precision."""

from __future__ import annotations

import math

import torch
from DeepFLASHRegistrationLib.geodesics.band import Band, Lattice, Metric
from DeepFLASHRegistrationLib.geodesics.shooting import Shooting
from torch import Tensor

# 2-D and 3-D, lengths and modes different along every axis.
BANDS = {
    "2d": Band((7, 5), (10.0, 7.0)),
    "3d": Band((5, 7, 3), (9.0, 8.0, 11.0)),
}


def coefficients(band: Band, seed: int = 0, components: int | None = None) -> Tensor:
    """White noise in the band, (components, *modes)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(components or band.ndim, *band.modes, generator=generator, dtype=torch.float64)


def velocity(band: Band, size: float = 1.0, seed: int = 0, smoothness: float = 1.0) -> Tensor:
    """A smooth random velocity whose largest component is about ``size`` units of length, (d, *modes)."""
    v = coefficients(band, seed) / Metric(smoothness, 2.0).symbol(band)
    at = torch.stack(
        torch.meshgrid(*[torch.linspace(0, length, 17, dtype=torch.float64) for length in band.lengths], indexing="ij"),
        -1,
    ).flatten(0, -2)
    return v * (size / evaluate_at(band, v, at).abs().max())


def evaluate_at(band: Band, field: Tensor, points: Tensor) -> Tensor:
    """A field (c, *modes) at any points (N, d), summed term by term: (N, c). Independent of Evaluator."""
    values = field.reshape(field.shape[0], *band.modes)
    letters = "xyz"[: band.ndim]
    factors = []
    for axis, n in enumerate(band.modes):
        columns = []
        for index in range(n):
            k = (index + 1) // 2
            phase = 2 * math.pi * k * points[:, axis] / band.lengths[axis]
            columns.append(
                torch.ones_like(phase)
                if k == 0
                else math.sqrt(2) * (torch.cos(phase) if index % 2 else torch.sin(phase))
            )
        factors.append(torch.stack(columns, -1))
    return torch.einsum("c" + letters + "," + ",".join("n" + x for x in letters) + "->nc", values, *factors)


def particles(shooting: Shooting, v0: Tensor, points: Tensor, direction: str, steps: int = 20, weight=None) -> Tensor:
    """Points (N, d) carried by the geodesic of v0, classical Runge–Kutta with the velocity summed at every particle.

    moving_to_fixed follows dx/dt = v(t, x) from t = 0, fixed_to_moving runs it backwards from t = 1.
    weight: points -> factors (N, 1) by which the velocity is damped.
    """
    v = shooting.shoot(v0, 2 * steps, "rk4").velocities
    if direction == "fixed_to_moving":
        v = [-x for x in reversed(v)]
    damped = weight or (lambda x: 1.0)

    def speed(field: Tensor, at: Tensor) -> Tensor:
        return evaluate_at(shooting.band, field, at) * damped(at)

    dt, x = 1.0 / steps, points
    for k in range(steps):
        begin, middle, end = v[2 * k : 2 * k + 3]
        k1 = speed(begin, x)
        k2 = speed(middle, x + dt / 2 * k1)
        k3 = speed(middle, x + dt / 2 * k2)
        k4 = speed(end, x + dt * k3)
        x = x + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


def points_of(lattice: Lattice) -> Tensor:
    """(*shape, d), the positions of a lattice's points."""
    return torch.stack(torch.meshgrid(*[lattice.positions(a) for a in range(lattice.ndim)], indexing="ij"), -1)


def interior(lattice: Lattice, lengths: tuple[float, ...], margin: float) -> Tensor:
    """(*shape) bool, points further than ``margin`` from the border of the domain."""
    at = points_of(lattice)
    return ((at > margin) & (at < torch.tensor(lengths, dtype=torch.float64) - margin)).all(-1)


def blobs(shape: tuple[int, ...], shift: tuple[float, ...] | float = 0.0, dtype: torch.dtype = torch.float64) -> Tensor:
    """A smooth image in 0..1 with structure in all directions; ``shift`` in voxels moves what is seen."""
    generator = torch.Generator().manual_seed(11)
    d = len(shape)
    shift = (shift,) * d if isinstance(shift, float) else shift
    axes = [torch.arange(n, dtype=torch.float64) - s for n, s in zip(shape, shift, strict=True)]
    at = torch.meshgrid(*axes, indexing="ij")
    image = torch.zeros(shape, dtype=torch.float64)
    for _ in range(7):
        center = (0.25 + 0.5 * torch.rand(d, generator=generator, dtype=torch.float64)) * torch.tensor(shape)
        width = (0.06 + 0.07 * torch.rand(d, generator=generator, dtype=torch.float64)) * torch.tensor(shape)
        height = 0.3 + 0.5 * float(torch.rand(1, generator=generator))
        image += height * torch.exp(-0.5 * sum(((x - c) / w) ** 2 for x, c, w in zip(at, center, width, strict=True)))
    return (image / 1.6).clamp(0, 1).to(dtype)


def waves(
    shape: tuple[int, ...],
    shift: tuple[float, ...] | float = 0.0,
    dtype: torch.dtype = torch.float64,
    cells: tuple[int, ...] | None = None,
) -> Tensor:
    """A periodic texture in 0..1 without flat places; ``shift`` in voxels moves what is seen.

    cells: the shape that sets how fine it is (itself); the same image at another resolution has the same ``cells``.
    """
    cells = cells or shape
    lengths = tuple(float(n) for n in cells)
    band = Band(tuple(2 * max(1, round(n / 8)) + 1 for n in cells), lengths)
    field = coefficients(band, 17, 1)
    shift = (shift,) * len(shape) if isinstance(shift, float) else shift
    lattice = Lattice.cells(shape, lengths)
    origin = tuple(o - s * h for o, s, h in zip(lattice.origin, shift, lattice.step, strict=True))
    moved = Lattice(shape, lattice.step, origin)
    image = evaluate_at(band, field, points_of(moved).flatten(0, -2)).reshape(shape)
    return (0.5 + 0.13 * image / (field**2).sum().sqrt()).clamp(0, 1).to(dtype)
