# SPDX-License-Identifier: Apache-2.0
"""What the window shows of the library's texts can be translated: lupdate finds literals only."""

import importlib.util
from pathlib import Path


def test_labels_and_help_of_the_parameters_are_there_as_literals():
    path = Path(__file__).resolve().parents[2] / "Utilities" / "make_parameter_texts.py"
    spec = importlib.util.spec_from_file_location("make_parameter_texts", path)
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    assert maker.PATH.read_text(encoding="utf-8") == maker.source(), f"Parameters have changed: run {path.name}"
