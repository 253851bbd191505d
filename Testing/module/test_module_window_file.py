# SPDX-License-Identifier: Apache-2.0
"""The .ui file and the code that fills it agree, as far as that is told without Qt."""

import ast
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "DeepFLASHRegistration"
GUI = MODULE / "DeepFLASHRegistrationLib" / "gui"
WINDOW = [MODULE / "DeepFLASHRegistration.py", *sorted(GUI.glob("*.py"))]


@pytest.fixture(scope="module")
def tree():
    return ElementTree.parse(MODULE / "Resources" / "UI" / "DeepFLASHRegistration.ui")


def names(tree):
    return [widget.get("name") for widget in tree.iter("widget")]


def test_every_widget_has_a_name_of_its_own(tree):
    found = names(tree)
    assert len(found) == len(set(found)) > 60


def test_every_node_selector_gets_the_scene(tree):
    selectors = {each.get("name") for each in tree.iter("widget") if each.get("class") == "qMRMLNodeComboBox"}
    told = {
        each.findtext("receiver")
        for each in tree.iter("connection")
        if each.findtext("slot") == "setMRMLScene(vtkMRMLScene*)"
    }
    assert selectors == told


def test_every_label_leads_to_a_widget(tree):
    buddies = {each.findtext("cstring") for each in tree.iter("property") if each.get("name") == "buddy"}
    assert buddies <= set(names(tree))


def test_what_is_saved_with_the_scene_is_a_field_of_the_parameter_node(tree):
    source = ast.parse((GUI / "parameter_node.py").read_text(encoding="utf-8"))
    (node,) = (each for each in source.body if isinstance(each, ast.ClassDef))
    known = {each.target.id for each in node.body if isinstance(each, ast.AnnAssign)}
    bound = [each.findtext("string") for each in tree.iter("property") if each.get("name") == "SlicerParameterName"]
    assert len(bound) == len(set(bound)) > 20
    assert set(bound) <= known


def test_what_the_code_asks_of_the_window_is_in_it(tree):
    asked = {
        name: path.name for path in WINDOW for name in re.findall(r"\bui\.([a-z]\w+)", path.read_text(encoding="utf-8"))
    }
    assert len(asked) > 30
    # Empty layouts are no widgets, but variables of the window all the same.
    layouts = {each.get("name") for each in tree.iter("layout")}
    missing = {name: path for name, path in asked.items() if name not in {*names(tree), *layouts}}
    assert not missing
