# SPDX-License-Identifier: Apache-2.0
"""Models of the kind "nephi-codes": a neural field by latent codes, which can be fitted to a pair."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import torch
from torch import Tensor

from ..geodesics.objective import Pair
from ..learning.coded_field import LEAST, CodedDesign, CodedField, FittedCodes
from ..learning.icon import per_axis
from ..learning.icon_loss import IconLoss
from ..problem.problem import Problem
from ..support.errors import Cancelled
from .map_prediction import MapPredictor
from .network_instance import Fitting

_RATE = 1e-2  # of learning, for the codes of a pair


class Kind(MapPredictor):
    """See MapPredictor. The map of the images exchanged is near the inverse of the map but for what its loss does not
    see: so the map is inverted instead."""

    learns = True

    def built(self) -> CodedField:
        values = self.config.architecture
        design = CodedDesign(**{field.name: values[field.name] for field in fields(CodedDesign)})
        return CodedField(self.config.ndim, design, tuple(values["shape"]))

    def seen(self, problem: Problem, pair: Pair) -> Tensor:
        self.check_voxels(problem, pair, pair.fixed.shape, LEAST)
        return super().seen(problem, pair)

    def fitting(self, shape: tuple[int, ...]) -> Fitting:
        return Fitting(
            lambda device: IconLoss(self.config.kind, shape, device),
            _RATE,
            lambda usable: "crop the images to what is to be registered",
            lambda network, images: FittedCodes(network.requires_grad_(False), images),
        )

    def displacements(
        self, problem: Problem, pair: Pair, cancelled: Callable[[], bool]
    ) -> tuple[Tensor, Tensor | None]:
        def look() -> None:
            if cancelled():
                raise Cancelled("Cancelled.")

        with torch.no_grad():
            found = self.network.fixed_to_moving(*self.seen(problem, pair).split(1), look)
        return per_axis(found, [length / n for length, n in zip(problem.lengths, pair.fixed.shape)])[0], None
