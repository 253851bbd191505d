# SPDX-License-Identifier: Apache-2.0
"""Surface files of every kind: GIFTI (.gii), Wavefront's (.obj), and those of VTK (.vtk, .vtp, .ply, .stl)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..support.errors import InputError
from .files import SURFACES, atomic, read_bytes
from .surface_files import gifti, obj, vtk_surfaces
from .surface_files.mesh import Mesh

_LARGEST_FILE = 1 << 30


def read_surface(path: str | os.PathLike) -> np.ndarray:
    """The vertices of read_mesh."""
    return read_mesh(path).points


def read_mesh(path: str | os.PathLike) -> Mesh:
    """Reads a surface.

    The coordinate system is what the file says: GIFTI's data space or its matrix to the scanner's, or in Slicer's way
    SPACE=LPS or SPACE=RAS in a header; else RAS in GIFTI, LPS in the others, and a note says so.

    Returns:
        Mesh in LPS mm.

    Raises:
        InputError: unknown kind, unreadable, no vertices, or VTK is needed and not installed.
    """
    path = Path(path)
    kind = _kind(path)
    try:
        if kind == "vtk":
            mesh = vtk_surfaces.read(path)
        else:
            content = read_bytes(path, _LARGEST_FILE)
            mesh = gifti.read(content, path) if kind == ".gii" else obj.read(content)
    except InputError as error:
        raise _naming(error, path) from error
    return replace(mesh, notes=tuple(f"{path}: {note}" for note in mesh.notes))


def write_surface(path: str | os.PathLike, points: np.ndarray, like: str | os.PathLike) -> None:
    """Writes the surface `like` with its vertices moved.

    In a file of its own kind everything else is kept, coordinate system, attributes and further arrays; normals are
    computed anew where there were some. In one of another kind, polygons and values at the vertices are kept as far as
    it can hold them.

    Args:
        path: .gii, .obj, .vtk, .vtp, .ply or .stl; may be of another kind than `like`.
        points: (n, 3) LPS mm, one per vertex of `like` in the order of read_surface.
        like: the file the surface came from.

    Raises:
        InputError: as read_mesh, and if the number of points differs.
        OSError: could not be written.
    """
    path, like = Path(path), Path(like)
    kind = _kind(path)
    points = np.asarray(points, dtype=np.float64)
    try:
        if kind == "vtk":
            vtk_surfaces.need_vtk()
            if _kind(like) == "vtk":
                vtk_surfaces.rewrite(like, points, path)
            else:
                vtk_surfaces.create(_moved(like, points), path)
            return
        mesh = _moved(like, points)
        if kind != _kind(like):
            content = (gifti if kind == ".gii" else obj).create(mesh)
        else:
            before = read_bytes(like, _LARGEST_FILE)
            content = gifti.rewrite(before, like, points) if kind == ".gii" else obj.rewrite(before, points)
    except InputError as error:
        raise _naming(error, path, like) from error
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def _moved(like: Path, points: np.ndarray) -> Mesh:
    mesh = read_mesh(like)
    if points.shape != mesh.points.shape:
        raise InputError(f"{like}: has {len(mesh.points)} vertices, not {len(points)}. Pass one point per vertex.")
    return replace(mesh, points=points)


def _naming(error: InputError, *paths: Path) -> InputError:
    """The error with the last of the paths, if it names none of them."""
    text = str(error)
    named = any(text.startswith(f"{path}: ") for path in paths)
    return InputError(text if named else f"{paths[-1]}: {text}")


def _kind(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in SURFACES:
        raise InputError(f"{path}: unknown kind of surface file. Use {', '.join(SURFACES)}.")
    return suffix if suffix in (".gii", ".obj") else "vtk"
