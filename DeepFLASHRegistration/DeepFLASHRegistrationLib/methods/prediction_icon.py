# SPDX-License-Identifier: Apache-2.0
"""Models of the ICON family: of the kinds "icon", "gradicon", "constricon" and "carl", and of published weights:
"unigradicon", "multigradicon" and "unicarl"."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..geodesics.objective import Pair
from ..learning.icon import Design, IconNet, per_axis
from ..learning.unicarl import UniCarlDesign, UniCarlNet
from ..problem.problem import Problem
from ..support.errors import Cancelled, InputError
from .map_prediction import MapPredictor
from .trained_models import Model

_ANY_SIZE = ("unigradicon", "multigradicon", "unicarl")  # the unit of length follows the size of the object
# Its images were stored from superior to inferior along the first axis; the working grid ascends.
_DESCENDING = ("unicarl",)


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
    """

    def __init__(self, model: Model):
        super().__init__(model)
        if not self.network.design.stretched:
            # The parameters' coarsest resolution, 4, times this is what its steps and levels halve.
            self.multiple = 4
        if model.config.kind in _ANY_SIZE:
            self.unit_mm = None

    def built(self) -> IconNet:
        return network_of(self.config.kind, self.config.ndim, self.config.architecture)

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
        turned = [-len(own)] if self.config.kind in _DESCENDING else []
        images = [_stretched(image[None, None], own)[:, 0].flip(turned) for image in (pair.fixed, pair.moving)]
        both = network.displacements(*images) if network.consistent else (network.fixed_to_moving(*images),)
        both = [u.flip(turned) for u in both]
        voxel = [length / n for length, n in zip(problem.lengths, own)]
        if turned:
            voxel[0] = -voxel[0]
        forth, *back = (_stretched(per_axis(u, voxel), working)[0] for u in both)
        return forth, (back[0] if back else None)


def _stretched(arrays: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(n, c, *any) -> (n, c, *shape), of the same box."""
    if tuple(arrays.shape[2:]) == shape:
        return arrays
    mode = "trilinear" if arrays.ndim == 5 else "bilinear"
    return F.interpolate(arrays, shape, mode=mode, align_corners=False)
