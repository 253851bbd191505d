# SPDX-License-Identifier: Apache-2.0
"""The pair of the command line's tests, most of which register it."""

import pytest
from command_line import pair

__all__ = ["pair"]


@pytest.fixture(autouse=True)
def _same_pair(fits_once: None) -> None:
    """Most tests register the same pair."""
