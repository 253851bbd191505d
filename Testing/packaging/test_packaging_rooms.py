# SPDX-License-Identifier: Apache-2.0
"""The rooms of the library: their order is checked and drawn as it is, and nothing in them grows too large to read."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cmake_files import LIBRARY, MODULE, ROOT, tree

tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")

_MOST_LINES_OF_A_FILE, _MOST_LINES_OF_A_FUNCTION, _MOST_ARGUMENTS = 500, 80, 8
# What may be larger, and why.
_ARGUMENTS = {
    "DeepFLASHRegistrationLib/gui/logic.py:register": "the door of Slicer's console: a keyword for each node",
    "DeepFLASHRegistrationLib/registration/register.py:register": "the door of the library",
}


def _layers() -> list[str]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return settings["tool"]["importlinter"]["contracts"][0]["layers"]


def _lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = Path(sys.executable).with_name("lint-imports.exe" if os.name == "nt" else "lint-imports")
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        [command, "--no-logo", "--no-cache"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_imports_point_downwards(tmp_path):
    shutil.copytree(LIBRARY, tmp_path / LIBRARY.name, ignore=shutil.ignore_patterns("__pycache__", "models"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    assert _lint(tmp_path).returncode == 0, _lint(tmp_path).stdout
    # One import upwards, within a function, and it is told.
    with open(tmp_path / LIBRARY.name / "imaging" / "grid.py", "a", encoding="utf-8") as file:
        file.write("\n\ndef upwards():\n    from ..registration import metrics\n")
    broken = _lint(tmp_path)
    assert broken.returncode == 1
    told = "DeepFLASHRegistrationLib.imaging.grid -> DeepFLASHRegistrationLib.registration.metrics"
    assert told in " ".join(broken.stdout.split())


def test_the_picture_of_the_rooms_is_that_of_the_code():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    drawn = re.findall(r"^(\w+) +(.+)$", re.search(r"```text\n(.*?)```", text, re.DOTALL)[1], re.MULTILINE)
    order = [room.strip() for layer in _layers() for room in layer.split("|")]
    # Rooms of one layer may stand in any order.
    assert sorted(room for room, _ in drawn) == sorted(order)
    height = {room.strip(): number for number, layer in enumerate(_layers()) for room in layer.split("|")}
    heights = [height[room] for room, _ in drawn]
    assert heights == sorted(heights)
    for room, sentence in drawn:
        first = ast.get_docstring(ast.parse((LIBRARY / room / "__init__.py").read_text(encoding="utf-8"))).split(". ")[
            0
        ]
        assert sentence.rstrip(".") == " ".join(first.split("\n\n")[0].split()).rstrip("."), room


def test_every_file_lies_in_a_room():
    loose = {path.name for path in LIBRARY.iterdir() if path.is_file() and path.suffix == ".py"}
    assert loose == {"__init__.py", "version.py", "parameters.py", "cli.py"}
    rooms = {room.strip() for layer in _layers() for room in layer.split("|")}
    assert {path.name for path in LIBRARY.iterdir() if (path / "__init__.py").exists()} == rooms


def test_every_room_has_its_tests():
    rooms = {room.strip() for layer in _layers() for room in layer.split("|")}
    # Of the window, what can be tested without Qt is tested with the module's logic.
    missing = {room for room in rooms - {"gui"} if not list((ROOT / "Testing" / room).glob("test_*.py"))}
    assert not missing


def test_every_name_in_the_way_of_one_registration_exists():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:[a-z_]+/)+[a-z_]*\.py|(?:[a-z_]+/)+)`", text.partition("## The house")[2]))
    missing = {name for name in named if not (LIBRARY / name).exists() and not (ROOT / name).exists()}
    assert len(named) > 20
    assert not missing


def _functions():
    for path in tree():
        if path.suffix == ".py":
            name = path.relative_to(MODULE).as_posix()
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield f"{name}:{node.name}", node


def test_no_function_takes_more_arguments_than_one_keeps_in_mind():
    wide = {}
    for name, node in _functions():
        given = node.args
        count = sum(each.arg not in ("self", "cls") for each in given.posonlyargs + given.args + given.kwonlyargs)
        count += (given.vararg is not None) + (given.kwarg is not None)
        if count > _MOST_ARGUMENTS:
            wide[name] = count
    assert set(wide) == set(_ARGUMENTS)


def test_no_function_and_no_file_is_longer_than_one_reads():
    functions = {
        name: node.end_lineno - node.lineno + 1
        for name, node in _functions()
        if node.end_lineno - node.lineno + 1 > _MOST_LINES_OF_A_FUNCTION
    }
    assert not functions
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in tree() if path.suffix == ".py"}
    assert not {path.name: count for path, count in lines.items() if count > _MOST_LINES_OF_A_FILE}
