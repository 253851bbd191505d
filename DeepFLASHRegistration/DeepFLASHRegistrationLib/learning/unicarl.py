# SPDX-License-Identifier: Apache-2.0
"""uniCARL: CARL's attention among features of a quarter of its voxels, then U-Nets that each start from a smoothed map.

Its parts are those of the package icon_registration, but for the attention, of which the package's has one width. Two
blocks that its authors' file has weights of, and that no image passes, are kept, so that the file fits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from .attention import CoordinateAttention
from .icon import PUBLISHED_CHANNELS, Design, IconNet, icon_or_say, stand_ins, unet

_DOWNSAMPLED = 4  # by the encoder, beside the factor of the step


@dataclass(frozen=True)
class UniCarlDesign(Design):
    """See Design: the attention's step and all U-Nets but the last have voxels of four times the size.

    Attributes:
        blurs: for each U-Net, the sigma of the Gaussian that smooths the map before it: in voxels of twice the size,
            of the last U-Net in the image's.
    """

    blurs: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "blurs", tuple(map(int, self.blurs)))
        *coarse, last = self.factors
        if set(coarse) != {4} or last != 1 or len(self.blurs) != len(coarse):
            raise ValueError(f"factors {self.factors} and blurs {self.blurs} make no uniCARL")
        if not self.attention or self.padding % _DOWNSAMPLED or not all(0 < sigma < 100 for sigma in self.blurs):
            raise ValueError(f"{self.attention} features, padding {self.padding}, blurs {self.blurs} make no uniCARL")

    @property
    def least(self) -> int:
        """See Design. A map is mirrored at the border for its smoothing, as far as one and a half sigma."""
        *coarse, last = (3 * sigma // 2 for sigma in self.blurs)
        return max(super().least, 4 * _DOWNSAMPLED, 2 * max(coarse, default=0), last)


PUBLISHED = UniCarlDesign(
    *PUBLISHED_CHANNELS,
    factors=(4, 4, 4, 4, 4, 4, 1),
    attention=384,
    padding=16,
    stretched=True,
    blurs=(21, 21, 21, 11, 11, 8),
)


class UniCarlNet(IconNet):
    """See IconNet; with a UniCarlDesign."""

    design: UniCarlDesign

    def made(self, ndim: int) -> nn.Module:
        """See IconNet."""
        from icon_registration import DownsampleRegistration, TwoStepRegistration

        carl, unicarl = _parts()
        design = self.design

        def step() -> nn.Module:
            return carl.RotationFunctionFromVectorField(unet(ndim, design))

        encoder = unicarl.SomeDownsampleNoDilationNet(ndim, design.attention)
        attention = unicarl.AttentionFeaturizer(encoder, ndim)
        attention.padding = design.padding
        attention.registerer.net = CoordinateAttention()
        net = DownsampleRegistration(attention, ndim)
        *coarse, last = design.blurs
        for sigma in coarse:
            net = TwoStepRegistration(unicarl.Blur(net, sigma), DownsampleRegistration(step(), ndim))
        return TwoStepRegistration(unicarl.Blur(DownsampleRegistration(net, ndim), last), step())


def _parts() -> tuple:
    """The package's files that have the parts; ImportError if it lacks them."""
    with stand_ins(), _on_processors():
        import icon_registration.carl as carl
        import icon_registration.unicarl.fixed_point_carl as unicarl
    return carl, unicarl


@contextmanager
def _on_processors() -> Iterator[None]:
    """The package computes something when it is imported, on the device of its choice: not on a GPU that the user may
    not have chosen, and not without memory."""
    icon_or_say()
    from icon_registration import config

    chosen = config.device
    config.device = torch.device("cpu")
    try:
        with torch.device("cpu"):
            yield
    finally:
        config.device = chosen
