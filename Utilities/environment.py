# SPDX-License-Identifier: Apache-2.0
"""Makes the virtual environment that `make demo`, `make test` and the continuous integration run in.

    python3 Utilities/environment.py [--venv .venv] [--for run|test]

Only the standard library of Python 3.10 or newer is needed. A second call changes nothing that is already there.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TORCH = "2.13.0"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# Programs that are compared with, for their tests; they pin versions of NumPy, and so live beside everything else.
PEERS = ("antspyx==0.6.3", "picsl-greedy==1.4.0.3")
# Networks, for their tests; what it asks to be installed along with it is never used, and takes gigabytes.
ICON = "icon-registration==1.1.9"
SLICER_WHEELS = ("slicer-core", "slicer-layer-dm", "trame-slicer", "vtk")


def succeeds(command: Sequence[str | Path], quiet: bool = False) -> bool:
    """Whether a command can be run and ends with 0."""
    sink = subprocess.DEVNULL if quiet else None
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink).returncode == 0
    except OSError:
        return False


def say(text: str) -> None:
    print(text, flush=True)


def python_of(venv: Path) -> Path:
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def make_venv(venv: Path) -> None:
    """A virtual environment with pip, also on Debian and Ubuntu, whose Python comes without ensurepip.

    Raises:
        SystemExit: there is no way to get pip into it; the message says which package to install.
    """
    python = python_of(venv)
    if succeeds([python, "-m", "pip", "--version"], quiet=True):
        return
    say(f"Creating {venv}")
    create = [sys.executable, "-m", "venv", "--clear"]
    if succeeds([*create, venv], quiet=True):
        return
    # The package of exactly this Python comes first: python3-venv belongs to the system's default one.
    packages = [f"python{sys.version_info.major}.{sys.version_info.minor}-venv", "python3-venv"]
    if sys.platform == "linux" and os.geteuid() == 0 and shutil.which("apt-get"):
        succeeds(["apt-get", "update", "-qq"])
        if any(succeeds(["apt-get", "install", "-y", "-qq", package]) for package in packages) and succeeds(
            [*create, venv]
        ):
            return
    # Without root: the system's own pip, where there is one, installs a pip into an environment made without.
    if succeeds([*create, "--without-pip", venv], quiet=True) and succeeds(
        [sys.executable, "-m", "pip", "--python", python, "install", "pip"]
    ):
        return
    sys.exit(
        f"A virtual environment cannot be created with {sys.executable}. On Debian and Ubuntu this helps:\n\n"
        f"    sudo apt-get install {packages[-1]}\n"
    )


def pip(venv: Path, *arguments: str) -> bool:
    return succeeds([python_of(venv), "-m", "pip", "install", "--disable-pip-version-check", *arguments])


def has_gpu() -> bool:
    return succeeds(["nvidia-smi", "-L"], quiet=True)


def reachable(address: str) -> bool:
    """Whether an address answers within seconds; asked first, because pip retries for minutes where it does not."""
    try:
        with urllib.request.urlopen(address, timeout=10):
            return True
    except (OSError, ValueError):
        return False


def install_torch(venv: Path) -> None:
    """torch, without gigabytes of CUDA where no NVIDIA GPU is seen.

    Raises:
        SystemExit: none of the sources had it.
    """
    if succeeds([python_of(venv), "-c", "import torch"], quiet=True):
        return
    attempts: list[list[str]] = []
    # Only the wheels for Linux on x86-64 bring CUDA along; elsewhere the ordinary ones are small.
    if sys.platform == "linux" and platform.machine() == "x86_64" and not has_gpu():
        say("No NVIDIA GPU: installing a CPU build of torch")
        if reachable(f"{TORCH_CPU_INDEX}/torch/"):
            cpu = ["--extra-index-url", TORCH_CPU_INDEX]
            attempts += [[*cpu, f"torch=={TORCH}+cpu"], [*cpu, "torch>=2.2"]]
        attempts.append([f"torch=={TORCH}"])
    attempts.append(["torch>=2.2"])
    if not any(pip(venv, *attempt) for attempt in attempts):
        sys.exit("torch could not be installed. See https://pytorch.org/get-started/locally for this system.")


def install(venv: Path, purpose: str) -> None:
    """The package itself, editable, with what the purpose ("run" or "test") needs.

    Raises:
        SystemExit: the installation failed; pip has said why.
    """
    package = ["--editable", str(ROOT)]
    if purpose == "test":
        package[-1] += "[dev]"
        wheels_only = ["--only-binary", ",".join(SLICER_WHEELS)]
        if pip(venv, *wheels_only, "--editable", f"{ROOT}[dev,slicer]"):
            return
        say("Slicer's wheels are not to be had for this Python and system: the tests that need them are skipped.")
    if not pip(venv, *package):
        sys.exit("The installation failed.")


def install_icon(venv: Path) -> None:
    """The networks of the ICON family; without them their tests are skipped."""
    if not pip(venv, "--no-deps", ICON):
        say(f"{ICON} is not to be had here: the tests that need it are skipped.")


def install_peers(venv: Path) -> None:
    """ANTs and Greedy in an environment within the environment; without them their tests are skipped."""
    peers = venv / "peers"
    make_venv(peers)
    if not pip(peers, "--only-binary", ":all:", *PEERS):
        say("ANTs and Greedy are not to be had for this Python and system: the tests that need them are skipped.")
        shutil.rmtree(peers, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="folder of the environment [.venv]")
    parser.add_argument(
        "--for", dest="purpose", choices=("run", "test"), default="run", help="what is to be done in it [run]"
    )
    options = parser.parse_args(arguments)
    if sys.version_info < (3, 10):  # noqa: UP036 (this file is read by whatever python3 is there)
        sys.exit(
            f"Python 3.10 or newer is needed, this is {platform.python_version()} ({sys.executable}). "
            "Name another one: make PYTHON=python3.12 …"
        )
    make_venv(options.venv)
    install_torch(options.venv)
    install(options.venv, options.purpose)
    if options.purpose == "test":
        install_icon(options.venv)
        install_peers(options.venv)


if __name__ == "__main__":
    main()
