# SPDX-License-Identifier: Apache-2.0
"""The same command on several computers: shares of an array, workers of Dask, and what does not go together."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fake_slurm
import made_templates
import pytest
import registration_pairs as pairs
from command_line import run
from DeepFLASHRegistrationLib.cohorts.many import Settings
from DeepFLASHRegistrationLib.commands import main as cli
from DeepFLASHRegistrationLib.commands.cluster_options import Workplace
from DeepFLASHRegistrationLib.jobs.ledger import PLAN, STATE, Ledger
from run_until import within

pytest.importorskip("torch")

posix_only = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A pair of tiny images, and one of which a file is no image."""
    folder = tmp_path / "in"
    folder.mkdir()
    pairs.write_tiny_pair(folder)
    (folder / "broken.nii.gz").write_text("no image")
    rows = ["fixed.nii.gz,moving.nii.gz,a", "broken.nii.gz,moving.nii.gz,c"]
    path = folder / "pairs.csv"
    path.write_text("\n".join(["fixed,moving,output", *rows]) + "\n")
    return path


def many(table: Path, *more: Any) -> int:
    out = table.parent.parent / "out"
    return run("register-many", table, "-o", out, *pairs.TINY_OPTIONS, "--outputs", "none", *more)


def summary(out: Path) -> dict[str, str]:
    with open(out / "summary.tsv", encoding="utf-8", newline="") as file:
        return {row["output"]: row["state"] for row in csv.DictReader(file, delimiter="\t")}


@posix_only
def test_an_array_of_slurm_does_all_once_and_one_task_tells(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = fake_slurm.put_on_path(tmp_path, monkeypatch)
    monkeypatch.setenv("PYTHONPATH", str(Path(cli.__file__).parents[2]))
    assert many(table, "--print-sbatch", "--jobs", 2, "--walltime", "0:20:00", "--memory-gb", 2) == 0
    script = tmp_path / "script.sh"
    script.write_text(capsys.readouterr().out)
    out = tmp_path / "out"
    assert not out.exists()
    assert {"#SBATCH --array=1-2", "#SBATCH --time=00:20:00", "#SBATCH --mem=2448M"} <= set(
        script.read_text().splitlines()
    )
    subprocess.run(["sbatch", script], check=True, capture_output=True)
    assert within(120, lambda: fake_slurm.ended(state))
    said = "\n".join(log.read_text() for log in state.glob("*.log"))
    assert summary(out) == {"a": "done", "c": "failed"}, said
    assert json.loads((out / "a" / "job.json").read_text())["tries"] == 1
    (failed,) = (path for path in (out / STATE).glob("*.json") if path.name != PLAN)
    assert len(json.loads(failed.read_text())["tries"]) == 1  # what one task gave up the other did not try again
    capsys.readouterr()
    assert run("status", out) == 0
    told = capsys.readouterr().out
    assert told.splitlines()[0] == f"{out}: 1 of 2 done, 1 failed, 0 running, 0 waiting"
    assert "failed c: " in told
    assert run("status", out, "--json") == 0
    assert json.loads(capsys.readouterr().out)["failed"][0]["name"] == "c"


def test_the_workers_of_a_scheduler_do_all(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    distributed = pytest.importorskip("distributed")
    table.write_text("fixed,moving,output\nfixed.nii.gz,moving.nii.gz,a\n")
    monkeypatch.setenv("PYTHONPATH", str(Path(cli.__file__).parents[2]))
    options = {"host": "127.0.0.1", "dashboard_address": None, "silence_logs": 60, "processes": False}
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, protocol="tcp://", **options) as cluster:
        given = ["--scheduler", cluster.scheduler_address, "--memory-gb", 4]
        assert many(table, *given) == 0
        assert summary(tmp_path / "out") == {"a": "done"}
        assert "1 of 1 pairs done" in capsys.readouterr().out
        assert many(table, *given) == 0
        assert "1 of 1 pairs were done before." in capsys.readouterr().out
        # The worker, which is of this process, keeps nothing for a command that has ended.
        psutil = pytest.importorskip("psutil")
        assert not [each for each in psutil.Process().children() if "process.child" in " ".join(each.cmdline())]


@posix_only
@pytest.mark.skipif(not importlib.util.find_spec("dask_jobqueue"), reason="dask_jobqueue is not installed")
def test_slurm_is_asked_for_what_the_options_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a Slurm whose jobs never begin."""
    state = fake_slurm.put_on_path(tmp_path, monkeypatch, fake_slurm.BUSY)
    given = ["--cluster", "slurm", "--interface", "lo", "--jobs", "2", "--threads", "3", "--memory-gb", "2"]
    given += ["--walltime", "1:00:00", "--slurm-option=--partition=long", "--device", "cuda"]
    _, options = cli._parsed(["register-many", "pairs.csv", "-o", "out", *given])
    ledger = Ledger(tmp_path / "out")
    with Workplace(options) as workplace:
        workers = workplace.workers(ledger, 9, lambda: (100.0, 2**30))
        assert workers.count == 2
        assert workplace.settings(Settings()).memory == 2 * 2**30
        assert within(20, lambda: len(list(state.glob("job-*"))) == 2)
    assert capsys.readouterr().err == "Asking Slurm for 2 jobs of 2448 MB\n"
    wanted = {"-n 1", "--cpus-per-task=3", "-t 01:00:00", "--gres=gpu:1", "--partition=long"}
    for script in state.glob("job-*"):
        assert wanted <= {line.removeprefix("#SBATCH ") for line in script.read_text().splitlines()}
    asked, cancelled = (sorted((state / name).read_text().split()) for name in ("asked", "cancelled"))
    assert len(set(asked)) == 2
    assert cancelled == asked
    assert [path.name for path in (ledger.folder / STATE).iterdir()] == ["slurm"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--array", "3/2"], "must be a number and how many there are, 1/8 to 8/8, not 3/2"),
        (["--array", "0/2"], "must be a number and how many"),
        (["--array", "1/2", "--print-sbatch"], "--array and --print-sbatch: choose one of them"),
        (["--scheduler", "tcp://127.0.0.1:1", "--cluster", "slurm"], "--scheduler and --cluster: choose one"),
        (["--scheduler", "tcp://10.1.2.3:8786"], "whoever reaches it runs what he likes"),
        (["--cluster", "slurm", "--workers", "4"], "--workers: are processes on this computer; with --cluster, --jobs"),
        (["--walltime", "1:00:00"], "--walltime: says something only with --cluster slurm or --print-sbatch"),
        (["--interface", "ib0", "--print-sbatch"], "--interface: says something only with --cluster slurm."),
        (["--jobs", "4"], "--jobs: says something only with"),
        (["--print-sbatch", "--walltime", "long"], "must be a time such as 30, 4:00:00 or 1-12, not long"),
        (["--memory-gb", "0.1"], "must lie between 0.5 and 100000"),
    ],
)
def test_what_does_not_go_together_is_refused(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert many(table, *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_slurm_is_not_asked_where_it_is_not(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert many(table, "--cluster", "slurm", "--interface", "lo") == 2
    assert "there is no sbatch on this computer. Run this on a login node" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_template_is_planned_and_printed_too(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (table.parent / "broken.nii.gz").unlink()
    scans = tmp_path / "scans.csv"
    scans.write_text("image,subject\nin/fixed.nii.gz,one\nin/moving.nii.gz,two\n")
    assert run("template", scans, "-o", tmp_path / "T", "--print-sbatch", "--workers", 3, "--rounds", 2) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"#SBATCH --array=1-2", "#SBATCH --cpus-per-task=3", "#SBATCH --job-name=deepflash-template"} <= set(lines)
    assert lines[-1].endswith(' --workers 3 --rounds 2 --threads 3 --array "${SLURM_ARRAY_TASK_ID}/2"')
    assert not (tmp_path / "T").exists()


def test_a_folder_without_jobs_has_no_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("status", tmp_path) == 2
    assert "no jobs were begun there" in capsys.readouterr().err


def test_a_template_that_is_made_by_two_at_once_has_each_average_from_one(tmp_path: Path) -> None:
    data = made_templates.draw(tmp_path / "scans", 3)
    given = [data, "-o", tmp_path / "T", "--rounds", 1, "--preset", "fast", "--iterations", "2,2", "--threads", 1]
    code = "import sys; from DeepFLASHRegistrationLib.cli import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, "template", *map(str, given), "--array", f"{number}/2"],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in (1, 2)
    ]
    said = [each.communicate(timeout=300)[0] for each in both]
    assert [each.returncode for each in both] == [0, 0], said
    lines = [line.partition("] ")[2].partition(":")[0] for text in said for line in text.splitlines() if "] " in line]
    jobs = 3 * (2 + 1 + 1) + 4  # alignments, registrations, averages
    assert len(set(lines)) == jobs
    records = list((tmp_path / "T").rglob("job.json"))
    assert [json.loads(each.read_text())["tries"] for each in records] == [1] * jobs
    assert json.loads((tmp_path / "T" / "template.json").read_text())["complete"]
