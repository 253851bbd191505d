# SPDX-License-Identifier: Apache-2.0
import gzip
import os
import struct

import numpy as np
import pytest
import SimpleITK as sitk
from DeepFLASHRegistrationLib.imaging import files, io, transforms
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.image_files import nifti
from DeepFLASHRegistrationLib.imaging.volume import Volume, checked_image
from DeepFLASHRegistrationLib.support.errors import InputError
from imaging_shapes import centered_grid, image, noise, oblique, rotation, storages

FORMATS = (".nii.gz", ".nii", ".nrrd", ".mha")


# ---- images


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("grid", [oblique(), centered_grid((6, 7), (1, 2), rotation((), 25)[:, ::-1], (3, 4))])
def test_what_simpleitk_writes_is_read_and_what_is_written_simpleitk_reads(tmp_path, suffix, grid) -> None:
    data = noise(grid)
    sitk.WriteImage(image(data, grid), str(tmp_path / f"a{suffix}"))
    volume = io.read_volume(tmp_path / f"a{suffix}")
    assert volume.data.dtype == np.float32
    assert np.array_equal(volume.data, data)
    assert volume.grid.same_as(grid, 1e-5)
    assert volume.name == str(tmp_path / f"a{suffix}")  # as messages name it
    io.write_volume(tmp_path / f"b{suffix}", volume)
    again = sitk.ReadImage(str(tmp_path / f"b{suffix}"))
    assert np.array_equal(sitk.GetArrayFromImage(again), data)
    assert Grid.from_image(again).same_as(grid, 1e-5)


def test_geometry_survives_nifti_in_all_orders_and_flips(tmp_path) -> None:
    volume = Volume(oblique(), noise(oblique()))
    for other in storages(volume):
        io.write_volume(tmp_path / "a.nii", other)
        again = io.read_volume(tmp_path / "a.nii")
        assert np.array_equal(again.data, other.data)
        assert again.grid.same_as(other.grid, 1e-5)


def test_qform_and_sform_say_the_same(tmp_path) -> None:
    for other in storages(Volume(oblique(), noise(oblique()))):
        io.write_volume(tmp_path / "a.nii", other)
        raw = bytearray((tmp_path / "a.nii").read_bytes())
        raw[254:256] = struct.pack("<h", 0)  # without the sform, readers take the qform
        (tmp_path / "q.nii").write_bytes(raw)
        assert io.read_volume(tmp_path / "q.nii").grid.same_as(other.grid, 1e-3)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.float32, np.float64])
def test_element_types_survive_nifti(tmp_path, dtype) -> None:
    data = np.abs(noise(oblique())).astype(dtype)
    io.write_volume(tmp_path / "a.nii.gz", Volume(oblique(), data))
    again = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.nii.gz")))
    assert again.dtype == dtype
    assert np.array_equal(again, data)


def test_compressed_nifti_is_one_ordinary_gzip_member(tmp_path) -> None:
    grid = centered_grid((70, 80, 90), (1, 1, 1))  # several blocks
    smooth = np.zeros(grid.shape, np.float32)
    smooth[20:] = noise(grid)[20:]
    for data in (smooth, smooth.astype(np.int16)):
        io.write_volume(tmp_path / "a.nii.gz", Volume(grid, data))
        io.write_volume(tmp_path / "a.nii", Volume(grid, data))
        assert gzip.decompress((tmp_path / "a.nii.gz").read_bytes()) == (tmp_path / "a.nii").read_bytes()
        assert (tmp_path / "a.nii.gz").read_bytes().count(b"\x1f\x8b\x08\x00\x00\x00\x00\x00") == 1
    assert (tmp_path / "a.nii.gz").stat().st_size < 0.8 * (tmp_path / "a.nii").stat().st_size


def test_booleans_and_64_bit_labels_are_written(tmp_path) -> None:
    data = noise(oblique()) > 0
    io.write_volume(tmp_path / "m.nii.gz", Volume(oblique(), data))
    assert np.array_equal(io.read_mask(tmp_path / "m.nii.gz").data, data)
    io.write_volume(tmp_path / "l.nii.gz", Volume(oblique(), data * np.int64(70000)))
    assert np.array_equal(io.read_labels(tmp_path / "l.nii.gz").data, data * 70000)
    with pytest.raises(InputError, match="32 bits"):
        io.write_volume(tmp_path / "x.nii.gz", Volume(oblique(), data * np.int64(2**40)))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("suffix", FORMATS)
def test_a_single_slice_is_a_2d_problem_and_written_as_a_slice(tmp_path, suffix, axis) -> None:
    shape = [5, 6, 7]
    shape[axis] = 1
    grid = Grid(tuple(shape), oblique().affine)
    sitk.WriteImage(image(noise(grid), grid), str(tmp_path / f"a{suffix}"))
    volume = io.read_volume(tmp_path / f"a{suffix}")
    assert volume.ndim == 2
    assert volume.plane is not None
    io.write_volume(tmp_path / f"b{suffix}", volume)
    again = sitk.ReadImage(str(tmp_path / f"b{suffix}"))
    assert Grid.from_image(again).same_as(grid, 1e-5)
    assert np.array_equal(sitk.GetArrayFromImage(again), noise(grid))


def test_one_time_point_of_4d_is_a_3d_image(tmp_path) -> None:
    data = noise(oblique())
    sitk.WriteImage(sitk.JoinSeries([image(data, oblique())]), str(tmp_path / "a.nii.gz"))
    volume = io.read_volume(tmp_path / "a.nii.gz")
    assert np.array_equal(volume.data, data)
    assert volume.grid.same_as(oblique(), 1e-5)


def test_isolated_nan_and_infinity_become_background_and_are_noted(tmp_path) -> None:
    data = noise(oblique())
    data[1, 2, 3], data[0, 0, 0], data[2, 2, 2] = np.nan, np.inf, -np.inf
    sitk.WriteImage(image(data), str(tmp_path / "a.nii.gz"))
    volume = io.read_volume(tmp_path / "a.nii.gz")
    lowest = data[np.isfinite(data)].min()
    assert volume.data[1, 2, 3] == volume.data[0, 0, 0] == volume.data[2, 2, 2] == lowest
    assert volume.notes
    assert "3 NaN" in volume.notes[0]
    assert np.array_equal(volume.data[3:], data[3:])


# ---- refusals


def four_d():
    return sitk.JoinSeries([image(noise(oblique()))] * 2)


REFUSED = {
    "4d": (four_d, "one time point"),
    "vectors": (lambda: image(noise(oblique(), np.float32, 3), vector=True), "components"),
    "complex": (lambda: image(noise(oblique(), np.complex64)), "complex"),
    "all NaN": (lambda: image(np.full((4, 5, 6), np.nan, np.float32)), "NaN"),
    "constant": (lambda: image(np.full((4, 5, 6), 7, np.int16)), "every voxel is 7"),
    "a line": (lambda: image(np.arange(6, dtype=np.float32).reshape(1, 1, 6)), "line of voxels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unusable_images_are_refused_by_name(tmp_path, case) -> None:
    make, message = REFUSED[case]
    path = tmp_path / ("wrong.nii" if case == "complex" else "wrong.mha")
    sitk.WriteImage(make(), str(path))
    with pytest.raises(InputError, match=message) as error:
        io.read_volume(path)
    assert path.name in str(error.value)


def test_unreadable_files_are_refused_with_a_remedy(tmp_path, capfd) -> None:
    (tmp_path / "empty.nii.gz").touch()
    (tmp_path / "text.nii.gz").write_text("hello")
    (tmp_path / "notes.txt").write_text("hello")
    sitk.WriteImage(image(noise(oblique())), str(tmp_path / "a.nii"))
    (tmp_path / "cut.nii").write_bytes((tmp_path / "a.nii").read_bytes()[:600])
    io.write_volume(tmp_path / "a.nii.gz", Volume(oblique(), noise(oblique())))
    (tmp_path / "cut.nii.gz").write_bytes((tmp_path / "a.nii.gz").read_bytes()[:700])
    io.write_volume(tmp_path / "a.nrrd", Volume(oblique(), noise(oblique())))
    (tmp_path / "cut.nrrd").write_bytes((tmp_path / "a.nrrd").read_bytes()[:-300])
    for name, message in (
        ("none.nii", "no such file"),
        ("empty.nii.gz", "is empty"),
        ("text.nii.gz", "text.nii.gz"),
        ("notes.txt", "no image file"),
        ("cut.nii", "cut off"),
        ("cut.nii.gz", "damaged"),
        ("cut.nrrd", "damaged"),
    ):
        with pytest.raises(InputError, match=message) as error:
            io.read_volume(tmp_path / name)
        assert name in str(error.value)
    assert "WARNING" not in capfd.readouterr().err


def test_a_sheared_sform_is_refused_clearly(tmp_path) -> None:
    io.write_volume(tmp_path / "a.nii", Volume(oblique(), noise(oblique())))
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    raw[252:254] = struct.pack("<h", 0)
    raw[280:328] = struct.pack("<12f", 1, 0.5, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)
    (tmp_path / "a.nii").write_bytes(raw)
    with pytest.raises(InputError, match="not orthogonal"):
        io.read_volume(tmp_path / "a.nii")


def test_arrays_are_checked_like_files() -> None:
    grid = oblique()
    with pytest.raises(InputError, match="ct: every voxel"):
        checked_image(Volume(grid, np.zeros(grid.shape, np.float32), "ct"))
    with pytest.raises(InputError, match="real"):
        checked_image(Volume(grid, noise(grid, np.complex64)))
    assert checked_image(Volume(grid, noise(grid, np.int16))).data.dtype == np.float32


def test_labels_must_be_integers(tmp_path) -> None:
    labels = np.zeros((4, 5, 6), np.float32)
    labels[1:3] = 7
    sitk.WriteImage(image(labels), str(tmp_path / "l.nii.gz"))
    read = io.read_labels(tmp_path / "l.nii.gz")
    assert read.data.dtype == np.int32
    assert np.array_equal(read.data, labels)
    labels[2, 2, 2] = 6.5
    sitk.WriteImage(image(labels), str(tmp_path / "l.nii.gz"))
    with pytest.raises(InputError, match=r"l.nii.gz: labels must be integers.*6.5"):
        io.read_labels(tmp_path / "l.nii.gz")
    sitk.WriteImage(image(np.zeros((4, 5, 6), np.uint8)), str(tmp_path / "l.nii.gz"))
    with pytest.raises(InputError, match="no label"):
        io.read_labels(tmp_path / "l.nii.gz")


def test_masks_are_binary_and_not_empty(tmp_path) -> None:
    mask = np.zeros((4, 5, 6), np.float32)
    mask[1] = 0.3
    mask[2] = -7
    mask[3] = np.nan
    sitk.WriteImage(image(mask), str(tmp_path / "m.nii.gz"))
    read = io.read_mask(tmp_path / "m.nii.gz").data
    assert read.dtype == np.uint8
    assert read[1:3].all()
    assert not read[[0, 3]].any()
    sitk.WriteImage(image(mask * 0), str(tmp_path / "m.nii.gz"))
    with pytest.raises(InputError, match=r"m\.nii\.gz: the mask is empty"):
        io.read_mask(tmp_path / "m.nii.gz")


# ---- the grid alone


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_grid_is_read_whatever_the_voxels_hold(tmp_path, suffix) -> None:
    grid = oblique()
    for name, content in (
        ("ordinary", image(noise(grid), grid)),
        ("constant", image(np.full(grid.shape, 7, np.int16), grid)),
        ("vectors", image(noise(grid, np.float32, 3), grid, vector=True)),
    ):
        sitk.WriteImage(content, str(tmp_path / f"{name}{suffix}"))
        assert io.read_grid(tmp_path / f"{name}{suffix}").same_as(grid, 1e-5), name


def test_the_grid_of_a_slice_is_flat_and_that_of_a_time_series_is_of_one_image(tmp_path) -> None:
    grid = Grid((1, 6, 7), oblique().affine)
    sitk.WriteImage(image(noise(grid), grid), str(tmp_path / "slice.nii"))
    assert io.read_grid(tmp_path / "slice.nii").same_as(io.read_volume(tmp_path / "slice.nii").grid, 1e-9)
    sitk.WriteImage(four_d(), str(tmp_path / "times.mha"))
    assert io.read_grid(tmp_path / "times.mha").same_as(Grid.from_image(image(noise(oblique()))), 1e-5)


def test_a_file_without_a_grid_is_refused_by_name(tmp_path) -> None:
    (tmp_path / "empty.nii").touch()
    (tmp_path / "text.nii").write_text("hello")
    sitk.WriteImage(image(np.arange(6, dtype=np.float32).reshape(1, 1, 6)), str(tmp_path / "line.mha"))
    for name in ("none.nii", "empty.nii", "text.nii", "line.mha"):
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            io.read_grid(tmp_path / name)


def test_labels_that_are_nan_are_none_and_that_is_noted(tmp_path) -> None:
    data = np.where(noise(oblique()) > 0.5, np.float32(2), np.float32(np.nan))
    sitk.WriteImage(image(data), str(tmp_path / "l.nii"))
    labels = io.read_labels(tmp_path / "l.nii")
    assert np.array_equal(labels.data, np.where(np.isnan(data), 0, 2))
    assert any(f"l.nii: {np.isnan(data).sum()} voxels are NaN" in note for note in labels.notes)
    sitk.WriteImage(image(np.where(np.isnan(data), np.float32(np.inf), data)), str(tmp_path / "l.nii"))
    with pytest.raises(InputError, match="labels must"):
        io.read_labels(tmp_path / "l.nii")


# ---- names


def test_files_of_the_same_name_are_told_apart(tmp_path, monkeypatch) -> None:
    """By the path that the user gave, in errors and in notes."""
    monkeypatch.chdir(tmp_path)
    data = noise(oblique())
    data[1, 2, 3] = np.nan
    for folder in ("fixed", "moving"):
        (tmp_path / folder).mkdir()
        sitk.WriteImage(image(data), str(tmp_path / folder / "t1.nii"))
        volume = io.read_volume(f"{folder}/t1.nii")
        name = os.path.join(folder, "t1.nii")
        assert volume.name == name
        assert volume.notes[0].startswith(f"{name}: 1 NaN")
        with pytest.raises(InputError, match=r"labels must be integers") as error:
            io.read_labels(f"{folder}/t1.nii")
        assert str(error.value).startswith(f"{name}: ")


# ---- atomic writing


class Broken:
    """Fails in the middle of a write."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, *args, **kwargs):
        raise self.error


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("where", ["compress", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, error, where) -> None:
    path = tmp_path / "a.nii.gz"
    io.write_volume(path, Volume(oblique(), noise(oblique())))
    before = path.read_bytes()
    if where == "compress":
        monkeypatch.setattr(nifti.zlib, "crc32", Broken(error))
    else:
        monkeypatch.setattr(files.os, "replace", Broken(error))
    for write in (
        lambda: io.write_volume(path, Volume(oblique(), noise(oblique()) + 1)),
        lambda: transforms.write_displacement_field(path, oblique(), noise(oblique(), np.float32, 3)),
    ):
        with pytest.raises(type(error)):
            write()
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == ["a.nii.gz"]


def test_a_full_disk_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(files.os, "replace", Broken(OSError(28, "No space left on device")))
    for write in (
        lambda: io.write_volume(tmp_path / "a.nii", Volume(oblique(), noise(oblique()))),
        lambda: transforms.write_affine(tmp_path / "a.nii.tfm", np.eye(4)),
        lambda: io.write_volume(tmp_path / "a.nii.nrrd", Volume(oblique(), noise(oblique()))),
    ):
        with pytest.raises(OSError, match=r"a\.nii.*disk is full"):
            write()
    assert os.listdir(tmp_path) == []


def test_places_that_cannot_be_written_are_named(tmp_path) -> None:
    volume = Volume(oblique(), noise(oblique()))
    (tmp_path / "folder.nii").mkdir()
    for name, message in (
        ("none/a.nii.gz", "does not exist"),
        ("folder.nii", "is a folder"),
        ("a.mhd", "two files"),
        ("a.xyz", "unknown kind"),
    ):
        with pytest.raises(InputError, match=message):
            io.write_volume(tmp_path / name, volume)
    assert os.listdir(tmp_path) == ["folder.nii"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="needs a user whom permissions bind")
def test_a_folder_without_permission_is_named(tmp_path) -> None:
    tmp_path.chmod(0o500)
    try:
        for name in ("a.nii.gz", "a.mha"):
            with pytest.raises(InputError, match="may not be written"):
                io.write_volume(tmp_path / name, Volume(oblique(), noise(oblique())))
    finally:
        tmp_path.chmod(0o700)
