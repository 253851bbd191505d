# SPDX-License-Identifier: Apache-2.0
"""What the CMake files say, read without CMake, and what lies in the tree."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
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


def loaded_by_slicer() -> set[str]:
    """Names within the library of what is loaded when Slicer loads the module, by what files import at file scope."""
    found: set[str] = set()
    waiting = [MODULE / "DeepFLASHRegistration.py"]
    while waiting:
        path = waiting.pop()
        for name in _imported(path):
            parts = name.split(".")
            for length in range(len(parts) + 1):
                within = ".".join(parts[:length])
                file = _file(within)
                if file is not None and within not in found:
                    found.add(within)
                    waiting.append(file)
    return found


def _file(within: str) -> Path | None:
    place = LIBRARY.joinpath(*filter(None, within.split(".")))
    choices = (place / "__init__.py", place.with_suffix(".py"))
    return next((file for file in choices if file.is_file()), None)


def _imported(path: Path) -> Iterator[str]:
    """Names within the library that a file imports when it is loaded; of `from x import y` also x.y."""
    own = list(path.relative_to(LIBRARY).parts[:-1]) if path.is_relative_to(LIBRARY) else []
    for node in _at_file_scope(ast.parse(path.read_text(encoding="utf-8")).body):
        module = node.module or ""
        if node.level:
            base = own[: len(own) - node.level + 1]
        elif module.split(".")[0] == LIBRARY.name:
            base, module = [], module.partition(".")[2]
        else:
            continue
        home = ".".join([*base, *filter(None, [module])])
        yield home
        yield from (f"{home}.{alias.name}".lstrip(".") for alias in node.names)


def _at_file_scope(nodes: list[ast.stmt]) -> Iterator[ast.ImportFrom]:
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            continue
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for block in ("body", "orelse", "finalbody"):
                yield from _at_file_scope(getattr(node, block, []))
