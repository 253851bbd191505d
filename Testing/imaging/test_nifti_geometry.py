# SPDX-License-Identifier: Apache-2.0
"""Where NIfTI files lie: as ITK has it, with a word where the standard has another reading, and never guessed."""

import gzip
import struct

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from DeepFLASHRegistrationLib.imaging import io
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.support.errors import InputError
from imaging_shapes import rotation

SHAPE = (6, 7, 8)  # i, j, k
DATA = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
SPACING = np.array([2.5, 1.5, 3.0])


def turned(degrees: float = 20, offset: tuple[float, ...] = (11, -22, 33)) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation((1, 2, 3), degrees) * SPACING
    matrix[:3, 3] = offset
    return matrix


def saved(
    path, sform=None, sform_code=1, qform=None, qform_code=1, units=2, kind=nibabel.Nifti1Image, data=DATA, **raw
):
    """A file by nibabel; raw: pixdim=(…) and the like to be put into the header as they are."""
    made = kind(data, None)
    made.header.set_xyzt_units(units)
    if qform is not None:
        made.header.set_qform(qform, qform_code)
    else:
        made.header["qform_code"] = 0
        made.header["pixdim"][1:4] = SPACING if sform is None else np.linalg.norm(sform[:3, :3], axis=0)
    if sform is not None:
        made.header.set_sform(sform, sform_code)
    for name, value in raw.items():
        made.header[name] = value
    made.to_filename(path)
    return path


def read(path):
    volume = io.read_volume(path)
    return volume, "\n".join(volume.notes)


def ras(grid: Grid) -> np.ndarray:
    """The grid's matrix from i, j, k to RAS mm."""
    return np.diag([-1, -1, 1, 1]) @ grid.affine[:, [2, 1, 0, 3]]


def by_itk(path) -> Grid:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return Grid.from_image(reader)


# ---- which of two


@pytest.mark.parametrize("sform_code", [0, 1, 2, 3])
@pytest.mark.parametrize("qform_code", [0, 1, 2])
@pytest.mark.parametrize("apart", [0.0, 1e-5, 19.0])
def test_the_matrix_is_the_one_that_itk_takes_and_the_other_is_named(tmp_path, sform_code, qform_code, apart) -> None:
    sform = turned()
    qform = turned(offset=(11 + apart, -22, 33))
    path = saved(tmp_path / "a.nii", sform, sform_code, qform, qform_code)
    volume, notes = read(path)
    assert volume.grid.same_as(by_itk(path), 1e-3)
    if apart < 1 or 0 in (sform_code, qform_code):
        assert "apart" not in notes
    else:
        taken = "sform" if sform_code == 1 else "qform"
        assert "19 mm apart" in notes
        assert f"the {taken} was taken" in notes
        assert f"sform (code {sform_code})" in notes
        assert f"qform (code {qform_code})" in notes
        assert np.allclose(volume.grid.origin, ((sform if taken == "sform" else qform)[:3, 3] * [-1, -1, 1]), atol=1e-4)


def test_many_pairs_of_matrices_lie_where_itk_has_them(tmp_path) -> None:
    rng = np.random.default_rng(1)
    path = tmp_path / "a.nii"
    for number in range(150):
        qform = turned(rng.uniform(0, 180), rng.normal(size=3) * 50)
        sform = qform.copy()
        way = number % 5
        if way == 1:
            sform[:3, 3] += rng.choice([1e-6, 1e-3, 0.2, 19])
        elif way == 2:
            sform[:3, :3] = rotation(tuple(rng.normal(size=3)), rng.choice([1e-5, 0.1, 5])) @ sform[:3, :3]
        elif way == 3:
            sform[:3, :3] *= rng.choice([1.0005, 2])
        elif way == 4:
            sform = sform.round(4)
        codes = int(rng.integers(0, 4)), int(rng.integers(0, 3))
        saved(path, sform, codes[0], qform, codes[1], pixdim=[1, *SPACING, 1, 1, 1, 1])
        assert read(path)[0].grid.same_as(by_itk(path), 1e-3), (number, codes)


def test_a_sform_with_other_lengths_than_pixdim_is_read_as_by_itk_and_noted(tmp_path) -> None:
    path = saved(tmp_path / "a.nii", turned(), pixdim=[1, 1, 1, 1, 1, 1, 1, 1])
    volume, notes = read(path)
    assert volume.grid.same_as(by_itk(path), 1e-3)
    assert "its sform as it stands places the image elsewhere" in notes


def test_neither_is_read_as_by_itk_and_noted(tmp_path) -> None:
    path = saved(tmp_path / "a.nii")
    volume, notes = read(path)
    assert volume.grid.same_as(by_itk(path), 1e-3)
    assert "neither sform nor qform" in notes


@pytest.mark.parametrize("mirrored", ["sform", "qform"])
def test_mirrored_readings_are_named(tmp_path, mirrored) -> None:
    """The sense of an axis is all that the handedness (pixdim[0]) of the qform can change."""
    flipped = turned(0) @ np.diag([1, 1, -1, 1])
    forms = {"sform": turned(0), "qform": turned(0)} | {mirrored: flipped}
    path = saved(tmp_path / "a.nii", forms["sform"], 2, forms["qform"], 1)
    volume, notes = read(path)
    assert np.allclose(ras(volume.grid), forms["sform"], atol=1e-4)
    assert volume.grid.same_as(by_itk(path), 1e-3)
    assert "sense of axes" in notes


# ---- shear


def sheared(amount: float, matrix: np.ndarray | None = None) -> np.ndarray:
    matrix = turned() if matrix is None else matrix.copy()
    matrix[:3, 1] += matrix[:3, 0] / SPACING[0] * SPACING[1] * amount
    return matrix


@pytest.mark.parametrize("qform", [None, turned()])
@pytest.mark.parametrize("sform_code", [1, 2])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_a_sheared_sform_is_refused_with_both_readings_whatever_the_qform_says(
    tmp_path, qform, sform_code, kind
) -> None:
    path = saved(tmp_path / "a.nii.gz", sheared(np.tan(np.deg2rad(13))), sform_code, qform, kind=kind)
    with pytest.raises(
        InputError, match=rf"a\.nii\.gz: .*not orthogonal.*sform \(code {sform_code}\).*77 degrees"
    ) as error:
        read(path)
    with pytest.raises(InputError, match="not orthogonal"):
        io.read_grid(path)
    text = str(error.value)
    if qform is None:
        assert "no qform" in text
    else:
        far = np.linalg.norm((sheared(np.tan(np.deg2rad(13))) - qform)[:3, 1]) * (SHAPE[1] - 0.5)
        assert f"{far:.3g} mm apart" in text
        assert "qform (code 1)" in text


@pytest.mark.parametrize("amount", [1e-5, 9e-5, 3e-4, 1e-3, 2e-3])
def test_a_sform_sheared_by_rounding_is_read_as_the_nearest_rotation(tmp_path, amount) -> None:
    path = saved(tmp_path / "a.nii", sheared(amount))
    volume, notes = read(path)
    grid = volume.grid
    assert np.abs(grid.direction.T @ grid.direction - np.eye(3)).max() < 2e-4
    assert np.allclose(grid.spacing[::-1], SPACING, rtol=1e-5)
    ends = np.array([(i, j, k, 1) for i in (0, 5) for j in (0, 6) for k in (0, 7)])
    moved = np.linalg.norm((ends @ (ras(grid) - nibabel.load(path).affine).T), axis=1)
    assert moved.max() < 0.02
    assert not notes


def test_three_decimals_are_read(tmp_path) -> None:
    path = saved(tmp_path / "a.nii", turned().round(3))
    with pytest.raises(RuntimeError):
        by_itk(path)  # what people meet elsewhere
    assert np.allclose(ras(read(path)[0].grid), turned(), atol=2e-3)


def test_a_rounding_that_moves_a_corner_is_noted(tmp_path) -> None:
    data = np.zeros((600, 600, 2), np.float32)
    data[0] = 1
    notes = read(saved(tmp_path / "a.nii.gz", sheared(2e-3), data=data))[1]
    assert "at right angles" in notes


# ---- pixdim, and what else is damaged


@pytest.mark.parametrize(
    ("pixdim", "codes"),
    [
        ((1, -2.5, 1.5, 3), (1, 1)),
        ((-1, 2.5, 1.5, 3), (1, 1)),
        ((1, -2.5, -1.5, 3), (2, 0)),
        ((-1, 2.5, 1.5, 3), (2, 0)),
    ],
)
def test_negative_lengths_mirror_nothing_where_the_sform_is_valid(tmp_path, pixdim, codes) -> None:
    path = saved(tmp_path / "a.nii", turned(), codes[0], turned(), codes[1], pixdim=[*pixdim, 1, 1, 1, 1])
    volume, notes = read(path)
    assert np.allclose(ras(volume.grid), turned(), atol=1e-4)
    assert ("is negative" in notes) == (min(pixdim[1:]) < 0)


def test_a_negative_length_without_a_sform_is_read_by_the_standard_and_noted(tmp_path) -> None:
    path = saved(tmp_path / "a.nii", qform=turned(), pixdim=[1, -2.5, 1.5, 3, 1, 1, 1, 1])
    volume, notes = read(path)
    assert np.allclose(ras(volume.grid), turned(), atol=1e-4)
    assert "mirrored" in notes


@pytest.mark.parametrize("length", [0.0, np.nan, np.inf])
def test_a_length_that_is_none_is_taken_from_the_sform_or_refused(tmp_path, length) -> None:
    pixdim = [1, 2.5, 1.5, length, 1, 1, 1, 1]
    volume, notes = read(saved(tmp_path / "a.nii", turned(), pixdim=pixdim))
    assert np.allclose(ras(volume.grid), turned(), atol=1e-4)
    assert "pixdim[3] is" in notes
    assert "from the sform" in notes
    for forms in ({"qform": turned()}, {}):
        with pytest.raises(InputError, match=r"b\.nii: pixdim\[3\] is .*Write the distance"):
            read(saved(tmp_path / "b.nii", pixdim=pixdim, **forms))


def test_the_thickness_of_one_slice_may_be_missing(tmp_path) -> None:
    path = saved(tmp_path / "a.nii", qform=turned(), pixdim=[1, 2.5, 1.5, 0, 1, 1, 1, 1], data=DATA[:, :, :1])
    volume, notes = read(path)
    assert volume.ndim == 2
    assert "one slice" in notes


@pytest.mark.parametrize("row", [[0, 0, 0, 0], [np.nan, 0, 0, 1], [1e30, 0, 0, 1]])
def test_a_sform_that_says_nothing_is_named_as_that(tmp_path, row) -> None:
    rows = dict.fromkeys(("srow_x", "srow_y", "srow_z"), row)
    why = "is all zero" if not any(row) else "NaN"
    with pytest.raises(InputError, match=rf"a\.nii: its sform \(code 2\).*{why}") as error:
        read(saved(tmp_path / "a.nii", turned(), 2, **rows))
    assert "orthogonal" not in str(error.value)
    volume, notes = read(saved(tmp_path / "b.nii", turned(), 2, turned(), **rows))
    assert np.allclose(ras(volume.grid), turned(), atol=1e-4)
    assert why in notes
    assert "the qform was taken" in notes


def test_a_singular_sform_is_named_as_that(tmp_path) -> None:
    with pytest.raises(InputError, match="singular"):
        read(saved(tmp_path / "a.nii", turned(), srow_x=[1, 1, 0, 0], srow_y=[1, 1, 0, 0], srow_z=[0, 0, 1, 0]))


# ---- units


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize(("units", "scale", "name"), [(3, 1e-3, "microns"), (1, 1e3, "meters"), (2, 1, ""), (0, 1, "")])
def test_units_are_converted_and_noted(tmp_path, kind, units, scale, name) -> None:
    path = saved(tmp_path / "a.nii", turned(), units=units, kind=kind)
    volume, notes = read(path)
    expected = np.diag([scale, scale, scale, 1]) @ turned()
    assert np.allclose(ras(volume.grid), expected, atol=1e-4 * scale)
    assert (name in notes) if name else not notes
    if kind is nibabel.Nifti1Image:
        assert volume.grid.same_as(by_itk(path), 1e-3)


# ---- kinds of file


def test_every_kind_of_nifti_gives_the_same(tmp_path) -> None:
    expected = read(saved(tmp_path / "a.nii", turned()))[0]
    raw = (tmp_path / "a.nii").read_bytes()
    saved(tmp_path / "two.nii", turned(), kind=nibabel.Nifti2Image)
    saved(tmp_path / "two.nii.gz", turned(), kind=nibabel.Nifti2Image)
    saved(tmp_path / "pair.hdr", turned(), kind=nibabel.Nifti1Pair)
    saved(tmp_path / "twin.hdr", turned(), kind=nibabel.Nifti2Pair)
    big = nibabel.Nifti1Image(DATA.astype(">f4"), turned(), nibabel.Nifti1Header(endianness=">"))
    big.to_filename(tmp_path / "big.nii")
    big2 = nibabel.Nifti2Image(DATA.astype(">f4"), turned(), nibabel.Nifti2Header(endianness=">"))
    big2.to_filename(tmp_path / "big2.nii")
    (tmp_path / "packed.nii").write_bytes(gzip.compress(raw))
    (tmp_path / "plain.nii.gz").write_bytes(raw)
    (tmp_path / "LOUD.NII.GZ").write_bytes(gzip.compress(raw))
    (tmp_path / "other").write_bytes(raw)
    (tmp_path / "members.nii.gz").write_bytes(gzip.compress(raw[:900]) + gzip.compress(raw[900:]))
    (tmp_path / "padded.nii.gz").write_bytes(gzip.compress(raw) + bytes(512))
    names = sorted(p.name for p in tmp_path.iterdir())
    assert len(names) == 15
    for name in names:
        volume, notes = read(tmp_path / name)
        assert np.array_equal(volume.data, DATA.T), name
        assert volume.grid.same_as(expected.grid, 1e-4), name
        assert not notes, name
        assert io.read_grid(tmp_path / name).same_as(expected.grid, 1e-4), name


def test_a_pair_without_its_voxels_is_refused(tmp_path) -> None:
    saved(tmp_path / "pair.hdr", turned(), kind=nibabel.Nifti1Pair)
    (tmp_path / "pair.img").unlink()
    with pytest.raises(InputError, match=r"pair\.img is not there"):
        read(tmp_path / "pair.hdr")


def test_analyze_is_read_as_by_itk_and_its_sides_are_noted(tmp_path) -> None:
    nibabel.AnalyzeImage(DATA.astype(np.int16), np.diag([2.5, 1.5, 3, 1])).to_filename(tmp_path / "a.img")
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    expected = sitk.ReadImage(str(tmp_path / "a.img"))
    sitk.ProcessObject.SetGlobalWarningDisplay(True)
    for name in ("a.img", "a.hdr"):
        volume, notes = read(tmp_path / name)
        assert np.array_equal(volume.data, sitk.GetArrayFromImage(expected))
        assert volume.grid.same_as(Grid.from_image(expected), 1e-4)
        assert "which side is left" in notes


def test_scaling_is_that_of_the_standard(tmp_path) -> None:
    data = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    path = tmp_path / "a.nii"
    for slope, intercept in ((0.1, -1024), (0, 0), (0, 7), (np.nan, np.nan), (-1, 100), (1, 0)):
        saved(path, turned(), data=data)
        raw = bytearray(path.read_bytes())
        raw[112:120] = struct.pack("<2f", slope, intercept)
        path.write_bytes(raw)
        expected = np.asanyarray(nibabel.load(path).dataobj)
        assert np.allclose(read(path)[0].data, expected.T, atol=1e-3), (slope, intercept)


def test_integers_of_64_bits_are_read(tmp_path) -> None:
    labels = np.zeros(SHAPE, np.int64)
    labels[2:4] = 70000
    nibabel.Nifti1Image(labels, turned(), dtype=np.int64).to_filename(tmp_path / "a.nii")
    assert np.array_equal(io.read_labels(tmp_path / "a.nii").data, labels.T)


def test_a_picture_of_two_axes_keeps_its_plane(tmp_path) -> None:
    """In the plane of x and y as ITK reads it; in another as the slice of space that it is, which ITK cannot."""
    flat = turned(0)
    path = saved(tmp_path / "a.nii", flat, data=DATA[:, :, 0])
    assert read(path)[0].grid.same_as(by_itk(path), 1e-4)
    coronal = flat[:, [0, 2, 1, 3]] * [1, 1, -1, 1]
    volume = read(saved(tmp_path / "b.nii", coronal, data=DATA[:, :, 0]))[0]
    assert volume.plane is not None
    ends = volume.grid.lift(volume.grid.corners())
    index = np.array([(i, j, 0, 1) for j in (0, 6) for i in (0, 5)])
    assert np.allclose(ends, (index @ coronal.T)[:, :3] * [-1, -1, 1], atol=1e-4)
