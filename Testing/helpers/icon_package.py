# SPDX-License-Identifier: Apache-2.0
"""The package of ICON's networks, imported as the extension does: without what it asks for and never uses."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
from DeepFLASHRegistrationLib.learning.icon import icon_or_say


def icon_or_skip() -> ModuleType:
    """icon_registration; the file that asks is skipped where it is not installed."""
    try:
        icon_or_say()
    except ImportError as error:
        pytest.skip(str(error), allow_module_level=True)
    return sys.modules["icon_registration"]
