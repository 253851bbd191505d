# SPDX-License-Identifier: Apache-2.0
"""What registrations are asked for of which each is to have a velocity of its own, found by its images alone."""

from __future__ import annotations

from ..problem.parameters import METHODS, Parameters
from ..support.errors import InputError


def check_own_velocity(parameters: Parameters, lacks: str, dense: str) -> None:
    """InputError for parameters by which they cannot be found so.

    Args:
        lacks: why nothing steers them, as a sentence without its end.
        dense: what maps without a velocity lack.
    """
    if METHODS[parameters.method].needs_transform:
        raise InputError(f"--method {parameters.method}: takes a transform of each pair. Choose another method.")
    if parameters.steering_of_one:
        raise InputError(f"--{parameters.steering_of_one.replace('_', '-')}: {lacks}. Leave it out.")
    if parameters.dense:
        raise InputError(
            f"--method {parameters.method}: finds maps without a velocity, {dense}. Add --as-geodesic for the "
            "geodesics nearest to them."
        )
