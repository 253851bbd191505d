# SPDX-License-Identifier: Apache-2.0
"""The paper's dual net, the dual net on forces, and the spectra both work on."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from DeepFLASHRegistrationLib.geodesics.band import Band, Evaluator, Lattice, Metric
from DeepFLASHRegistrationLib.geodesics.objective import Level, Objective, Pair, Settings
from DeepFLASHRegistrationLib.learning.dual_net import KINDS, DualNet, error, fit
from DeepFLASHRegistrationLib.learning.force_net import ForceNet, fit_force
from DeepFLASHRegistrationLib.learning.spectra import half_shape, half_spectrum, real_coefficients, squared_norm
from torch import Tensor, nn

BANDS = {"2d": Band((7, 5), (10.0, 7.0)), "3d": Band((5, 7, 3), (9.0, 8.0, 11.0))}
LENGTH, CELLS = 32.0, 32


@pytest.fixture(autouse=True)
def _one_thread_and_seed():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def disks(count: int, ndim: int = 2, cells: int = CELLS, offset: float = 0.0) -> tuple[Tensor, Tensor]:
    """Fixed and moving images of smooth ellipses of random half axes, (count, *cells), in float32."""
    generator = torch.Generator().manual_seed(5)
    at = (torch.arange(cells) + 0.5) * LENGTH / cells - LENGTH / 2 - offset
    images = []
    for _ in range(2):
        axes = LENGTH * (0.14 + 0.1 * torch.rand(count, ndim, generator=generator))
        parts = [(at.view(-1, *[1] * (ndim - 1 - a)) / axes[:, a].view(-1, *[1] * ndim)).square() for a in range(ndim)]
        images.append(torch.sigmoid(8 * (1 - sum(parts).sqrt())))
    return images[0], images[1]


class TestSpectra:
    @pytest.mark.parametrize("band", BANDS.values(), ids=BANDS)
    def test_it_is_the_discrete_fourier_transform_of_the_field(self, band):
        c = torch.randn(2, *band.modes, dtype=torch.float64)
        cells = Lattice.cells(tuple(n + 4 for n in band.modes), band.lengths)
        axes = tuple(range(-band.ndim, 0))
        transform = torch.fft.rfftn(Evaluator(band, cells, torch.float64)(c), dim=axes, norm="forward")
        found = half_spectrum(c, band.ndim)
        assert found.shape[1:] == half_shape(band.modes)
        for index in torch.cartesian_prod(*[torch.arange(n) for n in found.shape[1:]]).tolist():
            k = [i - (n - 1) // 2 for i, n in zip(index[:-1], band.modes)] + index[-1:]
            phase = math.pi * sum(j / n for j, n in zip(k, cells.shape))
            expected = transform[(slice(None), *k)] * complex(math.cos(phase), -math.sin(phase))
            torch.testing.assert_close(found[(slice(None), *index)], expected)

    @pytest.mark.parametrize("band", BANDS.values(), ids=BANDS)
    def test_there_and_back(self, band):
        c = torch.randn(3, 2, *band.modes, dtype=torch.float64)
        torch.testing.assert_close(real_coefficients(half_spectrum(c, band.ndim), band.ndim), c)

    @pytest.mark.parametrize("band", BANDS.values(), ids=BANDS)
    def test_parseval(self, band):
        c = torch.randn(3, *band.modes, dtype=torch.float64)
        values = Evaluator(band, Lattice.cells(tuple(2 * n for n in band.modes), band.lengths), torch.float64)(c)
        mean = values.square().flatten(1).mean(1)
        torch.testing.assert_close(squared_norm(half_spectrum(c, band.ndim), band.ndim), mean)

    def test_of_numbers_that_are_no_spectrum_the_nearest_real_field_counts(self):
        f = torch.randn(7, 3, dtype=torch.complex128)
        found = half_spectrum(real_coefficients(f, 2), 2)
        torch.testing.assert_close(found[:, 1:], f[:, 1:])
        torch.testing.assert_close(found[:, 0], 0.5 * (f[:, 0] + f[:, 0].flip(0).conj()))


def as_complex_network(net: DualNet, spectra: Tensor) -> Tensor:
    """The convolutional dual net, layer by layer in complex numbers: convolutions W*z + V*conj(z) + b and CReLU."""

    def crelu(z: Tensor) -> Tensor:
        return torch.complex(z.real.clamp(min=0), z.imag.clamp(min=0))

    def apply(real: nn.Module, imaginary: nn.Module, z: Tensor) -> Tensor:
        if isinstance(real, nn.Sequential):
            for a, b in zip(real, imaginary):
                z = apply(a, b, z)
            return z
        if isinstance(real, nn.Conv2d):
            w, v = 0.5 * (real.weight + imaginary.weight), 0.5 * (real.weight - imaginary.weight)
            bias = torch.complex(real.bias, imaginary.bias).view(-1, 1, 1)
            w, v = (x.to(z.dtype) for x in (w, v))
            return F.conv2d(z, w, padding=1) + F.conv2d(z.conj().resolve_conj(), v, padding=1) + bias
        if isinstance(real, nn.ReLU):
            return crelu(z)
        return torch.complex(real(z.real.contiguous()), imaginary(z.imag.contiguous()))

    z = apply(net.real.encoder, net.imaginary.encoder, spectra.flatten(0, 1)[:, None])
    return apply(net.real.decoder, net.imaginary.decoder, z.unflatten(0, (-1, 2)).flatten(1, 2))


class TestDualNet:
    def test_a_complex_convolution_is_two_pairs_of_real_ones(self):
        z, w = (torch.randn(s, dtype=torch.complex128) for s in ((2, 3, 6, 5), (4, 3, 3, 3)))
        real = F.conv2d(z.real, w.real) - F.conv2d(z.imag, w.imag)
        imaginary = F.conv2d(z.imag, w.real) + F.conv2d(z.real, w.imag)
        torch.testing.assert_close(F.conv2d(z, w), torch.complex(real, imaginary))

    def test_the_pair_of_real_networks_is_a_complex_one_with_crelu(self):
        net = DualNet(BANDS["2d"], "cnn", 4).double()
        spectra = torch.randn(3, 2, *half_shape(BANDS["2d"].modes), dtype=torch.complex128)
        net(spectra)  # batch statistics
        net.eval()
        torch.testing.assert_close(net(spectra), as_complex_network(net, spectra))

    @pytest.mark.parametrize("kind", KINDS)
    def test_real_parts_go_to_real_and_imaginary_to_imaginary_parts(self, kind):
        net = DualNet(BANDS["3d"], kind, 4).eval()
        a, b = (torch.randn(2, 2, *half_shape(BANDS["3d"].modes)) for _ in range(2))
        first, second = net(torch.complex(a, b)), net(torch.complex(a, 2 * b))
        assert torch.equal(first.real, second.real)
        assert not torch.allclose(first.imag, second.imag)

    def test_of_images_symmetric_about_the_center_the_imaginary_network_sees_nothing(self):
        net = DualNet(Band((7, 7), (LENGTH, LENGTH)))
        centered, beside = (net.spectra(*disks(4, offset=offset)) for offset in (0.0, 0.5))
        assert float(centered.imag.abs().max()) < 1e-6
        assert float(beside.imag.abs().max()) > 1e-3

    def test_equation_8(self):
        band = BANDS["3d"]
        net = DualNet(band, "dense", 2)
        a, b = (torch.randn(4, 3, *band.modes) for _ in range(2))
        found = net.loss(half_spectrum(a, 3), half_spectrum(b, 3))
        torch.testing.assert_close(found, (a - b).square().flatten(1).sum(1).mean())
        f = half_spectrum(a, 3)
        turned = torch.complex(f.real, f.imag + 1)  # the third line: imaginary with imaginary
        expected = 3 * (math.prod(band.modes[:-1]) * band.modes[-1])
        assert float(net.loss(f, turned)) == pytest.approx(expected, rel=1e-5)
        weights = [p for p in net.parameters() if p.ndim > 1]
        assert len(weights) == 6
        with_weights = net.loss(half_spectrum(a, 3), half_spectrum(b, 3), 0.5)
        torch.testing.assert_close(with_weights - found, 0.5 * sum(p.square().sum() for p in weights))

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("ndim", [2, 3])
    def test_prediction_of_a_batch(self, kind, ndim):
        band = Band((7, 5, 5)[:ndim], (LENGTH,) * ndim)
        net = DualNet(band, kind, 4)
        fixed, moving = disks(3, ndim, 16, 3.0)
        net.adapt(net.spectra(fixed, moving), torch.randn(3, ndim, *band.modes))
        found = net.predict(fixed, moving)
        assert found.shape == (3, ndim, *band.modes)
        assert net.training
        torch.testing.assert_close(net.predict(fixed[1:2], moving[1:2])[0], found[1], rtol=1e-3, atol=1e-5)
        assert float((found[0] - found[1]).abs().max()) > 1e-4

    def test_the_images_resolution_hardly_matters(self):
        band = Band((7, 7), (LENGTH, LENGTH))
        net = DualNet(band, "dense", 4)
        coarse, fine = (net.spectra(*disks(2, 2, n)) for n in (32, 96))
        assert float((coarse - fine).abs().max()) < 0.02 * float(fine.abs().max())

    @pytest.mark.parametrize("kind", KINDS)
    def test_it_learns(self, kind):
        band = Band((5, 5), (LENGTH, LENGTH))
        net = DualNet(band, kind, 8)
        spectra = net.spectra(*disks(96, offset=3.0))
        # A velocity that can be known from the parts apart: derivatives of a smoothed difference, turned by a quarter.
        difference = 1j * (spectra[:, :1] - spectra[:, 1:])
        parts = torch.complex(difference.imag * 0.1, difference.real.abs())
        velocities = real_coefficients(torch.cat([parts, -2 * parts], 1), 2)
        epochs = []
        fit(
            net,
            (spectra[:64], velocities[:64]),
            epochs=40,
            batch=16,
            learning_rate=3e-3,
            validation=(spectra[64:], velocities[64:]),
            report=epochs.append,
        )
        assert [e.number for e in epochs] == list(range(1, 41))
        assert epochs[-1].training < 0.25
        assert epochs[-1].validation == error(net, spectra[64:], velocities[64:]) < 0.25

    def test_the_same_seed_gives_the_same_weights(self):
        results = []
        for seed in (1, 1, 2):
            torch.manual_seed(3)
            net = DualNet(Band((5, 5), (LENGTH, LENGTH)), "cnn", 2)
            spectra = net.spectra(*disks(9))
            velocities = torch.randn(9, 2, 5, 5, generator=torch.Generator().manual_seed(0))
            fit(net, (spectra, velocities), epochs=2, batch=4, seed=seed)
            results.append(net.predict(*disks(2)))
        assert torch.equal(results[0], results[1])
        assert not torch.equal(results[0], results[2])

    def test_frequencies_that_never_vary_are_not_amplified(self):
        net = DualNet(Band((5, 5), (LENGTH, LENGTH)), "dense", 2)
        spectra = net.spectra(*disks(8))
        spectra.imag[...] = 1e-9 * torch.randn(spectra.shape)
        spectra.imag[:, :, 2, 1] = torch.randn(8, 2)
        net.adapt(spectra, torch.zeros(8, 2, 5, 5))
        assert float(net.image_spread[1].min()) >= 1e-3 * float(net.image_spread[1].max())
        assert bool((net.velocity_spread == 1).all())

    def test_what_does_not_fit_is_refused(self):
        with pytest.raises(ValueError, match="cnn, unet, dense"):
            DualNet(BANDS["2d"], "transformer")
        with pytest.raises(ValueError, match="3-D"):
            DualNet(BANDS["3d"]).predict(*disks(1))


SIGMA = 0.05
METRIC = Metric(3.0, 2.0)


def square_band(ndim: int = 2) -> Band:
    return Band((9, 9, 7)[:ndim], (LENGTH,) * ndim)


class TestForceNet:
    def flash(self, fixed: Tensor, moving: Tensor, velocity: Tensor, net: ForceNet):
        """FLASH's own objective on one pair."""
        one = torch.ones_like(fixed)
        level = Level((1,) * fixed.ndim, net.band, METRIC, (2,) * fixed.ndim, 1, LENGTH / CELLS * 0.999)
        settings = Settings("ssd", sigma=SIGMA, integrator="multistep", steps=net.time_steps)
        pair = Pair(fixed, moving, one, one, None, None, net.band.lengths)
        return Objective(pair, level, settings, None, velocity)(velocity)

    def test_its_energy_is_that_of_flash(self):
        net = ForceNet(square_band(), METRIC, SIGMA)
        fixed, moving = disks(2)
        net.adapt(fixed, moving)
        count = 0
        for velocity, energy in net.unroll(fixed, moving):
            for i in range(2):
                expected = self.flash(fixed[i], moving[i], velocity[i].detach(), net)
                assert float(energy[i].detach()) == pytest.approx(expected.energy, rel=1e-4)
            count += 1
        assert count == 3

    def test_its_force_is_the_descent_of_flash(self):
        # One step of a net with gains of 1 from rest is the force; along it the energy falls by its squared length.
        net = ForceNet(square_band(), METRIC, SIGMA, steps=1, hidden=0)
        fixed, moving = disks(1)
        force = net.predict(fixed, moving)[0]
        small = force * float(1e-2 / force.abs().max())
        up, down = (self.flash(fixed[0], moving[0], sign * small, net).energy for sign in (1, -1))
        expected = float((METRIC.symbol(net.band) * force * small).sum())
        assert down - up == pytest.approx(2 * expected, rel=0.03)

    @pytest.mark.parametrize("hidden", [0, 32])
    def test_it_learns_without_labels(self, hidden):
        net, untrained = (ForceNet(square_band(), METRIC, SIGMA, 1, hidden, time_steps=3) for _ in range(2))
        fixed, moving = disks(24)
        untrained.adapt(fixed[:16], moving[:16])
        reports = []
        fit_force(
            net,
            fixed[:16],
            moving[:16],
            iterations=15,
            batch=4,
            learning_rate=3e-3 if hidden else 0.05,
            report=lambda number, energy: reports.append(number),
        )
        assert reports == list(range(1, 16))
        ((_, after),), ((_, before),) = (list(one.unroll(fixed[16:], moving[16:])) for one in (net, untrained))
        assert float(after.detach().mean()) < 0.9 * float(before.detach().mean())

    def test_it_does_not_matter_where_the_images_lie(self):
        net = ForceNet(square_band(), METRIC, SIGMA, hidden=0)
        cells = Lattice.cells((CELLS, CELLS), net.band.lengths)
        evaluate = Evaluator(net.band, cells)
        fixed, moving = disks(2)
        net.adapt(fixed, moving)
        here = evaluate(net.predict(fixed, moving))
        there = evaluate(net.predict(*(torch.roll(x, (3, -2), (1, 2)) for x in (fixed, moving))))
        difference = torch.roll(there, (-3, 2), (2, 3)) - here
        assert float(difference.abs().max()) < 0.02 * float(here.abs().max())

    def test_three_dimensions(self):
        net = ForceNet(square_band(3), METRIC, SIGMA, hidden=8, time_steps=2)
        fixed, moving = disks(2, 3, 16)
        net.adapt(fixed, moving)
        energies = [float(e.detach().mean()) for _, e in net.unroll(fixed, moving)]
        assert net.predict(fixed, moving).shape == (2, 3, 9, 9, 7)
        assert energies[2] < energies[0] < float((fixed - moving).square().mean()) / (2 * SIGMA**2)


class TestCenter:
    """Where phases count from, and what is looked at."""

    def test_images_moved_with_the_center_have_the_same_spectra(self):
        band = Band((7, 7), (LENGTH, LENGTH))
        fixed, moving = disks(3)
        here = DualNet(band, center=(0.25, 0.5)).spectra(fixed, moving)
        rolled = [torch.roll(x, (4, -8), (1, 2)) for x in (fixed, moving)]
        there = DualNet(band, center=(0.25 + 4 / CELLS, 0.5 - 8 / CELLS)).spectra(*rolled)
        torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-6)

    def test_centered_and_back_is_nothing(self):
        net = DualNet(BANDS["3d"], "dense", 1, center=(0.1, 0.7, 0.4))
        spectrum = torch.randn(2, 3, *half_shape(net.band.modes), dtype=torch.complex64)
        torch.testing.assert_close(net.uncentered(net.centered(spectrum)), spectrum)
        velocities = torch.randn(2, 3, *net.band.modes)
        torch.testing.assert_close(real_coefficients(net.uncentered(net.labels(velocities)), 3), velocities)

    @pytest.mark.parametrize(("center", "told"), [(0.1, True), (0.5, False)])
    def test_real_parts_tell_all_of_what_lies_on_one_side_of_the_center(self, center, told):
        """Images that differ by what is odd about a center have the same real parts, and so R_net sees no difference;
        of images within a half of the domain on one side of it there are no two such."""
        band = Band((31, 3), (LENGTH, LENGTH))
        net = DualNet(band, "dense", 1, center=(center, center), look=((0.15, 0.55), (0.0, 1.0)))
        places = (torch.arange(64) + 0.5) / 64
        bump = torch.exp(-(((places - 0.45) / 0.04) ** 2))[:, None].expand(64, 64)
        mirrored = torch.exp(-(((places - (2 * center - 0.45)) / 0.04) ** 2))[:, None].expand(64, 64)
        one, other = net.spectra(bump[None], mirrored[None]).real[0]
        # About 0.5 the mirrored bump lies at 0.55, half within what is looked at; about 0.1 it lies beyond.
        share = float((one * other).sum() / one.square().sum())
        assert (share < 0.05) == told

    def test_nothing_is_seen_beyond_what_is_looked_at(self):
        net = DualNet(Band((5, 5), (LENGTH, LENGTH)), "dense", 1, look=((0.25, 0.75), (0.25, 0.75)))
        image = torch.rand(1, CELLS, CELLS)
        changed = image.clone()
        changed[:, :6] += 1
        torch.testing.assert_close(net.spectra(image, image), net.spectra(changed, changed))
        changed[:, 12:20] += 1
        assert not torch.allclose(net.spectra(image, image), net.spectra(changed, changed))
