# SPDX-License-Identifier: Apache-2.0
"""DICOM series: a folder with one, or any file of one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..support.errors import InputError
from .files import unreadable

_SERIES = "0020|000e"  # SeriesInstanceUID


def read_folder(path: Path) -> tuple[sitk.Image, list[str]]:
    """The one series in a folder, and what is to be noted of it; InputError if there is none or there are several."""
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(path))
    if not series:
        raise InputError(f"{path}: holds no DICOM series. Pass an image file, or the folder that holds the slices.")
    names = {s: sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path), s) for s in series}
    if len(series) > 1:
        listed = "\n".join(
            f"  {_series_description(files[0])}, {len(files)} files, e.g. {files[0]}" for files in names.values()
        )
        raise InputError(
            f"{path}: holds {len(series)} DICOM series. Pass one file of the series you want, or put "
            f"the series in sub-folders and pass one of them:\n{listed}"
        )
    return read_series(path, names[series[0]])


def series_around(reader: sitk.ImageFileReader) -> tuple[str, ...]:
    """The files of the series that a file belongs to, of which `reader` has read the header; none if it is no DICOM."""
    if not reader.HasMetaDataKey(_SERIES):
        return ()
    folder = str(Path(reader.GetFileName()).parent)
    return sitk.ImageSeriesReader.GetGDCMSeriesFileNames(folder, reader.GetMetaData(_SERIES).strip())


def read_series(path: Path, names: tuple[str, ...]) -> tuple[sitk.Image, list[str]]:
    """The files of a series as one gray-value volume, and what is to be noted of it; `path` is what the user named."""
    several = len(names) > 1
    reader = sitk.ImageSeriesReader() if several else sitk.ImageFileReader()
    if several:
        reader.SetFileNames(names)
        reader.MetaDataDictionaryArrayUpdateOn()
    else:
        reader.SetFileName(names[0])
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise unreadable(path, error) from error
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise InputError(f"{path}: the DICOM series is in color. Pass a gray-value series.")
    if image.GetDimension() > 3:
        raise InputError(f"{path}: the DICOM series is {image.GetDimension()}-D. Pass one volume of it.")
    return image, _uneven_slices(path, reader, len(names)) if several else []


def _series_description(file: str) -> str:
    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    try:
        reader.ReadImageInformation()
        number, text = (
            reader.GetMetaData(k).strip() if reader.HasMetaDataKey(k) else "" for k in ("0020|0011", "0008|103e")
        )
    except RuntimeError:
        number = text = ""
    return f'series {number or "?"} "{text}"'


def _uneven_slices(path: Path, reader: sitk.ImageSeriesReader, count: int) -> list[str]:
    """A note if the slices of a series are not equally spaced (missing slices, gantry tilt)."""
    try:
        positions = np.array([[float(v) for v in reader.GetMetaData(i, "0020|0032").split("\\")] for i in range(count)])
    except (RuntimeError, ValueError):
        return []
    steps = np.diff(positions, axis=0)
    if count < 3 or np.abs(steps - np.median(steps, axis=0)).max() <= 0.05 * np.linalg.norm(steps, axis=1).max():
        return []
    return [f"{path}: the slices of the DICOM series are not equally spaced; distances along them are distorted"]
