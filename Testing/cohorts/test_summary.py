# SPDX-License-Identifier: Apache-2.0
"""The summary of what is known of many pairs, also where results are of another version, or their names hostile."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from DeepFLASHRegistrationLib.cohorts.pairs import NamedPair, Pairs
from DeepFLASHRegistrationLib.cohorts.summary import Outcome, write_summaries
from DeepFLASHRegistrationLib.jobs.ledger import Done, Failed
from DeepFLASHRegistrationLib.problem.reading import PairFiles
from DeepFLASHRegistrationLib.registration.verdict import Criterion, Verdict

CHECK = Verdict((Criterion("folds", "check", "folded", {"count": 3, "percent": 0.01}, {"check": 0, "failed": 0.1}),))


def written(folder: Path, *results: Done | Failed | None) -> tuple[list[dict[str, str]], str]:
    """The rows of summary.tsv, and summary.html."""
    pairs = [NamedPair(n + 2, f"<i>{n}", PairFiles("a\tb.nii", 'c"d.nii')) for n in range(len(results))]
    found = [Outcome(pair, result) for pair, result in zip(pairs, results, strict=True)]
    write_summaries(Pairs(Path("<b>.csv"), tuple(pairs)), found, folder)
    with open(folder / "summary.tsv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t")), (folder / "summary.html").read_text(encoding="utf-8")


def test_what_is_done_failed_and_open(tmp_path: Path) -> None:
    value = {
        "verdict": CHECK.to_dict(),
        "dice": [0.5, 0.75],
        "folds": 3,
        "folds_strict": 4,
        "seconds": 2.0,
        "notes": ["x"],
    }
    other = {**value, "dice": [0.25, 0.5], "seconds": 4.0}
    rows, page = written(tmp_path, Done(value, 2.5, 1), Failed("no <room>\nat\tall", 3), None, Done(other, 4.5, 2))
    assert [row["state"] for row in rows] == ["done", "failed", "open", "done"]
    assert [row["verdict"] for row in rows] == ["check", "", "", "check"]
    assert rows[0]["reason"] == str(CHECK.criteria[0])
    assert rows[1]["reason"] == "no <room> at all"
    assert [rows[0][name] for name in ("dice_before", "dice_after", "folds", "folds_strict")] == [
        "0.5",
        "0.75",
        "3",
        "4",
    ]
    assert [row["tries"] for row in rows] == ["1", "3", "", "2"]
    assert (rows[0]["fixed"], rows[0]["moving"]) == ("a b.nii", 'c"d.nii')
    assert "2 of 4 pairs registered, 1 still to be done" in page
    assert "0.625" in page  # the mean Dice after, and before it
    assert "0.375 before, 2 pairs" in page
    assert "3.00 s" in page  # the median
    assert "no &lt;room&gt;" in page
    assert "&lt;i&gt;0" in page
    assert "<i>" not in page
    assert "<b>.csv" not in page


@pytest.mark.parametrize("value", [None, [], "x", {"verdict": None}, {"verdict": {"level": "superb"}}, {"dice": None}, {
    "verdict": {"level": "check", "criteria": [{"code": "new", "level": "check", "finding": "new", "arguments": {}}]}
}])  # fmt: skip
def test_what_another_version_wrote_breaks_nothing(tmp_path: Path, value: object) -> None:
    rows, page = written(tmp_path, Done(value, 1.0, 1))
    assert rows[0]["state"] == "done"
    assert rows[0]["verdict"] in ("", "check")
    assert "1 of 1 pairs registered" in page
