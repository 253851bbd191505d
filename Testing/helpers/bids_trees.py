# SPDX-License-Identifier: Apache-2.0
"""Data sets in BIDS, of as many files as a test needs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import registration_pairs as pairs
from DeepFLASHRegistrationLib.imaging.io import write_volume
from DeepFLASHRegistrationLib.imaging.volume import Volume

SMALL = pairs.box((5, 6, 4), 30.0)


def data_set(folder: Path, title: str = "Made") -> Path:
    """A folder that is one, without images."""
    folder.mkdir(parents=True)
    (folder / "dataset_description.json").write_text(json.dumps({"Name": title, "BIDSVersion": "1.10.0"}))
    return folder


def image(path: Path, volume: Volume | None = None) -> Path:
    """A file of an image, by default of a few voxels; .json beside it is left out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(path, volume or Volume(SMALL, np.ones(SMALL.shape, np.float32)))
    return path


def named(folder: Path, *names: str) -> list[Path]:
    """Files of a few voxels, where their names say that they belong."""
    paths = []
    for name in names:
        parts = dict(each.split("-", 1) for each in name.split("_")[:-1])
        place = folder / f"sub-{parts['sub']}" / (f"ses-{parts['ses']}" if "ses" in parts else ".") / "anat"
        paths.append(image(place / f"{name}.nii.gz"))
    return paths
