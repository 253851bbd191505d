# SPDX-License-Identifier: Apache-2.0
"""Slurm, played by programs of the same names: what it is asked for, and workers of Dask that it runs."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
from pathlib import Path

import fake_slurm
import pytest
import run_jobs
from DeepFLASHRegistrationLib.jobs.dask_clusters import check_slurm, running_scheduler, slurm_cluster
from DeepFLASHRegistrationLib.jobs.dask_workers import DaskWorkers
from DeepFLASHRegistrationLib.jobs.ledger import STATE, Done, Ledger
from DeepFLASHRegistrationLib.jobs.pool import Pool
from DeepFLASHRegistrationLib.jobs.slurm import Slurm, array_script, seconds_of, slurm_time
from DeepFLASHRegistrationLib.support.errors import InputError
from run_jobs import begun, job, whole
from run_until import within

with_dask = pytest.mark.skipif(not importlib.util.find_spec("dask_jobqueue"), reason="dask_jobqueue is not installed")
posix_only = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
SLURM = Slurm(2, 1800, 2**30, interface="lo")


@pytest.mark.parametrize(
    ("text", "seconds"),
    # The forms that sbatch(1) lists for --time.
    [("30", 1800), ("30:15", 1815), ("4:00:00", 14400), ("1-12", 129600), ("1-12:30", 131400), ("2-00:00:01", 172801)],
)
def test_times_are_read_as_slurm_reads_them(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds
    assert seconds_of(slurm_time(seconds)) == seconds


@pytest.mark.parametrize("text", ["0", "soon", "1:2:3:4", "-5", "1-", "4h"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        seconds_of(text)


@posix_only
def test_each_task_of_an_array_runs_the_command_with_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = fake_slurm.put_on_path(tmp_path, monkeypatch)
    folder = tmp_path / "it's here"
    folder.mkdir()
    command = [sys.executable, "-c", "import os, sys; print(os.getcwd(), sys.argv[1:])", "a b", "$HOME"]
    slurm = Slurm(3, 5400, 2**30, threads=2, processes=4, gpu=True, options=["--partition=long"])
    script = array_script(command, slurm, folder, "many")
    asked = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")]
    assert asked == [
        "--job-name=many", "--array=1-3", "--ntasks=1", "--cpus-per-task=8", "--mem=4496M", "--time=01:30:00",
        "--signal=B:TERM@60", "--gres=gpu:1", "--partition=long",
    ]  # fmt: skip
    path = tmp_path / "script.sh"
    path.write_text(script)
    said = subprocess.run(["sbatch", path], capture_output=True, text=True).stdout
    assert re.fullmatch(r"Submitted batch job \d+\n", said)
    path.unlink()  # as Slurm has a copy
    assert within(20, lambda: fake_slurm.ended(state))
    said = sorted(log.read_text().strip() for log in state.glob("*.log"))
    assert said == [f"{folder} ['a b', '$HOME', '--array', '{number}/3']" for number in (1, 2, 3)]


def test_what_slurm_or_dask_lack_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"there is no sbatch on this computer\. .* --print-sbatch"):
        check_slurm(SLURM, tmp_path)


@with_dask
@posix_only
def test_a_network_is_named_and_the_folder_has_no_blanks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_slurm.put_on_path(tmp_path, monkeypatch)
    for name in ("", "ib99"):
        with pytest.raises(InputError, match=r"name the network interface .* one of .*lo"):
            check_slurm(Slurm(2, 1800, 2**30, interface=name), tmp_path)
    with pytest.raises(InputError, match="has a blank in its name"):
        check_slurm(SLURM, tmp_path / "my results" / STATE)


def listening(state: Path) -> set[str]:
    """Where this process and those that Slurm runs listen."""
    import psutil

    begun = [psutil.Process(int(text)) for path in state.glob("pids-*") for text in path.read_text().split()]
    every = [psutil.Process(), *(child for each in begun for child in (each, *each.children(recursive=True)))]
    found = [one.laddr.ip for each in every for one in each.net_connections("inet") if one.status == "LISTEN"]
    assert len(found) >= 2 + 2 * 2  # a scheduler, and two workers with what watches over them
    return set(found)


@with_dask
@posix_only
def test_workers_that_slurm_runs_do_the_jobs_and_all_goes_by_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = fake_slurm.put_on_path(tmp_path, monkeypatch)
    out, log = tmp_path / "out", tmp_path / "log.txt"
    ledger = Ledger(out)
    process = {"tasks": "job_tasks", "environment": {"PYTHONPATH": str(run_jobs.HERE)}}
    ends, heard = {}, signal.getsignal(signal.SIGINT)
    with slurm_cluster(SLURM, out / STATE) as client:
        assert signal.getsignal(signal.SIGINT) is heard
        assert client.scheduler.address.startswith("tls://127.0.0.1:")
        with pytest.raises(InputError, match="cannot be used"), running_scheduler(client.scheduler.address):
            pass  # without the certificate nobody comes in
        jobs = [job(log, f"t{number}", seconds=0.05, runs=2) for number in range(6)]
        pool = Pool(DaskWorkers(client, 2, process).seats(ledger, 3), 2, apart=True)
        pool.run(jobs, lambda end: ends.update({end.job.name: end.result}))
        assert listening(state) == {"127.0.0.1"}
        keys = [path for path in (out / STATE).glob("keys-*/*") if "PRIVATE KEY" in path.read_text()]
        assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in keys)
        assert keys
    assert whole(out) == sorted(ends)
    assert all(isinstance(end, Done) for end in ends.values())
    assert set(begun(log).values()) == {1}
    assert within(10, lambda: fake_slurm.ended(state))
    script = next(path for path in state.glob("job-*") if "." not in path.name).read_text()
    assert {"#SBATCH -n 1", "#SBATCH --cpus-per-task=1", "#SBATCH -t 00:30:00"} <= set(script.splitlines())
    words = shlex.split(script.splitlines()[-1])
    assert words[words.index("--protocol") + 1] == "tls://"
    assert not any(path.exists() for path in keys)
