# SPDX-License-Identifier: Apache-2.0
"""The file that a container of the BIDS app is built of: what it copies exists, and what it starts is the command."""

from __future__ import annotations

import fnmatch
import json
import re
import sys

import pytest
from cmake_files import ROOT
from DeepFLASHRegistrationLib.commands import main as cli

tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")


def _instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(word, " ".join(rest.split())) for word, _, rest in (line.partition(" ") for line in lines) if word]


def _ignored(name: str) -> bool:
    """Whether .dockerignore keeps a file of the top folder from the build: the last line that fits decides."""
    ignored = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#") and fnmatch.fnmatch(name, line.removeprefix("!")):
            ignored = not line.startswith("!")
    return ignored


def test_what_it_copies_is_there_and_all_that_the_package_is_built_of() -> None:
    copied = {name for word, rest in _instructions() if word == "COPY" for name in rest.split()[:-1]}
    assert all((ROOT / name).exists() for name in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {"pyproject.toml", project["readme"], *project["license-files"], "DeepFLASHRegistration"}
    assert copied == needed
    assert not [name for name in copied if _ignored(name)]
    assert _ignored(".venv")
    assert _ignored(".git")


def test_it_installs_what_the_project_names_and_runs_on_its_python() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    words = dict(_instructions())
    extras = re.search(r'"/src\[(\w+)\]"', words["RUN"])[1]
    assert extras in project["optional-dependencies"]
    version = tuple(map(int, re.fullmatch(r"python:(\d+)\.(\d+)-slim", words["FROM"]).groups()))
    assert version >= tuple(map(int, project["requires-python"].removeprefix(">=").split(".")))
    torch = re.search(r'^TORCH = "(.*)"', (ROOT / "Utilities/environment.py").read_text(encoding="utf-8"), re.MULTILINE)
    assert f"torch=={torch[1]}+cpu" in words["RUN"]


def test_it_starts_the_bids_app() -> None:
    program, *arguments = json.loads(dict(_instructions())["ENTRYPOINT"])
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert program in scripts
    given = ["/data", "/out", "participant", "--participant_label", "01", "02", "--template", "/data/t.nii.gz"]
    _, options = cli._parsed([*arguments, *given])
    assert (str(options.bids_dir), options.level, options.participant_label) == ("/data", "participant", ["01", "02"])
