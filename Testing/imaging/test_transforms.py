# SPDX-License-Identifier: Apache-2.0
import gzip
import os
import struct
import time

import numpy as np
import pytest
import SimpleITK as sitk
from DeepFLASHRegistrationLib.imaging import io, transforms
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.support.errors import InputError
from imaging_shapes import centered_grid, image, noise, oblique, rotation

FORMATS = (".nii.gz", ".nii", ".nrrd", ".mha")


# ---- displacement fields


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("grid", [oblique(), centered_grid((6, 7), (1, 2), rotation((), 25)[:, ::-1], (3, 4))])
def test_itk_moves_points_by_the_written_field(tmp_path, suffix, grid) -> None:
    field = noise(grid, np.float32, grid.ndim)
    path = str(tmp_path / f"f{suffix}")
    transforms.write_displacement_field(path, grid, field)
    transform = sitk.DisplacementFieldTransform(sitk.ReadImage(path, sitk.sitkVectorFloat64))
    for index in ((2, 3, 4)[: grid.ndim], (0,) * grid.ndim):
        point = grid.index_to_physical(index)
        assert np.allclose(transform.TransformPoint(point), point + field[index], atol=1e-3)
    again, values = transforms.read_displacement_field(path)
    assert again.same_as(grid, 1e-5)
    assert np.array_equal(values, field)


def test_nifti_fields_carry_the_intent_and_ras_components_of_the_standard(tmp_path) -> None:
    grid = oblique()
    field = noise(grid, np.float32, 3)
    transforms.write_displacement_field(tmp_path / "f.nii", grid, field)
    raw = (tmp_path / "f.nii").read_bytes()
    assert struct.unpack("<8h", raw[40:56]) == (5, 7, 6, 5, 1, 3, 1, 1)
    assert struct.unpack("<h", raw[68:70]) == (1006,)
    stored = np.frombuffer(raw[352:], "<f4").reshape(3, 5, 6, 7)
    assert np.array_equal(stored, np.moveaxis(field * np.float32([-1, -1, 1]), -1, 0))


def test_fields_read_by_simpleitk_equal_those_it_writes_itself(tmp_path) -> None:
    grid = oblique()
    field = noise(grid, np.float32, 3)
    transforms.write_displacement_field(tmp_path / "ours.nii.gz", grid, field)
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
    transforms.write_displacement_field(path, fixed, field, moving)
    transform = sitk.DisplacementFieldTransform(sitk.ReadImage(path, sitk.sitkVectorFloat64))
    point = fixed.index_to_physical((2, 3))
    assert np.allclose(transform.TransformPoint(fixed.lift(point)), moving.lift(point + field[2, 3]), atol=1e-3)


@pytest.mark.parametrize("intent", [1006, 1007])
@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (0.5, 0), (-0.25, 3), (0, 0), (float("nan"), float("nan"))])
@pytest.mark.parametrize("kind", ["int16", "float32", "float64"])
def test_scaled_nifti_fields_hold_what_nibabel_says(tmp_path, intent, slope, intercept, kind) -> None:
    """ITK leaves the scaling of floating-point vectors out, and does not survive that of integers."""
    nibabel = pytest.importorskip("nibabel")
    grid = oblique()
    reference = noise(grid, np.float32, 3).transpose(2, 1, 0, 3)[:, :, :, None]
    stored = reference.astype(kind)
    lps = np.diag([-1, -1, 1, 1])
    affine = lps @ np.array(grid.affine)[:, [2, 1, 0, 3]]
    file = nibabel.Nifti1Image(stored, affine)
    file.header.set_data_dtype(stored.dtype)
    file.header["intent_code"] = intent
    nibabel.save(file, tmp_path / "field.nii")
    content = bytearray((tmp_path / "field.nii").read_bytes())
    struct.pack_into("<2f", content, 112, slope, intercept)
    (tmp_path / "field.nii").write_bytes(content)
    expected = np.asanyarray(nibabel.load(tmp_path / "field.nii").dataobj)[:, :, :, 0].transpose(2, 1, 0, 3)
    if intent == 1006:  # displacements are RAS by definition
        expected = expected * [-1, -1, 1]
    found, displacement = transforms.read_displacement_field(tmp_path / "field.nii")
    assert found.same_as(grid, 1e-2)
    assert displacement.dtype == np.float32
    assert np.allclose(displacement, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_scaled_nifti_fields_of_two_dimensions_are_read(tmp_path, suffix) -> None:
    grid = centered_grid((6, 7), (1.5, 2.0), center=(3, -4))
    displacement = noise(grid, np.float32, 2)
    transforms.write_displacement_field(tmp_path / "a.nii", grid, displacement)
    content = bytearray((tmp_path / "a.nii").read_bytes())
    struct.pack_into("<2f", content, 112, 2, 1)
    (tmp_path / f"b{suffix}").write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
    found, scaled = transforms.read_displacement_field(tmp_path / f"b{suffix}")
    assert found.same_as(grid)
    assert np.allclose(scaled, 2 * displacement + 1)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("intent", [0, 1002, 1005])
def test_volumes_in_nifti_that_are_no_vectors_are_no_field(tmp_path, ndim, intent) -> None:
    grid = oblique() if ndim == 3 else centered_grid((6, 7), (1.5, 2.0))
    transforms.write_displacement_field(tmp_path / "a.nii", grid, noise(grid, np.float32, ndim))
    content = bytearray((tmp_path / "a.nii").read_bytes())
    struct.pack_into("<h", content, 68, intent)
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.nii: .*no displacement field"):
        transforms.read_displacement_field(tmp_path / "a.nii")


def test_a_field_of_wrong_shape_and_a_scalar_file_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="shape"):
        transforms.write_displacement_field(tmp_path / "f.nii", oblique(), noise(oblique()))
    io.write_volume(tmp_path / "a.nii", Volume(oblique(), noise(oblique())))
    with pytest.raises(InputError, match="no displacement field"):
        transforms.read_displacement_field(tmp_path / "a.nii")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"intent": (2006, "")}, "is a warp of FSL's FNIRT"),
        ({"intent": (2007, "")}, "is a warp of FSL's FNIRT"),
        ({"intent": (1007, "NREG_TRANS")}, "is a field of NiftyReg"),
        ({"positions": True, "intent": (1007, "Mapping")}, "holds where points go"),
        ({"positions": True}, "is 3-D with 3 components per voxel, no displacement field"),  # it has no intent
    ],
)
@pytest.mark.parametrize("name", ["f.nii", "f.nii.gz"])
def test_fields_of_other_meanings_are_refused_by_name(tmp_path, change, message, name) -> None:
    nibabel = pytest.importorskip("nibabel")
    grid = oblique((9, 10, 11))
    ras = np.diag([-1.0, -1, 1, 1]) @ grid.affine[:, [2, 1, 0, 3]]
    values = 3 * np.random.default_rng(0).normal(size=(11, 10, 9, 1, 3)).astype(np.float32)
    if "positions" in change:  # as SPM writes them
        index = np.stack(np.meshgrid(np.arange(11), np.arange(10), np.arange(9), indexing="ij"), -1)
        values += (index @ ras[:3, :3].T + ras[:3, 3])[..., None, :].astype(np.float32)
    image = nibabel.Nifti1Image(values, ras)
    if "intent" in change:
        code, text = change["intent"]
        image.header.set_intent(code, name=text, allow_unknown=True)
    nibabel.save(image, tmp_path / name)
    with pytest.raises(InputError, match=rf"{name}: {message}"):
        transforms.read_displacement_field(tmp_path / name)
    # The same numbers as displacements are read.
    if "positions" not in change:
        image.header.set_intent(1007)
        nibabel.save(image, tmp_path / name)
        assert transforms.read_displacement_field(tmp_path / name)[0].same_as(grid, 1e-3)
        nibabel.save(nibabel.Nifti2Image(values, ras, image.header), tmp_path / name)
        at, found = transforms.read_displacement_field(tmp_path / name)
        assert at.same_as(grid, 1e-3)
        assert np.allclose(found, values[:, :, :, 0].transpose(2, 1, 0, 3), atol=1e-6)


def test_an_affine_as_a_field_is_no_field_of_positions(tmp_path) -> None:
    """However it turns and scales."""
    grid = oblique((9, 10, 11))
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), -1)
    at = grid.index_to_physical(index)
    for matrix in (
        rotation((0, 0, 1), 180),
        rotation((0, 0, 1), 90),
        2 * np.eye(3),
        0.5 * np.eye(3),
        np.diag([-1, 1, 1]),
    ):
        transforms.write_displacement_field(tmp_path / "f.nii", grid, np.float32(at @ matrix.T - at))
        assert np.allclose(transforms.read_displacement_field(tmp_path / "f.nii")[1], at @ matrix.T - at, atol=1e-3)


def test_a_full_size_field_is_written_fast(tmp_path) -> None:
    grid = centered_grid((128, 160, 128), (1.25,) * 3)
    field = np.zeros((*grid.shape, 3), np.float32)
    field[:64] = np.random.default_rng(0).normal(size=(64, 160, 128, 3))
    start = time.process_time()
    transforms.write_displacement_field(tmp_path / "f.nii.gz", grid, field)
    assert time.process_time() - start < 2  # SimpleITK's own writer takes longer on any machine; ours 0.3 s here


# ---- affine files


@pytest.mark.parametrize("suffix", [".tfm", ".txt", ".mat", ".h5", ".hdf5"])
@pytest.mark.parametrize("d", [2, 3])
def test_affine_files_come_back_and_simpleitk_reads_them(tmp_path, suffix, d) -> None:
    matrix = np.eye(d + 1)
    matrix[:d] += np.random.default_rng(1).normal(size=(d, d + 1)) * 0.1
    matrix[:d, d] *= 1000
    path = tmp_path / f"a{suffix}"
    transforms.write_affine(path, matrix)
    assert np.allclose(transforms.read_affine(path, d), matrix, atol=1e-12)
    point = np.arange(1, d + 1) * 7.0
    assert np.allclose(sitk.ReadTransform(str(path)).TransformPoint(point), matrix[:d, :d] @ point + matrix[:d, d])


def test_other_linear_transforms_and_composites_are_read(tmp_path) -> None:
    rigid = sitk.Euler3DTransform((10, 20, 30), 0.1, 0.2, 0.3, (1, 2, 3))
    composite = sitk.CompositeTransform([rigid, sitk.TranslationTransform(3, (5, 6, 7))])
    sitk.WriteTransform(composite, str(tmp_path / "c.h5"))
    matrix = transforms.read_affine(tmp_path / "c.h5", 3)
    assert np.allclose(matrix @ (4, 5, 6, 1), [*composite.TransformPoint((4.0, 5.0, 6.0)), 1])


def test_transforms_side_by_side_are_refused_and_none_is_forgotten(tmp_path) -> None:
    part = "#Transform {0}\nTransform: TranslationTransform_double_3_3\nParameters: {0} 2 3\nFixedParameters:\n"
    (tmp_path / "two.tfm").write_text("#Insight Transform File V1.0\n" + part.format(0) + part.format(1))
    transforms.write_affine(tmp_path / "one.mat", np.eye(4))
    (tmp_path / "two.mat").write_bytes((tmp_path / "one.mat").read_bytes() * 2)
    for name in ("two.tfm", "two.mat"):
        with pytest.raises(InputError, match=f"{name}: holds several transforms side by side"):
            transforms.read_affine(tmp_path / name, 3)
    # A composite is one transform; of its parts the last is applied first.
    parts = [sitk.TranslationTransform(3, (1, 2, 3)), sitk.ScaleTransform(3, (2, 1, 1)), sitk.Euler3DTransform()]
    for name in ("c.tfm", "c.h5"):
        sitk.WriteTransform(sitk.CompositeTransform(parts), str(tmp_path / name))
        assert np.allclose(transforms.read_affine(tmp_path / name, 3) @ (5, 0, 0, 1), (11, 2, 3, 1))


def test_affine_of_slices_is_written_in_3d_and_read_back(tmp_path) -> None:
    fixed = Grid((1, 6, 7), oblique().affine).flattened()
    elsewhere = oblique().affine.copy()
    elsewhere[:3, 3] += (9, 8, 7)
    moving = Grid((1, 6, 7), elsewhere).flattened()
    matrix = np.array([[0.9, 0.2, 5], [-0.1, 1.1, -3], [0, 0, 1]])
    transforms.write_affine(tmp_path / "a.tfm", matrix, fixed, moving)
    assert np.allclose(transforms.read_affine(tmp_path / "a.tfm", 2, fixed, moving), matrix)
    point = np.array([3.0, 4.0])
    there = sitk.ReadTransform(str(tmp_path / "a.tfm")).TransformPoint(fixed.lift(point))
    assert np.allclose(there, moving.lift(matrix[:2, :2] @ point + matrix[:2, 2]))


def test_unusable_transform_files_are_refused(tmp_path) -> None:
    (tmp_path / "flirt.mat").write_text("1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n")
    transforms.write_affine(tmp_path / "2d.tfm", np.eye(3))
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
        ("flirt.mat", "no meaning without the grids"),
        ("2d.tfm", "2-D transform"),
        ("b.tfm", "not linear"),
    ]:
        with pytest.raises(InputError, match=message):
            transforms.read_affine(tmp_path / name, 3)
    with pytest.raises(InputError, match="unknown kind"):
        transforms.write_affine(tmp_path / "a.npy", np.eye(4))


@pytest.mark.skipif(os.name != "posix", reason="needs a limit of the size of files")
def test_a_transform_of_which_the_disk_takes_a_part_is_none(tmp_path) -> None:
    """ITK says nothing of it."""
    import resource
    import signal

    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    largest = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, largest[1]))
    try:
        with pytest.raises(OSError, match=r"a.tfm: could not be written. Check the free space"):
            transforms.write_affine(tmp_path / "a.tfm", np.eye(4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, largest)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())
