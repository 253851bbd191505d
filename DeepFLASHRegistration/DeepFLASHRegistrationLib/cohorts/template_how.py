# SPDX-License-Identifier: Apache-2.0
"""How a template is made, and what none can be made by."""

from __future__ import annotations

from dataclasses import dataclass

from ..imaging.io import selection
from ..problem.parameters import Parameters
from ..support.errors import InputError
from .own_velocity import check_own_velocity
from .template_images import AVERAGES


@dataclass(frozen=True)
class How:
    """How a template is made.

    Attributes:
        rounds: of registration and averaging.
        average: of the warped images, one of AVERAGES.
        voxel_mm: of the template; 0 for that of the subjects.
        start: the image that all are aligned with first; "" for the subject of middle size.
        like: an image in whose pose, and on whose grid, the template shall lie; "" for upright voxels around what the
            subjects show.
        mirrored: the left-right mirror images of the subjects count, too.
        standard: an image that the template is registered to when it is done; "" for none.
    """

    rounds: int = 4
    average: str = "mean"
    voxel_mm: float = 0.0
    start: str = ""
    like: str = ""
    standard: str = ""
    mirrored: bool = False

    def check(self, parameters: Parameters) -> None:
        """InputError for what no template can be made by."""
        if not 1 <= self.rounds <= 50:
            raise InputError(f"--rounds {self.rounds}: must lie between 1 and 50.")
        if self.average not in AVERAGES:
            raise InputError(f"--average {self.average}: must be one of {', '.join(AVERAGES)}.")
        if not (self.voxel_mm == 0 or 1e-3 <= self.voxel_mm <= 1e3):
            raise InputError(f"--voxel-mm {self.voxel_mm:g}: must lie between 0.001 and 1000, or be 0.")
        for name in ("start", "like", "standard"):
            file = getattr(self, name)
            if file and not selection(file)[0].exists():
                raise InputError(f"--{name} {file}: there is no such file. Check the path.")
        if self.like and self.voxel_mm:
            raise InputError(f"--voxel-mm {self.voxel_mm:g}: the template lies on the voxels of --like. Leave it out.")
        if self.like and self.mirrored:
            raise InputError("--mirrored puts the template's own middle at x = 0. Leave --like out.")
        check_own_velocity(
            parameters,
            "a template has no landmarks or labels by which subjects could be steered",
            "which have no mean",
            channels=True,
        )
