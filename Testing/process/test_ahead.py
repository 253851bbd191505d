# SPDX-License-Identifier: Apache-2.0
"""Reading ahead: what was begun is what is taken, and an error is told to who takes it."""

from __future__ import annotations

import threading

import pytest
from DeepFLASHRegistrationLib.process.ahead import Ahead


def test_what_was_begun_is_read_once_and_in_another_thread() -> None:
    seen: list[tuple[str, str]] = []
    read = threading.Event()

    def reading(key: str) -> str:
        seen.append((key, threading.current_thread().name))
        read.set()
        return key.upper()

    ahead = Ahead(reading)
    assert ahead.take("a") == "A"
    read.clear()
    ahead.begin("b")
    assert read.wait(5)
    assert ahead.take("b") == "B"
    assert [key for key, _ in seen] == ["a", "b"]
    assert seen[0][1] == threading.current_thread().name != seen[1][1]
    assert ahead.take("b") == "B"  # taken once, it is not kept
    assert [key for key, _ in seen] == ["a", "b", "b"]


def test_another_one_than_was_begun_is_read_all_the_same() -> None:
    ahead = Ahead(str.upper)
    ahead.begin("a")
    assert ahead.take("b") == "B"
    ahead.begin("c")
    ahead.begin("d")
    assert ahead.take("d") == "D"


def test_an_error_is_that_of_who_takes_it() -> None:
    def reading(key: int) -> float:
        return 1 / key

    ahead = Ahead(reading)
    ahead.begin(0)
    assert ahead.take(2) == 0.5
    ahead.begin(0)
    with pytest.raises(ZeroDivisionError):
        ahead.take(0)
