# SPDX-License-Identifier: Apache-2.0
"""Damaged transforms, fields, landmarks, surfaces and segmentations give a value or a message, and nothing else.

By fixed seeds; more of them with DEEPFLASH_FUZZ=5000.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from damage import damaged
from DeepFLASHRegistrationLib.imaging.points import read_landmarks, read_points, write_points
from DeepFLASHRegistrationLib.imaging.segmentation import Segment, Segmentation, read_segmentation, write_segmentation
from DeepFLASHRegistrationLib.imaging.surfaces import read_mesh, write_surface
from DeepFLASHRegistrationLib.imaging.transform_files.itk_dense import moved
from DeepFLASHRegistrationLib.imaging.transforms import (
    nonlinear_dimension,
    read_affine_with_notes,
    read_displacement_field,
    write_affine,
    write_displacement_field,
)
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.support.errors import InputError
from imaging_shapes import noise, oblique

COUNT = int(os.environ.get("DEEPFLASH_FUZZ", "60"))
GRID = oblique()
SLOWEST = 20.0  # seconds; most of it would be a busy machine
MATRIX = np.array([[1, 0.1, 0, 1], [0, 1, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1.0]])
GEOMETRY = (
    "valid = 1\nfilename = a.mgz\nvolume = 7 6 5\nvoxelsize = 2 1 3\nxras = -1 0 0\nyras = 0 0 -1\nzras = 0 1 0\n"
    "cras = 1 2 3\n"
)
LTA = "type = 0\nnxforms = 1\nmean = 0 0 0\nsigma = 1\n1 4 4\n1 0 0 2\n0 1 0 3\n0 0 1 4\n0 0 0 1\n"
CROSSED = (
    f"# LTA file created by NiTransforms\n{LTA.replace('type = 0', 'type = 1')}src volume info\n{GEOMETRY}"
    f"dst volume info\n{GEOMETRY.replace('cras = 1', 'cras = 40')}"
)
XFM = "MNI Transform File\n%by hand\nTransform_Type = Linear;\nLinear_Transform =\n1 0 0 2\n0 1 0 3\n0 0 1 4;\n"
OBJ = "# SPACE=RAS\nv 0 0 0\nv 10 0 0\nv 0 10 0\nvn 0 0 1\nf 1//1 2//1 -1//1\n"
PTS = "Version 1.0\n3\nA 1 2 3\nB 4.5 5 6\nC 7 8 9\n"
MARKUPS = (
    '{"markups": [{"type": "Fiducial", "coordinateSystem": "RAS", "coordinateUnits": "mm", "controlPoints": ['
    '{"id": "1", "label": "A", "position": [1.5, 2, 3], "positionStatus": "defined"}, {"label": "B", "position": ""'
    ', "positionStatus": "undefined"}, {"label": "C", "position": [-4, 5, 6.25]}]}]}'
)


def text(content: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(content, encoding="utf-8") and None


def some_points(path: Path) -> None:
    write_points(path, np.array([[1.5, -2.25, 3], [-40.125, 50, 60], [3, 4, 5]]), ["a b", "c", "d"])


def some_field(path: Path) -> None:
    write_displacement_field(path, GRID, noise(GRID, np.float32, 3) / 50)


def some_surface(path: Path) -> None:
    like = path.with_name("like.obj")
    like.write_text(OBJ)
    write_surface(path, read_mesh(like).points, like)
    like.unlink()


def some_composite(path: Path) -> None:
    parts = [sitk.Euler3DTransform((10, 20, 30), 0.1, 0.2, 0.3, (1, 2, 3)), sitk.TranslationTransform(3, (5, 6, 7))]
    sitk.WriteTransform(sitk.CompositeTransform(parts), str(path))


def some_segments(path: Path) -> None:
    layers = [(noise(GRID) > 20).astype(np.int32), 2 * (noise(GRID) > 0).astype(np.int32)]
    segments = (Segment("a", "A", other={"Tags": "x:y|"}), Segment("b", "B", (1, 0, 0.5), 1, 2))
    write_segmentation(path, Segmentation(tuple(Volume(GRID, layer) for layer in layers), segments))


def transform(path: Path) -> None:
    matrix, notes = read_affine_with_notes(path, 3, GRID, GRID)
    assert matrix.shape == (4, 4)
    assert np.isfinite(matrix).all()
    assert all(note.startswith(f"{path}: ") for note in notes)


def some_spline(path: Path) -> None:
    spline = sitk.BSplineTransform(3)
    spline.SetParameters([0.5] * len(spline.GetParameters()))
    sitk.WriteTransform(spline, str(path))


def some_warp(path: Path) -> None:
    field = sitk.Cast(
        GRID.apply_to(sitk.GetImageFromArray(noise(GRID, np.float64, 3), isVector=True)), sitk.sitkVectorFloat64
    )
    parts = [sitk.TranslationTransform(3, (5, 6, 7)), sitk.DisplacementFieldTransform(field)]
    sitk.WriteTransform(sitk.CompositeTransform(parts), str(path))


def nonlinear(path: Path) -> None:
    d = nonlinear_dimension(path)
    if not d:  # the damage hit its name: any other transform
        transform(path)
    else:
        assert np.isfinite(moved(path, np.zeros((3, d)))).all()


def field(path: Path) -> None:
    grid, values = read_displacement_field(path)
    assert values.shape == (*grid.shape, grid.ndim)


def points(path: Path) -> None:
    landmarks = read_landmarks(path)
    assert np.isfinite(landmarks.positions[landmarks.defined]).all()
    found, _ = read_points(path)
    write_points(path.with_name(f"again.{path.name}"), found + 1, like=path)
    assert np.allclose(read_points(path.with_name(f"again.{path.name}"))[0], found + 1, rtol=1e-6, atol=1e-5)


def surface(path: Path) -> None:
    mesh = read_mesh(path)
    assert np.isfinite(mesh.points).all()
    assert mesh.triangles().max(initial=0) < len(mesh.points)
    if path.suffix in (".gii", ".obj"):
        write_surface(path.with_name(f"again{path.suffix}"), mesh.points, path)


def segments(path: Path) -> None:
    found = read_segmentation(path)
    assert all(0 <= segment.layer < len(found.layers) for segment in found.segments)


# Of each kind: its reader, how a valid file is made, and whether a process of its own reads it.
KINDS: dict[str, tuple[Callable[[Path], None], Callable[[Path], None], bool]] = {
    "a.tfm": (transform, lambda path: write_affine(path, MATRIX), True),
    "composite.tfm": (transform, some_composite, True),
    "a.txt": (transform, lambda path: write_affine(path, MATRIX), True),
    "itk.mat": (transform, lambda path: write_affine(path, MATRIX), True),
    "a.h5": (transform, some_composite, True),
    "flirt.mat": (transform, lambda path: np.savetxt(path, MATRIX), False),
    "a.lta": (transform, text(f"{LTA}src volume info\n{GEOMETRY}dst volume info\n{GEOMETRY}"), False),
    "crossed.lta": (transform, text(CROSSED), False),
    "a.xfm": (transform, text(XFM), False),
    "spline.tfm": (nonlinear, some_spline, True),
    "warp.h5": (nonlinear, some_warp, True),
    "field.nii.gz": (field, some_field, False),
    "field.nrrd": (field, some_field, True),
    "field.mha": (field, some_field, True),
    "a.fcsv": (points, some_points, False),
    "a.mrk.json": (points, text(MARKUPS), False),
    "a.csv": (points, some_points, False),
    "semicolon.csv": (points, text("label;x;y;z\nA;1,5;2;3\nB;nan;nan;nan\nC;4;5,5;6\n"), False),
    "bare.csv": (points, text("A,1.5,2,3\nB,4,5,6\nC,7,8,9\n"), False),
    "a.tsv": (points, some_points, False),
    "numbered.csv": (points, text("17,1.5,2,3.5\n18,4,5,6\n25,7,8,9\n"), False),
    "numpy.txt": (points, text("# label x y z\n204 1.5 2 3\n17 4 5 6\n"), False),
    "points.txt": (points, text("# by hand\n1.5 2 3 A\n4 5 6 B\n"), False),
    "a.pts": (points, text(PTS), False),
    "a.gii": (surface, some_surface, False),
    "a.obj": (surface, text(OBJ), False),
    "a.vtk": (surface, some_surface, True),
    "a.vtp": (surface, some_surface, True),
    "a.ply": (surface, some_surface, True),
    "a.stl": (surface, some_surface, True),
    "a.seg.nrrd": (segments, some_segments, True),
}


@pytest.mark.parametrize("name", KINDS)
def test_damaged_files_give_a_value_or_a_message(tmp_path, name) -> None:
    read, make, apart = KINDS[name]
    path = tmp_path / name
    if path.suffix in (".vtk", ".vtp", ".ply", ".stl") and importlib.util.find_spec("vtk") is None:
        pytest.skip("vtk is not installed")
    make(path)
    content = path.read_bytes()
    read(path)
    count, refused = max(COUNT // 12, 1) if apart else COUNT, 0
    for seed in range(count):
        path.write_bytes(damaged(content, seed))
        start, message = time.monotonic(), None
        try:
            read(path)
        except InputError as error:
            message = str(error)
        except Exception as error:
            raise AssertionError(f"seed {seed} of {name}: {error!r}") from error
        refused += message is not None
        assert message is None or (name in message and len(message) < 1000), f"seed {seed}: {message}"
        assert time.monotonic() - start < SLOWEST, f"seed {seed}"
    assert refused > count // 20  # the damage is real


@pytest.mark.parametrize("name", ["a.tfm", "a.mat", "a.txt", "a.lta", "a.xfm", "a.h5"])
@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00", b"#Insight Transform File V1.0\n#\xe4\nTransform: \xe4_double_3_3\n"]
)
def test_transform_files_of_bytes_that_are_no_text_are_refused(tmp_path, name, content) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        read_affine_with_notes(tmp_path / name, 3, GRID, GRID)


def test_a_comment_that_is_no_utf8_does_not_matter(tmp_path) -> None:
    write_affine(tmp_path / "a.tfm", MATRIX)
    content = (tmp_path / "a.tfm").read_bytes().replace(b"#Transform 0", b"# von J\xfcrgen")
    assert b"\xfc" in content
    (tmp_path / "a.tfm").write_bytes(content)
    assert np.allclose(read_affine_with_notes(tmp_path / "a.tfm", 3, GRID, GRID)[0], MATRIX)


def test_transforms_that_would_make_itk_allocate_are_refused_before(tmp_path) -> None:
    sitk.WriteTransform(sitk.BSplineTransform(3), str(tmp_path / "b.tfm"))
    huge = (tmp_path / "b.tfm").read_text().replace("FixedParameters: 4 4 4", "FixedParameters: 99999 99999 99999")
    assert "99999" in huge
    (tmp_path / "b.tfm").write_text(huge)
    start = time.monotonic()
    with pytest.raises(InputError, match="not linear"):
        read_affine_with_notes(tmp_path / "b.tfm", 3, GRID, GRID)
    assert time.monotonic() - start < 1
