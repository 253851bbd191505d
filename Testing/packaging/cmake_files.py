# SPDX-License-Identifier: Apache-2.0
"""What the CMake files say, read without CMake, and what lies in the tree."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "DeepFLASHRegistration"
LIBRARY = MODULE / "DeepFLASHRegistrationLib"
_NOT_INSTALLED = ("__pycache__", ".ruff_cache", ".pytest_cache")


def variable(cmake_file: Path, name: str) -> list[str]:
    """The values that `set(name …)` gives a variable, with those of other variables filled in."""
    text = re.sub(r"(?m)^\s*#.*$", "", cmake_file.read_text(encoding="utf-8"))
    found = dict(re.findall(r"set\(\s*(\w+)([^)]*)\)", text))
    if name not in found:
        raise KeyError(f"{cmake_file.name} sets no {name}")
    values = re.findall(r'"([^"]*)"|(\S+)', found[name])
    filled = (quoted or bare for quoted, bare in values)
    return [re.sub(r"\$\{(\w+)\}", lambda match: " ".join(variable(cmake_file, match[1])), value) for value in filled]


def installed_scripts() -> list[str]:
    return variable(MODULE / "CMakeLists.txt", "MODULE_PYTHON_SCRIPTS")


def installed_resources() -> list[str]:
    return variable(MODULE / "CMakeLists.txt", "MODULE_PYTHON_RESOURCES")


def tree(folder: Path = MODULE) -> list[Path]:
    """The files of the module as they would be committed: no caches, nothing hidden, nothing that pip leaves."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.name != "CMakeLists.txt"
        and path.suffix != ".pyc"
        and not any(
            part in _NOT_INSTALLED or part.startswith(".") or part.endswith(".egg-info")
            for part in path.relative_to(ROOT).parts
        )
    )
