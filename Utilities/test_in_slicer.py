# SPDX-License-Identifier: Apache-2.0
"""Runs the tests that need a real 3D Slicer, each in a Slicer of its own, and sums up.

    python3 Utilities/test_in_slicer.py /path/to/Slicer [--only NAME …] [--minutes 20]

The tests are the module's own (DeepFLASHRegistration.py, without a main window, as Slicer's generic tests run it) and
Testing/in_slicer/*Test.py: plain unittest, with a main window unless the name ends in ConsoleTest.py. Without a display
they run under xvfb-run. Exit status: 0 all passed, 1 some failed, 2 wrong usage, 77 no Slicer was given.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULE = ROOT / "DeepFLASHRegistration" / "DeepFLASHRegistration.py"
NO_SLICER = 77


def command(slicer: Path, script: Path) -> list[str]:
    """The command line that CTest would run for a script (slicer_add_python_unittest)."""
    without_window = script == MODULE or script.stem.endswith("ConsoleTest")
    line = [str(slicer), "--no-splash", "--testing", "--additional-module-paths", str(MODULE.parent)]
    if without_window:
        line += ["--no-main-window", "--disable-cli-modules"]
    line += [
        "--python-code",
        f"import slicer.testing; slicer.testing.runUnitTest([{str(script.parent)!r}], {script.stem!r})",
    ]
    if sys.platform == "linux" and not os.environ.get("DISPLAY") and shutil.which("xvfb-run"):
        line = ["xvfb-run", "--auto-servernum", "--server-args=-screen 0 1920x1080x24", *line]
    return line


def run(line: Sequence[str], seconds: float) -> str:
    """Why a command failed; empty if it did not. One that takes too long is ended with its children."""
    own_group = {"start_new_session": True} if os.name == "posix" else {}
    process = subprocess.Popen(line, stdin=subprocess.DEVNULL, **own_group)
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], stdout=subprocess.DEVNULL)
        process.wait()
        return f"not done after {seconds / 60:g} min"
    return "" if status == 0 else f"exit status {status}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slicer", type=Path, nargs="?", help="the Slicer executable (its launcher)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="stems of the scripts to run")
    parser.add_argument("--minutes", type=float, default=20.0, help="time limit of each script [20]")
    options = parser.parse_args(arguments)
    if options.slicer is None:
        print("No Slicer was given, nothing was tested: make test-slicer SLICER=/path/to/Slicer", file=sys.stderr)
        return NO_SLICER
    slicer = shutil.which(options.slicer)
    if slicer is None:
        parser.error(f"{options.slicer} is not an executable file: name Slicer's launcher")
    scripts = [MODULE, *sorted((ROOT / "Testing" / "in_slicer").glob("*Test.py"))]
    scripts = [script for script in scripts if not options.only or script.stem in options.only]
    if not scripts:
        parser.error(f"no script has one of the names {', '.join(options.only)}")
    failures = 0
    for script in scripts:
        print(f"== {script.relative_to(ROOT)}", flush=True)
        start = time.monotonic()
        reason = run(command(Path(slicer).resolve(), script), 60 * options.minutes)
        failures += bool(reason)
        print(f"== {script.stem}: {reason or 'passed'}, {time.monotonic() - start:.0f} s", flush=True)
    print(f"{len(scripts) - failures} passed, {failures} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
