# SPDX-License-Identifier: Apache-2.0
"""Surfaces in Wavefront's format (.obj)."""

from __future__ import annotations

import re

import numpy as np

from ...support.errors import InputError
from ..landmark_files.point_file import TO_LPS
from .mesh import Mesh, summed_normals


def read(content: bytes) -> Mesh:
    """Parses a file; its coordinates are LPS mm unless a comment says SPACE=RAS, as Slicer writes it."""
    lines = _lines(content)
    space, named = _space(lines)
    points = _vertices(lines) * TO_LPS[space]
    faces = _faces(lines, len(points), len(_normal_lines(lines)))[0]
    offsets = np.cumsum([0, *map(len, faces)])
    corners = np.array([corner for face in faces for corner in face], dtype=np.int64)
    return Mesh(points, corners, offsets, {}, () if named else ("names no coordinate system; LPS was assumed",))


def rewrite(content: bytes, points: np.ndarray) -> bytes:
    """The file with other vertices (n, 3), LPS mm; all else is kept, but normals, which are computed anew."""
    lines = _lines(content)
    stored = points * TO_LPS[_space(lines)[0]]
    where = _normal_lines(lines)
    faces, of_normals = _faces(lines, len(points), len(where))
    normals = _normals(stored, faces, of_normals, len(where))
    result = list(lines)
    for i, normal in zip(where, normals, strict=True):
        if normal.any():
            result[i] = "vn " + " ".join(f"{v:.6g}" for v in normal)
    number = 0
    for i, line in enumerate(lines):
        if _is_vertex(line):
            further = line.split()[4:]  # a weight or a color
            result[i] = " ".join(["v", *(f"{v:.9g}" for v in stored[number]), *further])
            number += 1
    return "\n".join(result).encode("latin-1")


def create(mesh: Mesh) -> bytes:
    """A new file, which has no place for values at the vertices."""
    lines = ["# SPACE=LPS"]
    lines += ["v " + " ".join(f"{v:.9g}" for v in point) for point in mesh.points]
    for start, end in zip(mesh.offsets[:-1], mesh.offsets[1:], strict=True):
        lines.append("f " + " ".join(str(corner + 1) for corner in mesh.corners[start:end]))
    return ("\n".join(lines) + "\n").encode("ascii")


def _lines(content: bytes) -> list[str]:
    # Latin-1 keeps every byte of names in whatever encoding.
    return content.decode("latin-1").replace("\r\n", "\n").split("\n")


def _space(lines: list[str]) -> tuple[str, bool]:
    for line in lines:
        found = re.search(r"SPACE\s*=\s*(RAS|LPS)", line) if line.startswith("#") else None
        if found:
            return found.group(1), True
    return "LPS", False


def _is_vertex(line: str) -> bool:
    return line.startswith(("v ", "v\t"))


def _normal_lines(lines: list[str]) -> list[int]:
    return [i for i, line in enumerate(lines) if line.startswith(("vn ", "vn\t"))]


def _vertices(lines: list[str]) -> np.ndarray:
    try:
        rows = [[float(cell) for cell in line.split()[1:4]] for line in lines if _is_vertex(line)]
        return np.array(rows, dtype=np.float64).reshape(-1, 3)
    except ValueError as error:
        raise InputError(f"has a vertex that is not three numbers ({error}). Save it again.") from error


def _faces(lines: list[str], points: int, normals: int) -> tuple[list[list[int]], list[list[int]]]:
    """Per polygon its vertices, and the normals at them (-1: none), from 0."""
    faces, of_normals = [], []
    seen = seen_normals = 0
    for line in lines:
        if _is_vertex(line):
            seen += 1
        elif line.startswith(("vn ", "vn\t")):
            seen_normals += 1
        elif line.startswith(("f ", "f\t")):
            corners = [cell.split("/") for cell in line.split()[1:]]
            faces.append([_index(corner[0], seen, points) for corner in corners])
            with_normals = [corner[2] if len(corner) > 2 else "" for corner in corners]
            of_normals.append([_index(text, seen_normals, normals) if text else -1 for text in with_normals])
    return faces, of_normals


def _index(text: str, seen: int, count: int) -> int:
    """From 1, or backwards from -1, the last one so far."""
    if re.fullmatch(r"-?\d{1,12}", text):
        number = int(text)
        index = number - 1 if number > 0 else seen + number
        if number and 0 <= index < count:
            return index
    raise InputError(f"has a polygon with a corner {text[:20]!r} that does not exist. Save it again.")


def _normals(points: np.ndarray, faces: list[list[int]], of_normals: list[list[int]], count: int) -> np.ndarray:
    triangles, groups = [], []
    for face, normals in zip(faces, of_normals, strict=True):
        if count and min(normals, default=-1) >= 0:
            triangles += [(face[0], face[i], face[i + 1]) for i in range(1, len(face) - 1)]
            groups += [(normals[0], normals[i], normals[i + 1]) for i in range(1, len(face) - 1)]
    shape = np.array(triangles, dtype=np.int64).reshape(-1, 3), np.array(groups, dtype=np.int64).reshape(-1, 3)
    return summed_normals(points, *shape, count)
