# SPDX-License-Identifier: Apache-2.0
"""deepflash compare: the same pairs by several methods, from one alignment, measured alike, resumed and failing."""

from __future__ import annotations

import csv
import html.parser
import json
import os
import statistics
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import registration_pairs as pairs
import SimpleITK as sitk
from command_line import run

pytest.importorskip("torch")
pytest.importorskip("scipy")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    pairs.write_tiny_pair(folder)
    return folder


def table(folder: Path, *outputs: str, broken: str = "") -> Path:
    path = folder / "pairs.csv"
    lines = [f"fixed.nii.gz,moving.nii.gz,fixed_labels.nii.gz,moving_labels.nii.gz,{name}" for name in outputs]
    if broken:
        (folder / "broken.nii.gz").write_bytes(b"no image at all")
        lines.append(f"fixed.nii.gz,broken.nii.gz,,,{broken}")
    path.write_text("\n".join(["fixed,moving,fixed_labels,moving_labels,output", *lines]) + "\n")
    return path


def compare(what: Any, out: Path, *more: Any) -> int:
    what = what if isinstance(what, tuple) else (what,)
    return run("compare", *what, "-o", out, "--threads", 1, *more)


# For tests of what becomes of results, whatever they are: both images lie alike.
ALIGNED = ("--init", "none")


def rows(out: Path) -> list[dict[str, str]]:
    with open(out / "comparison.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def stamps(out: Path) -> dict[str, int]:
    return {str(p.relative_to(out)): p.stat().st_mtime_ns for p in out.rglob("result.json")}


def test_methods_start_from_one_alignment_and_their_figures_are_those_of_their_results(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert compare(table(folder, "a", "b"), out, "--methods", "fast,flash@fast", "--similarity", "ssd") == 0
    assert {p.parent.name for p in (out / "fast").rglob("result.json")} == {"a", "b"}
    affines, values = [], {}
    for method in ("alignment", "fast", "flash-fast"):
        for pair in ("a", "b"):
            told = json.loads((out / method / pair / "result.json").read_text())
            affines.append(told["affine_fixed_to_moving_lps_mm"])
            values[method, pair] = told
    np.testing.assert_allclose(affines, [affines[0]] * len(affines), atol=1e-12)
    assert values["alignment", "a"]["metrics"]["sd_log_determinant"] < 1e-6
    assert values["fast", "a"]["parameters"]["similarity"] == "ssd"
    by_row = {(row["method"], row["pair"]): row for row in rows(out)}
    assert len(by_row) == 6
    for (method, pair), told in values.items():
        row = by_row[{"flash-fast": "flash@fast"}.get(method, method), pair]
        assert float(row["dice"]) == pytest.approx(told["metrics"]["mean_dice_after"], rel=1e-5)
        assert row["verdict"] == told["verdict"]["level"]
        assert float(row["inverse_error_p95_mm"]) == pytest.approx(told["metrics"]["inverse_error_mm"]["p95"], rel=1e-5)
        assert float(row["memory_mb"]) > 50
    summary = json.loads((out / "comparison.json").read_text())
    lines = {line["method"]: line for line in summary["methods"]}
    dice = [values["fast", pair]["metrics"]["mean_dice_after"] for pair in ("a", "b")]
    assert lines["fast"]["figures"]["dice"]["mean"] == pytest.approx(statistics.fmean(dice))
    assert lines["fast"]["differences"] == {}
    assert lines["flash@fast"]["differences"]["dice"] == {"mean": 0.0, "sd": 0.0, "pairs": 2, "p_holm": None}
    assert len(summary["structures"]) == 4
    assert "fast" in capsys.readouterr().out


class Links(html.parser.HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.found += [value for key, value in attributes if tag == "a" and key == "href"]


def test_the_page_stands_alone_and_its_links_lead_to_reports(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pair = (folder / "fixed.nii.gz", folder / "moving.nii.gz")
    labels = ["--fixed-labels", folder / "fixed_labels.nii.gz", "--moving-labels", folder / "moving_labels.nii.gz"]
    assert compare(pair, out, "--methods", "fast", "-q", *ALIGNED, *labels) == 0
    text = (out / "comparison.html").read_text(encoding="utf-8")
    links = Links(text).found
    assert links == ["fast/pair/report.html"]
    assert all((out / unquote(link)).is_file() for link in links)
    assert "http://" not in text
    assert "https://" not in text
    assert "<script" not in text
    # The fixed image, and of the alignment and the method the moving one and the difference.
    assert text.count('src="data:image/png;base64,') == 1 + 2 * 2
    assert text.count("<svg") > 6


def test_what_is_done_is_not_done_again_and_a_new_method_is_added(folder: Path, tmp_path: Path) -> None:
    out, pairs_table = tmp_path / "out", table(folder, "a")
    assert compare(pairs_table, out, "--methods", "fast", "-q", *ALIGNED) == 0
    before = stamps(out)
    assert compare(pairs_table, out, "--methods", "fast,flash@fast", "-q", *ALIGNED) == 0
    after = stamps(out)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 1


def test_a_pair_that_fails_stops_nothing(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert compare(table(folder, "a", broken="b"), out, "--methods", "fast", *ALIGNED) == 3
    found = {(row["method"], row["pair"]): row for row in rows(out)}
    assert found["fast", "a"]["state"] == "done"
    assert found["fast", "b"]["state"] == found["alignment", "b"]["state"] == "failed"
    assert "There is no alignment." in found["fast", "b"]["reason"]
    assert "broken.nii.gz" in found["fast", "b"]["reason"]
    assert "broken.nii.gz" in (out / "comparison.html").read_text(encoding="utf-8")
    assert "no result" in capsys.readouterr().err


def test_pairs_are_drawn_from_a_folder_of_images(folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    (data / "labels").mkdir()
    for name in ("fixed", "moving"):
        os.rename(folder / f"{name}.nii.gz", data / "images" / f"{name}.nii.gz")
        os.rename(folder / f"{name}_labels.nii.gz", data / "labels" / f"{name}.nii.gz")
    out = tmp_path / "out"
    assert compare(data, out, "--methods", "fast", "--pairs", 1, "-q", *ALIGNED) == 0
    with open(out / "pairs.csv", encoding="utf-8") as file:
        (drawn,) = csv.DictReader(file)
    assert {Path(drawn["fixed"]).name, Path(drawn["moving"]).name} == {"fixed.nii.gz", "moving.nii.gz"}
    (row,) = [row for row in rows(out) if row["method"] == "fast"]
    assert row["pair"] == drawn["output"]
    assert float(row["dice"]) > 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "fast,quick"], "'quick' is none"),
        (["--methods", ","], "names none"),
        (["--methods", "fast", "--reference", "default"], "--reference default"),
        (["--methods", "deepflash:nothing"], "There is no model 'nothing'"),
        (["--methods", "greedy"], "pip install antspyx picsl-greedy"),
        (["--methods", "fast", "--threads", "0"], "threads must be at least 1"),
        (["--methods", "fast", "--fixed-labels", "x"], "a table has columns"),
        (["--methods", "flash@fast,flash-fast"], "is none"),
        (["--structures", "core"], "--structures needs the names of the labels: add --names TABLE"),
        (["--names", "NAMES", "--structures", "cora"], "no structure 'cora' among the names of labels. Similar: core"),
        (["--names", "IN/fixed.nii.gz"], "cannot be read as a table"),
        (["--ignore", "one"], "invalid literal"),
        (["--shift", "0"], "must be at least 1"),
    ],
)
def test_wrong_input_is_refused_before_the_work(
    folder: Path,
    tmp_path: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DEEPFLASH_PEERS", "")
    (tmp_path / "names.csv").write_text("2,Right core\n3,Left core\n")
    arguments = [a.replace("NAMES", str(tmp_path / "names.csv")).replace("IN/", f"{folder}/") for a in arguments]
    assert run("compare", table(folder, "a"), "-o", tmp_path / "out", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("what", [("one", "two", "three"), ("nothing.nii.gz", "moving.nii.gz"), ("nothing",)], ids=str)
def test_what_is_not_there_is_refused(folder: Path, tmp_path: Path, what: tuple[str, ...]) -> None:
    assert compare(tuple(folder / name for name in what), tmp_path / "out", "--methods", "fast") == 2


def test_one_image_alone_makes_no_pair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    sitk.WriteImage(sitk.Image([9, 9, 9], sitk.sitkFloat32), str(tmp_path / "data" / "a.nii.gz"))
    assert compare(tmp_path / "data", tmp_path / "out", "--methods", "fast") == 2
    assert capsys.readouterr().err
