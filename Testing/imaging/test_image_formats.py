# SPDX-License-Identifier: Apache-2.0
"""What people have besides ordinary files: FreeSurfer's, one volume of many, colors, rounded labels, other units."""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from DeepFLASHRegistrationLib.imaging import io
from DeepFLASHRegistrationLib.imaging.files import quiet
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.support.errors import InputError
from imaging_shapes import centered_grid, image, noise, oblique


def ras(grid: Grid) -> np.ndarray:
    """(4, 4) from i, j, k to RAS mm."""
    return np.diag([-1, -1, 1, 1]) @ grid.affine[:, [2, 1, 0, 3]]


# ---- FreeSurfer


@pytest.mark.parametrize("suffix", [".mgz", ".mgh"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
def test_freesurfer_images_lie_where_nibabel_has_them(tmp_path, suffix, dtype) -> None:
    data = np.abs(noise(oblique(), np.float64)).astype(dtype)
    path = tmp_path / f"a{suffix}"
    nibabel.MGHImage(data.T, ras(oblique())).to_filename(path)
    volume = io.read_volume(path)
    assert np.array_equal(volume.data, data)
    assert np.allclose(ras(volume.grid), nibabel.load(path).affine, atol=1e-4)
    assert not volume.notes
    if dtype != np.float32:
        assert np.array_equal(io.read_labels(path).data, data)


def test_a_freesurfer_image_without_geometry_is_read_as_freesurfer_does_and_noted(tmp_path) -> None:
    nibabel.MGHImage(noise(oblique()).T, ras(oblique())).to_filename(tmp_path / "a.mgh")
    raw = bytearray((tmp_path / "a.mgh").read_bytes())
    raw[28:30] = bytes(2)
    (tmp_path / "a.mgh").write_bytes(raw)
    volume = io.read_volume(tmp_path / "a.mgh")
    # i to the left, j to the feet, k to the front, the middle (3.5, 3, 2.5) at 0.
    expected = [[-1, 0, 0, 3.5], [0, 0, 1, -2.5], [0, -1, 0, 3], [0, 0, 0, 1]]
    assert np.allclose(ras(volume.grid), expected)
    assert "does not say where it lies" in volume.notes[0]


# ---- one volume of several

SERIES = np.stack([noise(oblique()) + shift for shift in (0, 10, 50, 200)])


def series(path):
    """Four volumes in a file."""
    if path.suffix == ".mgz":
        nibabel.MGHImage(SERIES.T, ras(oblique())).to_filename(path)
    elif path.name.startswith("vectors"):
        sitk.WriteImage(image(np.moveaxis(SERIES, 0, -1).copy(), oblique(), vector=True), str(path))
    elif path.name.startswith("two"):
        nibabel.Nifti2Image(SERIES.T, ras(oblique())).to_filename(path)
    else:
        sitk.WriteImage(sitk.JoinSeries([image(each, oblique()) for each in SERIES]), str(path), True)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha", ".mnc", ".hdf5", ".h5"])
def test_what_is_written_lies_where_it_lay(tmp_path, suffix) -> None:
    io.write_volume(tmp_path / f"a{suffix}", Volume(oblique(), SERIES[0]))
    read = sitk.ReadImage(str(tmp_path / f"a{suffix}"))
    ends = [0, 0, 0], [n - 1 for n in read.GetSize()]
    for end in ends:
        place = oblique().index_to_physical(np.array(end[::-1]))
        assert np.allclose(read.TransformIndexToPhysicalPoint(end), place, atol=1e-3)
    assert np.allclose(sitk.GetArrayFromImage(read), SERIES[0])


@pytest.mark.parametrize("name", ["a.vtk", "a.gipl", "a.mrc", "a.nia", "a.dcm", "a.lsm", "a.pic", "a.xyz", "a"])
def test_formats_that_lose_the_place_or_are_not_read_again_are_not_written(tmp_path, name) -> None:
    with pytest.raises(InputError, match="unknown kind of image file, or one"):
        io.write_volume(tmp_path / name, Volume(oblique(), SERIES[0]))
    assert not list(tmp_path.iterdir())


NAMES = ("a.nii", "a.nii.gz", "two.nii.gz", "a.mgz", "a.mha", "a.nrrd", "vectors.nrrd", "vectors.mha", "vectors.nii")


@pytest.mark.parametrize("name", NAMES)
def test_one_volume_of_several_is_named(tmp_path, name) -> None:
    path = series(tmp_path / name)
    for number in (0, 3):
        volume = io.read_volume(f"{path}[{number}]")
        assert np.array_equal(volume.data, SERIES[number])
        assert volume.grid.same_as(oblique(), 1e-4)
        assert volume.name == f"{path}[{number}]"
    mean = io.read_volume(f"{path}[mean]")
    with pytest.raises(InputError, match=r"\[0\]' to '.*\[\d\]'\.$"):  # and no mean, of labels
        io.read_labels(path)
    with pytest.raises(InputError, match="the mean of labels or masks is none"):
        io.read_mask(f"{path}[mean]")
    assert np.allclose(mean.data, SERIES.mean(0), atol=1e-4)
    for which in ("", "[3]", "[mean]"):
        assert io.read_grid(f"{path}{which}").same_as(oblique(), 1e-4)
    with pytest.raises(InputError, match=r"\[4\]: the file holds 4 volumes, counted from 0"):
        io.read_volume(f"{path}[4]")
    with pytest.raises(InputError, match=r"4 (volumes|components).*one time point.*\[0\]' to '.*\[3\]'.*\[mean\]'"):
        io.read_volume(path)


def test_labels_and_masks_are_named_alike(tmp_path) -> None:
    labels = np.zeros((3, *oblique().shape), np.int16)
    labels[1, 1:3], labels[2, 2] = 7, 1
    sitk.WriteImage(sitk.JoinSeries([image(each, oblique()) for each in labels]), str(tmp_path / "a.nii.gz"))
    assert np.array_equal(io.read_labels(f"{tmp_path}/a.nii.gz[1]").data, labels[1])
    assert np.array_equal(io.read_mask(f"{tmp_path}/a.nii.gz[2]").data, labels[2])
    with pytest.raises(InputError, match="there is no label"):
        io.read_labels(f"{tmp_path}/a.nii.gz[0]")


def test_a_file_whose_name_ends_in_brackets_is_that_file(tmp_path) -> None:
    series(tmp_path / "a.nii")
    data = noise(oblique())
    io.write_volume(tmp_path / "b.nii", Volume(oblique(), data))
    (tmp_path / "b.nii").rename(tmp_path / "a.nii[2]")
    assert np.array_equal(io.read_volume(tmp_path / "a.nii[2]").data, data)
    io.write_volume(tmp_path / "scan[1].nii", Volume(oblique(), data))
    assert np.array_equal(io.read_volume(tmp_path / "scan[1].nii").data, data)
    with pytest.raises(InputError, match=r"none\.nii\[1\]: there is no such file"):
        io.read_volume(tmp_path / "none.nii[1]")


def test_one_volume_is_volume_0(tmp_path) -> None:
    io.write_volume(tmp_path / "a.nii", Volume(oblique(), noise(oblique())))
    assert np.array_equal(io.read_volume(f"{tmp_path}/a.nii[0]").data, noise(oblique()))


def test_the_volumes_of_a_series_come_one_by_one(tmp_path) -> None:
    for name in NAMES:
        stored = io.open_image(series(tmp_path / name))
        assert stored.count == 4
        volumes = stored.volumes(1, 4)
        for expected in SERIES[1:]:
            assert np.array_equal(next(volumes), expected), name
        assert next(volumes, None) is None


# ---- colors


def colored() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)


@pytest.mark.parametrize(("name", "channels"), [("a.png", 3), ("a.png", 4), ("a.tif", 3), ("a.nrrd", 3), ("a.mha", 4)])
def test_colors_are_read_by_their_luminance(tmp_path, name, channels) -> None:
    data = colored()[..., :channels].copy()
    sitk.WriteImage(image(data, vector=True), str(tmp_path / name))
    volume = io.read_volume(tmp_path / name)
    expected = data[..., 0] * 0.299 + data[..., 1] * 0.587 + data[..., 2] * 0.114  # BT.601
    assert np.allclose(volume.data, expected, atol=1e-3)
    assert "0.299 red + 0.587 green + 0.114 blue" in volume.notes[0]
    assert ("opacity" in volume.notes[0]) == (channels == 4)
    with pytest.raises(InputError, match="components"):
        io.read_labels(tmp_path / name)
    stored = io.open_image(tmp_path / name)
    assert stored.channels == channels
    assert np.array_equal(next(stored.volumes(0, 1)), data)


def test_colors_of_nifti_are_read_by_their_luminance(tmp_path) -> None:
    rng = np.random.default_rng(0)
    data = np.zeros((6, 7, 8), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    for name in "RGB":
        data[name] = rng.integers(0, 256, data.shape)
    nibabel.Nifti1Image(data, np.eye(4)).to_filename(tmp_path / "a.nii.gz")
    expected = data["R"] * 0.299 + data["G"] * 0.587 + data["B"] * 0.114
    assert np.allclose(io.read_volume(tmp_path / "a.nii.gz").data, expected.T, atol=1e-3)


def test_gray_pictures_stored_in_color_are_their_gray_values(tmp_path) -> None:
    gray = colored()[..., 0]
    sitk.WriteImage(image(np.stack([gray] * 3, -1), vector=True), str(tmp_path / "a.png"))
    assert np.array_equal(io.read_volume(tmp_path / "a.png").data, gray)
    assert np.array_equal(io.read_labels(tmp_path / "a.png").data, gray)
    assert "one gray value" in io.read_labels(tmp_path / "a.png").notes[0]


# ---- labels that are nearly integers


def test_labels_that_were_stored_with_a_scaling_are_rounded_and_noted(tmp_path) -> None:
    """As nibabel writes an array of floats into a file of integers."""
    labels = np.random.default_rng(0).integers(0, 60, (6, 7, 8)).astype(np.float64)
    stored = nibabel.Nifti1Image(labels, np.eye(4))
    stored.set_data_dtype(np.int16)
    stored.to_filename(tmp_path / "a.nii.gz")
    assert (nibabel.load(tmp_path / "a.nii.gz").get_fdata() != labels).any()
    volume = io.read_labels(tmp_path / "a.nii.gz")
    assert np.array_equal(volume.data, labels.T)
    assert "rounded to integers" in volume.notes[0]


def test_labels_that_are_not_nearly_integers_are_refused_with_the_value(tmp_path) -> None:
    labels = np.full((4, 5, 6), 24, np.float32)
    for value, text in ((23.9998, ""), (23.98, "23.98"), (24.0101, "24.0101")):
        labels[1, 2, 3] = value
        sitk.WriteImage(image(labels), str(tmp_path / "a.nii"))
        if text:
            with pytest.raises(InputError, match=f"must be integers, but 1 voxels are not .e.g. {text}"):
                io.read_labels(tmp_path / "a.nii")
        else:
            assert (io.read_labels(tmp_path / "a.nii").data == 24).all()


# ---- units


@pytest.mark.parametrize(
    ("field", "factor"),
    [
        ('space units: "um" "um" "um"', 1e-3),
        ('space units: "microns" "microns" "microns"', 1e-3),
        ('space units: "mm" "mm" "mm"', 1),
        ('space units: "cm" "cm" "cm"', 10),
        ('space units: "m" "m" "m"', 1e3),
        ('space units: "µm" "µm" "µm"', 1e-3),
        ('space units: "???" "???" "???"', 1),
    ],
)
def test_units_of_nrrd_are_converted_and_noted(tmp_path, field, factor) -> None:
    sitk.WriteImage(image(noise(oblique()), oblique()), str(tmp_path / "a.nrrd"))
    raw = (tmp_path / "a.nrrd").read_bytes()
    (tmp_path / "a.nrrd").write_bytes(raw.replace(b"\nspace origin", b"\n" + field.encode() + b"\nspace origin"))
    volume = io.read_volume(tmp_path / "a.nrrd")
    expected = np.diag([factor] * 3 + [1]) @ oblique().affine
    assert np.allclose(volume.grid.affine, expected, rtol=1e-5, atol=1e-9)
    assert io.read_grid(tmp_path / "a.nrrd").same_as(volume.grid)
    assert any("converted to mm" in note for note in volume.notes) == (factor != 1)


def test_units_of_axes_are_converted_too(tmp_path) -> None:
    header = 'NRRD0004\ntype: short\ndimension: 3\nsizes: 4 5 6\nspacings: 250 500 750\nunits: "um" "um" "um"\n'
    data = np.arange(120, dtype="<i2")
    (tmp_path / "a.nrrd").write_bytes(f"{header}encoding: raw\nendian: little\n\n".encode() + data.tobytes())
    volume = io.read_volume(tmp_path / "a.nrrd")
    assert np.allclose(volume.grid.spacing, (0.75, 0.5, 0.25))
    assert "converted to mm" in volume.notes[0]


def test_an_unknown_unit_is_noted(tmp_path) -> None:
    sitk.WriteImage(image(noise(oblique()), oblique()), str(tmp_path / "a.nrrd"))
    raw = (tmp_path / "a.nrrd").read_bytes()
    field = b'\nspace units: "parsec" "parsec" "parsec"\nspace origin'
    (tmp_path / "a.nrrd").write_bytes(raw.replace(b"\nspace origin", field))
    assert '"parsec" is unknown' in io.read_volume(tmp_path / "a.nrrd").notes[0]


def test_units_of_metaimage_are_converted_and_noted(tmp_path) -> None:
    sitk.WriteImage(image(noise(oblique()), oblique()), str(tmp_path / "a.mha"))
    raw = (tmp_path / "a.mha").read_bytes()
    (tmp_path / "a.mha").write_bytes(raw.replace(b"\nDimSize", b"\nDistanceUnits = um\nDimSize"))
    volume = io.read_volume(tmp_path / "a.mha")
    assert np.allclose(volume.grid.spacing, oblique().spacing * 1e-3, rtol=1e-5)
    assert "converted to mm" in volume.notes[0]


# ---- what ITK says


def test_warnings_of_itk_are_collected_and_not_printed(tmp_path, capfd) -> None:
    nibabel.Nifti1Image(noise(oblique()).T, np.diag([2, 2, 2, 1])).to_filename(tmp_path / "a.nii")
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    raw[80:84] = np.float32(5).tobytes()  # pixdim[1]
    (tmp_path / "a.nii").write_bytes(raw)
    with quiet() as warnings:
        with quiet() as inner:
            sitk.ReadImage(str(tmp_path / "a.nii"))
        assert not warnings
        sitk.ReadImage(str(tmp_path / "a.nii"))
    for found in (warnings, inner):
        assert len(found) == 1
        assert found[0].endswith("has unexpected scales in sform")
    assert "WARNING" not in capfd.readouterr().err
    sitk.ReadImage(str(tmp_path / "a.nii"))
    assert "unexpected scales" in capfd.readouterr().err  # afterwards, they are printed again


def test_detached_headers_find_their_voxels(tmp_path) -> None:
    for suffix in (".mhd", ".nhdr"):
        for packed in (False, True):
            sitk.WriteImage(image(noise(oblique()), oblique()), str(tmp_path / f"a{suffix}"), packed)
            assert np.array_equal(io.read_volume(tmp_path / f"a{suffix}").data, noise(oblique()))
        data = next(p for p in tmp_path.iterdir() if p.suffix in (".zraw", ".gz"))
        data.unlink()
        with pytest.raises(InputError, match=r"is not there\. Copy it beside the header"):
            io.read_volume(tmp_path / f"a{suffix}")


# ---- pictures


def test_pictures_get_8_or_16_bits(tmp_path) -> None:
    grid = centered_grid((20, 30), (1, 1))
    smooth = np.abs(noise(grid))
    for name, data, dtype in (
        ("a.png", smooth, np.uint8),
        ("a.png", smooth * 100, np.uint16),
        ("a.tif", smooth, np.uint8),
        ("a.tiff", smooth * 100, np.uint16),
        ("a.bmp", smooth, np.uint8),
    ):
        io.write_volume(tmp_path / name, Volume(grid, data))
        again = sitk.ReadImage(str(tmp_path / name))
        values = sitk.GetArrayFromImage(again)
        values = values[..., 0] if values.ndim == 3 else values  # ITK reads BMP in color
        assert values.dtype == dtype, name
        assert np.array_equal(values, np.rint(data)), name
    ramp = np.add.outer(np.arange(20), np.arange(30)).astype(np.float32) * 3.3
    io.write_volume(tmp_path / "a.jpg", Volume(grid, ramp))
    assert np.abs(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.jpg"))) - ramp).max() <= 4


@pytest.mark.parametrize("largest", [1, 255, 256, 65535])
def test_labels_in_pictures_are_exact(tmp_path, largest) -> None:
    labels = np.random.default_rng(0).integers(0, largest + 1, (20, 30)).astype(np.int32)
    labels[0, 0] = largest
    for name in ("a.png", "a.tif"):
        io.write_volume(tmp_path / name, Volume(centered_grid((20, 30), (1, 1)), labels))
        assert np.array_equal(io.read_labels(tmp_path / name).data, labels)
        raw = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / name)))
        assert raw.dtype == (np.uint8 if largest < 256 else np.uint16)
    with pytest.raises(InputError, match="JPEG changes values"):
        io.write_volume(tmp_path / "a.jpg", Volume(centered_grid((20, 30), (1, 1)), labels))


def test_what_a_picture_cannot_hold_is_said(tmp_path) -> None:
    grid = centered_grid((20, 30), (1, 1))
    for name, data, message in (
        ("a.png", noise(grid), r"a\.png: it holds values from -\d+.*0 to 65535.*\.nii\.gz"),
        ("a.png", np.abs(noise(grid)) * 1e4, "0 to 65535"),
        ("a.bmp", np.abs(noise(grid)) * 100, "0 to 255"),
        ("a.jpg", np.abs(noise(grid)) * 100, "0 to 255"),
        ("a.png", np.abs(noise(grid)) / 1000, "fractions"),
        ("a.png", np.where(noise(grid) > 0, np.nan, 1).astype(np.float32), "NaN"),
        ("a.png", np.full(grid.shape, 70000, np.int32), "65535"),
    ):
        with pytest.raises(InputError, match=message):
            io.write_volume(tmp_path / name, Volume(grid, data))
    with pytest.raises(InputError, match="one slice"):
        io.write_volume(tmp_path / "a.png", Volume(oblique(), noise(oblique())))
    assert list(tmp_path.iterdir()) == []
    for data in (noise(grid), np.abs(noise(grid)) / 1000):  # TIFF has floating-point numbers too
        io.write_volume(tmp_path / "a.tif", Volume(grid, data))
        assert np.array_equal(io.read_volume(tmp_path / "a.tif").data, data)


def test_a_slice_of_space_becomes_a_picture(tmp_path) -> None:
    grid = Grid((6, 1, 7), oblique().affine).flattened()
    io.write_volume(tmp_path / "a.png", Volume(grid, np.abs(noise(grid))))
    assert np.array_equal(io.read_volume(tmp_path / "a.png").data, np.rint(np.abs(noise(grid))))


def test_stacks_of_tiff_keep_their_values(tmp_path) -> None:
    data = noise(oblique())
    io.write_volume(tmp_path / "a.tif", Volume(oblique(), data))
    assert np.array_equal(io.read_volume(tmp_path / "a.tif").data, data)


def test_three_layers_of_a_segmentation_are_no_color(tmp_path) -> None:
    layers = np.zeros((*oblique().shape, 3), np.uint8)
    layers[1, ..., 0], layers[2, ..., 1], layers[2:, ..., 2] = 1, 2, 3
    path = tmp_path / "a.seg.nrrd"
    sitk.WriteImage(image(layers, oblique(), vector=True), str(path))
    raw = path.read_bytes()
    assert b"kinds: vector domain" in raw
    path.write_bytes(raw.replace(b"kinds: vector domain", b"kinds: list domain"))
    assert np.array_equal(io.read_labels(f"{path}[2]").data, layers[..., 2])
    with pytest.raises(InputError, match="3 components"):
        io.read_volume(path)
    # All of them at once: a number for each combination of layers that occurs.
    combined = io.read_labels(path)
    found = {tuple(voxel) for voxel in np.c_[layers.reshape(-1, 3), combined.data.reshape(-1)].tolist()}
    assert len({voxel[:3] for voxel in found}) == len({voxel[3] for voxel in found}) == len(found)


def test_colors_that_itk_wrote_as_nifti_vectors_are_colors(tmp_path) -> None:
    data = np.random.default_rng(0).integers(0, 256, (*oblique().shape, 3), dtype=np.uint8)
    sitk.WriteImage(image(data, oblique(), vector=True), str(tmp_path / "a.nii.gz"))
    expected = data[..., 0] * 0.299 + data[..., 1] * 0.587 + data[..., 2] * 0.114
    assert np.allclose(io.read_volume(tmp_path / "a.nii.gz").data, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<!DOCTYPE html><html>404</html>", "web page"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        ("hello", "no image file"),
    ],
)
def test_what_is_no_image_at_all_is_named(tmp_path, content, message) -> None:
    (tmp_path / "a.nii.gz").write_text(content)
    with pytest.raises(InputError, match=message):
        io.read_volume(tmp_path / "a.nii.gz")


def test_a_long_header_of_nrrd_is_read(tmp_path) -> None:
    sitk.WriteImage(image(noise(oblique()), oblique()), str(tmp_path / "a.nrrd"))
    raw = (tmp_path / "a.nrrd").read_bytes()
    note = b"\nencoding: raw\nSegment0_Tags:=" + b"x" * 300_000
    (tmp_path / "a.nrrd").write_bytes(raw.replace(b"\nencoding: raw", note))
    assert np.array_equal(io.read_volume(tmp_path / "a.nrrd").data, noise(oblique()))
