# SPDX-License-Identifier: Apache-2.0
"""What registrations are asked for of which each is to have a velocity of its own, found by its images alone."""

from __future__ import annotations

from ..problem.parameters import METHODS, Parameters
from ..support.errors import InputError


def check_own_velocity(parameters: Parameters, lacks: str, dense: str, channels: bool = False) -> None:
    """InputError for parameters by which they cannot be found so.

    Args:
        lacks: why nothing steers them, as a sentence without its end.
        dense: what maps without a velocity lack.
        channels: whether there may be further images.
    """
    if METHODS[parameters.method].needs_transform:
        raise InputError(f"--method {parameters.method}: takes a transform of each pair. Choose another method.")
    asked = parameters.steered if channels else parameters.steering_of_one
    if asked:
        raise InputError(f"--{asked.replace('_', '-')}: {lacks}. Leave it out.")
    if parameters.dense:
        raise InputError(
            f"--method {parameters.method}: finds maps without a velocity, {dense}. Add --as-geodesic for the "
            "geodesics nearest to them."
        )
