# SPDX-License-Identifier: Apache-2.0
"""A file that CMake does not list is silently missing from the installed extension."""

from __future__ import annotations

import pytest
from cmake_files import MODULE, ROOT, installed_resources, installed_scripts, tree, variable


def _differences(listed: list[str], present: list[str], what: str) -> str:
    message = []
    for heading, names in (
        (f"add to {what}", set(present) - set(listed)),
        (f"remove from {what}", set(listed) - set(present)),
        (f"listed twice in {what}", {name for name in listed if listed.count(name) > 1}),
    ):
        if names:
            message.append(
                f"{heading}:\n"
                + "\n".join("  " + name.replace(MODULE.name, "${MODULE_NAME}") for name in sorted(names))
            )
    return "\n".join(message)


@pytest.mark.parametrize(("what", "scripts"), [("MODULE_PYTHON_SCRIPTS", True), ("MODULE_PYTHON_RESOURCES", False)])
def test_every_file_of_the_module_is_listed_in_cmake(what, scripts):
    listed = installed_scripts() if scripts else installed_resources()
    present = [path.relative_to(MODULE).as_posix() for path in tree() if (path.suffix == ".py") == scripts]
    differences = _differences(listed, present, f"{what} of {MODULE.name}/CMakeLists.txt")
    assert not differences, "\n" + differences


def test_every_test_for_slicer_is_registered_with_ctest():
    listed = variable(ROOT / "Testing" / "CMakeLists.txt", "SLICER_TESTS")
    present = [
        path.relative_to(ROOT / "Testing").as_posix() for path in (ROOT / "Testing" / "in_slicer").glob("*Test.py")
    ]
    differences = _differences(listed, present, "SLICER_TESTS of Testing/CMakeLists.txt")
    assert not differences, "\n" + differences
