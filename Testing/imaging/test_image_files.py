# SPDX-License-Identifier: Apache-2.0
import gzip
import os
import struct
import time

import numpy as np
import pytest
import SimpleITK as sitk
from DeepFLASHRegistrationLib.imaging import io
from DeepFLASHRegistrationLib.imaging.errors import InputError
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.volume import Volume, checked_image
from imaging_shapes import centered_grid, rotation, storages

FORMATS = (".nii.gz", ".nii", ".nrrd", ".mha")


def oblique(shape=(5, 6, 7)) -> Grid:
    return centered_grid(shape, (3, 1, 2), rotation((1, 2, 3), 40)[:, ::-1], (10, -20, 30))


def noise(grid: Grid, dtype=np.float32, *components: int) -> np.ndarray:
    return (np.random.default_rng(0).normal(size=(*grid.shape, *components)) * 50).astype(dtype)


def image(array: np.ndarray, grid: Grid | None = None, vector: bool = False) -> sitk.Image:
    result = sitk.GetImageFromArray(array, isVector=vector)
    return result if grid is None else grid.apply_to(result)


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
    assert volume.name == f"a{suffix}"
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
    "rgb": (lambda: image(np.zeros((4, 5, 6, 3), np.uint8), vector=True), "components"),
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
    labels[2, 2, 2] = np.nan
    sitk.WriteImage(image(labels), str(tmp_path / "l.nii.gz"))
    with pytest.raises(InputError, match="must be integers"):
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


# ---- DICOM


def write_series(folder, uid: str, number: int, data: np.ndarray, positions=None) -> None:
    folder.mkdir(exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k, plane in enumerate(data):
        z = 2.5 * k if positions is None else positions[k]
        slice_ = sitk.GetImageFromArray(plane.astype(np.int16))
        for key, value in (
            ("0008|0060", "MR"),
            ("0020|000d", "1.2.3"),
            ("0020|000e", uid),
            ("0020|0011", str(number)),
            ("0020|0013", str(k)),
            ("0008|103e", f"series {number}"),
            ("0020|0032", f"1\\2\\{z}"),
            ("0020|0037", "1\\0\\0\\0\\1\\0"),
            ("0008|0018", f"{uid}.{k}"),
            ("0028|0030", "1\\1"),
        ):
            slice_.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{number}_{k}.dcm"))
        writer.Execute(slice_)


def test_a_dicom_folder_is_a_volume(tmp_path) -> None:
    data = np.abs(noise(oblique()))
    write_series(tmp_path / "d", "1.2.3.4", 1, data)
    for path in (tmp_path / "d", tmp_path / "d" / "1_2.dcm"):
        volume = io.read_volume(path)
        assert np.array_equal(volume.data, data.astype(np.int16))
        assert np.allclose(volume.grid.spacing, (2.5, 1, 1))
        assert np.allclose(volume.grid.origin, (1, 2, 0))


def test_several_dicom_series_are_named_and_one_can_be_chosen(tmp_path) -> None:
    data = np.abs(noise(oblique()))
    write_series(tmp_path / "d", "1.2.3.4", 1, data)
    write_series(tmp_path / "d", "1.2.3.5", 2, data[:3] + 1)
    with pytest.raises(InputError, match="2 DICOM series") as error:
        io.read_volume(tmp_path / "d")
    assert "series 1" in str(error.value)
    assert "series 2" in str(error.value)
    assert "2_0.dcm" in str(error.value)
    assert io.read_volume(tmp_path / "d" / "2_1.dcm").grid.shape == (3, 6, 7)


def test_missing_dicom_slices_are_noted(tmp_path, capfd) -> None:
    write_series(tmp_path / "d", "1.2.3.4", 1, np.abs(noise(oblique())), [0, 2.5, 5, 10, 12.5])
    assert any("equally spaced" in note for note in io.read_volume(tmp_path / "d").notes)
    assert "Warning" not in capfd.readouterr().err


def test_a_folder_without_dicom_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="no DICOM series"):
        io.read_volume(tmp_path)


# ---- displacement fields


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("grid", [oblique(), centered_grid((6, 7), (1, 2), rotation((), 25)[:, ::-1], (3, 4))])
def test_itk_moves_points_by_the_written_field(tmp_path, suffix, grid) -> None:
    field = noise(grid, np.float32, grid.ndim)
    path = str(tmp_path / f"f{suffix}")
    io.write_displacement_field(path, grid, field)
    transform = sitk.DisplacementFieldTransform(sitk.ReadImage(path, sitk.sitkVectorFloat64))
    for index in ((2, 3, 4)[: grid.ndim], (0,) * grid.ndim):
        point = grid.index_to_physical(index)
        assert np.allclose(transform.TransformPoint(point), point + field[index], atol=1e-3)
    again, values = io.read_displacement_field(path)
    assert again.same_as(grid, 1e-5)
    assert np.array_equal(values, field)


def test_nifti_fields_carry_the_intent_and_ras_components_of_the_standard(tmp_path) -> None:
    grid = oblique()
    field = noise(grid, np.float32, 3)
    io.write_displacement_field(tmp_path / "f.nii", grid, field)
    raw = (tmp_path / "f.nii").read_bytes()
    assert struct.unpack("<8h", raw[40:56]) == (5, 7, 6, 5, 1, 3, 1, 1)
    assert struct.unpack("<h", raw[68:70]) == (1006,)
    stored = np.frombuffer(raw[352:], "<f4").reshape(3, 5, 6, 7)
    assert np.array_equal(stored, np.moveaxis(field * np.float32([-1, -1, 1]), -1, 0))


def test_fields_read_by_simpleitk_equal_those_it_writes_itself(tmp_path) -> None:
    grid = oblique()
    field = noise(grid, np.float32, 3)
    io.write_displacement_field(tmp_path / "ours.nii.gz", grid, field)
    sitk.WriteImage(image(field, grid, vector=True), str(tmp_path / "theirs.nii.gz"))
    ours, theirs = (sitk.ReadImage(str(tmp_path / n)) for n in ("ours.nii.gz", "theirs.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(ours), sitk.GetArrayFromImage(theirs))
    assert Grid.from_image(ours).same_as(Grid.from_image(theirs), 1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("suffix", FORMATS)
def test_fields_of_slices_lead_from_slice_to_slice(tmp_path, suffix, axis) -> None:
    shape = [5, 6, 7]
    shape[axis] = 1
    fixed = Grid(tuple(shape), oblique().affine).flattened()
    elsewhere = oblique().affine.copy()
    elsewhere[:3, 3] += (9, 8, 7)
    moving = Grid(tuple(shape), elsewhere).flattened()
    field = noise(fixed, np.float32, 2)
    path = str(tmp_path / f"f{suffix}")
    io.write_displacement_field(path, fixed, field, moving)
    transform = sitk.DisplacementFieldTransform(sitk.ReadImage(path, sitk.sitkVectorFloat64))
    point = fixed.index_to_physical((2, 3))
    assert np.allclose(transform.TransformPoint(fixed.lift(point)), moving.lift(point + field[2, 3]), atol=1e-3)


def test_a_field_of_wrong_shape_and_a_scalar_file_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="shape"):
        io.write_displacement_field(tmp_path / "f.nii", oblique(), noise(oblique()))
    io.write_volume(tmp_path / "a.nii", Volume(oblique(), noise(oblique())))
    with pytest.raises(InputError, match="no displacement field"):
        io.read_displacement_field(tmp_path / "a.nii")


def test_a_full_size_field_is_written_fast(tmp_path) -> None:
    grid = centered_grid((128, 160, 128), (1.25,) * 3)
    field = np.zeros((*grid.shape, 3), np.float32)
    field[:64] = np.random.default_rng(0).normal(size=(64, 160, 128, 3))
    start = time.process_time()
    io.write_displacement_field(tmp_path / "f.nii.gz", grid, field)
    assert time.process_time() - start < 2  # SimpleITK's own writer takes longer on any machine; ours 0.3 s here


# ---- affine files


@pytest.mark.parametrize("suffix", [".tfm", ".txt", ".mat", ".h5"])
@pytest.mark.parametrize("d", [2, 3])
def test_affine_files_come_back_and_simpleitk_reads_them(tmp_path, suffix, d) -> None:
    matrix = np.eye(d + 1)
    matrix[:d] += np.random.default_rng(1).normal(size=(d, d + 1)) * 0.1
    matrix[:d, d] *= 1000
    path = tmp_path / f"a{suffix}"
    io.write_affine(path, matrix)
    assert np.allclose(io.read_affine(path, d), matrix, atol=1e-12)
    point = np.arange(1, d + 1) * 7.0
    assert np.allclose(sitk.ReadTransform(str(path)).TransformPoint(point), matrix[:d, :d] @ point + matrix[:d, d])


def test_other_linear_transforms_and_composites_are_read(tmp_path) -> None:
    rigid = sitk.Euler3DTransform((10, 20, 30), 0.1, 0.2, 0.3, (1, 2, 3))
    composite = sitk.CompositeTransform([rigid, sitk.TranslationTransform(3, (5, 6, 7))])
    sitk.WriteTransform(composite, str(tmp_path / "c.h5"))
    matrix = io.read_affine(tmp_path / "c.h5", 3)
    assert np.allclose(matrix @ (4, 5, 6, 1), [*composite.TransformPoint((4.0, 5.0, 6.0)), 1])


def test_affine_of_slices_is_written_in_3d_and_read_back(tmp_path) -> None:
    fixed = Grid((1, 6, 7), oblique().affine).flattened()
    elsewhere = oblique().affine.copy()
    elsewhere[:3, 3] += (9, 8, 7)
    moving = Grid((1, 6, 7), elsewhere).flattened()
    matrix = np.array([[0.9, 0.2, 5], [-0.1, 1.1, -3], [0, 0, 1]])
    io.write_affine(tmp_path / "a.tfm", matrix, fixed, moving)
    assert np.allclose(io.read_affine(tmp_path / "a.tfm", 2, fixed, moving), matrix)
    point = np.array([3.0, 4.0])
    there = sitk.ReadTransform(str(tmp_path / "a.tfm")).TransformPoint(fixed.lift(point))
    assert np.allclose(there, moving.lift(matrix[:2, :2] @ point + matrix[:2, 2]))


def test_unusable_transform_files_are_refused(tmp_path) -> None:
    (tmp_path / "flirt.mat").write_text("1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n")
    io.write_affine(tmp_path / "2d.tfm", np.eye(3))
    sitk.WriteTransform(sitk.BSplineTransform(3), str(tmp_path / "b.tfm"))
    singular = sitk.AffineTransform(3)
    singular.SetMatrix((1, 0, 0, 0, 1, 0, 0, 0, 0.0))
    try:
        sitk.WriteTransform(singular, str(tmp_path / "s.tfm"))
        cases = [("s.tfm", "s.tfm")]
    except RuntimeError:
        cases = []
    for name, message in [
        *cases,
        ("none.tfm", "no such file"),
        ("flirt.mat", "no ITK transform"),
        ("2d.tfm", "2-D transform"),
        ("b.tfm", "not linear"),
    ]:
        with pytest.raises(InputError, match=message):
            io.read_affine(tmp_path / name, 3)
    with pytest.raises(InputError, match="unknown kind"):
        io.write_affine(tmp_path / "a.npy", np.eye(4))


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
        monkeypatch.setattr(io.zlib, "crc32", Broken(error))
    else:
        monkeypatch.setattr(io.os, "replace", Broken(error))
    for write in (
        lambda: io.write_volume(path, Volume(oblique(), noise(oblique()) + 1)),
        lambda: io.write_displacement_field(path, oblique(), noise(oblique(), np.float32, 3)),
    ):
        with pytest.raises(type(error)):
            write()
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == ["a.nii.gz"]


def test_a_full_disk_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(io.os, "replace", Broken(OSError(28, "No space left on device")))
    for write in (
        lambda: io.write_volume(tmp_path / "a.nii", Volume(oblique(), noise(oblique()))),
        lambda: io.write_affine(tmp_path / "a.nii.tfm", np.eye(4)),
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
