# SPDX-License-Identifier: Apache-2.0
"""deepflash register-many: many pairs as one would register each, some of which fail, and runs that end too early."""

from __future__ import annotations

import csv
import html.parser
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import jsonschema
import pytest
import registration_pairs as pairs
from command_line import run
from DeepFLASHRegistrationLib.commands import main as cli

pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "DeepFLASHRegistrationLib.cli"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2]), "OMP_NUM_THREADS": "1"}
LONG = [*pairs.TINY_OPTIONS[:5], "4000", *pairs.TINY_OPTIONS[6:], "--tolerance", "1e-12"]
posix = pytest.mark.skipif(os.name != "posix", reason="signals and terminals of POSIX")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of tiny images."""
    folder = tmp_path / "Bilder für 影像"
    folder.mkdir()
    pairs.write_tiny_pair(folder)
    return folder


def table(folder: Path, *lines: str, columns: str = "fixed,moving,output") -> Path:
    path = folder / "pairs.csv"
    path.write_text("\n".join([columns, *lines]) + "\n", encoding="utf-8")
    return path


def many(path: Path, *more: Any) -> int:
    """The exit code of `deepflash register-many`, into the folder out beside the table's folder."""
    return run("register-many", path, "-o", path.parent.parent / "out", *pairs.TINY_OPTIONS, *more)


def summary(out: Path) -> list[dict[str, str]]:
    with open(out / "summary.tsv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def started(path: Path, *options: str) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    arguments = ["register-many", str(path), "-o", str(path.parent.parent / "out"), *options]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*COMMAND, *arguments], env=ENVIRONMENT, text=True, **streams)


def events_until(process: subprocess.Popen[str], last: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """The events of --json-progress up to one that is looked for."""
    events = []
    for line in process.stdout:
        events.append(json.loads(line))
        if last(events[-1]):
            return events
    raise AssertionError(f"it ended: {process.stderr.read()}")


def children(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()] + [
        int(text)
        for task in Path(f"/proc/{pid}/task").iterdir()
        if task.name != str(pid)
        for text in (task / "children").read_text().split()
    ]


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists() or ") Z " in Path(f"/proc/{pid}/stat").read_text()


class Page(html.parser.HTMLParser):
    """Tags and links of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name == "href"]


# ------------------------------------------------------------------------------------------------------------- working


def test_each_result_is_that_of_register_and_a_pair_that_fails_stops_no_other(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder.parent / "out"
    (folder / "broken.nii.gz").write_text("no image")
    columns = "fixed,moving,fixed_labels,moving_labels,fixed_mask,moving_points,fixed_points,output"
    path = table(
        folder,
        "fixed.nii.gz,moving.nii.gz,fixed_labels.nii.gz,moving_labels.nii.gz,fixed_labels.nii.gz,moving.csv,fixed.csv,"
        "all/of it",
        "broken.nii.gz,moving.nii.gz,,,,,,<b>bro&ken",
        "moving.nii.gz,fixed.nii.gz,,fixed_labels.nii.gz,,,,back",
        columns=columns,
    )
    assert many(path) == 2
    assert "'<b>bro&ken' is no name for a folder" in capsys.readouterr().err
    assert not out.exists()
    path.write_text(path.read_text(encoding="utf-8").replace("<b>bro&ken", "bro&amp;ken"), encoding="utf-8")
    assert many(path, "--workers", 2) == 3
    told = capsys.readouterr()
    assert re.search(r"\[\d/3\] all/of it: (good|check|failed), Dice 0\.\d{3} -> 0\.\d{3}, \d+ folds, ", told.out)
    assert re.search(r"2 of 3 pairs done, 1 without a result; .*summary\.html", told.out)
    assert re.search(r"\[\d/3\] bro&amp;ken: no result\. .*broken\.nii\.gz: ", told.err)
    assert "Note: Labels of the moving image alone (line 4)" in told.err
    # The same as one by one.
    files = {name: folder / f"{name}.nii.gz" for name in ("fixed", "moving", "fixed_labels", "moving_labels")}
    more = ["--fixed-labels", files["fixed_labels"], "--moving-labels", files["moving_labels"], "--fixed-mask"]
    more += [files["fixed_labels"], "--fixed-points", folder / "fixed.csv", "--moving-points", folder / "moving.csv"]
    one = folder.parent / "one"
    assert run("register", files["fixed"], files["moving"], "-o", one, *pairs.TINY_OPTIONS, *more) == 0
    names = set(os.listdir(one))
    assert set(os.listdir(out / "all" / "of it")) == names | {"job.json"}
    for name in names - {"report.html", "result.json"}:
        assert (out / "all" / "of it" / name).read_bytes() == (one / name).read_bytes(), name
    # What the summary says is what the result says.
    rows = summary(out)
    assert [(row["line"], row["output"], row["state"]) for row in rows] == [
        ("2", "all/of it", "done"), ("3", "bro&amp;ken", "failed"), ("4", "back", "done"),
    ]  # fmt: skip
    values = json.loads((one / "result.json").read_text())
    assert rows[0]["verdict"] == values["verdict"]["level"]
    for when in ("before", "after"):
        assert float(rows[0][f"dice_{when}"]) == pytest.approx(values["metrics"][f"mean_dice_{when}"], abs=1e-5)
    assert rows[0]["folds_strict"] == str(values["metrics"]["folds_strict"]["count"])
    assert rows[2]["dice_after"] == ""
    assert "broken.nii.gz" in rows[1]["reason"]
    text = (out / "summary.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags.count("tr") == 4
    assert "bro&amp;amp;ken" in text
    assert [unquote(link) for link in page.links] == ["all/of it/report.html", "back/report.html"]
    assert all((out / unquote(link)).is_file() for link in page.links)
    # Mended, only that one is done.
    before = (out / "back" / "result.json").stat().st_mtime_ns
    shutil.copy(files["fixed"], folder / "broken.nii.gz")
    assert many(path) == 0
    assert "2 of 3 pairs were done before." in capsys.readouterr().out
    assert [row["state"] for row in summary(out)] == ["done"] * 3
    assert (out / "back" / "result.json").stat().st_mtime_ns == before
    assert set(os.listdir(out / ".jobs")) <= {"inputs.txt", "plan.json"}


def test_inputs_or_settings_that_changed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder.parent / "out"
    path = table(folder, "fixed.nii.gz,moving.nii.gz,a")
    assert many(path, "--outputs", "none") == 0
    assert sorted(os.listdir(out / "a")) == ["job.json", "result.json", "velocity.safetensors"]
    first = (out / "a" / "velocity.safetensors").read_bytes()
    # Where files lie, and how many pairs run at once, is nothing that a result depends on.
    moved = folder.parent / "moved"
    shutil.copytree(folder, moved)
    capsys.readouterr()
    assert many(moved / "pairs.csv", "--outputs", "none", "--threads", 2, "--workers", 3) == 0
    assert capsys.readouterr().out.startswith("1 of 1 pairs were done before.")
    assert many(path, "--outputs", "none", "--sigma", "0.3") == 2
    assert "pairs.csv, line 2, column output: " in (error := capsys.readouterr().err)
    assert "a: holds the result of other inputs or parameters. Choose another output, or add --force" in error
    assert (out / "a" / "velocity.safetensors").read_bytes() == first
    shutil.copy(folder / "moving.nii.gz", folder / "fixed.nii.gz")
    assert many(path, "--outputs", "none") == 2
    assert many(path, "--outputs", "none", "--force") == 0
    assert (out / "a" / "velocity.safetensors").read_bytes() != first


def test_json_progress_is_as_described(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "broken.nii.gz").write_text("no image")
    path = table(folder, "fixed.nii.gz,moving.nii.gz,a", "broken.nii.gz,moving.nii.gz,b")
    assert many(path, "--json-progress", "--outputs", "none") == 3
    schema = json.loads((ROOT / "docs" / "result.schema.json").read_text(encoding="utf-8"))
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for event in events:
        jsonschema.Draft202012Validator({**schema, "anyOf": [{"$ref": "#/$defs/event"}]}).validate(event)
        assert event["pair"] in ("a", "b")
    last = {event["pair"]: event for event in events}
    assert last["a"]["folder"] == str(folder.parent / "out" / "a")
    assert last["a"]["verdict"] == json.loads((folder.parent / "out" / "a" / "result.json").read_text())["verdict"]
    assert "broken.nii.gz" in last["b"]["failed"]
    assert events[-1]["pairs"] == {"done": 1, "failed": 1, "all": 2}


# ------------------------------------------------------------------------------------------------------- ends too early


@posix
def test_a_killed_process_is_replaced_and_a_killed_command_goes_on(folder: Path) -> None:
    """SIGKILL for the child first, then for the command itself."""
    out = folder.parent / "out"
    path = table(folder, "fixed.nii.gz,moving.nii.gz,a", "moving.nii.gz,fixed.nii.gz,b")
    options = ["--json-progress", "--outputs", "none"]
    with started(path, *LONG, *options) as process:
        events_until(process, lambda event: event.get("iteration", 0) >= 2)
        (child,) = children(process.pid)
        os.kill(child, signal.SIGKILL)
        events_until(process, lambda event: event.get("iteration", 0) >= 2)
        (other,) = children(process.pid)
        assert other != child
        process.kill()
        process.communicate()
    end = time.monotonic() + 5
    while not is_gone(other) and time.monotonic() < end:
        time.sleep(0.02)
    assert is_gone(other)
    assert [name for name in os.listdir(out) if name in ("a", "b")] == []
    assert many(path, *options) == 0
    assert [row["state"] for row in summary(out)] == ["done", "done"]
    assert set(os.listdir(out / ".jobs")) <= {"inputs.txt", "plan.json"}


@posix
def test_an_interrupt_says_how_to_go_on(folder: Path) -> None:
    out = folder.parent / "out"
    path = table(folder, "fixed.nii.gz,moving.nii.gz,a", "moving.nii.gz,fixed.nii.gz,b")
    with started(path, *LONG, "--json-progress", "--workers", "2") as process:
        seen: set[str] = set()

        def both(event: dict[str, Any]) -> bool:
            if "iteration" in event:
                seen.add(event["pair"])
            return len(seen) == 2

        events_until(process, both)
        both_children = children(process.pid)
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=20)[1]
    assert process.returncode == 130
    assert f"Cancelled. 0 of 2 pairs are done in {out}; run the same command to go on." in error
    assert len(both_children) == 2
    assert all(map(is_gone, both_children))
    assert [row["state"] for row in summary(out)] == ["open", "open"]
    assert sorted(name for name in os.listdir(out) if name != ".jobs") == ["summary.html", "summary.tsv"]
    assert not list((out / ".jobs").glob("*.work"))


# --------------------------------------------------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("columns", "line", "options", "message"),
    [
        ("fixed,image", "fixed.nii.gz,moving.nii.gz", (), "pairs.csv: has no column 'moving'"),
        ("fixed,moving", "fixed.nii.gz,none.nii.gz", (), "pairs.csv, line 2, column moving: there is no file"),
        ("fixed,moving", "fixed.nii.gz,moving.nii.gz", ("--sigma", "0"), "sigma must lie between"),
        ("fixed,moving", "fixed.nii.gz,moving.nii.gz", ("--threads", "0"), "threads must be at least 1"),
        ("fixed,moving", "fixed.nii.gz,moving.nii.gz", ("--workers", "0"), "must be at least 1, not 0"),
        ("fixed,moving", "fixed.nii.gz,moving.nii.gz", ("--outputs", "waped"), "There is no output 'waped'"),
        ("fixed,moving", "fixed.nii.gz,moving.nii.gz", ("--outputs", "labels"), "in a column moving_labels"),
        ("fixed,moving", "fixed.nii.gz,moving.nii.gz", ("--method", "deepflash", "--model", "none"), "no model 'none'"),
    ],
)
def test_wrong_input_is_refused_before_any_work(
    folder: Path, capsys: pytest.CaptureFixture[str], columns: str, line: str, options: tuple[str, ...], message: str
) -> None:
    assert many(table(folder, line, columns=columns), *options) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert told.out == ""
    assert not (folder.parent / "out").exists()


def test_a_folder_that_holds_something_else(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = table(folder, "fixed.nii.gz,moving.nii.gz,a"), folder.parent / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    assert many(path) == 2
    assert f"{out}: exists and holds something else." in capsys.readouterr().err
    (out / "thesis.txt").unlink()
    (out / ".jobs").mkdir()
    (out / "a").mkdir()
    (out / "a" / "thesis.txt").write_text("mine")
    assert many(path, "--force") == 2
    assert "pairs.csv, line 2, column output: " in (error := capsys.readouterr().err)
    assert "a: exists and holds something else than such a result. Choose another output." in error
    assert os.listdir(out / "a") == ["thesis.txt"]
