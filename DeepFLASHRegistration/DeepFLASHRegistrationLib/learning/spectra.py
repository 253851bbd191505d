# SPDX-License-Identifier: Apache-2.0
"""Real coefficients of a band to complex Fourier coefficients and back.

A field of the band is f(x) = Σ_k F(k) exp(iω·x) with F(−k) = conj F(k), so half of the spectrum says everything. Here
that half has the frequencies −m … m along all axes but the last and 0 … m along the last, in this order: what is near
in frequency lies near in the array, as convolutions want it.

Per axis the change is unitary: √2 cos(kωx) and √2 sin(kωx) have the coefficients 1/√2 and −i/√2 at k, and their
conjugates at −k. The discrete Fourier transform of the field's values at the centers of N_j cells per axis is
F(k) Π_j N_j exp(iπ k_j/N_j): the phase is that of the half cell between the domain's corner and the first center.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from ..geodesics.band import Band, Metric, separable


@functools.cache
def _matrix(modes: int, half: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(frequency, basis function) -> Fourier coefficient along an axis, frequencies from −m, or from 0 if ``half``."""
    m = (modes - 1) // 2
    matrix = torch.zeros(modes, modes, dtype=torch.complex128)
    matrix[m, 0] = 1
    for k in range(1, m + 1):
        matrix[m + k, 2 * k - 1] = matrix[m - k, 2 * k - 1] = 1 / math.sqrt(2)
        matrix[m + k, 2 * k], matrix[m - k, 2 * k] = -1j / math.sqrt(2), 1j / math.sqrt(2)
    return matrix[m if half else 0 :].to(device=device, dtype=dtype)


def half_shape(modes: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the half spectrum of a band: (*modes[:-1], (modes[-1] + 1) / 2)."""
    return (*modes[:-1], (modes[-1] + 1) // 2)


def half_root(metric: Metric, band: Band) -> Tensor:
    """K^½ at the frequencies of a band's half spectrum, (*half_shape(modes)); float64 on the CPU."""
    root = metric.symbol(band).rsqrt()
    for axis, n in enumerate(half_shape(band.modes)):
        k = (torch.arange(n) - (n - 1) // 2).abs() if axis < band.ndim - 1 else torch.arange(n)
        root = root.index_select(axis, (2 * k - 1).clamp(min=0))
    return root


def half_spectrum(coefficients: Tensor, ndim: int) -> Tensor:
    """Real coefficients (..., *modes), ``ndim`` axes of modes -> complex (..., *half_shape(modes))."""
    values = coefficients.to(coefficients.dtype.to_complex())
    modes = values.shape[-ndim:]
    return separable(values, [_matrix(n, a == ndim - 1, values.dtype, values.device) for a, n in enumerate(modes)])


def multiplicity(spectrum: Tensor) -> Tensor:
    """How many coefficients of the whole spectrum each one of the half stands for: (shape[-1],), 1 or 2."""
    weight = torch.full(spectrum.shape[-1:], 2.0, dtype=spectrum.real.dtype, device=spectrum.device)
    weight[0] = 1
    return weight


def real_coefficients(spectrum: Tensor, ndim: int) -> Tensor:
    """Complex half spectrum (..., *half_shape(modes)) -> real coefficients (..., *modes).

    Where the last frequency is 0 the half still holds each number twice, at k and at −k; where these are not
    conjugate, their nearest conjugate numbers count. So whatever the spectrum, the field is real.
    """
    modes = (*spectrum.shape[-ndim:-1], 2 * spectrum.shape[-1] - 1)
    matrices = [_matrix(n, a == ndim - 1, spectrum.dtype, spectrum.device) for a, n in enumerate(modes)]
    return separable(spectrum * multiplicity(spectrum), [m.conj().t() for m in matrices]).real


def squared_norm(spectrum: Tensor, ndim: int) -> Tensor:
    """Σ |F(k)|² over the whole spectrum, (...): the mean of the squared field (Parseval)."""
    size = spectrum.real.square() + spectrum.imag.square()
    return (size * multiplicity(spectrum)).flatten(-ndim).sum(-1)
