# SPDX-License-Identifier: Apache-2.0
"""Durations in words."""

from __future__ import annotations

import pytest
from DeepFLASHRegistrationLib.support.duration import in_words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (7.4, "7 s"), (13.0, "15 s"), (88.0, "90 s"), (91.0, "2 min"), (600.0, "10 min")],
)
def test_in_words_no_finer_than_it_is_known(seconds, words):
    assert in_words(seconds) == words
