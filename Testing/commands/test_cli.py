# SPDX-License-Identifier: Apache-2.0
"""The command line: exit codes, files, progress, and signals at any moment."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import registration_pairs as pairs
from command_line import register, run
from DeepFLASHRegistrationLib.commands import main as cli
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.io import read_labels, read_volume, write_volume
from DeepFLASHRegistrationLib.imaging.transforms import read_affine, write_affine, write_displacement_field
from DeepFLASHRegistrationLib.registration.verdict import Verdict
from DeepFLASHRegistrationLib.registration.verdict_words import sentence
from DeepFLASHRegistrationLib.report import FILES as ALL
from DeepFLASHRegistrationLib.version import __version__

pytest.importorskip("torch")

FILES = set(ALL) - {"uncertainty.nii.gz"}

COMMAND = [sys.executable, "-m", "DeepFLASHRegistrationLib.cli"]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(Path(cli.__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
    "OMP_NUM_THREADS": "1",
}
posix = pytest.mark.skipif(os.name != "posix", reason="signals and terminals of POSIX")


def started(pair: tuple[str, str], out: Path, *more: str, **how: Any) -> subprocess.Popen[bytes]:
    """The same in a process of its own."""
    arguments = ["register", *pair, "-o", str(out), *pairs.TINY_OPTIONS, *more]
    return subprocess.Popen([*COMMAND, *arguments], **{"env": ENVIRONMENT, **how})


def finished(pair: tuple[str, str], out: Path, **how: Any) -> tuple[int, str]:
    """The same, with its exit code and what it said on standard error."""
    with started(pair, out, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **how) as process:
        error = process.communicate()[1].decode()
    return process.returncode, error


# ------------------------------------------------------------------------------------------------------- exit code 0


def test_everything_at_once(pair: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs, out = tmp_path / "in", tmp_path / "out"
    code = register(
        pair,
        out,
        "--fixed-labels",
        inputs / "fixed_labels.nii.gz",
        "--moving-labels",
        inputs / "moving_labels.nii.gz",
        "--fixed-mask",
        inputs / "fixed_labels.nii.gz",
        "--moving-mask",
        inputs / "moving_labels.nii.gz",
        "--fixed-points",
        inputs / "fixed.csv",
        "--moving-points",
        inputs / "moving.csv",
        "--no-bias-correction",
        "--histogram-matching",
        "--sigma",
        "0.1",
    )
    assert code == 0
    assert sorted(os.listdir(out)) == sorted(set(FILES) - {"segmentation.seg.nrrd"})
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]
    captured = capsys.readouterr()
    assert captured.err == ""  # no progress bar without a terminal
    lines = captured.out.splitlines()
    assert lines[0] in ("GOOD", "CHECK", "FAILED")
    assert str(out / "report.html") in lines[-1]
    values = json.loads((out / "result.json").read_text())
    assert values["parameters"]["sigma"] == 0.1
    assert values["parameters"]["bands"] == [9]
    assert values["parameters"]["histogram_matching"] is True
    assert values["provenance"]["threads"] == 1
    assert len(values["metrics"]["landmarks"]["after_mm"]) == 4
    assert values["metrics"]["mean_dice_after"] > values["metrics"]["mean_dice_before"]
    assert set(np.unique(read_labels(out / "labels.nii.gz").data)) == {0, 1, 2, 3, 4}
    reasons = Verdict.from_dict(values["verdict"]).reasons
    assert [sentence(reason) for reason in reasons] == [line.strip() for line in lines[1:-1]]


def test_the_initial_transform_may_be_a_file(pair: tuple[str, str], tmp_path: Path) -> None:
    matrix = np.eye(4)
    matrix[:3, 3] = (2.0, -1.0, 0.5)
    write_affine(tmp_path / "in" / "start.tfm", matrix)
    assert (
        run(
            "register",
            *pair,
            "-o",
            tmp_path / "out",
            "-q",
            *pairs.TINY_OPTIONS[:6],
            "--init",
            tmp_path / "in" / "start.tfm",
            "--threads",
            1,
        )
        == 0
    )
    assert np.allclose(read_affine(tmp_path / "out" / "affine.tfm", 3), matrix)


def test_the_initial_transform_may_be_of_another_program(pair: tuple[str, str], tmp_path: Path) -> None:
    """One matrix (RAS mm, moving to fixed) in MINC's format, and what FLIRT would write for it."""
    forward = np.eye(4)
    forward[:3, 3] = (2.0, -1.0, 0.5)
    lines = "\n".join(" ".join(map(str, row)) for row in forward[:3])
    start = tmp_path / "in" / "start.xfm"
    start.write_text(f"MNI Transform File\nTransform_Type = Linear;\nLinear_Transform =\n{lines};\n")
    options = ("-q", *pairs.TINY_OPTIONS[:6], "--threads", 1)
    assert run("register", *pair, "-o", tmp_path / "minc", *options, "--init", start) == 0
    wanted = np.eye(4)
    wanted[:3, 3] = (2.0, -1.0, -0.5)  # LPS mm, fixed to moving
    assert np.allclose(read_affine(tmp_path / "minc" / "affine.tfm", 3), wanted)
    assert "transform of MINC" in (tmp_path / "minc" / "result.json").read_text(encoding="utf-8")
    fixed, moving = (read_volume(path).grid for path in pair)

    def to_fsl(grid: Grid) -> np.ndarray:
        to_index = np.linalg.inv(np.diag([-1, -1, 1, 1]) @ grid.affine[:, [2, 1, 0, 3]])
        scale = np.diag([*grid.spacing[::-1], 1.0])
        if np.linalg.det(to_index) > 0:
            flip = np.diag([-1.0, 1, 1, 1])
            flip[0, 3] = grid.shape[2] - 1
            scale = scale @ flip
        return scale @ to_index

    matrix = to_fsl(fixed) @ forward @ np.linalg.inv(to_fsl(moving))
    np.savetxt(tmp_path / "in" / "start.mat", matrix, fmt="%.12f")
    assert run("register", *pair, "-o", tmp_path / "fsl", *options, "--init", tmp_path / "in" / "start.mat") == 0
    assert np.allclose(read_affine(tmp_path / "fsl" / "affine.tfm", 3), wanted)
    assert "FSL FLIRT" in (tmp_path / "fsl" / "result.json").read_text(encoding="utf-8")


def test_without_labels_there_is_no_label_file(pair: tuple[str, str], tmp_path: Path) -> None:
    assert register(pair, tmp_path / "out", "-q") == 0
    assert sorted(os.listdir(tmp_path / "out")) == sorted(set(FILES) - {"labels.nii.gz", "segmentation.seg.nrrd"})


def test_json_progress(pair: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert register(pair, tmp_path / "out", "--json-progress") == 0
    captured = capsys.readouterr()
    events = [json.loads(line, parse_constant=lambda c: pytest.fail(c)) for line in captured.out.splitlines()]
    assert captured.err == ""
    assert [e["phase"] for e in events][0] == "prepare"
    assert events[-1]["progress"] == 1.0
    assert events[-1]["message"] == "Done"
    progress = [e["progress"] for e in events]
    assert all(b - a > -1e-9 for a, b in zip(progress, progress[1:], strict=False))
    assert sum("energy" in e for e in events) == 4


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.strip() == f"deepflash {__version__}"
    for command in ([], ["register"], ["apply"], ["phantom"]):
        assert run(*command, "--help") == 0
        assert "usage: deepflash" in capsys.readouterr().out


def test_the_installed_command(pair: tuple[str, str], tmp_path: Path) -> None:
    assert finished(pair, tmp_path / "out") == (0, "")
    assert read_volume(tmp_path / "out" / "warped.nii.gz").grid.same_as(read_volume(pair[0]).grid)
    again = cli.main(["register", *pair, "-o", str(tmp_path / "again"), "-q", *pairs.TINY_OPTIONS])
    assert again == 0
    for name in (
        "warped.nii.gz",
        "fixed_to_moving.nii.gz",
        "moving_to_fixed.nii.gz",
        "affine.tfm",
        "log_jacobian.nii.gz",
        "velocity.safetensors",
    ):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_the_truth_may_be_given(tmp_path: Path, pair: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    grid = read_volume(pair[0]).grid
    at = pairs.places(grid)
    write_displacement_field(tmp_path / "in" / "truth.nii.gz", grid, (pairs.bend(at) - at).astype(np.float32))
    assert register(pair, tmp_path / "out", "--truth", tmp_path / "in" / "truth.nii.gz") == 0
    error = json.loads((tmp_path / "out" / "result.json").read_text())["metrics"]["truth_error_mm"]
    assert 0 < error["mean"] < error["mean_before"] < 6
    assert "Error against the true map: mean" in capsys.readouterr().out


def test_force(pair: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    assert register(pair, out, "-q") == 2
    assert f"{out}: exists and is not empty" in capsys.readouterr().err
    assert os.listdir(out) == ["notes.txt"]
    assert register(pair, out, "-q", "--force") == 0
    first = (out / "result.json").read_text()
    assert register(pair, out, "-q", "--force", "--sigma", "0.3") == 0
    assert (out / "result.json").read_text() != first
    assert (out / "notes.txt").read_text() == "mine"
    assert sorted(os.listdir(out)) == sorted({*FILES, "notes.txt"} - {"labels.nii.gz", "segmentation.seg.nrrd"})


# ------------------------------------------------------------------------------------------------- exit codes 1 and 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sigma", "0"], "sigma must lie between 0.001 and 10, not 0"),
        (["--sigma", "nan"], "sigma must be a number, not nan"),
        (["--bands", "10"], "bands must be odd numbers"),
        (["--bands", "9,11"], "one entry per level each, but have 1, 2 and 1"),
        (["--iterations", "-1"], "iterations must lie between 0 and 10000, not -1"),
        (["--similarity", "lcc"], "similarity must be one of lncc, ncc, ssd, mi"),
        (["--init", "afine"], "--init afine: is neither one of none, centers, rigid, affine nor a transform file"),
        (["--refine", "result", "--init", "rigid"], "--refine goes on in the alignment of its result. Leave --init"),
        (["--channel-weights", "1,-1"], "channel_weights must lie between 0 and 1000, not -1"),
        (["--channel-similarities", "lncc,lcc"], "channel_similarities must be one of lncc, ncc, ssd, mi, not 'lcc'"),
        (["--threads", "0"], "threads must be at least 1"),
        (["--spacing-mm", "0.001"], "too small"),
    ],
)
def test_wrong_values(
    pair: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert register(pair, tmp_path / "out", *options) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert message in error
    assert len(error.splitlines()) == 1
    assert os.listdir(tmp_path) == ["in"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["rgister"],
        ["register"],
        ["register", "a.nii.gz"],
        ["register", "a", "b"],
        ["register", "a", "b", "-o"],
        ["register", "a", "b", "-o", "c", "--sigma", "much"],
        ["register", "a", "b", "-o", "c", "--bands", "1;2"],
        ["register", "a", "b", "-o", "c", "--preset", "best"],
        ["register", "a", "b", "-o", "c", "--unknown", "1"],
        ["apply", "a", "b", "-o", "c", "--to", "nowhere"],
        ["apply", "a", "b"],
        ["phantom"],
        ["phantom", "o", "--kind", "x"],
    ],
    ids=" ".join,
)
def test_wrong_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert "usage: deepflash" in captured.err
    assert "error: " in captured.err
    assert os.listdir(tmp_path) == []


def test_a_device_that_is_not_there_is_a_failure(
    pair: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert register(pair, tmp_path / "out", "--device", "cuda:99") == 1
    assert "Failed: The device 'cuda:99' cannot be used" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["in"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            MemoryError(),
            "the memory did not suffice. Close other programs, choose a larger working voxel (--spacing-mm)",
        ),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
            "the memory did not suffice",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device."),
        (ZeroDivisionError("division by zero"), "division by zero"),
        (
            IndexError("list index out of range"),
            "unexpected IndexError: list index out of range. This is a mistake in the program: please report it",
        ),
    ],
)
def test_failures_are_told_in_words(
    pair: tuple[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    message: str,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("DeepFLASHRegistrationLib.methods.registry.estimate", fail)
    assert register(pair, tmp_path / "out") == 1
    assert f"Failed: {message}" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["in"]
    with pytest.raises(type(error)):
        register(pair, tmp_path / "out", "--traceback")


def test_without_torch(
    pair: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert register(pair, tmp_path / "out") == 1
    assert "PyTorch is needed to register images." in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["in"]


@posix
def test_a_full_disk(pair: tuple[str, str], tmp_path: Path) -> None:
    """A process that may write no large files meets what a full disk says, wherever it is."""
    limit = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); "
        "from DeepFLASHRegistrationLib.cli import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", limit, "register", *pair, "-o", str(tmp_path / "out"), *pairs.TINY_OPTIONS],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
    )
    assert done.returncode == 1
    assert f"Failed: {tmp_path / 'out'}: could not be written (File too large" in done.stderr
    assert "free some space or choose another folder" in done.stderr
    assert os.listdir(tmp_path) == ["in"]


@posix
def test_a_reader_that_goes_away(pair: tuple[str, str], tmp_path: Path) -> None:
    """deepflash register … --json-progress | head -1"""
    process = started(pair, tmp_path / "out", "--json-progress", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(600) == 1
    assert process.stderr.read() == b""
    process.stderr.close()
    assert os.listdir(tmp_path) == ["in"]


# ------------------------------------------------------------------------------------------------------- interrupts


STAGES = [
    "imaging.io.read_volume",
    "imaging.intensities.normalize",
    "registration.register.align",
    "geodesics.search.flash.minimize",
    "geodesics.flow.Flow.fixed_to_moving",
    "problem.deformation.Deformation.field",
    "registration.folds.folds_and_determinants",
    "problem.resampling.looked_up",
    "results.folder.write_velocity",
    "results.folder.write_report",
    "imaging.image_files.nifti.write_gzip",
]


@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupt_at_every_stage(
    pair: tuple[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(f"DeepFLASHRegistrationLib.{stage}", pairs.interrupt)
    options = [o if o != "none" else "centers" for o in pairs.TINY_OPTIONS]
    assert run("register", *pair, "-o", tmp_path / "deep" / "out", *options) == 130
    assert "Cancelled; nothing was written." in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["in"]
    assert signal.getsignal(signal.SIGINT) is handler


def test_impatience_does_not_disturb_the_cleaning_up(
    pair: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    remove = shutil.rmtree

    def again(*arguments: Any, **options: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        remove(*arguments, **options)

    monkeypatch.setattr("DeepFLASHRegistrationLib.results.folder.write_report", pairs.interrupt)
    monkeypatch.setattr("DeepFLASHRegistrationLib.support.output_folder.shutil.rmtree", again)
    assert register(pair, tmp_path / "out") == 130
    assert os.listdir(tmp_path) == ["in"]


def test_an_interrupt_that_comes_too_late(
    pair: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything is written by then, so everything is well."""
    real = os.replace

    def replace(a: Any, b: Any) -> None:
        real(a, b)
        if str(b) == str(tmp_path / "out"):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("DeepFLASHRegistrationLib.support.output_folder.os.replace", replace)
    assert register(pair, tmp_path / "out") == 0
    assert "report.html" in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path / "out")) == sorted(set(FILES) - {"labels.nii.gz", "segmentation.seg.nrrd"})


def ended(process: subprocess.Popen[bytes], out: Path) -> int:
    """The exit code, after a check that nothing or everything is written."""
    code = process.wait(600)
    left = sorted(os.listdir(out.parent))
    if code == 0:
        assert left == ["in", out.name]
        assert sorted(os.listdir(out)) == sorted(set(FILES) - {"labels.nii.gz", "segmentation.seg.nrrd"})
    else:
        assert left == ["in"]
    return code


@posix
@pytest.mark.parametrize(
    ("moment", "name"),
    [
        ("prepare", "SIGTERM"),
        ("Level 1 of 1, iteration 0", "SIGINT"),
        ("Level 1 of 1, iteration 2", "SIGHUP"),
        ("Computing the maps", "SIGTERM"),
        ("Writing the files", "SIGINT"),
    ],
)
def test_signals_while_running(pair: tuple[str, str], tmp_path: Path, moment: str, name: str) -> None:
    out = tmp_path / "out"
    process = started(pair, out, "--json-progress", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with contextlib.closing(process.stdout), contextlib.closing(process.stderr):
        for line in process.stdout:
            event = json.loads(line)
            if moment in (event["phase"], event["message"]):
                process.send_signal(getattr(signal, name))
                break
        process.stdout.read()
        code = ended(process, out)
        message = process.stderr.read()
    # A signal may come when the next thing is already done.
    assert code == 130 or (code == 0 and moment in ("Computing the maps", "Writing the files"))
    assert message == (b"Cancelled; nothing was written.\n" if code else b"")


@posix
@pytest.mark.parametrize("delay", [0.0, 0.15, 0.4, 0.8])
def test_signals_while_starting(pair: tuple[str, str], tmp_path: Path, delay: float) -> None:
    out = tmp_path / "out"
    process = started(pair, out, "-q", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    # Before the program's own first line, Python ends as it always does.
    assert ended(process, out) in (0, 130, -signal.SIGINT, 1)


@posix
@pytest.mark.parametrize(
    "name", ["<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>", "other.py"]
)
def test_an_interrupt_waits_for_pythons_own_import_to_give_back_its_locks(name: str) -> None:
    """Raised within it, it may be swallowed, and the lock of all imports lost: the program hung, waiting for torch."""
    code = compile("import signal\nsignal.raise_signal(signal.SIGINT)\nreached.append(1)", name, "exec")
    reached: list[int] = []
    started, importing = time.monotonic(), name != "other.py"

    def interrupted() -> None:
        with cli._interruptible(to_the_end=False):
            exec(code, {"reached": reached})
            assert importing
            time.sleep(20)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(reached) == importing
    assert time.monotonic() - started < 10


@posix
def test_an_interrupt_that_waits_comes_before_what_fails_meanwhile() -> None:
    code = compile("import signal\nsignal.raise_signal(signal.SIGINT)", "<frozen importlib._bootstrap>", "exec")

    def failing() -> None:
        with cli._interruptible(to_the_end=True):
            exec(code, {})
            raise AttributeError("a module that is not whole")

    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            failing()
        time.sleep(0.1)  # the one that waited is ignored now
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@posix
def test_an_interrupt_of_an_import_in_c_is_told_like_any_other(pair: tuple[str, str], tmp_path: Path) -> None:
    """CPython ends itself by SIGINT once an interrupt was raised in Python text that C code ran, though it was caught.

    The module that does so here stands in for one of torch's.
    """
    (tmp_path / "at").mkdir()
    (tmp_path / "at" / "torch.py").write_text(
        "import ctypes, signal\n"
        "run = ctypes.pythonapi.PyRun_String\n"
        "run.restype, run.argtypes = ctypes.py_object, [ctypes.c_char_p, ctypes.c_int, ctypes.py_object, "
        "ctypes.py_object]\n"
        "run(b'import signal; signal.raise_signal(signal.SIGINT)', 257, globals(), globals())\n"
    )
    environment = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join([str(tmp_path / "at"), ENVIRONMENT["PYTHONPATH"]])}
    assert finished(pair, tmp_path / "out", env=environment) == (130, "Cancelled; nothing was written.\n")
    assert sorted(os.listdir(tmp_path)) == ["at", "in"]


@posix
def test_nohup_is_respected(pair: tuple[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    ignoring = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    process = started(pair, out, "--json-progress", stdout=subprocess.PIPE, **ignoring)
    with contextlib.closing(process.stdout):
        process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        process.stdout.read()
        assert ended(process, out) == 0


# ------------------------------------------------------------------------------------------------------- terminals


@posix
def test_a_terminal_shows_a_bar_and_its_ctrl_c_cancels(pair: tuple[str, str], tmp_path: Path) -> None:
    import fcntl
    import pty
    import termios

    out = tmp_path / "out"
    mine, theirs = pty.openpty()

    def control() -> None:
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    options = [o if o != "3" else "10000" for o in pairs.TINY_OPTIONS]
    process = subprocess.Popen(
        [*COMMAND, "register", *pair, "-o", str(out), *options, "--tolerance", "0", "--sigma", "0.001"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=ENVIRONMENT,
        preexec_fn=control,
    )
    os.close(theirs)
    shown, asked = b"", False
    with contextlib.suppress(OSError):  # the other end was closed
        while chunk := os.read(mine, 65536):
            shown += chunk
            if b"iteration 2, energy" in shown and not asked:
                asked = True
                os.write(mine, b"\x03")
    os.close(mine)
    code = ended(process, out)
    text = shown.decode()
    assert code == 130, text
    assert "\r[" in text
    assert "% " in text
    assert "iteration 2, energy" in text
    assert text.endswith("Cancelled; nothing was written.\r\n")


class Terminal(io.StringIO):
    """What looks like one."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("options", "bar"), [([], True), (["-q"], False), (["--json-progress"], False)])
def test_when_there_is_a_bar(
    pair: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], bar: bool
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert register(pair, tmp_path / "out", *options) == 0
    text = terminal.getvalue()
    assert bool(text) == bar
    if bar:
        assert text.endswith("\n")
        assert "[##############################] 100 %" in text
        assert all(len(line) < 120 for line in text.split("\r"))


def test_notes_on_the_input_reach_the_terminal_whatever_is_asked_for(
    pair: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moving = read_volume(pair[1])
    data = moving.data.copy()
    data[:2] = np.nan
    write_volume(tmp_path / "holes.nrrd", moving.with_data(data))
    told = f"Note: {tmp_path / 'holes.nrrd'}: {2 * data[0].size} NaN or infinite voxels were replaced by"
    assert register((pair[0], str(tmp_path / "holes.nrrd")), tmp_path / "quiet", "-q") == 0
    quiet = capsys.readouterr().err
    assert quiet.count(told) == 1
    assert register((pair[0], str(tmp_path / "holes.nrrd")), tmp_path / "json", "--json-progress") == 0
    captured = capsys.readouterr()
    assert captured.err == quiet
    notes = [note for line in captured.out.splitlines() for note in json.loads(line).get("notes", ())]
    assert f"Note: {notes[0]}".startswith(told)
    assert json.loads((tmp_path / "json" / "result.json").read_text())["notes"][0] == notes[0]
