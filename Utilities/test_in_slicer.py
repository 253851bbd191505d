# SPDX-License-Identifier: Apache-2.0
"""Runs the tests that need a real 3D Slicer, each in a Slicer of its own, and sums up.

    python3 Utilities/test_in_slicer.py /path/to/Slicer [--only NAME …] [--minutes 20]
    python3 Utilities/test_in_slicer.py /path/to/Slicer --figures [EDGE [RUNS [EDGE OF THE RUNS]]]

The tests are the module's own (DeepFLASHRegistration.py, without a main window, as Slicer's generic tests run it) and
Testing/in_slicer/*Test.py: plain unittest, with a main window unless the name ends in ConsoleTest.py. With --figures,
Testing/in_slicer/figures.py measures instead. Without a display they run under xvfb-run. Slicer refuses to test when
any module cannot be loaded; modules of others for which that holds are left out, and named. Exit status: 0 all passed,
1 some failed, 2 wrong usage, 77 no Slicer was given.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULE = ROOT / "DeepFLASHRegistration" / "DeepFLASHRegistration.py"
TESTS = ROOT / "Testing" / "in_slicer"
NO_SLICER = 77
# What the module cannot do without.
NEEDED = {MODULE.stem, "SampleData", "Segmentations", "Sequences"}


def command(slicer: Path, *arguments: str, window: bool = True, ignored: Sequence[str] = ()) -> list[str]:
    """A command line that starts Slicer as CTest does (slicer_add_python_unittest)."""
    line = [str(slicer), "--no-splash", "--testing", "--additional-module-paths", str(MODULE.parent)]
    if not window:
        line += ["--no-main-window", "--disable-cli-modules"]
    if ignored:
        line += ["--modules-to-ignore", ",".join(ignored)]
    line += arguments
    if sys.platform == "linux" and not os.environ.get("DISPLAY") and shutil.which("xvfb-run"):
        line = ["xvfb-run", "--auto-servernum", "--server-args=-screen 0 1920x1080x24", *line]
    return line


def run(line: Sequence[str], seconds: float, echo: bool = True) -> tuple[int | None, str]:
    """Exit status, None if it took too long (then it was ended with its children), and output of a command."""
    own_group = {"start_new_session": True} if os.name == "posix" else {}
    # Through a pipe, as Slicer opens its outputs anew, which would overwrite a file.
    process = subprocess.Popen(
        line,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        **own_group,
    )
    lines: list[str] = []

    def read() -> None:
        for text in process.stdout:
            lines.append(text)
            if echo:
                print(text, end="", flush=True)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        status: int | None = process.wait(seconds)
    except subprocess.TimeoutExpired:
        status = None
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], stdout=subprocess.DEVNULL)
        process.wait()
    reader.join(10)  # not for ever: what Slicer has left behind may hold the pipe
    return status, "".join(lines)


def broken_modules(slicer: Path) -> list[str]:
    """Modules of others that cannot be loaded in this Slicer. Exits if that is one which is needed."""
    status, output = run(command(slicer, "--python-code", "slicer.util.exit(0)", window=False), 300, echo=False)
    found = re.search(r"modules failed to be instantiated:\s*\n((?:[ \t]+\S+[ \t]*\n)*)", output)
    names = found[1].split() if found else []
    if (status != 0 and not names) or NEEDED & set(names):
        print(output)
        sys.exit(f"Slicer cannot start with the module (exit status {status}).")
    return names


def failure(status: int | None, output: str, minutes: float) -> str:
    """Why a run of tests counts as failed; empty if it does not."""
    if status is None:
        return f"not done after {minutes:g} min"
    if status:
        return f"exit status {status}"
    ran = re.findall(r"^Ran (\d+) tests? in", output, re.MULTILINE)
    return "" if ran and int(ran[-1]) else "no test was run"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slicer", type=Path, nargs="?", help="the Slicer executable (its launcher)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="stems of the scripts to run")
    parser.add_argument("--minutes", type=float, default=20.0, help="time limit of each script [20]")
    parser.add_argument(
        "--figures",
        nargs="*",
        type=int,
        metavar="N",
        help="measure instead: edge in voxels of the pair [128], short runs in a row [100], edge for those [64]",
    )
    options = parser.parse_args(arguments)
    if options.slicer is None:
        print("No Slicer was given, nothing was tested: make test-slicer SLICER=/path/to/Slicer", file=sys.stderr)
        return NO_SLICER
    found = shutil.which(options.slicer)
    if found is None:
        parser.error(f"{options.slicer} is not an executable file: name Slicer's launcher")
    slicer = Path(found).resolve()
    scripts = [MODULE, *sorted(TESTS.glob("*Test.py"))]
    scripts = [script for script in scripts if not options.only or script.stem in options.only]
    if not scripts:
        parser.error(f"no script has one of the names {', '.join(options.only)}")
    ignored = broken_modules(slicer)
    if ignored:
        print(f"Without these modules, which this Slicer cannot load: {', '.join(ignored)}")
    if options.figures is not None:
        os.environ["DEEPFLASH_FIGURES"] = " ".join(map(str, options.figures))
        status, _ = run(
            command(slicer, "--python-script", str(TESTS / "figures.py"), ignored=ignored),
            60 * max(options.minutes, 240),
        )
        return 1 if status else 0
    results = []
    for script in scripts:
        print(f"== {script.relative_to(ROOT)}", flush=True)
        start = time.monotonic()
        code = f"import slicer.testing; slicer.testing.runUnitTest([{str(script.parent)!r}], {script.stem!r})"
        window = script != MODULE and not script.stem.endswith("ConsoleTest")
        status, output = run(
            command(slicer, "--python-code", code, window=window, ignored=ignored), 60 * options.minutes
        )
        reason = failure(status, output, options.minutes)
        said = re.findall(r"^(Ran \d+ tests?) in.*\n\n(.*)$", output, re.MULTILINE)
        results.append((script.stem, reason, ", ".join(said[-1]) if said else "", time.monotonic() - start))
    for name, reason, said, seconds in results:
        print(f"== {name}: {reason or 'passed'}; {said}; {seconds:.0f} s")
    failures = sum(bool(reason) for _, reason, _, _ in results)
    print(f"{len(results) - failures} passed, {failures} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
