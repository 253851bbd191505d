# SPDX-License-Identifier: Apache-2.0
"""What the documents say to type is understood."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from DeepFLASHRegistrationLib.commands import main as cli

pytest.importorskip("torch")  # the options of training come from classes that need it

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> list[str]:
    """Every line of a shell block that begins with deepflash."""
    found = []
    for path in DOCUMENTS:
        for block in re.findall(r"^```sh\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
            text = block.replace("\\\n", " ")
            found += [line for line in text.splitlines() if line.startswith("deepflash ")]
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("line", commands())
def test_the_command_is_understood(line: str) -> None:
    arguments = shlex.split(line, comments=True)[1:]
    command, options = cli._parsed([each.replace("…", "x") for each in arguments])
    assert command.run
    assert options is not None


def test_there_are_such_lines() -> None:
    assert len(commands()) > 15
