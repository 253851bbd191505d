# SPDX-License-Identifier: Apache-2.0
"""Landmark files of every kind: Slicer's .fcsv and .mrk.json, and tables (.csv, .tsv, .txt, .pts)."""

from __future__ import annotations

import codecs
import csv
import os
from pathlib import Path

import numpy as np

from ..support.errors import InputError
from .files import POINT_TABLES, POINTS, atomic, read_bytes
from .landmark_files import fcsv, markups, point_table
from .landmark_files.point_file import TO_LPS, PointFile
from .landmarks import Landmarks

_LARGEST_FILE = 64 << 20


def read_points(path: str | os.PathLike) -> tuple[np.ndarray, list[str]]:
    """Reads the landmarks that have a position.

    .fcsv and .mrk.json name their coordinate system (RAS or LPS) themselves. A table (.csv, .tsv, .txt, .pts) holds LPS
    mm, as ITK and ANTs expect, unless it states RAS: columns x, y[, z] and optionally label, named in a header line or
    in that order.

    Returns:
        (n, 3) float64 in LPS mm ((n, 2) from a table without z), and n labels ("" where there is none).

    Raises:
        InputError: unreadable, of unknown kind, without points, or with coordinates that are not finite numbers.
    """
    path = Path(path)
    file = _parse(path)
    if not file.placed.any():
        raise InputError(f"{path}: holds no points. Place some, or leave the file out.")
    points = file.points[file.placed] * TO_LPS[file.space][: file.points.shape[1]]
    return points, [label for label, placed in zip(file.labels, file.placed, strict=True) if placed]


def read_landmarks(path: str | os.PathLike) -> Landmarks:
    """Reads all landmarks, those without a position too: their rows are NaN.

    Raises:
        InputError: as read_points.
    """
    path = Path(path)
    file = _parse(path)
    positions = file.points * TO_LPS[file.space][: file.points.shape[1]]
    notes = tuple(f"{path}: {note}" for note in file.notes)
    return Landmarks(positions, tuple(file.labels), str(path), notes, file.trust)


def write_points(
    path: str | os.PathLike, points: np.ndarray, labels: list[str] | None = None, like: str | os.PathLike | None = None
) -> list[str]:
    """Writes landmarks.

    Args:
        path: .fcsv, .mrk.json, .csv, .tsv, .txt or .pts.
        points: (n, 3) or, in a table, (n, 2), LPS mm.
        labels: n labels; default: those of `like`, else 1 to n.
        like: the file the points came from, by read_points. What it holds without a position stays so. If it is of the
            same kind, everything but the coordinates (and labels, if given) is kept as it was: coordinate system,
            colors, descriptions, further columns.

    Returns:
        What had to be guessed of `like`.

    Raises:
        InputError: unknown kind, or another number of points than `like` has.
    """
    path = Path(path)
    points = np.asarray(points, dtype=np.float64)
    kind = _kind(path)
    if points.ndim != 2 or points.shape[1] not in (2, 3) or (points.shape[1] == 2 and kind not in POINT_TABLES):
        raise InputError(f"{path}: cannot hold points of shape {points.shape}. Pass (n, 3), or (n, 2) for a table.")
    source = _parse(Path(like)) if like is not None else None
    if source is not None and source.placed.sum() != len(points):
        raise InputError(f"{path}: {len(points)} points, but {like} has {source.placed.sum()}. Pass the same number.")
    notes = [f"{like}: {note}" for note in source.notes] if source is not None else []
    if source is not None:
        new = iter(labels or ())
        if labels is not None:
            labels = [next(new) if placed else old for old, placed in zip(source.labels, source.placed, strict=True)]
        everything = np.full((len(source.placed), points.shape[1]), np.nan)
        everything[source.placed] = points
        points = everything
    if source is None or _kind(Path(like)) != kind or source.points.shape[1] != points.shape[1]:
        known = labels if labels is not None or source is None else source.labels
        source = _empty(kind, points, known if known is not None else [str(i + 1) for i in range(len(points))])
        labels = None
    stored = points * TO_LPS[source.space][: points.shape[1]]
    with atomic(path) as temporary:
        temporary.write_text(_writer(kind)(source, stored, labels), encoding="utf-8", newline="")
    return notes


def _kind(path: Path) -> str:
    for suffix in POINTS:
        if path.name.lower().endswith(suffix):
            return suffix
    raise InputError(f"{path}: unknown kind of landmark file. Use {', '.join(POINTS)}.")


def _parse(path: Path) -> PointFile:
    kind = _kind(path)
    content = read_bytes(path, _LARGEST_FILE)
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # "Unicode text" of Excel
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot be read ({error}). Save it as UTF-8.") from error
    try:
        if kind in POINT_TABLES:
            file = point_table.read(text, kind)
        else:
            file = (fcsv if kind == ".fcsv" else markups).read(text)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except RecursionError as error:
        raise InputError(f"{path}: is no valid {kind} file (nested too deeply). Save it again.") from error
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, csv.Error) as error:
        raise InputError(f"{path}: is no valid {kind} file ({str(error)[:200]}). Save it again.") from error
    if not len(file.points):
        raise InputError(f"{path}: holds no points. Place some, or leave the file out.")
    if not np.isfinite(file.points[file.placed]).all():
        raise InputError(f"{path}: holds coordinates that are not finite numbers. Correct them.")
    return file


def _empty(kind: str, points: np.ndarray, labels: list[str]) -> PointFile:
    """A file of the given kind without history; coordinates are filled in by its writer."""
    if kind in POINT_TABLES:
        return point_table.empty(points, labels, kind)
    return (fcsv if kind == ".fcsv" else markups).empty(points, labels)


def _writer(kind: str):
    return {".fcsv": fcsv.write, ".mrk.json": markups.write}.get(kind, point_table.write)
