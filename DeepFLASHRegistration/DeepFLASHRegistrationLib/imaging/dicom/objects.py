# SPDX-License-Identifier: Apache-2.0
"""DICOM objects that are no images (registrations, segmentations, doses to be written), by pydicom and highdicom, which
are asked for where one is read or written, and nowhere else."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...support.errors import InputError
from .elements import read_elements

if TYPE_CHECKING:
    from pydicom import Dataset


def package(name: str, path: str | os.PathLike) -> Any:
    """pydicom or highdicom; InputError that says what to install, for the sake of a file.

    Args:
        name: of the package, or of a module of it.
        path: what it is needed for.
    """
    try:
        return import_module(name)
    except ImportError as error:
        wanted = name.partition(".")[0]
        raise InputError(
            f"{path}: such DICOM objects need the package {wanted}. Install it: python -m pip install pydicom highdicom"
        ) from error


def read_object(path: Path, voxels: bool = True) -> Dataset:
    """The data set of a DICOM file, with its voxels or without.

    Raises:
        InputError: it is damaged, or pydicom is missing.
    """
    pydicom = package("pydicom", path)
    elements = read_elements(path)
    if elements is None or elements.damage:
        why = "it is no DICOM file" if elements is None else f"the DICOM file is damaged: {elements.damage}"
        raise InputError(f"{path}: {why}. Copy or export it again.")
    try:
        return pydicom.dcmread(path, stop_before_pixels=not voxels)
    except Exception as error:  # of damaged files, whatever pydicom comes upon
        raise InputError(f"{path}: the DICOM file is damaged ({error}). Copy or export it again.") from error
