# SPDX-License-Identifier: Apache-2.0
"""A child that works, is cancelled, dies, hangs, floods or finds the disk full, and its parent."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.process import (
    ChildDied,
    ChildHung,
    DiskFull,
    JobFailed,
    OutOfMemory,
    RegistrationProcess,
    State,
    client,
)
from DeepFLASHRegistrationLib.process.connection import Connection
from DeepFLASHRegistrationLib.support.errors import Cancelled, InputError
from run_until import within

Start = Callable[..., RegistrationProcess]
TASKS_FOLDER = Path(__file__).resolve().parent
LIBRARY = Path(sys.modules["DeepFLASHRegistrationLib.process"].__file__).resolve().parents[2]
posix_only = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def is_alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    if os.name == "nt":
        import ctypes

        handle = ctypes.windll.kernel32.OpenProcess(0x100000, False, pid)
        if not handle:
            return False
        waiting = ctypes.windll.kernel32.WaitForSingleObject(handle, 0) == 0x102
        ctypes.windll.kernel32.CloseHandle(handle)
        return waiting
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return not Path("/proc/self").exists()


def poll_until(process: RegistrationProcess, kind: str, seconds: float = 20) -> dict[str, Any]:
    """Polls as a GUI's timer does, until an event of this kind; returns it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for event in process.poll():
            if event["event"] == kind:
                return event
            assert event["event"] not in ("done", "failed"), event
        time.sleep(0.01)
    raise AssertionError(f"no {kind!r} within {seconds} s; state {process.state}, log {process.log()}")


@pytest.fixture
def start(scratch: Path) -> Iterator[Start]:
    """Makes processes that know the test tasks; checks at the end that they left nothing behind."""
    made = []

    def make(**options: Any) -> RegistrationProcess:
        options.setdefault("environment", {"PYTHONPATH": str(TASKS_FOLDER)})
        made.append(RegistrationProcess(tasks="child_tasks", **options))
        return made[-1]

    yield make
    pids = [process.pid for process in made if process.pid]
    for process in made:
        process.close()
    assert not [pid for pid in pids if is_alive(pid)]
    assert not list(scratch.iterdir())


@pytest.fixture
def process(start: Start) -> RegistrationProcess:
    """One process that knows the test tasks."""
    return start()


# Working


def test_a_job_comes_back_and_leaves_nothing(process: RegistrationProcess, scratch: Path) -> None:
    grid = Grid((20, 30, 40), np.diag([1.0, 2.0, 3.0, 1.0]))
    volume = Volume(grid, np.random.default_rng(0).normal(size=grid.shape).astype("f4"), "影像")
    assert process.state is State.IDLE
    result = process.run("echo", {"volume": volume, "labels": {3: "caudate"}, "device": None})
    assert process.state is State.IDLE
    assert not process.busy
    np.testing.assert_array_equal(result["volume"].data, volume.data)
    assert (result["labels"], result["volume"].name) == ({3: "caudate"}, "影像")
    assert not list(scratch.iterdir())


def test_the_parent_imports_neither_torch_nor_simpleitk() -> None:
    code = (
        "import sys; from DeepFLASHRegistrationLib.process import RegistrationProcess; "
        "process = RegistrationProcess(tasks='child_tasks'); process.run('echo'); process.close(); "
        "sys.exit(bool({'torch', 'SimpleITK', 'scipy'} & set(sys.modules)))"
    )
    path = os.pathsep.join([str(LIBRARY), str(TASKS_FOLDER)])
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})


def test_devices_start_with_the_cpu(process: RegistrationProcess) -> None:
    answer = process.run("devices")
    assert answer["devices"][0]["name"] == "cpu"
    assert answer["devices"][0]["free"] > 0
    assert (answer["torch"] is None) == bool(answer["reason"])


def test_the_second_job_finds_the_child_warm(process: RegistrationProcess) -> None:
    process.run("echo")
    pid = process.pid
    job = process.submit("echo", {"x": 1})
    assert process.wait() == {"x": 1}
    assert process.pid == pid
    assert job.number == 2
    assert job.seconds["total"] < 1


def test_events_arrive_in_order_while_the_caller_polls(process: RegistrationProcess) -> None:
    job = process.submit("optimize", {"iterations": 5})
    assert process.state is State.STARTING
    assert not job.done
    events = []
    while process.busy:
        events += process.poll()
        time.sleep(0.01)
    assert [event["event"] for event in events] == ["started", *["progress"] * 5, "done"]
    assert [event["iteration"] for event in events[1:-1]] == list(range(5))
    assert events[2]["energy"] == 0.5
    assert {event["job"] for event in events} == {1}
    assert job.done
    assert job.result["iterations"] == 5
    assert process.poll() == []


def test_only_one_job_at_a_time(process: RegistrationProcess) -> None:
    process.submit("echo")
    with pytest.raises(RuntimeError, match="running"):
        process.submit("echo")
    process.wait()


def test_waiting_has_an_end_and_the_job_goes_on(process: RegistrationProcess) -> None:
    process.submit("optimize", {"iterations": 40})
    with pytest.raises(TimeoutError):
        process.wait(timeout=0.1)
    assert process.wait()["iterations"] == 40


def test_an_exception_in_a_callback_ends_the_job(process: RegistrationProcess) -> None:
    def callback(event: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        process.run("sleep", callback=callback)
    assert not process.busy
    assert process.run("echo", {"still": "alive"}) == {"still": "alive"}


# Cancelling


def test_cancel_returns_the_best_so_far_and_keeps_the_child(process: RegistrationProcess) -> None:
    job = process.submit("optimize", {"iterations": 10_000})
    poll_until(process, "progress")
    pid = process.pid
    process.cancel()
    assert process.state is State.CANCELLING
    events = []
    process.wait(callback=events.append)
    assert [event["event"] for event in events if event["event"] != "progress"] == ["cancelling", "done"]
    assert job.cancelled
    assert job.error is None
    assert 0 < job.result["iterations"] < 10_000
    assert process.state is State.IDLE
    assert process.run("echo", {"x": 1}) == {"x": 1}
    assert process.pid == pid


def test_cancel_while_starting_is_not_lost(process: RegistrationProcess) -> None:
    job = process.submit("optimize", {"iterations": 10_000, "large": np.zeros(10_000_000)})
    process.cancel()
    assert process.wait()["iterations"] < 1000  # of 10,000
    assert job.cancelled


def test_a_cancel_callback_is_heeded(process: RegistrationProcess) -> None:
    began = time.monotonic()
    result = process.run("optimize", {"iterations": 10_000}, cancel=lambda: time.monotonic() - began > 0.5)
    assert result["iterations"] < 1000


def test_a_task_that_ignores_cancel_is_killed_with_all_it_started(start: Start) -> None:
    process = start(grace=0.3)
    job = process.submit("sleep", {"start": True})
    pids = poll_until(process, "progress")["pids"]
    assert all(map(is_alive, pids))
    process.cancel()
    poll_until(process, "cancelled")
    assert isinstance(job.error, Cancelled)
    assert job.cancelled
    assert process.state is State.IDLE
    assert within(5, lambda: not any(map(is_alive, pids)))
    assert process.run("echo", {"fresh": True}) == {"fresh": True}


def test_a_task_that_noticed_cancel_may_take_longer_than_the_grace(start: Start) -> None:
    process = start(grace=0.2)
    process.submit("finish_slowly", {"seconds": 1})
    poll_until(process, "progress")
    process.cancel()
    assert process.wait() == "best so far"


def test_a_task_that_noticed_cancel_may_not_take_forever(start: Start) -> None:
    process = start(grace=0.2, finishing=0.4)
    process.submit("finish_slowly", {"seconds": 60})
    poll_until(process, "progress")
    process.cancel()
    with pytest.raises(Cancelled, match="without a result"):
        process.wait()


def test_cancel_now_does_not_ask(process: RegistrationProcess) -> None:
    process.submit("sleep")
    poll_until(process, "progress")
    began = time.monotonic()
    process.cancel(now=True)
    with pytest.raises(Cancelled):
        process.wait()
    assert time.monotonic() - began < 2


def test_cancel_without_a_job_does_nothing(process: RegistrationProcess) -> None:
    process.cancel()
    assert process.state is State.IDLE
    assert process.run("optimize", {"iterations": 3})["iterations"] == 3


# Failing


def test_input_errors_keep_their_type_and_the_child(process: RegistrationProcess) -> None:
    process.run("echo")
    pid = process.pid
    with pytest.raises(InputError, match="every voxel is 0"):
        process.run("fail", {"kind": "InputError"})
    assert process.state is State.FAILED
    process.run("echo")
    assert process.pid == pid
    assert process.state is State.IDLE


@linux_only
def test_a_job_gets_no_more_memory_than_its_child_may_have(start: Start) -> None:
    process = start(memory_bytes=1 << 30)
    assert process.run("take", {"bytes": 1 << 20}) == 1 << 20
    with pytest.raises(OutOfMemory):
        process.run("take", {"bytes": 1 << 31})
    assert process.run("take", {"bytes": 1 << 20}) == 1 << 20


@pytest.mark.parametrize(
    ("kind", "error"), [("ZeroDivisionError", JobFailed), ("MemoryError", OutOfMemory), ("SystemExit", JobFailed)]
)
def test_other_exceptions_tell_where_and_with_which_last_words(
    process: RegistrationProcess, kind: str, error: type[JobFailed]
) -> None:
    with pytest.raises(error, match="told so") as caught:
        process.run("fail", {"kind": kind})
    assert kind in caught.value.kind or error is OutOfMemory
    assert "child_tasks.py" in caught.value.traceback
    assert "Last words, größer" in caught.value.log
    assert process.run("echo", {"fresh": True}) == {"fresh": True}


def test_a_result_that_cannot_travel_is_an_error(process: RegistrationProcess, scratch: Path) -> None:
    with pytest.raises(JobFailed, match="cannot be passed"):
        process.run("unknown_object")
    assert not list(scratch.iterdir())


def test_an_argument_that_cannot_travel_is_an_error(process: RegistrationProcess, scratch: Path) -> None:
    with pytest.raises(TypeError, match="cannot be passed"):
        process.run("echo", {"array": np.zeros(1000), "object": object()})
    assert process.run("echo", {"x": 1}) == {"x": 1}
    assert not list(scratch.iterdir())


def test_an_unknown_task_is_an_error(process: RegistrationProcess) -> None:
    with pytest.raises(JobFailed, match="no task 'dance'"):
        process.run("dance")


def test_an_interpreter_that_does_not_exist_is_an_error(start: Start) -> None:
    with pytest.raises(ChildDied, match="cannot be started"):
        start(python="/no/such/python").run("echo")


def test_an_interpreter_that_cannot_import_the_tasks_tells_why(start: Start) -> None:
    with pytest.raises(ChildDied) as caught:
        start(environment={"PYTHONPATH": ""}).run("echo")
    assert any("child_tasks" in line for line in caught.value.log)


# Dying


@posix_only
@pytest.mark.parametrize(
    ("task", "words", "code"),
    [("be_killed", "memory", -9), ("crash", "segmentation", -11), ("leave", "exit code 3", 3)],
)
def test_death_is_told_in_words_with_the_last_lines(
    process: RegistrationProcess, scratch: Path, task: str, words: str, code: int
) -> None:
    with pytest.raises(ChildDied, match=words) as caught:
        process.run(task)
    assert caught.value.returncode == code
    if task == "crash":
        assert "about to crash" in caught.value.log
        assert any("in crash" in line for line in caught.value.log), "where Python was"
    assert process.state is State.FAILED
    assert not list(scratch.iterdir())
    assert process.run("echo", {"fresh": True}) == {"fresh": True}


@posix_only
def test_a_child_killed_from_outside_in_a_run_takes_its_children_along(process: RegistrationProcess) -> None:
    process.submit("sleep", {"start": True})
    pids = poll_until(process, "progress")["pids"]
    os.kill(pids[0], signal.SIGKILL)
    with pytest.raises(ChildDied):
        process.wait()
    assert within(5, lambda: not any(map(is_alive, pids)))


@posix_only
def test_a_child_killed_at_rest_is_replaced_unnoticed(process: RegistrationProcess) -> None:
    process.run("echo")
    os.kill(process.pid, signal.SIGKILL)
    assert process.run("echo", {"x": 1}) == {"x": 1}


@posix_only
def test_behind_a_launcher_the_real_interpreter_is_killed_too(start: Start, tmp_path: Path) -> None:
    # PythonSlicer starts the interpreter as a process of its own, and reports its death in its own way.
    launcher = tmp_path / "PythonLauncher"
    launcher.write_text(
        f'#!/bin/sh\n"{sys.executable}" "$@"\n'
        '[ $? -lt 128 ] || { echo "error: [python-real] exit abnormally" >&2; exit 1; }\n'
    )
    launcher.chmod(0o755)
    process = start(python=launcher, grace=0.2)
    process.submit("sleep")
    (pid,) = poll_until(process, "progress")["pids"]
    assert pid != process.pid
    process.cancel()
    with pytest.raises(Cancelled):
        process.wait()
    assert within(5, lambda: not is_alive(pid))
    with pytest.raises(ChildDied, match="memory"):
        process.run("be_killed")


def test_a_hang_in_native_code_ends_with_the_place_where_it_hangs(start: Start) -> None:
    process = start(hang_timeout=2.5)
    began = time.monotonic()
    with pytest.raises(ChildHung, match="no sign of life") as caught:
        process.run("hang")
    assert time.monotonic() - began < 10
    assert any("in hang" in line for line in caught.value.log)


@posix_only
def test_a_child_that_stands_still_is_noticed_by_the_parent(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_SECOND_LOOK_SECONDS", 0.5)
    process = start(hang_timeout=2.5)
    process.submit("sleep")
    (pid,) = poll_until(process, "progress")["pids"]
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(ChildHung):
        process.wait(timeout=15)


def test_a_long_job_is_no_hang(start: Start) -> None:
    start(hang_timeout=2.5).run("sleep", {"seconds": 4})


@posix_only
def test_a_parent_that_stood_still_blames_no_child(start: Start) -> None:
    process = start(hang_timeout=3.0)
    process.submit("sleep", {"seconds": 2})
    poll_until(process, "progress")
    # As after a laptop's sleep, seen from here the last sign is old.
    process._connection.last_sign -= 100
    process.poll()
    assert process.busy
    process.wait()


# Flooding


def test_a_flood_of_output_is_read_and_forgotten(process: RegistrationProcess) -> None:
    assert process.run("flood", timeout=30) == 100_000_000
    log = process.log()
    assert log[-1] == "end of the flood"
    assert sum(map(len, log)) < 100_000


def test_a_flood_of_events_is_thinned_but_the_result_arrives(process: RegistrationProcess) -> None:
    assert process.run("report", {"events": 100_000}, timeout=30) == "reported"


def test_a_parent_that_does_not_look_for_a_while_loses_no_result(process: RegistrationProcess) -> None:
    process.submit("report", {"events": 12_000})
    time.sleep(2)
    assert len(process.poll()) <= 10_000
    assert not process.busy


HOSTILE = rb"""
import sys
out = sys.stdout.buffer
for line in [b"plain text\n", b"{\"event\": \"done\"}\n", b"\x1e[1, 2]\n", b"\x1e{\n", b"\x1enull\n",
             b"\x1e{\"event\": 5}\n", b"\xff\xfe\x00\n", b"\x1e" + b"[" * 100000 + b"\n",
             b"\x1e" + b"9" * 10000 + b"\n", b"\n\n",
             b"\x1e{\"event\": \"done\", \"job\": 1}\n", b"half a line\x1e{\"event\": \"good\"}\n",
             b"\x1e{\"event\": \"cut", b"\x1e{\"event\": \"better\"}\n", b"\x1e" + b"x" * 3000000]:
    out.write(line)
    out.flush()
out.write(b"\x1e{\"event\": \"par"); out.flush()
import time; time.sleep(0.2)
out.write(b"tial\", \"value\": NaN}\n"); out.flush()
"""


def test_hostile_and_partial_lines_harm_nothing(tmp_path: Path) -> None:
    connection = Connection([sys.executable, "-c", HOSTILE.decode()], os.environ, tmp_path, threading.Event())
    assert within(10, lambda: not connection.lives)
    time.sleep(0.1)
    events = [event["event"] for event in connection.events()]
    connection.close()
    assert events == ["failed", "good", "better", "partial"], "a result that is not there is a failure"
    assert connection.log.lines(1) == ["x" * 500], "what is no event is in the log"


# A full disk


@posix_only
def test_a_full_disk_found_by_the_child_leaves_nothing(process: RegistrationProcess, scratch: Path) -> None:
    with pytest.raises(DiskFull, match="No room for the result"):
        process.run("limit_files", {"size": 1 << 20})
    assert not list(scratch.iterdir())
    assert process.run("limit_files", {"size": 1 << 30}).nbytes == 4 << 20


@posix_only
def test_a_full_disk_found_by_the_parent_leaves_nothing(process: RegistrationProcess, scratch: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(DiskFull, match="No room for the images"):
            process.run("echo", {"array": np.zeros(1 << 22, np.uint8)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(scratch.iterdir())
    assert process.run("echo", {"x": 1}) == {"x": 1}


# Ending


def test_closing_during_a_run_ends_all(process: RegistrationProcess, scratch: Path) -> None:
    job = process.submit("sleep", {"start": True, "array": np.zeros(1_000_000)})
    pids = poll_until(process, "progress")["pids"]
    process.close()
    assert job.done
    assert isinstance(job.error, Cancelled)
    assert within(5, lambda: not any(map(is_alive, pids)))
    assert not list(scratch.iterdir())
    process.close()
    assert process.run("echo", {"x": 1}) == {"x": 1}


@pytest.mark.parametrize("delay", [0, 0.01, 0.1, 0.3])
def test_closing_while_starting_ends_all(process: RegistrationProcess, scratch: Path, delay: float) -> None:
    process.submit("echo", {"array": np.zeros(20_000_000)})
    time.sleep(delay)
    process.close()
    assert not process.busy
    assert not list(scratch.iterdir())


def test_a_dropped_process_ends(start: Start, scratch: Path) -> None:
    process = RegistrationProcess(tasks="child_tasks", environment={"PYTHONPATH": str(TASKS_FOLDER)})
    process.submit("sleep", {"array": np.zeros(100_000)})
    (pid,) = poll_until(process, "progress")["pids"]
    del process
    gc.collect()
    assert not is_alive(pid)
    assert not list(scratch.iterdir())


PARENT = """
import os, signal, sys, tempfile, time
from pathlib import Path
import numpy as np
from DeepFLASHRegistrationLib.process import RegistrationProcess, folders
folders._SHARED_MEMORY = Path("/none")
tempfile.tempdir = sys.argv[1]
process = RegistrationProcess(tasks="child_tasks", hang_timeout=2)
process.submit(sys.argv[2], {"start": True, "array": np.zeros(100_000)})
while True:
    for event in process.poll():
        if event["event"] == "progress":
            print(process.pid, *event.get("pids", ()), flush=True)
    time.sleep(0.01)
    if sys.argv[3] == "leave" and process.state.name == "RUNNING":
        sys.exit()
"""


def parent(scratch: Path, task: str, end: str) -> subprocess.Popen:
    path = os.pathsep.join([str(LIBRARY), str(TASKS_FOLDER)])
    return subprocess.Popen(
        [sys.executable, "-c", PARENT, str(scratch), task, end],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def test_a_parent_killed_in_a_run_takes_child_grandchild_and_folder_along(scratch: Path) -> None:
    with parent(scratch, "sleep", "stay") as process:
        pids = [int(word) for word in process.stdout.readline().split()]
        assert len(pids) == 3
        assert list(scratch.iterdir())
        process.kill()
    assert within(5, lambda: not any(map(is_alive, pids)))
    assert within(5, lambda: not list(scratch.iterdir()))


def test_a_hung_child_of_a_killed_parent_ends_by_itself_and_its_folder_is_swept(scratch: Path) -> None:
    from DeepFLASHRegistrationLib.process import folders

    with parent(scratch, "hang", "stay") as process:
        pid = int(process.stdout.readline())
        time.sleep(1)
        process.kill()
    assert within(8, lambda: not is_alive(pid))
    for path in scratch.iterdir():
        os.utime(path, (1e9, 1e9))
    folders.sweep()
    assert not list(scratch.iterdir())


def test_a_parent_that_exits_in_a_run_takes_child_and_folder_along(scratch: Path) -> None:
    with parent(scratch, "sleep", "leave") as process:
        process.wait(timeout=20)
        pids = [int(word) for word in process.stdout.read().split()]
    assert not any(map(is_alive, pids))
    assert not list(scratch.iterdir())


@posix_only
def test_a_parent_without_pythons_signal_handlers_survives_a_dead_child() -> None:
    # An application that embeds Python may leave SIGPIPE at its default, which ends the process.
    code = (
        "import os, signal, time; from DeepFLASHRegistrationLib.process.connection import Connection; "
        "import sys, threading, pathlib; signal.signal(signal.SIGPIPE, signal.SIG_DFL); "
        "c = Connection([sys.executable, '-c', ''], os.environ, pathlib.Path('.'), threading.Event()); "
        "time.sleep(0.5); [c.send(do='cancel', job=1) for _ in range(5)]; c.close()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(LIBRARY)})


@posix_only
def test_a_process_forked_off_the_parent_ends_nothing(process: RegistrationProcess) -> None:
    process.run("echo")
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            process.close()
        os._exit(0)
    os.waitpid(pid, 0)
    assert is_alive(process.pid)
    assert process.run("echo", {"x": 1}) == {"x": 1}


@linux_only
def test_a_hundred_jobs_let_nothing_grow(process: RegistrationProcess, scratch: Path) -> None:
    def handles() -> tuple[int, int, int]:
        return (
            len(os.listdir("/proc/self/fd")),
            threading.active_count(),
            Path("/proc/self/maps").read_text().count("deepflash-"),
        )

    def memory_of(pid: int) -> int:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096

    volume = Volume(Grid((32, 32, 32), np.eye(4)), np.zeros((32, 32, 32), "f4"))
    for _ in range(5):
        process.run("fields", {"fixed": volume, "moving": volume})
    before = handles()
    inside = process.run("descriptors")
    pid, memory = process.pid, memory_of(process.pid)
    for _ in range(100):
        process.run("fields", {"fixed": volume, "moving": volume})
    gc.collect()
    assert handles() == before
    assert process.run("descriptors") == inside
    assert process.pid == pid
    assert memory_of(pid) < memory + (20 << 20)
    assert not list(scratch.iterdir())
