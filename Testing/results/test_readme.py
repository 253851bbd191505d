# SPDX-License-Identifier: Apache-2.0
"""The Python of the README does what the README says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import registration_pairs as pairs

pytest.importorskip("torch")


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    text = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    pairs.write_tiny_pair(tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out
    assert (tmp_path / "result" / "labels.nii.gz").exists()
