# SPDX-License-Identifier: Apache-2.0
"""Networks of the ICON family: from two images to both maps between them, in steps from coarse to fine.

*ICON* and *GradICON* (Greer et al., ICCV 2021; Tian et al., CVPR 2023) add up displacements: each step sees the moving
image as the steps before it left it. That the map from the other side is the inverse is learned. *ConstrICON* (Greer et
al., MICCAI 2023) is made so: a step is the exponential of N(A, B) − N(B, A), which exchanging the images negates, and
the step after it sees both images half-way. *CARL* (Greer et al., CVPR 2025) is GradICON with another first step, which
attends to coordinates (attention.py). U-Nets and compositions are those of the package icon_registration, whose
own choice of a device is never asked: all is where the images are.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .attention import AttentionStep

# A map: coordinates (n, d, *points) in 0..1 along each axis, voxel i of n being at i / (n − 1), to such coordinates.
Transform = Callable[[Tensor], Tensor]
FAMILY = ("icon", "gradicon", "constricon")
# What the package's files import, and what is used of them here never does.
_UNUSED = ("matplotlib", "matplotlib.pyplot", "tqdm", "torchvision", "torchvision.utils")


@dataclass(frozen=True)
class Design:
    """Of a network.

    Attributes:
        down: channels of the U-Nets on the way down, from those of both images.
        up: and on the way up, from fine to coarse.
        factors: of each step, by how much its voxels are larger; powers of two that do not grow.
        matrices: linear steps before these, of ConstrICON.
        attention: channels of the features of CARL's first step, which is no U-Net; 0: it is one.
        padding: voxels around both images there, of the size that it sees.
        length: of its features.
        stretched: whether images are stretched to the shape that it was trained on, as published, and its answers
            count in lengths of the image. If not, they count in voxels, of the size that it was trained on, and there
            may be any number of these.
    """

    down: tuple[int, ...]
    up: tuple[int, ...]
    factors: tuple[int, ...]
    matrices: int = 0
    attention: int = 0
    padding: int = 0
    length: float = 4.0
    stretched: bool = False

    def __post_init__(self) -> None:
        for name in ("down", "up", "factors"):
            object.__setattr__(self, name, tuple(map(int, getattr(self, name))))
        if len(self.up) != len(self.down) - 1 or not 0 < len(self.up) < 10 or min(self.down + self.up) < 1:
            raise ValueError(f"channels {self.down} and {self.up} make no U-Net")
        halved = [f in (1, 2, 4, 8, 16) for f in self.factors]
        if not halved or not all(halved) or list(self.factors) != sorted(self.factors, reverse=True):
            raise ValueError(f"{self.factors} are no factors of voxels from coarse to fine")
        if self.matrices not in (0, 1, 2):
            raise ValueError(f"{self.matrices} matrices are no number of linear steps known here")
        known = 3 <= self.attention <= 1024 and 0 <= self.padding <= 64 and 0 < self.length < 100
        if (self.attention or self.padding) and not known:
            raise ValueError(f"{self.attention} features with padding {self.padding} make no attention")

    @property
    def least(self) -> int:
        """Voxels along each axis that an image must have more of: each level but the last halves at least two, and
        attention wants two."""
        unets = self.factors[1:] if self.attention else self.factors
        least = max((factor * 2 ** (len(self.up) - 1) for factor in unets), default=0)
        return max(least, self.factors[0], 32 if self.matrices else 0)

    def values(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


PUBLISHED_CHANNELS = ((2, 16, 32, 64, 256, 512), (16, 32, 64, 128, 256))
PUBLISHED = Design(*PUBLISHED_CHANNELS, (4, 2, 1, 1), stretched=True)
_SMALL = ((2, 12, 24, 32), (8, 16, 24))
_TENTH = 10  # by which the package's U-Nets divide what they answer
# By method and size. The small ones are for processors, and small images.
SIZES = {
    "icon": {"small": Design(*_SMALL, (4, 2, 1)), "large": PUBLISHED},
    "gradicon": {"small": Design(*_SMALL, (4, 2, 1)), "large": PUBLISHED},
    "constricon": {"small": Design(*_SMALL, (4, 2)), "large": Design(*PUBLISHED_CHANNELS, (1, 1), 2, stretched=True)},
    "carl": {
        "small": Design(*_SMALL, (4, 4, 2), attention=16, padding=2),
        "large": Design(*PUBLISHED_CHANNELS, (4, 2, 1), attention=128, padding=9, stretched=True),
    },
}


def icon_or_say() -> None:
    """ImportError that says what to install, unless icon_registration is there, in a version that has the networks."""
    try:
        with stand_ins():
            from icon_registration.constricon import TwoStepInverseConsistent, find_velocity_fields  # noqa: F401
            from icon_registration.networks import ConvolutionalMatrixNet, UNet2  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "This network is made of those of the package icon_registration, which is not installed here, or is of "
            f"another version ({error}). Install it beside PyTorch: python -m pip install --no-deps icon-registration"
        ) from error


class IconNet(nn.Module):
    """Pairs of images -> maps between them.

    Batch normalization does not look at the batch: it keeps its statistics, which are 0 and 1 until weights with others
    are loaded. What a pair or two would tell of them changes with every update.

    Args:
        ndim: 2 or 3.
        design: see Design.
        shape: of the images that it is trained on.
        consistent: whether it is ConstrICON's.

    Attributes:
        net: the package's, which answers with φ_AB of images A (moving) and B (fixed); ConstrICON's also with φ_BA.
        between: called after each U-Net, also on the way back through it; may raise.

    Raises:
        ImportError: icon_registration is missing.
    """

    def __init__(self, ndim: int, design: Design, shape: Sequence[int], consistent: bool):
        super().__init__()
        if len(shape) != ndim or min(shape) <= 1:
            raise ValueError(f"{tuple(shape)} is no shape of {ndim} dimensions")
        if design.matrices and not consistent:
            raise ValueError("linear steps are of ConstrICON alone")
        if design.attention and consistent:
            raise ValueError("attention is no step of ConstrICON")
        icon_or_say()
        self.design, self.shape, self.consistent = design, tuple(shape), consistent
        self.net = self.made(ndim)
        self.between: Callable[[], None] = lambda: None
        self._unit: list[float] | None = None
        self._laid: tuple[tuple[int, ...], torch.device] | None = None
        for module in self.net.modules():
            if hasattr(module, "lastConv"):
                module.register_forward_hook(self._in_voxels)
            if isinstance(module, AttentionStep):
                module.register_forward_hook(lambda *found: self.between())
        self.train(False)

    def made(self, ndim: int) -> nn.Module:
        """The package's network, by the design."""
        return (_consistent if self.consistent else _composed)(ndim, self.design)

    def train(self, mode: bool = True) -> IconNet:
        """As `nn.Module.train`; the batch normalization stays as it is."""
        return super().train(False)

    def transforms(
        self, fixed: Tensor, moving: Tensor, themselves: list[Tensor] | None = None
    ) -> tuple[Transform, Transform]:
        """Images (n, *shape) -> fixed_to_moving and moving_to_fixed.

        Args:
            themselves: gets what attention says of images and themselves, `AttentionStep.onto_themselves`.

        Raises:
            ValueError: the images have too few voxels.
        """
        self._on(tuple(fixed.shape[1:]), fixed.device)
        a, b = moving[:, None], fixed[:, None]
        if self.consistent:
            return self.net(a, b)
        with self._features_found_once() as steps:
            forth, back = self.net(a, b), self.net(b, a)
            if themselves is not None:
                themselves += [step.onto_themselves() for step in steps]
            return forth, back

    def fixed_to_moving(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """The first of `displacements`, in half of the time where each is predicted by itself."""
        self._on(tuple(fixed.shape[1:]), fixed.device)
        found = self.net(moving[:, None], fixed[:, None])
        return self.displacement(found[0] if self.consistent else found)

    @property
    def identity(self) -> Tensor:
        """The coordinates of the voxels of the images that it saw last, (1, d, *shape)."""
        return self.net.identity_map

    def displacements(self, fixed: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, *shape) -> fixed_to_moving and moving_to_fixed minus the identity in voxels, (n, d, *shape)."""
        return tuple(self.displacement(phi) for phi in self.transforms(fixed, moving))

    def displacement(self, phi: Transform) -> Tensor:
        """A map of the images that it saw last, minus the identity in voxels, (n, d, *shape)."""
        shape = self.identity.shape[2:]
        return per_axis(phi(self.identity) - self.identity, [n - 1 for n in shape])

    @contextmanager
    def _features_found_once(self) -> Iterator[list[AttentionStep]]:
        """Within, attention that has seen a pair does not look for its features again when it comes exchanged."""
        steps = [module for module in self.net.modules() if isinstance(module, AttentionStep)]
        try:
            for step in steps:
                step.known = []
            yield steps
        finally:
            for step in steps:
                step.known = None

    def _on(self, shape: tuple[int, ...], device: torch.device) -> None:
        """Lays the coordinates out for images of a shape, where they are."""
        if self._laid == (shape, device):
            return
        if min(shape) <= self.design.least:
            raise ValueError(f"images of {' x '.join(map(str, shape))} voxels have no more than {self.design.least}")
        # The package fills these from NumPy, in memory, whatever device is the default.
        self.net.assign_identity_map([1, 1, *shape])
        self.net.to(device)
        self._unit = None if self.design.stretched else [_TENTH / (n - 1) for n in shape]
        self._laid = (shape, device)

    def _in_voxels(self, module: nn.Module, inputs: Any, found: Tensor) -> Tensor | None:
        """The published networks answer with tenths of lengths of the image, others with voxels."""
        self.between()
        if found.requires_grad:  # and again when its derivatives are asked for
            found.register_hook(lambda slope: self.between())
        return None if self._unit is None else per_axis(found, self._unit)


def per_axis(field: Tensor, factors: Sequence[float]) -> Tensor:
    """The components of a field (n, d, …), each times its factor."""
    return torch.stack([field[:, i] * factor for i, factor in enumerate(factors)], 1)


def velocities(phi: Transform) -> list[Tensor]:
    """Those whose exponentials ConstrICON's map is made of, in its coordinates, (n, d, *shape / factor) each."""
    from icon_registration.constricon import find_velocity_fields

    return list(find_velocity_fields(phi))


def unet(ndim: int, design: Design) -> nn.Module:
    """The package's, of two images."""
    from icon_registration.networks import UNet2

    return UNet2(len(design.up), [list(design.down), list(design.up)], ndim)


def _composed(ndim: int, design: Design) -> nn.Module:
    from icon_registration import DownsampleRegistration, FunctionFromVectorField, TwoStepRegistration

    def steps(factors: tuple[int, ...]) -> nn.Module:
        *before, own = factors
        if own > 1:
            return DownsampleRegistration(steps(tuple(f // 2 for f in factors)), ndim)
        if not before and design.attention:
            return FunctionFromVectorField(AttentionStep(ndim, design.attention, design.padding, design.length))
        step = FunctionFromVectorField(unet(ndim, design))
        return TwoStepRegistration(steps(tuple(before)), step) if before else step

    return steps(design.factors)


def _consistent(ndim: int, design: Design) -> nn.Module:
    from icon_registration import DownsampleRegistration
    from icon_registration import constricon as made
    from icon_registration.networks import ConvolutionalMatrixNet

    def step(factor: int) -> nn.Module:
        if factor > 1:
            return DownsampleRegistration(step(factor // 2), ndim)
        return made.ICONSquaringVelocityField(unet(ndim, design))

    parts = [made.ConsistentFromMatrix(ConvolutionalMatrixNet(dimension=ndim)) for _ in range(design.matrices)]
    *before, whole = [*parts, *map(step, design.factors)]
    for part in reversed(before):
        whole = made.TwoStepInverseConsistent(part, whole)
    return whole


@contextmanager
def stand_ins() -> Iterator[None]:
    """Empty modules by the names that are imported and never used, where there are none; gone afterwards.

    torchvision is never imported: one that was made for another torch fails."""
    lacking = [name for name in _UNUSED if name not in sys.modules and not _is_installed(name.partition(".")[0])]
    sys.modules.update({name: types.ModuleType(name) for name in lacking})
    try:
        yield
    finally:
        for name in lacking:
            del sys.modules[name]


def _is_installed(name: str) -> bool:
    return name != "torchvision" and importlib.util.find_spec(name) is not None
