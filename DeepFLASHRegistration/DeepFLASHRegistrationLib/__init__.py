# SPDX-License-Identifier: Apache-2.0
"""DeepFLASH: diffeomorphic image registration by band-limited geodesics.

    from DeepFLASHRegistrationLib import Parameters, read_volume, register
    result = register(read_volume("fixed.nii.gz"), read_volume("moving.nii.gz"), Parameters.from_preset("fast"))

Importing this package imports neither torch nor SimpleITK; what needs them imports them when it is called.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .version import __version__

_HOMES = {
    "Grid": "imaging.grid",
    "InputError": "support.errors",
    "Parameters": "problem.parameters",
    "Landmarks": "imaging.landmarks",
    "Result": "registration.result",
    "Subject": "problem.subject",
    "Volume": "imaging.volume",
    "load_result": "results.velocity",
    "read_labels": "imaging.io",
    "read_mask": "imaging.io",
    "read_volume": "imaging.io",
    "register": "registration.register",
    "save_result": "results.folder",
    "write_volume": "imaging.io",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
