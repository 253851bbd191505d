# SPDX-License-Identifier: Apache-2.0
"""The folder of derivatives that a data set in BIDS gets: where it may lie, and what describes it as a whole."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..imaging.files import atomic
from ..support.errors import InputError
from ..version import __version__
from .bids_dataset import DESCRIPTION, BidsDataset

PROGRAM = "DeepFLASH"
WORK = ".deepflash"
_BIDS_VERSION = "1.10.0"
_CODE = "https://github.com/deepflash-registration/SlicerDeepFLASH"
# What BIDS has no rule for yet, as transforms, or never will.
_IGNORED = "*.html\n*_xfm.*\nlogs/\ngroup_*\n**/figures\n"
_README = """# Registrations by DeepFLASH

Images of a data set in BIDS, registered to a template. For each image of sub-XX, in sub-XX[/ses-YY]/anat:

- *_from-T1w_to-NAME_mode-image_xfm.safetensors: the initial velocity, from which the map, its inverse and every stage
  between are computed, on any grid. The .json beside it has the verdict, the figures, the settings and these commands:
      deepflash apply XFM.safetensors IMAGE -o ON_TEMPLATE.nii.gz               (an image of the subject)
      deepflash apply XFM.safetensors ATLAS --to moving --labels -o IN_SUBJECT.nii.gz
      deepflash apply XFM.safetensors -o from-T1w_to-NAME.h5                    (the map for ITK; or .x5, .nii.gz)
      deepflash apply XFM.safetensors --to moving -o from-NAME_to-T1w.h5
- *_xfm.h5, *_xfm.x5: where they were asked for, that map for ITK (ANTs, 3D Slicer) and for nitransforms.
  from-T1w_to-NAME resamples images of the subject on the template, as fMRIPrep's file of that name does.
- *_space-NAME_desc-warped_T1w.nii.gz: the image on the template's voxels, in its own intensities.
- *_space-NAME_*dseg.nii.gz: its labels there, where there are any.

sub-XX.html is each subject's report; look at it. group_T1w.html, .tsv and logs/CITATION.md, a paragraph for the methods
section, are written by the level "group".
"""


def check_apart(bids: Path, out: Path, what: str = "OUT") -> None:
    """InputError for a folder of results that would change the data set, or hold it."""
    source, target = bids.resolve(), out.resolve()
    if target.exists() and not target.is_dir():
        raise InputError(f"{out}: is a file. Give the name of a folder.")
    if source.is_relative_to(target):
        raise InputError(f"{out}: is the data set or holds it. Give {what} as a folder of its own.")
    within = target.relative_to(source).parts if target.is_relative_to(source) else ()
    if within and (within[0] != "derivatives" or len(within) == 1):
        raise InputError(
            f"{out}: lies in the data set, where only derivatives/NAME is for results. Give {what} as "
            f"{bids / 'derivatives' / 'deepflash'}, or as a folder elsewhere."
        )


def own_description(out: Path, work: Path | None = None) -> dict[str, Any] | None:
    """dataset_description.json of the folder of results, in which `work` may lie; None if there is none yet.

    Raises:
        InputError: the folder belongs to something else.
    """
    path = out / DESCRIPTION
    if not path.is_file():
        others = [each for each in out.iterdir() if not each.name.startswith(".")] if out.is_dir() else []
        if any(work is None or each.absolute() not in (work.absolute(), *work.absolute().parents) for each in others):
            raise InputError(f"{out}: holds something else than registrations. Choose a new folder, or an empty one.")
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        names = [each["Name"] for each in found["GeneratedBy"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{path}: does not say by what it was made. Choose another folder.") from error
    if PROGRAM not in names:
        raise InputError(f"{out}: is of {', '.join(names) or 'another program'}. Choose a folder of its own.")
    return found


class Links:
    """Addresses of files as BIDS writes them: bids:NAME:PATH, where NAME is a data set that is linked."""

    def __init__(self, dataset: BidsDataset, out: Path) -> None:
        self._out = out.resolve()
        # The derivatives may lie within the data set, and so come first.
        self._sets: dict[str, Path] = {}
        for folder in dataset.derivatives:
            base = re.sub(r"[^A-Za-z0-9-]", "", folder.resolve().name) or "derivatives"
            name, number = base, 1
            while name in self._sets or name == "raw":
                number += 1
                name = f"{base}-{number}"
            self._sets[name] = folder.absolute()
        self._sets["raw"] = dataset.folder.absolute()

    def uri(self, path: Path) -> str:
        """Of a file."""
        path = path.absolute()
        for name, folder in self._sets.items():
            if path.is_relative_to(folder):
                return f"bids:{name}:{path.relative_to(folder).as_posix()}"
        return path.as_uri()

    def every(self) -> dict[str, str]:
        """Where each data set lies: relative to the folder of results where this lies within the data set."""
        return {name: self._place(folder) for name, folder in self._sets.items()}

    def _place(self, folder: Path) -> str:
        if self._out.is_relative_to(self._sets["raw"].resolve()):
            return os.path.relpath(folder.resolve(), self._out).replace(os.sep, "/")
        return folder.resolve().as_uri()


def describe(out: Path, dataset: BidsDataset, links: Links) -> None:
    """Writes what describes the folder of results as a whole, as far as it is not there.

    Raises:
        InputError, OSError: it cannot be written.
    """
    found = own_description(out) or {
        "Name": f"{dataset.title}: registrations by {PROGRAM}",
        "BIDSVersion": _BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [],
    }
    program = {"Name": PROGRAM, "Version": __version__, "CodeURL": _CODE}
    if program not in found["GeneratedBy"]:
        found["GeneratedBy"].append(program)
    found["DatasetLinks"] = {**found.get("DatasetLinks", {}), **links.every()}
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / DESCRIPTION, found)
    described = table([("desc_id", "description"), ("desc-warped", "resampled on the template by the registration")])
    for name, text in ((".bidsignore", _IGNORED), ("README.md", _README), ("descriptions.tsv", described)):
        if not (out / name).exists():
            write_text(out / name, text)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes a file of JSON, whole or not at all, unless it says just that."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file of text, whole or not at all, unless it says just that."""
    content = text.encode("utf-8", "backslashreplace")
    if not (path.is_file() and path.read_bytes() == content):
        with atomic(path) as temporary:
            temporary.write_bytes(content)


def table(rows: list[tuple[Any, ...]]) -> str:
    """Rows as BIDS writes tables: tabs between the cells, n/a for what is not known."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    for row in rows:
        cells = ["n/a" if cell is None or cell == "" else cell for cell in row]
        writer.writerow(" ".join(cell.split()) if isinstance(cell, str) else cell for cell in cells)
    return text.getvalue()
