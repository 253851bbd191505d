# SPDX-License-Identifier: Apache-2.0
"""The extension's descriptions say the same, and what Slicer's catalog checks for a new entry holds."""

from __future__ import annotations

import json
import re
import struct

import pytest
from cmake_files import MODULE, ROOT, variable

_SCHEMA = re.compile(
    r"https://raw\.githubusercontent\.com/Slicer/Slicer/main/Schemas/"
    r"slicer-extension-catalog-entry-schema-v1\.0\.\d\.json#"
)
# Types of all fields of the schema, which allows no others.
_FIELDS = {
    "$schema": str,
    "category": str,
    "scm_url": str,
    "scm_revision": str,
    "scm_type": str,
    "build_dependencies": list,
    "build_subdirectory": str,
    "enabled": bool,
    "tier": int,
}


@pytest.fixture
def entry() -> dict:
    return json.loads((ROOT / "DeepFLASH.json").read_text(encoding="utf-8"))


@pytest.fixture
def s4ext() -> dict[str, str]:
    lines = (ROOT / "DeepFLASH.s4ext").read_text(encoding="utf-8").splitlines()
    pairs = (line.partition(" ") for line in lines if line and not line.startswith("#"))
    return {key: value for key, _, value in pairs}


def _cmake(name: str) -> str:
    values = variable(ROOT / "CMakeLists.txt", name)
    assert len(values) == 1, f"{name} is one quoted line"
    return values[0]


def test_catalog_entry_follows_its_schema(entry):
    assert set(entry) >= {"$schema", "category", "scm_url"}
    assert {key: type(value) for key, value in entry.items()} == {key: _FIELDS.get(key) for key in entry}
    assert _SCHEMA.fullmatch(entry["$schema"])
    assert entry.get("scm_type", "git") in ("git", "local")
    assert 1 <= entry.get("tier", 1) <= 5
    assert all(isinstance(name, str) for name in entry["build_dependencies"])


def test_names_are_those_the_catalog_asks_for(entry):
    top = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    assert re.search(r"^project\((\w+)\)$", top, re.MULTILINE)[1] == "DeepFLASH"
    assert entry["scm_url"].rpartition("/")[2].startswith("Slicer")
    assert entry["category"] == "Registration"
    assert f"add_subdirectory({MODULE.name})" in top


def test_s4ext_and_cmake_agree_with_the_catalog_entry(entry, s4ext):
    assert s4ext["scmurl"] == entry["scm_url"] == _cmake("EXTENSION_HOMEPAGE") == s4ext["homepage"]
    assert s4ext["scmrevision"] == entry["scm_revision"]
    assert s4ext["category"] == entry["category"]
    assert s4ext["build_subdirectory"] == entry["build_subdirectory"]
    assert s4ext["depends"].split() == entry["build_dependencies"] == _cmake("EXTENSION_DEPENDS").split()
    for key in ("contributors", "iconurl", "description", "screenshoturls"):
        assert s4ext[key] == _cmake(f"EXTENSION_{key.upper()}"), key


def test_pictures_named_by_address_lie_in_the_repository():
    prefix = _cmake("EXTENSION_HOMEPAGE").replace("//github.com/", "//raw.githubusercontent.com/") + "/main/"
    addresses = [_cmake("EXTENSION_ICONURL"), *_cmake("EXTENSION_SCREENSHOTURLS").split()]
    assert all(address.startswith(prefix) for address in addresses)
    missing = [address for address in addresses if not (ROOT / address.removeprefix(prefix)).is_file()]
    assert not missing


def test_pictures_and_documents_named_by_the_readme_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = {target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)}
    missing = [target for target in targets if target and "://" not in target and not (ROOT / target).exists()]
    assert not missing


def test_icon_is_a_png_of_128_by_128():
    data = (ROOT / "DeepFLASHRegistration" / "Resources" / "Icons" / "DeepFLASHRegistration.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (128, 128)


def test_license_is_at_the_root_and_named_everywhere():
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache" in _cmake("EXTENSION_DESCRIPTION")
    assert "patents" in _cmake("EXTENSION_DESCRIPTION").lower()
    assert "Apache" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_citation_has_the_version_of_the_library():
    from DeepFLASHRegistrationLib.version import __version__

    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (\S+)$", citation, re.MULTILINE)[1] == __version__
