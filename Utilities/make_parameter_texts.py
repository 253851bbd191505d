# SPDX-License-Identifier: Apache-2.0
"""Writes gui/parameter_texts.py: the texts of Parameters as literals, since Qt's lupdate finds no others to translate.

python3 Utilities/make_parameter_texts.py      after a change of problem/parameters.py or problem/methods.py
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

MODULE = Path(__file__).resolve().parents[1] / "DeepFLASHRegistration"
PATH = MODULE / "DeepFLASHRegistrationLib" / "gui" / "parameter_texts.py"
sys.path.insert(0, str(MODULE))

HEAD = '''# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501
"""What the parameters are called, for translators. Made by Utilities/make_parameter_texts.py: do not edit."""

from __future__ import annotations

from slicer.i18n import tr as _


def parameterTexts() -> dict[str, tuple[str, str, dict[str, str]]]:
    """Name -> label, help and titles of the choices by their names, in the language of the application."""
    # fmt: off
    return {
'''

SENTENCES = '''

def methodSentences() -> dict[str, str]:
    """What each method does, in the language of the application."""
    # fmt: off
    return {
'''


def source() -> str:
    """The text of the file."""
    from DeepFLASHRegistrationLib.problem.parameters import METHODS, Parameters

    lines = [HEAD]
    for each in dataclasses.fields(Parameters):
        label, text = (json.dumps(each.metadata[key], ensure_ascii=False) for key in ("label", "help"))
        titles = (f"{json.dumps(name)}: _({json.dumps(title)})" for name, title in each.metadata["titles"].items())
        lines.append(f'        "{each.name}": (_({label}), _({text}), {{{", ".join(titles)}}}),\n')
    lines += ["    }\n", SENTENCES]
    for name, method in METHODS.items():
        lines.append(f'        "{name}": _({json.dumps(method.sentence, ensure_ascii=False)}),\n')
    return "".join([*lines, "    }\n"])


if __name__ == "__main__":
    PATH.write_text(source(), encoding="utf-8")
