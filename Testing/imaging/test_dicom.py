# SPDX-License-Identifier: Apache-2.0
import dicom_fuzzing
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from DeepFLASHRegistrationLib.imaging import io
from DeepFLASHRegistrationLib.imaging.dicom.elements import read_elements
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.support.errors import InputError
from dicom_files import (
    AXIAL,
    MR,
    dataset,
    enhanced,
    line,
    normal_of,
    one_item,
    plane,
    save,
    value,
    write_stack,
)
from imaging_shapes import noise, oblique, rotation


def write_series(folder, uid: str, number: int, data: np.ndarray, positions=None) -> None:
    folder.mkdir(exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k, layer in enumerate(data):
        z = 2.5 * k if positions is None else positions[k]
        slice_ = sitk.GetImageFromArray(layer.astype(np.int16))
        for key, text in (
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
            slice_.SetMetaData(key, text)
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


def test_the_grid_of_a_series_is_read_too(tmp_path) -> None:
    write_series(tmp_path / "d", "1.2.3.4", 1, np.zeros((5, 6, 7)))
    expected = ((2.5, 1, 1), (1, 2, 0))
    for path in (tmp_path / "d", tmp_path / "d" / "1_2.dcm"):
        grid = io.read_grid(path)
        assert grid.shape == (5, 6, 7)
        assert np.allclose((grid.spacing, grid.origin), expected)


def values_are_right(volume, covered=None, tolerance=0.51) -> None:
    """Each voxel holds what the formula says of its place."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in volume.grid.shape], indexing="ij"), -1)
    points = volume.grid.index_to_physical(index)
    if volume.plane is not None:
        points = volume.grid.lift(points)
    wrong = np.abs(volume.data - value(points))
    if covered is not None:
        where = covered(points)
        assert where.mean() > 0.4
        wrong = wrong[where]
    assert wrong.max() <= tolerance


OBLIQUE = rotation((1, 2, 3), 25).T[:2]
ORIENTATIONS = {
    "axial": AXIAL,
    "coronal": ((1, 0, 0), (0, 0, -1)),
    "sagittal": ((0, 1, 0), (0, 0, -1)),
    "flipped": ((-1, 0, 0), (0, 1, 0)),
    "oblique": OBLIQUE,
    "oblique from behind": (-OBLIQUE[1], OBLIQUE[0]),
}


@pytest.mark.parametrize("axes", ORIENTATIONS.values(), ids=ORIENTATIONS)
@pytest.mark.parametrize("direction", [1, -1])
def test_slices_lie_where_their_headers_say(tmp_path, axes, direction) -> None:
    positions = line(direction * 4 * normal_of(axes))
    files = write_stack(tmp_path / "d", positions, axes=axes)
    for path in (tmp_path / "d", files[3]):
        volume = io.read_volume(path)
        assert volume.grid.shape == (9, 12, 10)
        assert np.allclose(volume.grid.spacing, (4, 1.5, 2), rtol=1e-5)
        values_are_right(volume)
        assert io.read_grid(path).same_as(volume.grid)
    assert not io.read_volume(tmp_path / "d").notes


def test_what_itk_reads_of_a_plain_series_is_read_the_same(tmp_path) -> None:
    files = write_stack(tmp_path, line(4 * normal_of(OBLIQUE)), axes=OBLIQUE)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(f) for f in files])
    image, volume = reader.Execute(), io.read_volume(tmp_path)
    assert volume.grid.same_as(Grid.from_image(image), 1e-3)
    assert np.array_equal(volume.data, sitk.GetArrayFromImage(image))


@pytest.mark.parametrize("degrees", [15, -22, 3])
def test_a_tilted_gantry_is_resampled_on_an_orthogonal_grid(tmp_path, degrees) -> None:
    angle = np.deg2rad(degrees)
    axes = ((1, 0, 0), (0, np.cos(angle), -np.sin(angle)))
    shape = (40, 10)
    write_stack(tmp_path, line((0, 0, 4)), axes=axes, shape=shape)
    volume = io.read_volume(tmp_path)
    assert np.allclose(volume.grid.spacing, (4 * np.cos(angle), 1.5, 2), rtol=1e-4)
    assert any(f"{abs(degrees):g} degrees" in note for note in volume.notes)
    down = np.array(axes[1])

    def covered(points):  # from the table's motion: which place of which slice a point is
        slices = (points - (-9, -8, -20)) @ normal_of(axes) / (4 * np.cos(angle))
        rows = (points - (-9, -8, -20) - slices[..., None] * (0, 0, 4)) @ down / 1.5
        return (rows > 0.002) & (rows < shape[0] - 1.002)

    values_are_right(volume, covered)
    inside = covered(volume.grid.index_to_physical(np.moveaxis(np.indices(volume.grid.shape), 0, -1)))
    assert inside.sum() >= 9 * 10 * (shape[0] - 2)  # nothing acquired is cut off
    assert np.all(volume.data[~inside] >= value(np.array([-9, -8, -20]) - 200))


def test_slices_shifted_against_each_other_are_put_where_they_belong(tmp_path) -> None:
    positions = line((0, 0, 4))
    positions[5:, 0] += 6
    write_stack(tmp_path, positions)
    volume = io.read_volume(tmp_path)
    assert any("shifted against each other by up to 6 mm" in note for note in volume.notes)
    values_are_right(volume, lambda p: np.where(p[..., 2] >= 0, p[..., 0] > -3.1, p[..., 0] < 9.1))


@pytest.mark.parametrize("missing", [[4], [2, 3, 4], [1, 6]])
def test_missing_slices_are_filled_in_their_places_and_named(tmp_path, missing) -> None:
    write_stack(tmp_path, np.delete(line((0, 0, 4)), missing, axis=0))
    volume = io.read_volume(tmp_path)
    assert volume.grid.shape == (9, 12, 10)
    assert np.allclose(volume.grid.spacing[0], 4)
    values_are_right(volume)
    (note,) = volume.notes
    assert f"{len(missing)} of the 9 slices used" in note
    assert f"between a{missing[0] - 1:03d}.dcm" in note


def test_two_spacings_in_one_scan_are_read_at_the_finer(tmp_path) -> None:
    heights = np.concatenate([np.arange(5) * 2.5, 10 + 5 * np.arange(1, 7)])
    write_stack(tmp_path, [(0, 0, z) for z in heights])
    volume = io.read_volume(tmp_path)
    assert np.allclose(volume.grid.spacing[0], 2.5)
    assert volume.grid.shape[0] == 17
    values_are_right(volume)
    assert "2.5 to 5 mm" in volume.notes[0]


def test_uneven_slices_are_interpolated_at_even_ones(tmp_path) -> None:
    write_stack(tmp_path, [(0, 0, z) for z in (0, 4, 8, 11.6, 16, 20.3, 24)])
    volume = io.read_volume(tmp_path)
    values_are_right(volume, tolerance=0.3 * 5)  # within 2 % of a step slices stay as they are
    assert "not equally spaced" in volume.notes[0]


def test_a_wide_gap_is_refused(tmp_path) -> None:
    write_stack(tmp_path, np.delete(line((0, 0, 4), 20), range(6, 13), axis=0))
    with pytest.raises(InputError, match=r"slices are missing.*between a005\.dcm and a006\.dcm"):
        io.read_volume(tmp_path)


def test_rounded_headers_leave_a_series_as_it_is(tmp_path) -> None:
    axes = np.round(OBLIQUE, 4)
    write_stack(tmp_path, np.round(line(1.25 * normal_of(OBLIQUE), 30), 2), axes=axes)
    volume = io.read_volume(tmp_path)
    assert not volume.notes
    values_are_right(volume, tolerance=0.51 + 0.02 * 10)


SCOUTS = {
    "same matrix": {"axes": ((1, 0, 0), (0, 0, -1))},
    "said by its type": {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
    "other matrix": {"axes": ((1, 0, 0), (0, 0, -1)), "shape": (30, 20), "spacing": (4, 4)},
    "other spacing": {"spacing": (3, 3)},
}


@pytest.mark.parametrize("scout", SCOUTS.values(), ids=SCOUTS)
def test_a_scout_in_the_series_is_left_out_and_named(tmp_path, scout) -> None:
    write_stack(tmp_path, line((0, 0, 4)))
    file = save(tmp_path, "scout.dcm", dataset((-40, 3, 60), InstanceNumber=99, **scout))
    volume = io.read_volume(tmp_path)
    assert volume.grid.shape == (9, 12, 10)
    values_are_right(volume)
    assert any("left out" in note and "scout.dcm" in note for note in volume.notes)
    assert io.read_volume(tmp_path / "a004.dcm").grid.same_as(volume.grid)
    alone = io.read_volume(file)
    assert alone.ndim == 2
    values_are_right(alone)


# mm from the stack's first slice along the normal, and beside it in the plane.
STRAYS = {
    "first": (-13.0, 0),
    "last": (61.0, 0),
    "middle": (18.0, 0),
    "near a slice": (16.5, 0),
    "beside": (18.0, 40),
    "first and beside": (-4.0, 30),
    "far at a whole step": (-48.0, 0),
    "very far": (400.0, 0),
}


@pytest.mark.parametrize("axes", [AXIAL, OBLIQUE], ids=["axial", "oblique"])
@pytest.mark.parametrize("at", STRAYS.values(), ids=STRAYS)
def test_a_scout_like_the_stack_that_is_not_named_so_is_left_out(tmp_path, axes, at) -> None:
    normal = normal_of(axes)
    write_stack(tmp_path, line(4 * normal), axes=axes)
    place = np.array((-9, -8, -20)) + at[0] * normal + at[1] * np.array(axes[0])
    file = save(tmp_path, "scout.dcm", dataset(place, axes, InstanceNumber=0))
    for path in (tmp_path, tmp_path / "a004.dcm"):
        volume = io.read_volume(path)
        assert volume.grid.shape == (9, 12, 10)
        assert np.allclose(volume.grid.spacing[0], 4, rtol=1e-4)
        values_are_right(volume)
        assert any("left out" in note and "scout.dcm" in note for note in volume.notes)
    alone = io.read_volume(file)
    assert alone.ndim == 2
    values_are_right(alone)


def test_two_scouts_like_the_stack_are_left_out_and_both_named(tmp_path) -> None:
    write_stack(tmp_path, line((0, 0, 4), 40))
    save(tmp_path, "s1.dcm", dataset((-9, -8, -20 + 18), InstanceNumber=0))
    save(tmp_path, "s2.dcm", dataset((-9, -8, -20 + 102.7), InstanceNumber=1))
    volume = io.read_volume(tmp_path)
    assert volume.grid.shape == (40, 12, 10)
    values_are_right(volume)
    assert any("s1.dcm" in note and "s2.dcm" in note for note in volume.notes)


KINDS = {
    "echo": ({"EchoTime": 5}, {"EchoTime": 80}),
    "inversion": ({"InversionTime": 100}, {"InversionTime": 900}),
    "phase": ({"ImageType": ["ORIGINAL", "PRIMARY", "M"]}, {"ImageType": ["ORIGINAL", "PRIMARY", "P"]}),
    "description": ({"SeriesDescription": "T1 ax"}, {"SeriesDescription": "T2 ax"}),
    "thickness": ({"SliceThickness": 4}, {"SliceThickness": 2}),
}


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_slices_of_two_kinds_between_one_another_are_two_volumes(tmp_path, kinds) -> None:
    """Not one of half the step and alternating contrast."""
    for offset, kind in zip((0, 2), kinds, strict=True):
        for k in range(8):
            at = (-9, -8, -20 + offset + 4 * k)
            save(tmp_path, f"{offset}_{k}.dcm", dataset(at, InstanceNumber=10 * offset + k, **kind))
    with pytest.raises(InputError, match="holds 2 stacks of DICOM slices"):
        io.read_volume(tmp_path)
    for offset in (0, 2):
        volume = io.read_volume(tmp_path / f"{offset}_3.dcm")
        assert volume.grid.shape[0] == 8
        assert volume.grid.spacing[0] == pytest.approx(4, rel=1e-4)
        values_are_right(volume)


def test_two_contrasts_one_behind_the_other_are_two_volumes_and_two_acquisitions_are_one(tmp_path) -> None:
    for folder, tag, count in (("b", "DiffusionBValue", 2), ("spirals", "AcquisitionNumber", 1)):
        for k in range(16):
            value = {tag: (0.0, 1000.0)[k // 8] if count == 2 else 1 + k // 8}
            save(tmp_path / folder, f"{k}.dcm", dataset((-9, -8, -20 + 4 * k), InstanceNumber=k, **value))
        if count == 2:
            with pytest.raises(InputError, match="holds 2 stacks"):
                io.read_volume(tmp_path / folder)
        else:
            assert io.read_volume(tmp_path / folder).grid.shape[0] == 16


def test_values_that_vary_from_slice_to_slice_split_no_stack(tmp_path) -> None:
    for k in range(16):
        vary = {"SliceThickness": 4 + 0.001 * (k * 7 % 5), "AcquisitionTime": f"1200{k % 2:02d}", "EchoTime": 5}
        save(tmp_path, f"{k}.dcm", dataset((-9, -8, -20 + 4 * k), InstanceNumber=k, **vary))
    volume = io.read_volume(tmp_path)
    assert volume.grid.shape[0] == 16
    values_are_right(volume)


def test_many_scouts_of_another_kind_are_left_out_and_named(tmp_path) -> None:
    write_stack(tmp_path, line((0, 0, 4), 20), EchoTime=5)
    for k in range(3):
        other = {"EchoTime": 2, "SliceThickness": 10, "SeriesDescription": "localizer"}
        save(tmp_path, f"scout{k}.dcm", dataset((-9, -8, -20 + 10 + 20 * k), InstanceNumber=900 + k, **other))
    volume = io.read_volume(tmp_path)
    assert volume.grid.shape[0] == 20
    assert volume.grid.spacing[0] == pytest.approx(4, rel=1e-4)
    values_are_right(volume)
    assert any("left out" in note and "scout0.dcm" in note for note in volume.notes)


def test_a_scout_between_tilted_slices_is_left_out(tmp_path) -> None:
    axes = ((1, 0, 0), (0, np.cos(0.2), -np.sin(0.2)))
    write_stack(tmp_path, line((0, 0, 4), 20), axes=axes)
    save(tmp_path, "scout.dcm", dataset((-9, -8, -20 + 18), axes, InstanceNumber=0))
    volume = io.read_volume(tmp_path)
    assert volume.grid.shape[0] == 20
    assert any("degrees" in note for note in volume.notes)
    assert any("scout.dcm" in note for note in volume.notes)


def test_a_scout_in_each_of_several_volumes_is_left_out(tmp_path) -> None:
    echoes(tmp_path, lambda k, e: 2 * k + e)
    save(tmp_path, "scout.dcm", dataset((-9, -8, -20 + 18), SOPClassUID=MR, EchoTime=5, InstanceNumber=0))
    volume = io.read_volume(f"{tmp_path}[0]")
    values_are_right(volume)
    assert io.open_image(tmp_path).count == 2
    assert any("scout.dcm" in note for note in volume.notes)


@pytest.mark.parametrize("heights", [(0, 4, 8, 12, 17), (0, 4, 8, 12, 16, 22, 31, 45, 60)])
def test_slices_too_few_or_too_uneven_are_not_left_out(tmp_path, heights) -> None:
    write_stack(tmp_path, [(0, 0, z) for z in heights])
    volume = io.read_volume(tmp_path)
    assert not any("left out" in note for note in volume.notes)
    assert np.isclose(volume.grid.spacing[0] * (volume.grid.shape[0] - 1), heights[-1], atol=4)


def test_a_report_in_color_beside_a_series_is_left_out(tmp_path) -> None:
    write_stack(tmp_path, line((0, 0, 4)))
    picture = np.zeros((40, 50, 3), np.uint8)
    save(
        tmp_path, "report.dcm",
        dataset(values=picture[..., 0], PixelData=picture.tobytes(), SamplesPerPixel=3, PhotometricInterpretation="RGB",
                PlanarConfiguration=0, BitsAllocated=8, BitsStored=8, HighBit=7, SeriesInstanceUID="1.2.3.9",
                ImagePositionPatient=None, ImageOrientationPatient=None),
    )  # fmt: skip
    volume = io.read_volume(tmp_path)
    values_are_right(volume)
    assert any("report.dcm" in note for note in volume.notes)


def test_what_is_no_slice_is_passed_over(tmp_path) -> None:
    write_stack(tmp_path, line((0, 0, 4)))
    (tmp_path / "readme.txt").write_text("text")
    (tmp_path / "DICOMDIR").write_bytes(b"")
    (tmp_path / "sub").mkdir()
    contours = dataset(SOPClassUID="1.2.840.10008.5.1.4.1.1.481.3", PixelData=None, Rows=None, Columns=None)
    save(tmp_path, "contours.dcm", contours)
    assert not io.read_volume(tmp_path).notes
    with pytest.raises(InputError, match="holds no image"):
        io.read_volume(tmp_path / "contours.dcm")


def echoes(folder, order):
    """Two echoes in one series; the second holds half of the first."""
    positions = line((0, 0, 4))
    for k in range(9):
        for e in range(2):
            found = dataset(
                positions[k], values=plane(positions[k]) / (1 + e), SOPClassUID=MR, EchoTime=(5, 80)[e],
                InstanceNumber=order(k, e),
            )  # fmt: skip
            save(folder, f"e{e}_{k:02d}.dcm", found)


@pytest.mark.parametrize("order", [lambda k, e: 2 * k + e, lambda k, e: 9 * e + k], ids=["by turns", "one by one"])
def test_echoes_of_one_series_are_named_and_one_can_be_chosen(tmp_path, order) -> None:
    echoes(tmp_path, order)
    with pytest.raises(InputError, match="holds 2 volumes") as error:
        io.read_volume(tmp_path)
    assert "[0]" in str(error.value)
    assert "echo time 80" in str(error.value)
    for path in (f"{tmp_path}[0]", tmp_path / "e0_04.dcm"):
        values_are_right(io.read_volume(path))
    for path in (f"{tmp_path}[1]", tmp_path / "e1_04.dcm"):
        volume = io.read_volume(path)
        values_are_right(volume.with_data(2 * volume.data), tolerance=1.01)
    mean = io.read_volume(f"{tmp_path}[mean]")
    values_are_right(mean.with_data(mean.data / 0.75), tolerance=1.01)
    assert io.read_grid(tmp_path).same_as(mean.grid)


@pytest.mark.parametrize("told", ["TemporalPositionIdentifier", "DiffusionBValue", "AcquisitionNumber", None])
def test_points_in_time_and_directions_are_volumes_of_one_series(tmp_path, told) -> None:
    positions = line((0, 0, 4), 5)
    for t in range(3):
        for k in range(5):
            found = dataset(positions[k], values=plane(positions[k]) + 100 * t, InstanceNumber=5 * t + k + 1)
            if told:
                setattr(found, told, t + 1)
            save(tmp_path, f"t{t}_{k}.dcm", found)
    for t in range(3):
        volume = io.read_volume(f"{tmp_path}[{t}]")
        values_are_right(volume.with_data(volume.data - 100 * t))
    assert io.open_image(tmp_path).count == 3
    with pytest.raises(InputError, match="3 volumes"):
        io.read_volume(f"{tmp_path}[3]")


def test_slices_at_one_place_that_nothing_tells_apart_are_refused(tmp_path) -> None:
    write_stack(tmp_path, line((0, 0, 4)))
    write_stack(tmp_path, line((0, 0, 4))[2:5], prefix="b")
    with pytest.raises(InputError, match="lie at the same place"):
        io.read_volume(tmp_path)


def test_copies_of_slices_are_read_once(tmp_path) -> None:
    files = write_stack(tmp_path, line((0, 0, 4)))
    for file in files[2:5]:
        (tmp_path / f"{file.stem} (1).dcm").write_bytes(file.read_bytes())
    values_are_right(io.read_volume(tmp_path))


def test_two_stacks_of_one_series_are_named_and_chosen_by_file(tmp_path) -> None:
    write_stack(tmp_path, line((0, 0, 4)))
    axes = ((0, 1, 0), (0, 0, -1))
    write_stack(tmp_path, line(4 * normal_of(axes), 6), prefix="b", axes=axes)
    with pytest.raises(InputError, match="2 stacks") as error:
        io.read_volume(tmp_path)
    assert "9 slices" in str(error.value)
    assert "6 slices" in str(error.value)
    for name, count in (("a002.dcm", 9), ("b002.dcm", 6)):
        volume = io.read_volume(tmp_path / name)
        assert volume.grid.shape[0] == count
        values_are_right(volume)


def test_each_slice_has_its_own_rescaling(tmp_path) -> None:
    slopes = [1, 0.5, 0.25, 2, 1, 1, 0.5, 3, 1]
    for k, position in enumerate(line((0, 0, 4))):
        stored = (plane(position) + 500) / slopes[k]
        save(tmp_path, f"{k}.dcm", dataset(position, values=stored, RescaleSlope=slopes[k], RescaleIntercept=-500))
    values_are_right(io.read_volume(tmp_path), tolerance=1.51)


@pytest.mark.parametrize("signed", [0, 1])
def test_bits_beside_the_stored_ones_are_no_part_of_the_value(tmp_path, signed) -> None:
    """12 bits of 16, with an overlay in the upper four (PS3.5, section 8.1.1)."""
    stored = np.arange(-60, 60).reshape(12, 10) if signed else np.arange(3900, 4020).reshape(12, 10)
    packed = (stored & 0x0FFF) | 0xA000
    save(tmp_path, "a.dcm", dataset(values=packed, BitsStored=12, HighBit=11, PixelRepresentation=signed))
    assert np.array_equal(io.read_volume(tmp_path / "a.dcm").data, stored)


def test_a_single_slice_is_a_picture_in_its_plane(tmp_path) -> None:
    file = save(tmp_path, "a.dcm", dataset((3, -4, 17), OBLIQUE))
    for path in (tmp_path, file):
        volume = io.read_volume(path)
        assert volume.ndim == 2
        values_are_right(volume)
        assert np.isclose(abs(volume.grid.slice_step), 4)


def test_an_image_that_states_no_place_is_read_with_a_note(tmp_path) -> None:
    file = save(tmp_path, "a.dcm", dataset(ImagePositionPatient=None, ImageOrientationPatient=None))
    volume = io.read_volume(file)
    assert np.allclose(volume.grid.spacing, (1.5, 2))
    assert any("do not state where" in note for note in volume.notes)


def test_several_slices_that_state_no_place_make_no_volume(tmp_path) -> None:
    write_stack(tmp_path, line((0, 0, 4)), ImagePositionPatient=None, ImageOrientationPatient=None)
    with pytest.raises(InputError, match="9 volumes"):  # pictures, each of which can be chosen
        io.read_volume(tmp_path)
    assert io.read_volume(f"{tmp_path}[2]").ndim == 2


@pytest.mark.parametrize("axes", [AXIAL, OBLIQUE], ids=["axial", "oblique"])
@pytest.mark.parametrize("order", [range(9), range(8, -1, -1), [3, 0, 7, 1, 8, 2, 6, 4, 5]])
def test_frames_of_one_file_lie_where_each_says(tmp_path, axes, order) -> None:
    positions = line(4 * normal_of(axes))[list(order)]
    file = save(tmp_path, "a.dcm", enhanced(positions, axes))
    for path in (tmp_path, file):
        volume = io.read_volume(path)
        assert volume.grid.shape == (9, 12, 10)
        values_are_right(volume)


def test_frames_have_their_own_rescaling_and_gaps(tmp_path) -> None:
    positions = np.delete(line((0, 0, 4)), 4, axis=0)
    save(tmp_path, "a.dcm", enhanced(positions, slopes=[1, 0.5, 2, 1, 0.5, 1, 1, 3]))
    volume = io.read_volume(tmp_path)
    assert np.allclose(volume.grid.spacing[0], 4)
    values_are_right(volume, tolerance=1.51)
    assert "not equally spaced" in volume.notes[0]


def test_frames_in_time_are_volumes_of_one_file(tmp_path) -> None:
    positions = np.concatenate([line((0, 0, 4)), line((0, 0, 4))])

    def told(k):
        frame = pydicom.Dataset()
        frame.FrameContentSequence = one_item(TemporalPositionIndex=1 + k // 9)
        return frame

    found = enhanced(positions, frames=told)
    pixels = np.frombuffer(found.PixelData, "<u2").reshape(18, 12, 10).copy()
    pixels[9:] += 100
    found.PixelData = pixels.tobytes()
    file = save(tmp_path, "a.dcm", found)
    with pytest.raises(InputError, match="time point 2"):
        io.read_volume(file)
    volume = io.read_volume(f"{file}[1]")
    values_are_right(volume.with_data(volume.data - 100))


def test_a_film_without_places_is_frames(tmp_path) -> None:
    found = dataset(ImagePositionPatient=None, ImageOrientationPatient=None, NumberOfFrames=4)
    found.PixelData = np.stack([plane((0, 0, z)) for z in range(4)]).astype("<u2").tobytes()
    file = save(tmp_path, "a.dcm", found)
    assert io.open_image(file).count == 4
    assert np.array_equal(io.read_volume(f"{file}[2]").data, plane((0, 0, 2)).astype("u2"))


def test_a_radiation_dose_lies_along_its_offsets(tmp_path) -> None:
    planes = np.stack([plane((-9, -8, -20 + z)) for z in (0, 2.5, 5, 7.5)])
    found = dataset((-9, -8, -20), NumberOfFrames=4, GridFrameOffsetVector=[0, 2.5, 5, 7.5], DoseGridScaling=0.5)
    found.PixelData = np.rint(2 * planes).astype("<u2").tobytes()
    save(tmp_path, "dose.dcm", found)
    volume = io.read_volume(tmp_path)
    assert np.allclose(volume.grid.spacing[0], 2.5)
    values_are_right(volume)


@pytest.mark.parametrize("syntax", ["implicit", "big endian", "deflated", "RLE", "without preamble"])
def test_every_transfer_syntax_gives_the_same_image(tmp_path, syntax) -> None:
    for k, position in enumerate(line((0, 0, 4))):
        found = dataset(position, RescaleSlope=2, RescaleIntercept=-10, values=(plane(position) + 10) / 2)
        file = tmp_path / f"{k}.dcm"
        if syntax == "RLE":
            found.compress(pydicom.uid.RLELossless)
        elif syntax == "deflated":
            found.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
        elif syntax == "big endian":
            found.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
            found.PixelData = np.frombuffer(found.PixelData, "<u2").astype(">u2").tobytes()
        elif syntax == "implicit":
            found.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        if syntax == "without preamble":
            del found.file_meta
            found.save_as(file, implicit_vr=True, little_endian=True)
        else:
            save(tmp_path, file.name, found)
    values_are_right(io.read_volume(tmp_path), tolerance=1.01)


@pytest.mark.parametrize("compressor", ["JPEG", "JPEG2000"])
def test_compressed_slices_are_decoded(tmp_path, compressor) -> None:
    positions = line((0, 0, 4), 4)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetCompressor(compressor)
    writer.UseCompressionOn()
    for k, position in enumerate(positions):
        plain = save(tmp_path / "plain", f"{k}.dcm", dataset(position))
        image = sitk.ReadImage(str(plain))
        image.SetMetaData("0020|000e", "1.2.3.4")
        (tmp_path / "packed").mkdir(exist_ok=True)
        writer.SetFileName(str(tmp_path / "packed" / f"{k}.dcm"))
        writer.Execute(image)
    assert pydicom.dcmread(tmp_path / "packed" / "0.dcm").file_meta.TransferSyntaxUID.is_compressed
    values_are_right(io.read_volume(tmp_path / "packed"))


def test_colors_of_one_picture_are_read_as_luminance(tmp_path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    for planar in (0, 1):
        stored = np.moveaxis(picture, -1, 0) if planar else picture
        found = dataset(
            values=picture[..., 0], PixelData=np.ascontiguousarray(stored).tobytes(), SamplesPerPixel=3,
            PhotometricInterpretation="RGB", PlanarConfiguration=planar, BitsAllocated=8, BitsStored=8, HighBit=7,
        )  # fmt: skip
        image = io.open_image(save(tmp_path, f"{planar}.dcm", found))
        assert image.channels == 3
        assert np.array_equal(next(image.volumes(0, 1))[0], picture)


def test_labels_are_not_read_between_slices(tmp_path) -> None:
    for k in (0, 1, 3, 4):
        labels = np.full((12, 10), 0 if k < 2 else 2)
        save(tmp_path, f"{k}.dcm", dataset((0, 0, 4 * k), values=labels))
    for read in (io.read_labels, io.read_mask):
        with pytest.raises(InputError, match="not equally spaced"):
            read(tmp_path)


DAMAGED = {
    "cut off": (None, "cut off"),
    "no orthogonal axes": ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "ImageOrientationPatient"),
    "a position of two numbers": ({"ImagePositionPatient": [1, 2]}, "ImagePositionPatient"),
    "no position beside an orientation": ({"ImagePositionPatient": None}, "ImagePositionPatient"),
    "slope 0": ({"RescaleSlope": 0, "RescaleIntercept": 1}, "RescaleSlope"),
    "more rows than it holds": ({"Rows": 60000}, "60000"),
    "as many frames as nothing holds": ({"NumberOfFrames": 99999}, "99999"),
    "a spacing of 0": ({"PixelSpacing": [0, 1]}, "PixelSpacing"),
}


@pytest.mark.parametrize(("elements", "reason"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_slice_is_named_and_not_filled_in(tmp_path, elements, reason) -> None:
    files = write_stack(tmp_path, line((0, 0, 4)))
    if elements is None:
        files[4].write_bytes(files[4].read_bytes()[:-50])
    else:
        save(tmp_path, files[4].name, dataset(line((0, 0, 4))[4], **elements))
    with pytest.raises(InputError, match=reason):
        io.read_volume(files[4])
    with pytest.raises(InputError) as error:
        io.read_volume(tmp_path)
    assert "a004.dcm" in str(error.value)


def test_headers_are_read_as_pydicom_reads_them(tmp_path) -> None:
    file = save(tmp_path, "a.dcm", enhanced(line((0, 0, 4))))
    expected, found = pydicom.dcmread(file), read_elements(file)
    assert found.text(0x0008103E) == expected.SeriesDescription
    assert found.unsigned(0x00280010, 0) == expected.Rows
    start, stop = found.pixels
    assert file.read_bytes()[start:stop] == expected.PixelData
    for ours, theirs in zip(found.items[0x52009230], expected.PerFrameFunctionalGroupsSequence, strict=True):
        position = theirs.PlanePositionSequence[0].ImagePositionPatient
        assert ours.items[0x00209113][0].numbers(0x00200032) == tuple(position)


def test_terminals_get_no_commands_from_headers(tmp_path) -> None:
    write_stack(tmp_path, line((0, 0, 4)), SeriesDescription="\x1b[31mred")
    write_stack(tmp_path, line((0, 0, 4)), prefix="b", SeriesInstanceUID="1.2.3.5")
    with pytest.raises(InputError) as error:
        io.read_volume(tmp_path)
    assert "\x1b" not in str(error.value)
    assert "[31mred" in str(error.value)


def test_damaged_files_give_a_volume_or_a_message(tmp_path) -> None:
    """By hand with more: python Testing/helpers/dicom_fuzzing.py FOLDER COUNT [KIND …]."""
    results = dicom_fuzzing.run(tmp_path, 40)
    assert {kind for kind, r in results.items() if r["failures"]} == set()
    assert min(r["refused"] for r in results.values()) > 0
