# SPDX-License-Identifier: Apache-2.0
"""Functions of the library's own, called in a process of their own."""

import sys
import time

import pytest
from DeepFLASHRegistrationLib.support.errors import InputError
from DeepFLASHRegistrationLib.support.isolation import Crashed, isolated

# What happens in the child, as a module of a library that is a neighbour of this file in the child's eyes.
CHILD = """
import os, time
from DeepFLASHRegistrationLib.support.errors import InputError

def add(a, b):
    print("chatter")
    os.write(1, b"more of it")
    return {"sum": a + b, "text": "ä"}

def refuse():
    raise InputError("a.stl: is bad")

def crash():
    os.abort()

def fail():
    raise ZeroDivisionError

def sleep():
    time.sleep(60)

def grow():
    return len(bytes(1 << 33))
"""


@pytest.fixture
def child(tmp_path, monkeypatch):
    import DeepFLASHRegistrationLib.support.isolation as isolation

    (tmp_path / "neighbour").mkdir()
    (tmp_path / "neighbour" / "work.py").write_text(CHILD, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(isolation, "__package__", "neighbour.support")
    return "work"


def test_values_come_back_whatever_is_printed(child) -> None:
    assert isolated(f"{child}:add", 1, 2.5) == {"sum": 3.5, "text": "ä"}


def test_wrong_input_is_told_as_such(child) -> None:
    with pytest.raises(InputError, match=r"a\.stl: is bad"):
        isolated(f"{child}:refuse")


@pytest.mark.parametrize("function", ["crash", "fail"])
def test_crashes_and_mistakes_of_the_child_are_one_error(child, function) -> None:
    with pytest.raises(Crashed, match="exit status"):
        isolated(f"{child}:{function}")


def test_what_takes_too_long_is_ended(child) -> None:
    start = time.monotonic()
    with pytest.raises(Crashed, match="no answer within"):
        isolated(f"{child}:sleep", seconds=1.0)
    assert time.monotonic() - start < 20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps this limit")
def test_memory_is_limited(child) -> None:
    with pytest.raises(Crashed):
        isolated(f"{child}:grow", memory=2 << 30)
