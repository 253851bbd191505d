# SPDX-License-Identifier: Apache-2.0
"""Packs the data that the models for brains are trained on.

    python Utilities/pack_models.py --data FOLDER --out FOLDER [--limit-mb 45]

FOLDER holds `oasis-brains`, `adults-t1`, `head-labels` and `icbm152`. Subjects named in HELD_OUT of train_models.py are
never packed.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "DeepFLASHRegistration"))

from DeepFLASHRegistrationLib.imaging.io import read_labels, read_volume
from DeepFLASHRegistrationLib.problem.subject import Subject
from DeepFLASHRegistrationLib.support.errors import InputError
from DeepFLASHRegistrationLib.training.pack import Pack
from DeepFLASHRegistrationLib.training.packing import Naming, pack_subjects, within_limit
from train_models import HELD_OUT

SHAPE, SPACING_MM = (128, 160, 128), 1.25
# Of FreeSurfer's labels: white matter, gray matter, and what is dark in T1.
_WHITE = (2, 7, 16, 28, 41, 46, 60, 77, 85)
_DARK = (4, 5, 14, 15, 24, 30, 31, 43, 44, 62, 63, 72)


# What FreeSurfer numbers on the right, and what the same is on the left.
_RIGHT = dict(
    zip(
        (41, 42, 43, 44, 46, 47, 49, 50, 51, 52, 53, 54, 57, 58, 60, 62, 63, 163, 164),
        (2, 3, 4, 5, 7, 8, 10, 11, 12, 13, 17, 18, 25, 26, 28, 30, 31, 136, 137),
        strict=True,
    )
)


def right_and_left(table: Path) -> dict[int, int]:
    """Labels on the right, and those on the left, of a table with lines of number and name."""
    with open(table, newline="", encoding="utf-8-sig") as file:
        names = {row[1].strip(): int(row[0]) for row in csv.reader(file) if len(row) > 1 and row[0].strip().isdigit()}
    found = {n: names.get(name.replace("Right", "Left", 1), n) for name, n in names.items() if name.startswith("Right")}
    if not found:
        raise InputError(f"{table}: names no label on the right.")
    return found


def t1_like(labels: np.ndarray) -> np.ndarray:
    """A stripped brain as T1 shows it, of FreeSurfer's labels: enough to align it to one."""
    table = np.full(int(labels.max()) + 1, 0.62, np.float32)
    table[[v for v in _WHITE if v < len(table)]] = 1.0
    table[[v for v in _DARK if v < len(table)]] = 0.2
    table[0] = 0
    table[500:] = 0
    return table[labels]


def _pack(*set_: Any, facts: dict[str, str], **more: Any) -> Pack:
    """A pack with what models' cards say of it."""
    return dataclasses.replace(pack_subjects(*set_, **more), facts=facts)


def packs(data: Path) -> dict[str, Pack]:
    """By name."""
    told = {"progress": lambda n, of: print(f"\r{n} of {of} ", end="", flush=True)}
    reference = next(iter(sorted((data / "icbm152").glob("*.nii.gz"))))
    same = {"shape": SHAPE, "spacing_mm": SPACING_MM, "reference": read_volume(reference), **told}
    adults = [(p.name[:6], Subject(read_volume(p))) for p in sorted((data / "adults-t1").glob("sub-*.nii.gz"))]
    heads = [read_labels(p) for p in sorted((data / "head-labels").glob("head_*.nii.gz"))]
    heads = [
        (f"head-{n + 1:02d}", Subject(h.with_data(h.data.astype(np.float32)), labels=h)) for n, h in enumerate(heads)
    ]
    brains = [
        p for p in sorted((data / "oasis-brains").glob("*_SS.nii.gz")) if p.name[:4] not in HELD_OUT["brain-t1"][0]
    ]
    brains = [
        (p.name[:4], Subject(read_volume(p), labels=read_labels(p.with_name(p.name.replace("_SS", "_glm")))))
        for p in brains
    ]
    return {
        "oasis": _pack(
            "oasis",
            brains,
            naming=Naming(ignored=3, alike=right_and_left(next((data / "oasis-brains").glob("*.csv")))),
            facts={
                "license": "CC BY-NC 4.0",
                "attribution": "MRI from the OASIS project; labels provided by Neuromorphometrics, Inc. "
                "(neuromorphometrics.com) under academic subscription",
            },
            **same,
        ),
        "heads": _pack(
            "heads",
            heads,
            naming=Naming(painted=t1_like, alike=_RIGHT, outside=lambda v: v > 500),
            unseen=[n for n, _ in heads[-2:]],
            facts={"license": "Apache-2.0", "attribution": "label maps of SynthSeg (Billot et al., 2023)"},
            **same,
        ),
        "adults": _pack(
            "adults",
            adults,
            unseen=[n for n, _ in adults[-4:]],
            facts={"license": "CC0", "attribution": "OpenNeuro ds002748 (Bezmaternykh et al., 2021)"},
            **same,
        ),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit-mb", type=float, default=45.0, help="of all together (default: 45)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    left = options.limit_mb
    for name, pack in packs(options.data).items():  # the largest last: it gives way
        started = time.monotonic()
        content, dropped = within_limit(pack, left)
        left -= len(content) / 1e6
        (options.out / f"{name}.npz").write_bytes(content)
        took = time.monotonic() - started
        print(f"{name}: {len(pack) - len(dropped)} subjects, {len(content) / 1e6:.1f} MB, {took:.0f} s")
        if dropped:
            print(f"no room for {', '.join(dropped)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
