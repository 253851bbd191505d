# SPDX-License-Identifier: Apache-2.0
"""The methods that learn from packs, by the names that --method takes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ..support.errors import InputError
from .learned import Method

if TYPE_CHECKING:
    from .momenta import Momenta
    from .train_on_packs import PackOptions

# The file of this room that has method_of(options).
_FILES = {
    "deepflash": "feature_method",
    "voxelmorph": "voxelmorph_method",
    "quicksilver": "quicksilver_method",
    "icon": "icon_method",
    "gradicon": "icon_method",
    "constricon": "icon_method",
    "carl": "icon_method",
    "nephi-codes": "icon_method",
}
NAMES = tuple(_FILES)
TAUGHT = "quicksilver"  # the one that learns momenta


def learned_method(options: PackOptions, momenta: Momenta | None = None) -> Method:
    """What the options ask to be trained.

    Args:
        momenta: to learn from.

    Raises:
        InputError: what it learns from, or a package that it stands on, is missing; says what to do.
    """
    if momenta is not None and options.method != TAUGHT:
        raise InputError(f"--labels: momenta teach {TAUGHT}, not {options.method}. Leave them out.")
    return import_module(f".{_FILES[options.method]}", __package__).method_of(options, momenta)
