# SPDX-License-Identifier: Apache-2.0
"""The paper's predictor: two real networks on the real and on the imaginary parts of two images' spectra.

DeepFLASH (Wang & Zhang, CVPR 2020, section 3): R_net sees the real parts of the low frequencies of the fixed and the
moving image and predicts the real parts of the spectrum of v0 in the band; I_net does the same with the imaginary ones.
The pair is a complex-valued network whose convolutions keep the parts apart, with the activation
CReLU(z) = ReLU(Re z) + i ReLU(Im z).

It has limits that no training mends. v0 ≈ K F[(S − T)∇S], and the real part of the spectrum of a product takes products
of real with real and imaginary with imaginary parts; a network that sees one kind cannot form the other. And the
spectra depend on where the images lie: of images symmetric about the point that phases count from (the center) all
imaginary parts vanish, and so does all that I_net could know.

Both have a remedy where images always lie alike. The real parts are the spectrum of an image's even part about the
center, ½(S(c + x) + S(c − x)). If all that is looked at lies on one side of the center, along any axis, and the domain
is twice as long there, nothing falls on anything else: the even part alone, and the odd part alone, tells all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..geodesics.band import Band, Evaluator, Lattice
from .spectra import half_shape, half_spectrum, multiplicity, real_coefficients

KINDS = ("cnn", "unet", "dense")
# Frequencies that vary less than this part of the one that varies most are not amplified to the same size.
_LEAST_SPREAD = 1e-3
_FADING = 0.05  # of the domain's edge, over which images fade out


def _block(ndim: int, before: int, after: int) -> nn.Sequential:
    """Convolution, batch normalization, ReLU."""
    conv, norm = (nn.Conv3d, nn.BatchNorm3d) if ndim == 3 else (nn.Conv2d, nn.BatchNorm2d)
    return nn.Sequential(conv(before, after, 3, padding=1), norm(after), nn.ReLU())


class ConvolutionalPart(nn.Module):
    """One encoder for both images, one decoder for what it found in them.

    After the paper's figure 2 and the code its authors released: 3 x 3 (x 3) convolutions over frequencies, each with
    batch normalization and ReLU, the encoder's weights shared by the images, their features concatenated, and a last
    convolution to the components of v0. There, strides and paddings change the shape on the way, to one that does not
    fit the band; here it stays.
    """

    def __init__(self, ndim: int, shape: tuple[int, ...], width: int):
        super().__init__()
        self.encoder = nn.Sequential(
            _block(ndim, 1, width), _block(ndim, width, 2 * width), _block(ndim, 2 * width, 2 * width)
        )
        conv = nn.Conv3d if ndim == 3 else nn.Conv2d
        self.decoder = nn.Sequential(
            _block(ndim, 4 * width, 4 * width),
            _block(ndim, 4 * width, 2 * width),
            _block(ndim, 2 * width, width),
            conv(width, ndim, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 2, *shape) -> (batch, ndim, *shape)."""
        encoded = self.encoder(x.flatten(0, 1)[:, None])
        return self.decoder(encoded.unflatten(0, (-1, 2)).flatten(1, 2))


class UNetPart(nn.Module):
    """Both images as channels through two scales of frequencies with a shortcut."""

    def __init__(self, ndim: int, shape: tuple[int, ...], width: int):
        super().__init__()
        conv = nn.Conv3d if ndim == 3 else nn.Conv2d
        self.pool = (nn.MaxPool3d if ndim == 3 else nn.MaxPool2d)(2, ceil_mode=True)
        self.fine = nn.Sequential(_block(ndim, 2, width), _block(ndim, width, 2 * width))
        self.coarse = nn.Sequential(_block(ndim, 2 * width, 4 * width), _block(ndim, 4 * width, 4 * width))
        self.joined = nn.Sequential(_block(ndim, 6 * width, 2 * width), _block(ndim, 2 * width, width))
        self.out = conv(width, ndim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 2, *shape) -> (batch, ndim, *shape)."""
        fine = self.fine(x)
        coarse = F.interpolate(self.coarse(self.pool(fine)), size=fine.shape[2:], mode="nearest")
        return self.out(self.joined(torch.cat([fine, coarse], 1)))


class DensePart(nn.Module):
    """Every frequency of both images with every frequency of v0, through two hidden layers."""

    def __init__(self, ndim: int, shape: tuple[int, ...], width: int):
        super().__init__()
        size, hidden = math.prod(shape), 16 * width
        self.out_shape = (ndim, *shape)
        self.layers = nn.Sequential(
            nn.Linear(2 * size, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, ndim * size)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 2, *shape) -> (batch, ndim, *shape)."""
        return self.layers(x.flatten(1)).unflatten(1, self.out_shape)


_PARTS = {"cnn": ConvolutionalPart, "unet": UNetPart, "dense": DensePart}


class DualNet(nn.Module):
    """R_net and I_net.

    Args:
        band: of v0, and of the frequencies that are seen of the images.
        kind: "cnn" (the paper's), "unet" or "dense".
        width: number of channels that the networks' sizes are multiples of.
        center: where the phases of spectra count from, for each axis as a fraction of the domain's edge; its corner by
            default.
        look: for each axis from where to where images are looked at, as fractions; everywhere by default. The images
            fade out towards these borders.
    """

    def __init__(
        self,
        band: Band,
        kind: str = "cnn",
        width: int = 16,
        center: Sequence[float] = (),
        look: Sequence[Sequence[float]] = (),
    ):
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"Unknown kind of network {kind!r}; choose one of {', '.join(KINDS)}.")
        self.band, self.kind, self.width = band, kind, width
        self.center, self.look = tuple(map(float, center)), tuple((float(a), float(b)) for a, b in look)
        self._seen: tuple[Any, Callable[[Tensor], Tensor], list[Tensor]] | None = None
        self._turned: tuple[Any, Tensor] | None = None
        if len(self.center) not in (0, band.ndim) or len(self.look) not in (0, band.ndim):
            raise ValueError("A center and what is looked at need one entry per axis.")
        shape = half_shape(band.modes)
        self.real = _PARTS[kind](band.ndim, shape, width)
        self.imaginary = _PARTS[kind](band.ndim, shape, width)
        # Frequencies differ in size by orders of magnitude: networks see and return them in units of their spread over
        # the training pairs (first index: real, imaginary part).
        self.register_buffer("image_mean", torch.zeros(2, *shape))
        self.register_buffer("image_spread", torch.ones(2, *shape))
        self.register_buffer("velocity_spread", torch.ones(2, band.ndim, *shape))

    def spectra(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Images (batch, *cells) over the whole domain, of any resolution -> half spectra (batch, 2, *half)."""
        images = torch.stack([fixed, moving], 1)
        if images.ndim != 2 + self.band.ndim:
            raise ValueError(f"Images must be (batch, *cells) in {self.band.ndim}-D, not {tuple(fixed.shape)}.")
        project, weights = self._lookings(images)
        for axis_weights in weights:
            images = images * axis_weights
        return self.centered(half_spectrum(project(images), self.band.ndim))

    def _lookings(self, images: Tensor) -> tuple[Callable[[Tensor], Tensor], list[Tensor]]:
        """What projects images of a shape on the band, and where they are looked at, axis by axis: 1 between two
        places, 0 beyond, over a short way between. Kept: a recording reads them where they are."""
        key = (tuple(images.shape[2:]), images.dtype, images.device)
        if self._seen is None or self._seen[0] != key:
            cells, ndim = Lattice.cells(key[0], self.band.lengths), self.band.ndim
            weights = []
            for axis, (low, high) in enumerate(self.look):
                x = cells.positions(axis, images.dtype, images.device) / self.band.lengths[axis]
                along = (torch.minimum(x - low, high - x) / _FADING + 0.5).clamp(0, 1)
                weights.append(along.view([-1 if a == axis else 1 for a in range(ndim)]))
            self._seen = key, Evaluator(self.band, cells, images.dtype, images.device).project, weights
        return self._seen[1:]

    def centered(self, spectrum: Tensor) -> Tensor:
        """Half spectra (..., *half) with phases counted from the domain's corner, counted from the center instead."""
        return spectrum * self._phases(spectrum) if self.center else spectrum

    def uncentered(self, spectrum: Tensor) -> Tensor:
        """Inverse of `centered`."""
        return spectrum * self._phases(spectrum).conj() if self.center else spectrum

    def _phases(self, like: Tensor) -> Tensor:
        """exp(iω·c), (*half); kept as well."""
        key = (like.dtype, like.device)
        if self._turned is None or self._turned[0] != key:
            angle = torch.zeros(half_shape(self.band.modes), dtype=torch.float64)
            for axis, (n, c) in enumerate(zip(angle.shape, self.center, strict=True)):
                k = torch.arange(n) - (0 if axis == self.band.ndim - 1 else (n - 1) // 2)
                angle = angle + (2 * math.pi * c * k).view([-1 if a == axis else 1 for a in range(self.band.ndim)])
            self._turned = key, torch.polar(torch.ones_like(angle), angle).to(like.dtype).to(like.device)
        return self._turned[1]

    def adapt(self, spectra: Tensor, velocities: Tensor) -> None:
        """Takes the units of inputs and outputs from training data: (n, 2, *half) and (n, d, *modes)."""
        images = spectra.flatten(0, 1)
        labels = self.labels(velocities)
        for i, part in enumerate((torch.real, torch.imag)):
            self.image_mean[i] = part(images).mean(0)
            for spread, value in (
                (self.image_spread, part(images).std(0)),
                (self.velocity_spread, part(labels).square().mean(0).sqrt()),
            ):
                largest = float(value.max())
                spread[i] = value.clamp(min=_LEAST_SPREAD * largest) if largest > 0 else 1.0

    def labels(self, velocities: Tensor) -> Tensor:
        """Coefficients of velocities (n, d, *modes) as the half spectra that `forward` is to return."""
        return self.centered(half_spectrum(velocities, self.band.ndim))

    def forward(self, spectra: Tensor) -> Tensor:
        """Half spectra of fixed and moving images (batch, 2, *half) -> of the velocities (batch, d, *half); all counted
        from the center."""
        parts = []
        for i, (net, x) in enumerate(((self.real, spectra.real), (self.imaginary, spectra.imag))):
            parts.append(self.velocity_spread[i] * net((x - self.image_mean[i]) / self.image_spread[i]))
        return torch.complex(*parts)

    def velocities(self, spectra: Tensor) -> Tensor:
        """Spectra of images, as `spectra` returns them -> coefficients of v0 (batch, d, *modes)."""
        return real_coefficients(self.uncentered(self(spectra)), self.band.ndim)

    @torch.no_grad()
    def predict(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Images (batch, *cells) over the whole domain -> coefficients of v0 (batch, d, *modes)."""
        training = self.training
        self.eval()
        velocity = self.velocities(self.spectra(fixed, moving))
        self.train(training)
        return velocity

    def loss(self, prediction: Tensor, label: Tensor, regularization: float = 0.0) -> Tensor:
        """The paper's equation 8, as it must read: ‖Re‖² + ‖Im‖² of the difference + λ Reg(W), mean over pairs.

        In print its third line compares the imaginary parts with real ones, and λ Reg(W) stands in it twice.

        Args:
            prediction, label: half spectra (batch, d, *half); the norms are those of the whole spectra.
            regularization: λ; Reg(W) is the sum of the squared weights of both networks.
        """
        weight = multiplicity(prediction)
        difference = prediction - label
        real = (weight * difference.real.square()).flatten(1).sum(1)
        imaginary = (weight * difference.imag.square()).flatten(1).sum(1)
        loss = (real + imaginary).mean()
        if regularization:
            loss = loss + regularization * sum(p.square().sum() for p in self.parameters() if p.ndim > 1)
        return loss


_REGULARIZATION = 1e-6  # λ of the loss while training


@dataclass(frozen=True)
class Epoch:
    """Number from 1; relative error of v0, ‖v − v0‖/‖v0‖ in the root mean square, while training and on other pairs."""

    number: int
    training: float
    validation: float | None


def fit(
    net: DualNet,
    pairs: tuple[Tensor, Tensor],
    *,
    epochs: int = 300,
    batch: int = 64,
    learning_rate: float = 5e-4,
    seed: int = 0,
    validation: tuple[Tensor, Tensor] | None = None,
    report: Callable[[Epoch], None] | None = None,
) -> None:
    """Trains on FLASH's velocities by plain Adam, as the paper; the same seed and weights give the same result.

    Nothing larger than the band is touched: spectra are computed once, by `DualNet.spectra`.

    Args:
        pairs: spectra (n, 2, *half), and velocities (n, d, *modes) on the same device.
        validation: the same of other pairs.
    """
    spectra, velocities = pairs
    net.adapt(spectra, velocities)
    labels = net.labels(velocities)
    optimizer = torch.optim.Adam(net.parameters(), lr=learning_rate)
    generator = torch.Generator().manual_seed(seed)
    for number in range(1, epochs + 1):
        net.train()
        errors = []
        for chosen in torch.randperm(len(spectra), generator=generator).split(batch):
            if len(chosen) == 1 and len(spectra) > 1:
                continue  # batch normalization has nothing to normalize
            prediction = net(spectra[chosen])
            optimizer.zero_grad(set_to_none=True)
            net.loss(prediction, labels[chosen], _REGULARIZATION).backward()
            optimizer.step()
            errors.append((net.loss(prediction.detach(), labels[chosen]), len(chosen)))
        if report is not None:
            size = float(net.loss(torch.zeros_like(labels), labels))
            mean = sum(float(e) * n for e, n in errors) / sum(n for _, n in errors)
            report(Epoch(number, math.sqrt(mean / size), None if validation is None else error(net, *validation)))
    net.eval()


@torch.no_grad()
def error(net: DualNet, spectra: Tensor, velocities: Tensor) -> float:
    """Root of Σ‖v − v0‖² / Σ‖v0‖² over pairs, for spectra (n, 2, *half) and velocities (n, d, *modes)."""
    net.eval()
    labels = net.labels(velocities)
    return math.sqrt(float(net.loss(net(spectra), labels)) / float(net.loss(torch.zeros_like(labels), labels)))
