# SPDX-License-Identifier: Apache-2.0
"""Series: volumes of one file or of several, read in order, and what is none refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from DeepFLASHRegistrationLib.imaging import io
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.image_files.series import write_series
from DeepFLASHRegistrationLib.imaging.time_series import read_series
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.support.errors import InputError

GRID = Grid((5, 6, 7), np.array([[0, 0, 1.5, -3], [0, 2.0, 0, 4], [-2.5, 0, 0, 9], [0, 0, 0, 1]]))
FRAMES = np.random.default_rng(1).normal(size=(4, *GRID.shape)).astype(np.float32)


def written(path: Path, frames: np.ndarray = FRAMES, seconds: float = 0.05) -> str:
    write_series(path, GRID, iter(frames), len(frames), seconds)
    return str(path)


def single(path: Path, frame: np.ndarray, grid: Grid = GRID) -> str:
    io.write_volume(path, Volume(grid, frame))
    return str(path)


@pytest.mark.parametrize("name", ["s.nii.gz", "s.nrrd", "s.mha"])
def test_a_file_of_several_volumes_is_what_reading_each_gives(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name)
    series = read_series([path])
    assert len(series) == 4
    assert series.grid.same_as(GRID)
    for frame, volume, one in zip(FRAMES, series.volumes(), series.names, strict=True):
        np.testing.assert_array_equal(volume.data, frame)
        np.testing.assert_array_equal(volume.data, io.read_volume(one).data)
        assert volume.name == one
    np.testing.assert_allclose(series.mean().data, FRAMES.mean(0, dtype=np.float64), atol=1e-6)
    if name == "s.nii.gz":
        assert series.seconds == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("unit", "values", "seconds"),
    [
        ("ms", "0 40 80 120", 0.04),
        ("s", "1.5 2 2.5 3", 0.5),
        ("ms", "0 40 80 90", 0),
        ("", "0 1 2 3", 0),
        ("s", "a b c d", 0),
    ],
)
def test_a_sequence_of_slicer_is_a_series(tmp_path: Path, unit: str, values: str, seconds: float) -> None:
    """As its sequences are written: the items are components, of the kind list."""
    path = tmp_path / "s.seq.nrrd"
    body = np.moveaxis(FRAMES, 0, -1).astype("<f4").tobytes()
    header = (
        "NRRD0005\ntype: float\ndimension: 4\nspace: left-posterior-superior\nsizes: 4 7 6 5\n"
        "space directions: none (1.5,0,0) (0,2,0) (0,0,-2.5)\nkinds: list domain domain domain\nendian: little\n"
        "encoding: raw\nspace origin: (-3,4,9)\naxis 0 index type:=numeric\n"
        f'units: "{unit}" "" "" ""\naxis 0 index values:={values}\n\n'
    )
    path.write_bytes(header.encode() + body)
    series = read_series([path])
    assert len(series) == 4
    assert series.seconds == pytest.approx(seconds)
    for frame, volume, one in zip(FRAMES, series.volumes(), series.names, strict=True):
        np.testing.assert_array_equal(volume.data, frame)
        np.testing.assert_array_equal(io.read_volume(one).data, frame)


def test_several_files_in_order_and_volumes_of_one_are_a_series(tmp_path: Path) -> None:
    whole = written(tmp_path / "s.nii.gz")
    names = [single(tmp_path / f"{number}.nii.gz", FRAMES[number]) for number in (2, 0)]
    series = read_series([*names, f"{whole}[3]"])
    assert series.names == (*names, f"{whole}[3]")
    for number, volume in zip((2, 0, 3), series.volumes(), strict=True):
        np.testing.assert_array_equal(volume.data, FRAMES[number])


def test_a_slice_in_time_is_a_series_of_two_dimensions(tmp_path: Path) -> None:
    flat = Grid((1, 6, 7), GRID.affine)
    write_series(tmp_path / "s.nii", flat, iter(FRAMES[:, :1]), 4, 1.0)
    series = read_series([tmp_path / "s.nii"])
    assert series.grid.ndim == 2
    assert next(series.volumes()).data.shape == (6, 7)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing", "no such file"),
        ("one volume", "holds one volume, which is no series. Pass a 4-D file"),
        ("one named", "is one volume. Name the whole file"),
        ("vectors", "components per voxel \\(vectors\\), which are no points in time"),
        ("colors", "color channels per voxel, which are no points in time"),
        ("other grid", "lies on another grid than .* resample it onto"),
        ("twice", "is named twice"),
        ("4-D among others", "holds 4 volumes, as an item of a series. Name those"),
        ("out of range", "holds 4 volumes, counted from 0"),
        ("mean", "a mean is no point in time"),
        ("segmentation", "is a segmentation. Pass the images"),
    ],
)
def test_what_is_no_series_is_refused_with_the_remedy(tmp_path: Path, what: str, message: str) -> None:
    whole, one = written(tmp_path / "s.nii.gz"), single(tmp_path / "one.nii.gz", FRAMES[0])
    shifted = Grid(GRID.shape, np.diag([1, 1, 1, 1.0]))
    vectors = GRID.apply_to(sitk.GetImageFromArray(np.moveaxis(FRAMES[:3], 0, -1), isVector=True))
    colors = (np.random.default_rng(0).random((*GRID.shape, 3)) * 255).astype(np.uint8)
    io.write_itk(tmp_path / "v.nrrd", vectors)
    io.write_image(tmp_path / "c.nrrd", GRID, colors, vector=True)
    paths = {
        "missing": ["nothing.nii.gz"],
        "one volume": [one],
        "one named": [f"{whole}[1]"],
        "vectors": [tmp_path / "v.nrrd"],
        "colors": [tmp_path / "c.nrrd"],
        "other grid": [one, single(tmp_path / "other.nii.gz", FRAMES[1], shifted)],
        "twice": [one, f"{whole}[1]", one],
        "4-D among others": [one, whole],
        "out of range": [one, f"{whole}[4]"],
        "mean": [one, f"{whole}[mean]"],
        "segmentation": [tmp_path / "x.seg.nrrd"],
    }[what]
    with pytest.raises(InputError, match=message):
        read_series(paths)


@pytest.mark.parametrize(("value", "message"), [(0.0, "every voxel is 0"), (np.nan, "every voxel is NaN or infinite")])
def test_an_empty_item_is_named_with_the_way_to_leave_it_out(tmp_path: Path, value: float, message: str) -> None:
    frames = FRAMES.copy()
    frames[2] = value
    path = written(tmp_path / "s.nii.gz", frames)
    with pytest.raises(
        InputError, match=f"Item 2 of the series cannot be used: .*{message}.* To leave it out"
    ) as error:
        list(read_series([path]).volumes())
    assert f"'{path}[0]' '{path}[1]'" in str(error.value)
    assert len(list(read_series([f"{path}[{number}]" for number in (0, 1, 3)]).volumes())) == 3
