# SPDX-License-Identifier: Apache-2.0
"""The band: basis, derivatives, metric, lattices."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from DeepFLASHRegistrationLib.geodesics.band import Band, Evaluator, Lattice, Metric, Upsampler, fit_modes, separable
from geodesic_fields import BANDS, coefficients, evaluate_at, points_of

DOUBLE = torch.float64


def spectral(shape: tuple[int, ...], band: Band, seed: int = 0) -> np.ndarray:
    """A real field of the band on cell centers, made with NumPy's FFT from noise."""
    spectrum = np.fft.fftn(np.random.default_rng(seed).standard_normal(shape))
    for axis, (n, modes) in enumerate(zip(shape, band.modes, strict=True)):
        keep = np.abs(np.fft.fftfreq(n) * n) <= (modes - 1) // 2
        spectrum *= keep.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return np.fft.ifftn(spectrum).real


def wave_numbers(shape: tuple[int, ...], lengths: tuple[float, ...], axis: int) -> np.ndarray:
    k = 2 * np.pi * np.fft.fftfreq(shape[axis]) * shape[axis] / lengths[axis]
    return k.reshape([-1 if a == axis else 1 for a in range(len(shape))])


@pytest.mark.parametrize("band", BANDS.values(), ids=BANDS)
def test_the_basis_is_orthonormal_on_every_lattice_of_enough_cells(band):
    for axis, modes in enumerate(band.modes):
        for cells in (modes, modes + 1, 3 * modes):
            x = Lattice.cells((cells,) * band.ndim, band.lengths).positions(axis)
            basis = band.basis(axis, x)
            torch.testing.assert_close(basis.T @ basis / cells, torch.eye(modes, dtype=DOUBLE), atol=1e-12, rtol=0)


@pytest.mark.parametrize("band", BANDS.values(), ids=BANDS)
def test_parseval(band):
    c = coefficients(band)
    values = Evaluator(band, Lattice.cells(tuple(n + 3 for n in band.modes), band.lengths), DOUBLE)(c)
    assert float((values**2).mean()) * band.ndim == pytest.approx(float((c**2).sum()), rel=1e-12)


@pytest.mark.parametrize("band", BANDS.values(), ids=BANDS)
def test_projection_recovers_the_coefficients(band):
    evaluate = Evaluator(band, Lattice.cells(tuple(n + 2 for n in band.modes), band.lengths), DOUBLE)
    c = coefficients(band)
    torch.testing.assert_close(evaluate.project(evaluate(c)), c, atol=1e-12, rtol=0)


@pytest.mark.parametrize("band", BANDS.values(), ids=BANDS)
def test_evaluation_agrees_with_numpy_fft(band):
    shape = tuple(n + 4 - i for i, n in enumerate(band.modes))
    field = spectral(shape, band)
    cells = Lattice.cells(shape, band.lengths)
    c = Evaluator(band, cells, DOUBLE).project(torch.from_numpy(field))
    # The same field a third of a cell further along every axis, by phase factors.
    spectrum = np.fft.fftn(field)
    for axis in range(band.ndim):
        spectrum = spectrum * np.exp(1j * wave_numbers(shape, band.lengths, axis) * cells.step[axis] / 3)
    moved = Lattice(shape, cells.step, tuple(o + s / 3 for o, s in zip(cells.origin, cells.step, strict=True)))
    np.testing.assert_allclose(Evaluator(band, moved, DOUBLE)(c).numpy(), np.fft.ifftn(spectrum).real, atol=1e-12)


@pytest.mark.parametrize("band", BANDS.values(), ids=BANDS)
def test_exact_derivative_agrees_with_numpy_fft(band):
    shape = tuple(n + 4 for n in band.modes)
    field = spectral(shape, band, 1)
    evaluate = Evaluator(band, Lattice.cells(shape, band.lengths), DOUBLE)
    c = evaluate.project(torch.from_numpy(field))
    for axis in range(band.ndim):
        expected = np.fft.ifftn(1j * wave_numbers(shape, band.lengths, axis) * np.fft.fftn(field)).real
        np.testing.assert_allclose(evaluate(band.derivative(c, axis)).numpy(), expected, atol=1e-11)


@pytest.mark.parametrize("band", BANDS.values(), ids=BANDS)
def test_derivative_with_a_step_is_the_central_difference(band):
    c = coefficients(band)
    lattice = Lattice((4, 3, 5)[: band.ndim], (0.7, 0.9, 1.1)[: band.ndim], (0.2, 0.1, -0.3)[: band.ndim])
    at = points_of(lattice).flatten(0, -2)
    for axis, h in itertools.product(range(band.ndim), (0.3, 1.0)):
        offset = torch.zeros(band.ndim, dtype=DOUBLE)
        offset[axis] = h
        difference = (evaluate_at(band, c, at + offset) - evaluate_at(band, c, at - offset)) / (2 * h)
        symbol = Evaluator(band, lattice, DOUBLE)(band.derivative(c, axis, h)).flatten(1).T
        torch.testing.assert_close(symbol, difference, atol=1e-12, rtol=1e-12)


def test_central_difference_converges_to_the_exact_derivative_at_second_order():
    band = BANDS["2d"]
    c = coefficients(band)
    errors = [float((band.derivative(c, 0, h) - band.derivative(c, 0)).abs().max()) for h in (0.02, 0.01)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.01)


def test_metric_follows_the_papers_symbol_with_frequencies_per_sample():
    shape, h, alpha, c, gamma = (16, 12, 10), 1.25, 3.0, 6.0, 1.0
    band = Band((5, 7, 3), tuple(n * h for n in shape))
    symbol = Metric(alpha, c, gamma, step=h).symbol(band)
    for index in np.ndindex(band.modes):
        k = [(i + 1) // 2 for i in index]
        total = gamma + 2 * alpha * sum(
            (1 - math.cos(2 * math.pi * q / n)) / h**2 for q, n in zip(k, shape, strict=True)
        )
        assert float(symbol[index]) == pytest.approx(total**c, rel=1e-12)


def test_metric_has_the_known_values_at_128_samples():
    band = Band((15, 15, 15), (128.0,) * 3)
    assert float(Metric(3.0, 6.0, step=1.0).symbol(band)[13, 0, 0]) == pytest.approx(6.1, abs=0.05)
    assert float(Metric(3.0, 3.0, step=1.0).symbol(band)[13, 0, 0]) == pytest.approx(2.5, abs=0.05)


def test_metric_without_step_is_the_limit_of_fine_steps():
    band = BANDS["3d"]
    exact = Metric(2.0, 3.0).symbol(band)
    for axis in range(3):
        w = band.frequencies(axis)[-1]
        assert float(exact.movedim(axis, 0)[-1].flatten()[0]) == pytest.approx(float((1 + 2 * w**2) ** 3), rel=1e-12)
    torch.testing.assert_close(Metric(2.0, 3.0, step=1e-4).symbol(band), exact, rtol=1e-6, atol=0)


def test_metric_does_not_depend_on_the_band_that_holds_the_field():
    band = BANDS["3d"]
    c = coefficients(band)
    wide = Band((9, 11, 7), band.lengths)
    energy = [float((Metric(1.5, 2.0, 0.7).symbol(b) * fit_modes(c, b.modes) ** 2).sum()) for b in (band, wide)]
    assert energy[0] == pytest.approx(energy[1], rel=1e-13)
    assert float(Metric(1.5, 2.0, 0.7).symbol(wide).min()) == pytest.approx(0.7**2)


def test_a_wider_band_holds_the_same_field_and_truncation_undoes_it():
    band = BANDS["2d"]
    wide = Band((11, 13), band.lengths)
    lattice = Lattice((6, 5), (0.9, 1.3), (0.4, -0.2))
    c = coefficients(band)
    padded = fit_modes(c, wide.modes)
    torch.testing.assert_close(Evaluator(wide, lattice, DOUBLE)(padded), Evaluator(band, lattice, DOUBLE)(c))
    assert torch.equal(fit_modes(padded, band.modes), c)
    # Wider along one axis, narrower along the other.
    assert fit_modes(c, (9, 3)).shape == (2, 9, 3)


def test_every_resolution_hits_the_same_points():
    band = BANDS["2d"]
    c = coefficients(band)
    coarse, fine = Lattice.cells((5, 4), band.lengths), Lattice.cells((15, 12), band.lengths)
    values = Evaluator(band, fine, DOUBLE)(c)[:, 1::3, 1::3]
    torch.testing.assert_close(Evaluator(band, coarse, DOUBLE)(c), values, atol=1e-12, rtol=0)


def test_a_box_of_a_lattice_keeps_its_points():
    lattice = Lattice((6, 7, 8), (1.0, 0.5, 2.0), (0.1, 0.2, 0.3))
    torch.testing.assert_close(points_of(lattice.box((1, 0, 3), (4, 5, 8))), points_of(lattice)[1:4, 0:5, 3:8])


def test_separable_products_contract_every_axis_with_its_own_matrix():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, 5, 6, generator=generator, dtype=DOUBLE)
    matrices = [torch.randn(m, n, generator=generator, dtype=DOUBLE) for m, n in ((7, 4), (2, 5), (3, 6))]
    torch.testing.assert_close(separable(x, matrices), torch.einsum("abxyz,ix,jy,kz->abijk", x, *matrices))


@pytest.mark.parametrize(
    ("modes", "lengths"),
    [
        ((4, 3), (1.0, 1.0)),
        ((0, 3), (1.0, 1.0)),
        ((-1, 3), (1.0, 1.0)),
        ((3,), (1.0,)),
        ((3, 3), (1.0,)),
        ((3, 3), (1.0, 0.0)),
        ((3, 3), (1.0, math.inf)),
        ((3, 3), (math.nan, 1.0)),
    ],
)
def test_impossible_bands_are_refused(modes, lengths):
    with pytest.raises(ValueError, match="Band"):
        Band(modes, lengths)


def test_one_mode_along_an_axis_is_a_constant():
    band = Band((1, 5), (4.0, 6.0))
    c = coefficients(band)
    values = Evaluator(band, Lattice.cells((4, 7), band.lengths), DOUBLE)(c)
    torch.testing.assert_close(values, values[:, :1].expand_as(values))
    assert not band.derivative(c, 0).any()


# ------------------------------------------------------------------------------------------------ interpolation


def test_upsampling_is_exact_at_the_nodes_and_constant_beyond_them():
    source = Lattice.cells((6, 5, 7), (6.0, 5.0, 7.0))
    values = torch.randn(2, 6, 5, 7, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    torch.testing.assert_close(Upsampler(source, source, DOUBLE)(values), values)
    beyond = Lattice((2, 5, 7), (0.25, 1.0, 1.0), (-3.0, 0.5, 0.5))
    torch.testing.assert_close(Upsampler(source, beyond, DOUBLE)(values), values[:, :1].expand(-1, 2, -1, -1))


def test_upsampling_reproduces_quadratics_inside():
    source = Lattice.cells((12, 10), (6.0, 7.0))
    target = Lattice((9, 8), (0.31, 0.4), (1.5, 2.0))

    def parabola(at):
        x, y = at.unbind(-1)
        return 0.3 + x - 2 * y + 0.7 * x * x - 0.4 * x * y + 0.2 * y * y

    torch.testing.assert_close(
        Upsampler(source, target, DOUBLE)(parabola(points_of(source))), parabola(points_of(target)), atol=1e-12, rtol=0
    )


def test_upsampling_error_falls_with_the_third_power_of_the_step():
    band = BANDS["2d"]
    c = coefficients(band)
    target = Lattice((20, 20), (0.21, 0.13), (3.0, 2.0))
    exact = Evaluator(band, target, DOUBLE)(c)
    errors = []
    for n in (40, 80):
        source = Lattice.cells((n, n), band.lengths)
        values = Upsampler(source, target, DOUBLE)(Evaluator(band, source, DOUBLE)(c))
        errors.append(float((values - exact).abs().max()))
    assert math.log2(errors[0] / errors[1]) > 2.6


@pytest.mark.parametrize("shape", [(1, 4), (2, 3), (3, 1)])
def test_upsampling_from_a_few_nodes_stays_between_sane_bounds(shape):
    source = Lattice.cells(shape, (4.0, 4.0))
    values = Upsampler(source, Lattice.cells((9, 7), (4.0, 4.0)), DOUBLE)(torch.ones(1, *shape, dtype=DOUBLE))
    torch.testing.assert_close(values, torch.ones(1, 9, 7, dtype=DOUBLE))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_reflected_field_is_the_field_of_the_reflected_points(axis: int) -> None:
    band = Band((5, 7, 3), (4.0, 9.0, 2.5))
    generator = torch.Generator().manual_seed(3)
    field = torch.randn(3, *band.modes, generator=generator, dtype=torch.float64)
    at, points = 1.7, [torch.rand(6, generator=generator, dtype=torch.float64) * length for length in band.lengths]

    def values(coefficients: torch.Tensor, where: list[torch.Tensor]) -> torch.Tensor:
        bases = [band.basis(each, positions) for each, positions in enumerate(where)]
        return torch.einsum("cijk,ai,bj,dk->cabd", coefficients, *bases)

    there = [2 * at - each if number == axis else each for number, each in enumerate(points)]
    torch.testing.assert_close(values(band.reflected(field, axis, at), points), values(field, there))
    torch.testing.assert_close(band.reflected(band.reflected(field, axis, at), axis, at), field)
