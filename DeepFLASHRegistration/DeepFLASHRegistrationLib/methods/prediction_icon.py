# SPDX-License-Identifier: Apache-2.0
"""Models of the kinds "icon", "gradicon", "constricon", "unigradicon" and "multigradicon"."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import torch.nn.functional as F
from torch import Tensor

from ..geodesics.objective import Pair
from ..learning.blocks import LINEAR
from ..learning.icon import Design, IconNet, per_axis
from ..problem.problem import Problem
from ..support.errors import Cancelled, InputError
from .map_prediction import MapPredictor
from .trained_models import Model

_ANY_SIZE = ("unigradicon", "multigradicon")  # the unit of length follows the size of the object


class Kind(MapPredictor):
    """See MapPredictor. Of ICON and GradICON the network's own map back, of the images exchanged, is near the inverse
    of the map but for what their losses do not see, such as a shift of both: so that map is inverted instead.

    A network that has a shape of its own sees the working grid's box stretched to that; its maps are stretched back.
    """

    def __init__(self, model: Model):
        super().__init__(model)
        if not self.network.design.stretched:
            # The parameters' coarsest resolution, 4, times this is what its steps and levels halve.
            self.multiple = 4
        if model.config.kind in _ANY_SIZE:
            self.unit_mm = None

    def built(self) -> IconNet:
        values = self.config.architecture
        design = Design(**{field.name: values[field.name] for field in fields(Design)})
        return IconNet(self.config.ndim, design, tuple(values["shape"]), self.config.kind == "constricon")

    def displacements(
        self, problem: Problem, pair: Pair, cancelled: Callable[[], bool]
    ) -> tuple[Tensor, Tensor | None]:
        network, working = self.network, tuple(pair.fixed.shape)
        own = network.shape if network.design.stretched else working
        least = network.design.least
        if min(own) <= least:
            raise InputError(
                f"The model {self.config.name} needs more than {least} voxels of {problem.grid.spacing.min():.3g} mm "
                f"along each axis; around the fixed object there are {' x '.join(map(str, working))}. Choose another "
                "model or method."
            )

        def look() -> None:
            if cancelled():
                raise Cancelled("Cancelled.")

        network.between = look
        images = [_stretched(image[None, None], own)[:, 0] for image in (pair.fixed, pair.moving)]
        both = network.displacements(*images) if network.consistent else (network.fixed_to_moving(*images),)
        voxel = [length / n for length, n in zip(problem.lengths, own)]
        forth, *back = (_stretched(per_axis(u, voxel), working)[0] for u in both)
        return forth, (back[0] if back else None)


def _stretched(arrays: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(n, c, *any) -> (n, c, *shape), of the same box."""
    if tuple(arrays.shape[2:]) == shape:
        return arrays
    return F.interpolate(arrays, shape, mode=LINEAR[len(shape)], align_corners=False)
