# SPDX-License-Identifier: Apache-2.0
"""What the window shows can be translated, in the way that Slicer's tools find and look up texts.

They patch every `_("...")` of a source by a regular expression and let Qt's lupdate read it: only literals are found,
outside other strings, and only where nothing within them looks like their end.
"""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "DeepFLASHRegistration"
LIBRARY = MODULE / "DeepFLASHRegistrationLib"
WINDOW = [MODULE / "DeepFLASHRegistration.py", *sorted((LIBRARY / "gui").glob("*.py"))]
SCENE = sorted((LIBRARY / "scene").rglob("*.py"))
TRANSLATED = [
    *WINDOW,
    *SCENE,
    LIBRARY / "registration" / "verdict_words.py",
    LIBRARY / "methods" / "model_words.py",
]
# Shown by nobody, or a name.
_NO_TEXT = {
    "SlicerDeepFLASH developers",
    "DeepFLASH registration failed: %s",  # in the log
    "DeepFLASH: the transform %s does not follow: %s",
    "where it belongs",
    "border-bottom: 2px solid #d04040;",
    "slicer.util.pip_install(",
    "</b><ul style='margin: 0'>",
}
_SHOWN = {"text", "toolTip", "statusTip", "title", "format", "suffix", "plainText", "windowTitle", "specialValueText"}
_SHOWING = {"setText", "setToolTip", "setStatusTip", "setTitle", "errorDisplay", "infoDisplay", "status"}
_BY_NAME = {"get", "translate", "shortVerdict", "longVerdict"}
# What reaches users from the scene's room: errors, remedies and notes.
_TELLING = {"InputError", "RuntimeError", "Cancelled", "Check", "noted"}


def _calls(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def _name(call):
    return getattr(call.func, "id", getattr(call.func, "attr", ""))


def _translations(tree):
    return [call for call in _calls(tree) if getattr(call.func, "id", "") == "_"]


def _untranslated(node, outside):
    """Constant strings within a node that are not within a translation."""
    return [each for each in ast.walk(node) if isinstance(each, ast.Constant) and each in outside]


def _strings_outside(tree):
    """Strings that are neither in a translation nor a docstring nor a name."""
    inside = {each for call in _translations(tree) for each in ast.walk(call)}
    inside |= {each.value for each in ast.walk(tree) if isinstance(each, ast.Expr)}
    # Names of keys, of values to compare with, and of words that are chosen by a name.
    inside |= {each for node in ast.walk(tree) if isinstance(node, ast.Subscript) for each in ast.walk(node.slice)}
    inside |= {each for node in ast.walk(tree) if isinstance(node, ast.Compare) for each in ast.walk(node)}
    inside |= {each for call in _calls(tree) if _name(call) in _BY_NAME for each in ast.walk(call)}
    strings = (each for each in ast.walk(tree) if isinstance(each, ast.Constant) and isinstance(each.value, str))
    return {each for each in strings if each not in inside}


def texts_that_nobody_can_translate(source, scene):
    """What a source shows to users without a translation."""
    tree = ast.parse(source)
    outside = _strings_outside(tree)
    found = set()
    for call in _calls(tree):
        if _name(call) in (_TELLING if scene else _TELLING | _SHOWING):
            # Of a Check, the text and the button.
            arguments = call.args[2:5:2] if _name(call) == "Check" else call.args
            found |= {each.value for argument in arguments for each in _untranslated(argument, outside)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and any(
            getattr(to, "attr", getattr(to, "id", "") if scene else "") in _SHOWN for to in node.targets
        ):
            found |= {each.value for each in _untranslated(node.value, outside)}
    if not scene:
        found |= {each.value for each in outside if re.search(r"[A-Za-z]{2,} [A-Za-z]{2,}", each.value)}
    # Without markup, a translated part's name, and figures.
    rest = {re.sub(r"<[^>]*>?|&\w+;|\\n", "", text) for text in found - _NO_TEXT}
    return {text for text in rest if re.search(r"[A-Za-z]{2}", text)}


@pytest.mark.parametrize("path", TRANSLATED, ids=lambda path: path.relative_to(MODULE).as_posix())
def test_nothing_else_takes_the_translator_s_name(path):
    """A variable `_` for what is not needed would be called in its place."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "_"]
    assert not _translations(tree) or not [node for node in names if isinstance(node.ctx, ast.Store)]


@pytest.mark.parametrize("path", [*WINDOW, *SCENE], ids=lambda path: path.relative_to(MODULE).as_posix())
def test_whatever_is_shown_can_be_translated(path):
    assert not texts_that_nobody_can_translate(path.read_text(encoding="utf-8"), path in SCENE)


@pytest.mark.parametrize(
    ("line", "scene"),
    [
        ('label.text = "Done"', False),
        ('label.text = _("Done") if done else "Not yet"', False),
        ('label.toolTip = f"Done in {seconds} s, at last"', False),
        ('slicer.util.errorDisplay("Failed")', False),
        ('return "There is nothing."', False),
        ('raise InputError(f"{name} is empty.")', True),
        ('raise InputError(_("{name} is empty.").format(name=name) + " Sorry.")', True),
        ('Check("size", WARNING, _("Too large."), {}, "Shrink")', True),
    ],
)
def test_a_text_without_translation_is_noticed(line, scene):
    assert texts_that_nobody_can_translate(f"def f():\n    {line}\n", scene)


@pytest.mark.parametrize("path", TRANSLATED, ids=lambda path: path.relative_to(MODULE).as_posix())
def test_slicers_tools_find_every_translation(path):
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    for call in _translations(tree):
        (argument,) = call.args
        assert isinstance(argument, ast.Constant), ast.unparse(call)
        assert isinstance(argument.value, str)
        text = ast.get_source_segment(source, call)
        # The first quote with a bracket behind is taken for the end.
        assert len(re.findall(r'"\s*\)', text)) == 1, text
        assert text.startswith("_(")
        assert text[2:].lstrip().startswith('"'), text
    # Other names that end in an underscore would be taken for it.
    assert not re.search(r"[^\W_]_\(\s*[\"']", source)
    within = {each for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for each in ast.walk(node)}
    assert not within & set(_translations(tree))
    if _translations(tree) and path in (*WINDOW, *SCENE):
        assert re.search(r"^from \S+ import tr as _$", source, re.MULTILINE)


def test_labels_help_and_choices_of_the_parameters_are_there_as_literals():
    path = ROOT / "Utilities" / "make_parameter_texts.py"
    spec = importlib.util.spec_from_file_location("make_parameter_texts", path)
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    assert maker.PATH.read_text(encoding="utf-8") == maker.source(), f"Parameters have changed: run {path.name}"


def test_every_choice_has_a_title_of_its_own_with_its_technical_name_behind():
    import dataclasses

    from DeepFLASHRegistrationLib.problem.parameters import Parameters

    for each in dataclasses.fields(Parameters):
        titles = each.metadata["titles"]
        assert tuple(titles) == each.metadata["choices"]
        assert len(set(titles.values())) == len(titles)
        for name, title in titles.items():
            assert title[0].isupper()
            assert title.lower() != name
    titles = {each.name: each.metadata["titles"] for each in dataclasses.fields(Parameters)}
    for field in ("method", "similarity"):
        for name, title in titles[field].items():
            assert f"({name.upper()})" in title.replace(" + ", "+").upper()
