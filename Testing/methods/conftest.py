# SPDX-License-Identifier: Apache-2.0
"""What all tests of the methods share."""

import pytest


@pytest.fixture(autouse=True)
def _same_pair(fits_once: None) -> None:
    """Most methods register the same pair."""
