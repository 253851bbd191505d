# SPDX-License-Identifier: Apache-2.0
"""deepflash compare --properties: whether maps move along with the images, and come back."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import registration_pairs as pairs
from command_line import run
from DeepFLASHRegistrationLib.cohorts.motions import EXCHANGED, REST, keys
from DeepFLASHRegistrationLib.imaging.io import write_volume

pytest.importorskip("torch")
pytest.importorskip("scipy")
METHOD = "fast@resolutions=2@bands=7@iterations=4"


def test_flash_follows_translations_of_both_images_and_what_is_measured_is_told_everywhere(tmp_path: Path) -> None:
    for volume in pairs.disks((40, 44), 2.4):
        write_volume(tmp_path / volume.name, volume)
    out = tmp_path / "out"
    arguments = ["compare", tmp_path / "fixed.nii.gz", tmp_path / "moving.nii.gz", "-o", out, "--threads", 1]
    arguments += ["--methods", METHOD, "--init", "none", "--properties", "-q"]
    assert run(*arguments) == 0
    lines = {line["property"]: line for line in json.loads((out / "comparison.json").read_text())["properties"]}
    mean = {name: line["mean"]["mean"] for name, line in lines.items()}
    assert {line["alignment"] for line in lines.values()} == {"none"}
    assert all((line["pairs"], line["failed"]) == (1, 0) for line in lines.values())
    # The map moves the disk by voxels, and is nearly the same where both images lie elsewhere on their grids.
    assert mean["move"] > 0.5
    assert mean["uu0"] < 0.05 * mean["move"]
    assert mean["uu0"] < mean["wu0"]
    assert mean["inverse_own"] < 0.01 < mean["inverse_exchanged"] < mean["move"]
    assert mean["folds"] == 0
    with open(out / "properties.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["property"] for row in rows] == [line["title"] for line in lines.values()]
    assert float(rows[0]["mean"]) == pytest.approx(mean["uu0"], rel=1e-4)
    page = (out / "comparison.html").read_text(encoding="utf-8")
    assert all(line["title"] in page for line in lines.values() if "[" in line["title"])
    folder = out / "properties" / "none" / METHOD.replace("=", "-").replace("@", "-")
    found = [p for p in (out / "properties" / "none").rglob("result.json") if "alignment" not in p.parts]
    assert {p.parent.parent.name for p in found} == {REST, EXCHANGED, *keys()}, folder
    # Once more: nothing is registered or measured again, and the same is said.
    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("*.json") if p.name in ("result.json", "properties.json")}
    assert run(*arguments) == 0
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    again = {line["property"]: line for line in json.loads((out / "comparison.json").read_text())["properties"]}
    assert again == lines


def test_a_pair_that_does_not_overlap_without_its_alignment_is_told_and_stops_nothing(tmp_path: Path) -> None:
    """The moving image lies 300 mm away."""
    fixed, moving = pairs.disks((24, 26), 4.0)
    write_volume(tmp_path / fixed.name, fixed)
    far = pairs.box((24, 26), 4.0, center=300.0)
    write_volume(tmp_path / moving.name, type(moving)(far, moving.data, moving.name))
    out = tmp_path / "out"
    arguments = ["compare", tmp_path / "fixed.nii.gz", tmp_path / "moving.nii.gz", "-o", out, "--threads", 1, "-q"]
    assert run(*arguments, "--methods", METHOD, "--init", "none", "--properties") == 3
    lines = json.loads((out / "comparison.json").read_text())["properties"]
    assert all(line["failed"] == 1 and line["mean"] is None for line in lines)
    assert "do not overlap" in (out / "properties.csv").read_text(encoding="utf-8")
