# SPDX-License-Identifier: Apache-2.0
"""How a series is registered."""

from __future__ import annotations

from dataclasses import dataclass

from ..problem.parameters import Parameters
from ..support.errors import InputError
from .own_velocity import check_own_velocity

MEAN, PREVIOUS = "mean", "previous"


@dataclass(frozen=True)
class How:
    """How a series is registered.

    Attributes:
        reference: the item that all are registered onto; "mean", their mean; or "previous", each onto the one before,
            and by all steps one after the other onto the first.
        smooth: standard deviation, in items, of the Gaussian by which velocities are averaged in time; 0 for none.
        cyclic: the first item follows the last, as of a heartbeat or a breath.
        independent: each item starts from rest, not from what was found for its neighbour.
        mask: on the reference, outside of which nothing is compared.
    """

    reference: int | str = 0
    smooth: float = 0.0
    cyclic: bool = False
    independent: bool = False
    mask: str | None = None

    def check(self, count: int, parameters: Parameters) -> None:
        """InputError for what a series of so many items cannot be registered by."""
        if isinstance(self.reference, int) and not 0 <= self.reference < count:
            raise InputError(
                f"--reference {self.reference}: the series has {count} items, counted from 0 to {count - 1}. Name one "
                "of them, mean or previous."
            )
        if not 0 <= self.smooth <= count:
            raise InputError(f"--smooth {self.smooth:g}: must lie between 0 (off) and the {count} items of the series.")
        check_own_velocity(
            parameters,
            "the items of a series have no landmarks, labels or further images by which they could be steered",
            "of which no series is kept",
        )
        if self.mask is not None and self.reference == PREVIOUS:
            raise InputError("--mask: is drawn on one item, and each is registered onto another one. Leave it out.")
