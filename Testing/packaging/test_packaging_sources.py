# SPDX-License-Identifier: Apache-2.0
"""Rules that every source file keeps."""

from __future__ import annotations

import ast
import sys

from cmake_files import LIBRARY, MODULE, ROOT, tree

_SOURCES = [
    path
    for folder in ("DeepFLASHRegistration", "Testing", "Utilities")
    for path in tree(ROOT / folder)
    if path.suffix == ".py"
]
_LOADED = [path for path in _SOURCES if path.is_relative_to(MODULE)]
# What may be imported when a file is loaded; Slicer's reviewers ask for no more. The rest waits for a call.
_COMMON = {*sys.stdlib_module_names, "numpy", "SimpleITK", "DeepFLASHRegistrationLib"}
_IN_SLICER = {"slicer", "vtk", "vtkmodules"}
_WINDOW = {"slicer", "vtk", "qt", "ctk"}
_ALSO = {
    **{
        place: {"torch"}
        for place in (
            "geodesics/",
            "learning/",
            "training/",
            "methods/instance",
            "methods/map_prediction",
            "methods/network_instance",
            "methods/neural_pair",
            "methods/prediction",
            "methods/trained_network",
            "support/tensor_memory.py",
            "alignment/device_comparison.py",
        )
    },
    "scene/": _IN_SLICER,
    "gui/": _WINDOW,
}


def _name(path) -> str:
    return path.relative_to(ROOT).as_posix()


def _imported_at_file_scope(nodes: list[ast.stmt]):
    """Top-level names of the modules that are imported when a file is loaded, also within if, try and with."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if not node.level:
                yield node.module.partition(".")[0]
        elif isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            continue
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for block in ("body", "orelse", "finalbody"):
                yield from _imported_at_file_scope(getattr(node, block, []))
            for handler in getattr(node, "handlers", []):
                yield from _imported_at_file_scope(handler.body)


def _syntax_error(path) -> str:
    try:
        ast.parse(path.read_text(encoding="utf-8"), filename=_name(path), feature_version=(3, 10))
    except SyntaxError as error:
        return str(error)
    return ""


def test_first_line_of_every_source_names_the_license():
    line = "# SPDX-License-Identifier: Apache-2.0\n"
    assert not [_name(path) for path in _SOURCES if not path.read_text(encoding="utf-8").startswith(line)]


def test_every_source_is_python_3_10():
    errors = {_name(path): _syntax_error(path) for path in _SOURCES}
    assert not {name: error for name, error in errors.items() if error}


def test_loading_a_file_imports_only_what_slicer_brings():
    for path in _LOADED:
        allowed = set(_COMMON)
        if path.is_relative_to(LIBRARY):
            within = path.relative_to(LIBRARY).as_posix()
            allowed.update(*(more for place, more in _ALSO.items() if within.startswith(place)))
        else:
            allowed |= _WINDOW
        imported = set(_imported_at_file_scope(ast.parse(path.read_text(encoding="utf-8")).body))
        assert imported <= allowed, f"{_name(path)} imports {', '.join(sorted(imported - allowed))}"


def test_the_scene_room_never_imports_torch():
    for path in (path for path in _LOADED if path.is_relative_to(LIBRARY / "scene")):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        names = {name for node in nodes if isinstance(node, ast.stmt) for name in _imported_at_file_scope([node])}
        assert "torch" not in names, _name(path)
