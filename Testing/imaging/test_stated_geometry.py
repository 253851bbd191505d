# SPDX-License-Identifier: Apache-2.0
"""Distances and axes that a header does not state, or states as nonsense: refused or noted, in every format alike."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from DeepFLASHRegistrationLib.imaging import io
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.support.errors import InputError
from imaging_shapes import centered_grid, image, noise, oblique

UPRIGHT = centered_grid((5, 6, 7), (3, 1, 2), center=(10, -20, 30))  # z, y, x
RAW = np.arange(5 * 6 * 7, dtype=np.uint8)
NRRD = "NRRD0005\ntype: uint8\ndimension: 3\nsizes: 7 6 5\nencoding: raw\n"
LPS = "space: left-posterior-superior\n"


def with_line(path: Path, line: bytes, by: str) -> Path:
    """An image as ITK writes it, one line of its header replaced."""
    sitk.WriteImage(image(noise(UPRIGHT, np.int16), UPRIGHT), str(path))
    content, count = re.subn(line, by.encode(), path.read_bytes())
    assert count == 1
    path.write_bytes(content)
    return path


def mha(path: Path, spacing: str) -> Path:
    return with_line(path, rb"ElementSpacing = .*\n", spacing)


def vtk(path: Path, spacing: str) -> Path:
    return with_line(path, rb"SPACING .*\n", spacing)


def gipl(path: Path, spacing: str) -> Path:
    sitk.WriteImage(image(noise(UPRIGHT, np.int16), UPRIGHT), str(path))
    content = bytearray(path.read_bytes())
    struct.pack_into(">3f", content, 10, *map(float, spacing.split()))
    path.write_bytes(content)
    return path


def nrrd(path: Path, fields: str) -> Path:
    path.write_bytes((NRRD + fields + "\n").encode() + RAW.tobytes())
    return path


def directions(*lengths: str) -> str:
    x, y, z = lengths
    return f"{LPS}space directions: ({x},0,0) (0,{y},0) (0,0,{z})\n"


MAKERS = {".mha": mha, ".vtk": vtk, ".gipl": gipl, ".nrrd": nrrd}


def made(folder: Path, suffix: str, header: str) -> Path:
    return MAKERS[suffix](folder / f"a{suffix}", header)


@pytest.mark.parametrize(
    ("suffix", "header"),
    [
        (".mha", "ElementSpacing = 2 0 3\n"),
        (".mha", "ElementSpacing = 2 nan 3\n"),
        (".mha", "ElementSpacing = 2 inf 3\n"),
        (".mha", "ElementSize = 2 0 3\n"),
        (".nrrd", "spacings: 2 0 3\n"),
        (".nrrd", "spacings: 2 nan 3\n"),
        (".nrrd", "spacings: 2 x 3\n"),
        (".nrrd", directions("2", "0", "3")),
        (".nrrd", f"{LPS}space directions: (2,0,0) (nan,nan,nan) (0,0,3)\n"),
        (".vtk", "SPACING 2 0 3\n"),
        (".vtk", "SPACING 2 nan 3\n"),
        (".vtk", "SPACING 2 1\n"),
        (".gipl", "2 0 3"),
        (".gipl", "2 nan 3"),
    ],
)
def test_distances_that_are_none_are_refused(tmp_path, suffix, header) -> None:
    path = made(tmp_path, suffix, header)
    for read in (io.read_volume, io.read_grid):
        with pytest.raises(InputError, match=rf"a\{suffix}: .*(size of its voxels is unknown|damaged)"):
            read(path)


@pytest.mark.parametrize(
    ("suffix", "header"),
    [
        (".mha", "ElementSpacing = -2 1 3\n"),
        (".nrrd", "spacings: -2 1 3\n"),
        (".vtk", "SPACING -2 1 3\n"),
        (".gipl", "-2 1 3"),
    ],
)
def test_negative_distances_are_read_as_itk_reads_them_and_noted(tmp_path, suffix, header) -> None:
    path = made(tmp_path, suffix, header)
    volume = io.read_volume(path)
    assert np.allclose(volume.grid.spacing, (3, 1, 2))
    assert volume.grid.direction[0, 2] == -1
    assert volume.grid.same_as(Grid.from_image(sitk.ReadImage(str(path))))
    assert any("negative along axis 0" in note for note in volume.notes)


@pytest.mark.parametrize(
    ("suffix", "header", "spacing"),
    [
        (".mha", "", (1, 1, 1)),
        (".nrrd", "", (1, 1, 1)),
        (".nrrd", LPS, (1, 1, 1)),
        (".nrrd", "axis mins: 0 0 0\naxis maxs: 14 6 15\n", (1, 1, 1)),
        (".nrrd", f"{LPS}space directions: (2,0,0) none (0,0,3)\n", (3, 1, 2)),
        (".vtk", "", (1, 1, 1)),
    ],
)
def test_missing_distances_are_noted(tmp_path, suffix, header, spacing) -> None:
    volume = io.read_volume(made(tmp_path, suffix, header))
    assert np.allclose(volume.grid.spacing, spacing)
    assert any("does not state the distance of its voxels" in n and "1 mm was assumed" in n for n in volume.notes)


def test_sizes_of_voxels_in_place_of_distances_are_noted(tmp_path) -> None:
    volume = io.read_volume(made(tmp_path, ".mha", "ElementSize = 2 1 3\n"))
    assert np.allclose(volume.grid.spacing, (3, 1, 2))
    assert any("ElementSize" in note for note in volume.notes)
    assert not io.read_volume(made(tmp_path, ".mha", "ElementSize = 9 9 9\nElementSpacing = 2 1 3\n")).notes


@pytest.mark.parametrize(
    ("suffix", "header"),
    [
        (".nrrd", "spacings: 2 1 3\n"),
        (".nrrd", "space dimension: 3\nspace directions: (2,0,0) (0,1,0) (0,0,3)\n"),
        (".nrrd", "space: scanner-xyz\nspace directions: (2,0,0) (0,1,0) (0,0,3)\n"),
        (".vtk", "SPACING 2 1 3\n"),
        (".gipl", "2 1 3"),
    ],
)
def test_axes_that_are_not_stated_are_taken_for_lps_and_noted(tmp_path, suffix, header) -> None:
    volume = io.read_volume(made(tmp_path, suffix, header))
    assert np.allclose(volume.grid.spacing, (3, 1, 2))
    assert np.allclose(volume.grid.direction[:, ::-1], np.eye(3))
    (note,) = volume.notes
    assert "(LPS)" in note


def test_axes_without_a_matrix_in_a_metaimage_are_noted(tmp_path) -> None:
    path = made(tmp_path, ".mha", "ElementSpacing = 2 1 3\n")
    path.write_bytes(re.sub(rb"TransformMatrix = .*\n", b"", path.read_bytes()))
    (note,) = io.read_volume(path).notes
    assert "(LPS)" in note


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.hdf5", "a.mnc", "a.nii"])
def test_what_states_all_gets_no_note(tmp_path, name) -> None:
    sitk.WriteImage(image(noise(oblique(), np.int16), oblique()), str(tmp_path / name))
    volume = io.read_volume(tmp_path / name)
    assert not volume.notes
    assert volume.grid.same_as(oblique(), 1e-3)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.png", "a.tif", "a.jpg"])
def test_pictures_and_images_of_two_axes_get_no_note(tmp_path, name) -> None:
    sitk.WriteImage(image(noise(oblique(), np.uint8)[0]), str(tmp_path / name))
    assert not io.read_volume(tmp_path / name).notes


@pytest.mark.parametrize(
    ("name", "origin"),
    [
        ("right-anterior-superior", (-1, -2, 3)),
        ("RAS", (-1, -2, 3)),
        ("left-anterior-superior", (1, -2, 3)),
        ("LAS", (1, -2, 3)),
        ("left-posterior-superior", (1, 2, 3)),
        ("LPS", (1, 2, 3)),
    ],
)
def test_spaces_of_the_body_are_no_guess(tmp_path, name, origin) -> None:
    fields = f"space: {name}\nspace directions: (2,0,0) (0,1,0) (0,0,3)\nspace origin: (1,2,3)\n"
    volume = io.read_volume(nrrd(tmp_path / "a.nrrd", fields))
    assert not volume.notes
    assert np.allclose(volume.grid.origin, origin)
