# SPDX-License-Identifier: Apache-2.0
"""What the Python that has ANTs and Greedy runs: reads two images of one grid, writes both fields. Needs nothing of
this library, and is never imported for more than its names."""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

ANSWER = "answer.json"
_PACKAGES = {"ants": "antspyx", "greedy": "picsl-greedy"}
# Local correlation of five voxels as ANTs' and Greedy's users choose it; the rest are the programs' own defaults.
_ANTS = {
    "lncc": {"syn_metric": "CC", "syn_sampling": 2, "reg_iterations": (100, 70, 50, 20)},
    "ncc": {"syn_metric": "CC", "syn_sampling": 2, "reg_iterations": (100, 70, 50, 20)},
    "ssd": {"syn_metric": "meansquares", "reg_iterations": (100, 70, 50, 20)},
    "mi": {"syn_metric": "mattes", "syn_sampling": 32, "reg_iterations": (100, 70, 50, 20)},
}
_GREEDY = {"lncc": "NCC {two}", "ncc": "NCC {two}", "ssd": "SSD", "mi": "NMI"}
_GREEDY_ITERATIONS = "100x50x10"


def main() -> None:
    """Runs what the first argument, JSON, asks for."""
    given = json.loads(sys.argv[1])
    package = _PACKAGES[given["program"]]
    # Before ITK is loaded; and ANTs samples at random.
    os.environ.update(ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS=str(given["threads"]), ANTS_RANDOM_SEED="1")
    try:
        settings = {"ants": _ants, "greedy": _greedy}[given["program"]](given)
    except ModuleNotFoundError as error:
        if error.name not in ("ants", "picsl_greedy"):
            raise
        answer: dict[str, Any] = {"missing": package}
    else:
        answer = {"version": f"{package} {version(package)}", "settings": settings}
    partial = Path(f"{ANSWER}.partial")
    partial.write_text(json.dumps(answer), encoding="utf-8")
    partial.replace(ANSWER)


def _ants(given: dict[str, Any]) -> str:
    import ants

    images = [ants.image_read(given[key]) for key in ("fixed", "moving")]
    settings = _ANTS[given["similarity"]]
    found = ants.registration(
        *images, type_of_transform="SyNOnly", initial_transform="Identity", outprefix="ants_", **settings
    )
    for key, paths in (("forth", found["fwdtransforms"]), ("back", found["invtransforms"])):
        fields = [path for path in paths if path.endswith(".nii.gz")]
        os.replace(fields[0], given[key])
    return f"ants.registration(type_of_transform='SyNOnly', initial_transform='Identity', {_listed(settings)})"


def _greedy(given: dict[str, Any]) -> str:
    import picsl_greedy

    # A NIfTI header tells the dimension without a library: short 20 of an uncompressed one.
    d = _dimension(given["fixed"])
    metric = _GREEDY[given["similarity"]].format(two="x".join("2" * d))
    settings = f"-m {metric} -n {_GREEDY_ITERATIONS} -threads {given['threads']}"
    fields = f"-o {given['forth']} -oinv {given['back']}"
    getattr(picsl_greedy, f"Greedy{d}D")().execute(f"-d {d} -i {given['fixed']} {given['moving']} {settings} {fields}")
    return f"greedy -d {d} {settings}"


def _dimension(path: str) -> int:
    import gzip
    import struct

    with gzip.open(path, "rb") as file:
        return struct.unpack("<h", file.read(42)[40:42])[0]


def _listed(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in settings.items())


if __name__ == "__main__":
    main()
