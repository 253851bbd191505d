# SPDX-License-Identifier: Apache-2.0
"""Models of the ICON family: of the kinds "icon", "gradicon", "constricon" and "carl", and of published weights:
"unigradicon", "multigradicon" and "unicarl"."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..geodesics.objective import Pair
from ..learning.blocks import LINEAR
from ..learning.icon import Design, IconNet, per_axis
from ..learning.icon_loss import IconLoss
from ..learning.unicarl import UniCarlDesign, UniCarlNet
from ..problem.problem import Problem
from ..support.errors import Cancelled, InputError
from ..support.tensor_memory import tensor_bytes
from .instance import check_memory
from .map_prediction import MapPredictor
from .network_instance import Fitting, step_bytes
from .trained_models import Model

_ANY_SIZE = ("unigradicon", "multigradicon", "unicarl")  # the unit of length follows the size of the object
# Its images were stored from superior to inferior along the first axis; the working grid ascends.
_DESCENDING = ("unicarl",)
# By whose loss networks are fitted that were trained elsewhere.
_FAMILY = {"unigradicon": "gradicon", "multigradicon": "gradicon", "unicarl": "carl"}
# Of learning, for instance optimization: of small networks one at which labels of hippocampi agreed more afterwards
# (at ten times that they agreed less); the published one of large ones.
_RATES = {False: 1e-4, True: 2e-5}
# Voxels beyond which it is looked at whether the memory suffices for a prediction, and of which numbers are offered.
_LARGE, _ROUND = 1_000_000, 16
# What a process grows by in a prediction, of what its tensors take: 3 GB of 1.5 at 175 voxels along each axis.
_BESIDE = 2.0


def network_of(kind: str, ndim: int, values: Mapping[str, Any]) -> IconNet:
    """A network of a kind by plain values: those of its design and "shape", of the images that it is trained on.

    Raises:
        ValueError, TypeError, LookupError: they describe none.
        ImportError: icon_registration is missing.
    """
    made, design = (UniCarlNet, UniCarlDesign) if kind == "unicarl" else (IconNet, Design)
    # Models of before a choice was there lack it.
    given = {field.name: values[field.name] for field in fields(design) if field.name in values}
    return made(ndim, design(**given), tuple(values["shape"]), kind == "constricon")


class Kind(MapPredictor):
    """See MapPredictor. Of ICON, GradICON and CARL the network's own map back, of the images exchanged, is near the
    inverse of the map but for what their losses do not see, such as a shift of both: so that map is inverted instead.

    A network that has a shape of its own sees the working grid's box stretched to that; its maps are stretched back.

    Attributes:
        own: that shape; None if it has none.
    """

    learns = True

    def __init__(self, model: Model):
        super().__init__(model)
        self.own = self.network.shape if self.network.design.stretched else None
        if self.own is None:
            # The parameters' coarsest resolution, 4, times this is what its steps and levels halve.
            self.multiple = 4
        # Axes, counted from the last, along which the network sees images turned round.
        self._turned = [-model.config.ndim] if model.config.kind in _DESCENDING else []
        if model.config.kind in _ANY_SIZE:
            self.unit_mm = None

    def built(self) -> IconNet:
        return network_of(self.config.kind, self.config.ndim, self.config.architecture)

    def with_voxels(self, count: int) -> Kind:
        if self.own is None:
            return super().with_voxels(count)
        found, least = copy.copy(self), self.network.design.least
        found.own = self._shortened(count)
        if min(found.own) <= least:
            shortest = next(n for n in range(1, max(self.own) + 1) if min(self._shortened(n)) > least)
            raise InputError(
                f"network_voxels: the model {self.config.name} needs at least {shortest}, not {count}, of the "
                f"{max(self.network.shape)} that it was trained on. Choose more, or leave it out."
            )
        return found

    def _shortened(self, count: int) -> tuple[int, ...]:
        """The shape that it was trained on, with so many voxels along the longest axis."""
        trained = self.network.shape
        return tuple(max(2, round(n * count / max(trained))) for n in trained)

    def seen(self, problem: Problem, pair: Pair) -> Tensor:
        own = self.own or tuple(pair.fixed.shape)
        self.check_voxels(problem, pair, own, self.network.design.least)
        return _stretched(torch.stack([pair.fixed, pair.moving])[None], own)[0].flip(self._turned)

    def fitting(self, shape: tuple[int, ...]) -> Fitting:
        family = _FAMILY.get(self.config.kind, self.config.kind)
        squared = self.config.kind == "multigradicon"

        def loss(device: str | torch.device, shape: tuple[int, ...] = shape) -> IconLoss:
            return IconLoss(family, shape, device, squared)

        def needed(other: tuple[int, ...]) -> int:
            return step_bytes(self.built, other, Fitting(lambda device: loss(device, other), 0.0, str))

        return Fitting(loss, _RATES[self.own is not None], lambda usable: self._helps(needed, usable))

    def _helps(self, needed: Callable[[tuple[int, ...]], int], usable: int) -> str:
        """What helps where so many bytes do not suffice for what needs so many on a shape."""
        if self.own is None:
            return "crop the images to what is to be registered"
        for count in range(max(self.own) - 1, 0, -1):
            shape = self._shortened(count)
            if count % _ROUND == 0 and min(shape) > self.network.design.least and needed(shape) <= usable:
                return f"let the network see fewer voxels (--network-voxels {count} fits)"
        return "choose another model"

    def watched(self, cancelled: Callable[[], bool]) -> None:
        def look() -> None:
            if cancelled():
                raise Cancelled("Cancelled.")

        self.network.between = look

    def displacements(
        self, problem: Problem, pair: Pair, cancelled: Callable[[], bool]
    ) -> tuple[Tensor, Tensor | None]:
        network, working = self.network, tuple(pair.fixed.shape)
        both = self.seen(problem, pair)
        own = tuple(both.shape[1:])
        if math.prod(own) >= _LARGE:
            what = f"The network of {self.config.name}, on {' x '.join(map(str, own))} voxels,"
            check_memory(
                what, self._pass_bytes(own), str(both.device), lambda usable: self._helps(self._pass_bytes, usable)
            )
        self.watched(cancelled)
        found = (
            network.displacements(*both.split(1)) if network.consistent else (network.fixed_to_moving(*both.split(1)),)
        )
        voxel = [length / n for length, n in zip(problem.lengths, own)]
        if self._turned:
            found = [u.flip(self._turned) for u in found]
            voxel[0] = -voxel[0]
        forth, *back = (_stretched(per_axis(u, voxel), working)[0] for u in found)
        return forth, (back[0] if back else None)

    @torch.no_grad()
    def _pass_bytes(self, shape: tuple[int, ...]) -> int:
        """About how much memory the prediction takes on images of a shape."""
        with torch.device("meta"):
            network, images = self.built(), torch.empty(2, 1, *shape)
        return int(_BESIDE * tensor_bytes(lambda: network.fixed_to_moving(*images)))


def _stretched(arrays: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(n, c, *any) -> (n, c, *shape), of the same box."""
    if tuple(arrays.shape[2:]) == shape:
        return arrays
    return F.interpolate(arrays, shape, mode=LINEAR[len(shape)], align_corners=False)
