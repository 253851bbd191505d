# SPDX-License-Identifier: Apache-2.0
"""Transforms that FSL, FreeSurfer and MINC wrote: a point of the fixed image goes where their documentation says."""

import struct
import warnings

import nibabel
import nitransforms
import numpy as np
import pytest
import SimpleITK as sitk
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.transforms import read_affine, read_affine_with_notes, write_affine
from DeepFLASHRegistrationLib.support.errors import InputError
from imaging_shapes import centered_grid, oblique, rotation, sampled, storages

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Two grids of every handedness: plain LPS axes, their first axis flipped, oblique ones, and permuted ones.
PLAIN = centered_grid((9, 11, 13), (3, 2, 1.5), None, (5, -4, 12))
FLIPPED = Grid(PLAIN.shape, PLAIN.affine @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 12], [0, 0, 0, 1.0]]))
OBLIQUE = oblique((10, 12, 14))
PERMUTED = storages(sampled(centered_grid((8, 9, 10), (2, 2.5, 3), rotation((3, 1, 2), 20)[:, ::-1])))[21].grid
GRIDS = [PLAIN, FLIPPED, OBLIQUE, PERMUTED]
PAIRS = [(a, b) for a in range(4) for b in range(4)]


def to_ras(grid: Grid) -> np.ndarray:
    """(4, 4), (i, j, k, 1) -> RAS mm: what NIfTI and nibabel call the affine."""
    return RAS_TO_LPS @ grid.affine[:, [2, 1, 0, 3]]


def nifti(grid: Grid) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image(np.zeros(grid.shape[::-1], np.uint8), to_ras(grid))


def some_affine(seed: int = 0) -> np.ndarray:
    """(4, 4) RAS mm."""
    matrix = np.eye(4)
    rng = np.random.default_rng(seed)
    matrix[:3, :3] = rotation((1, -2, 1), 12) @ np.diag([1.05, 0.95, 1.1])
    matrix[:3, 3] = rng.normal(size=3) * 6
    return matrix


def lps(ras: np.ndarray) -> np.ndarray:
    return RAS_TO_LPS @ ras @ RAS_TO_LPS


def corners_apart(one: np.ndarray, other: np.ndarray, grid: Grid) -> float:
    corners = np.c_[grid.corners(), np.ones(8)]
    return float(np.abs(corners @ (one - other).T).max())


# ---- FSL FLIRT


def scaled_voxels(grid: Grid, index: np.ndarray) -> np.ndarray:
    """FSL's mm of a voxel (i, j, k), by the words of its documentation."""
    i, j, k = index
    if np.linalg.det(to_ras(grid)[:3, :3]) > 0:
        i = grid.shape[2] - 1 - i
    return np.array([i, j, k]) * grid.spacing[::-1]


@pytest.mark.parametrize(("f", "m"), PAIRS)
def test_flirt_matrices_take_the_moving_voxel_to_the_fixed_voxel(tmp_path, f, m) -> None:
    fixed, moving = GRIDS[f], GRIDS[m]
    matrix = some_affine(1)
    np.savetxt(tmp_path / "a.mat", matrix, fmt="%.10f", delimiter="  ")
    ours, notes = read_affine_with_notes(tmp_path / "a.mat", 3, fixed, moving)
    assert "FLIRT" in notes[0]
    for voxel in ((0, 0, 0), (3, 4, 5), (7, 2, 1)):
        at_moving = to_ras(moving) @ (*voxel, 1)
        wanted = matrix @ (*scaled_voxels(moving, voxel), 1)
        at_fixed = np.linalg.inv(ours) @ RAS_TO_LPS @ at_moving
        index = np.linalg.inv(to_ras(fixed)) @ RAS_TO_LPS @ at_fixed
        assert np.allclose(scaled_voxels(fixed, index[:3]), wanted[:3], atol=1e-6)


@pytest.mark.parametrize(("f", "m"), PAIRS)
def test_flirt_matrices_mean_what_nitransforms_reads(tmp_path, f, m) -> None:
    fixed, moving = GRIDS[f], GRIDS[m]
    ras = some_affine(2)
    theirs = nitransforms.linear.Affine(ras, reference=nifti(fixed))
    theirs.to_filename(str(tmp_path / "a.mat"), fmt="fsl", moving=nifti(moving))
    ours = read_affine(tmp_path / "a.mat", 3, fixed, moving)
    assert corners_apart(ours, lps(ras), fixed) < 1e-5  # the file has 8 decimals


def test_flirt_on_slices_of_3d_space(tmp_path) -> None:
    fixed, moving = (Grid((1, *grid.shape[1:]), grid.affine) for grid in (PLAIN, FLIPPED))
    in_plane = np.eye(4)
    in_plane[:2, :2] = rotation((), 15)
    in_plane[:2, 3] = (3, -2)
    np.savetxt(tmp_path / "a.mat", in_plane)
    whole = read_affine(tmp_path / "a.mat", 3, fixed, moving)
    flat = read_affine(tmp_path / "a.mat", 2, fixed.flattened(), moving.flattened())
    point = np.array([4.0, -3.0])
    there = whole @ (*fixed.flattened().lift(point), 1)
    assert np.allclose(moving.flattened().lift(flat[:2, :2] @ point + flat[:2, 2]), there[:3])
    with pytest.raises(InputError, match="2-D"):
        read_affine(tmp_path / "a.mat", 2, centered_grid((9, 9), (1, 1)), centered_grid((9, 9), (1, 1)))


def test_a_mat_file_is_told_apart_by_its_content(tmp_path) -> None:
    rigid = sitk.Euler3DTransform((1, 2, 3), 0.1, 0.2, 0.3, (4, 5, 6))
    sitk.WriteTransform(rigid, str(tmp_path / "itk.mat"))
    matrix = read_affine(tmp_path / "itk.mat", 3, PLAIN, FLIPPED)
    assert np.allclose(matrix @ (7, 8, 9, 1), [*rigid.TransformPoint((7.0, 8.0, 9.0)), 1])
    np.savetxt(tmp_path / "flirt.mat", np.eye(4))
    with pytest.raises(InputError, match="no meaning without the grids"):
        read_affine(tmp_path / "flirt.mat", 3)
    np.savetxt(tmp_path / "bare.txt", np.eye(4))
    with pytest.raises(InputError, match="bare matrix"):
        read_affine(tmp_path / "bare.txt", 3, PLAIN, FLIPPED)
    np.savetxt(tmp_path / "projective.mat", np.eye(4) + np.eye(4)[:, ::-1])
    with pytest.raises(InputError, match=r"projective\.mat: its last row"):
        read_affine(tmp_path / "projective.mat", 3, PLAIN, FLIPPED)
    spm = struct.pack("<5i", 0, 4, 4, 0, 2) + b"M\0" + np.eye(4).tobytes()
    matlab = [b"MATLAB 5.0 MAT-file, Platform: GLNXA64".ljust(200), b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF", spm]
    for content in matlab:
        (tmp_path / "matlab.mat").write_bytes(content)
        with pytest.raises(InputError, match=r"matlab\.mat: is a MATLAB file"):
            read_affine(tmp_path / "matlab.mat", 3, PLAIN, FLIPPED)
    (tmp_path / "elastix.txt").write_text('// by elastix\n(Transform "EulerTransform")\n(NumberOfParameters 6)\n')
    with pytest.raises(InputError, match="elastix's parameters"):
        read_affine(tmp_path / "elastix.txt", 3, PLAIN, FLIPPED)


@pytest.mark.parametrize("kind", ["AffineTransform_double_3_3", "MatrixOffsetTransformBase_double_3_3"])
@pytest.mark.parametrize("order", "<>")
def test_a_mat_of_ants(tmp_path, kind, order) -> None:
    """x -> M (x - c) + c + t; M row by row and t in the one matrix, c in the other."""
    linear, offset, center = some_affine(3)[:3, :3], np.array([5, 6, 7.0]), np.array([1, -2, 3.0])
    content = b""
    for name, numbers in ((kind, [*linear.ravel(), *offset]), ("fixed", center)):
        head = struct.pack(order + "5i", 0 if order == "<" else 1000, len(numbers), 1, 0, len(name) + 1)
        content += head + name.encode() + b"\0" + np.array(numbers, order + "f8").tobytes()
    (tmp_path / "0GenericAffine.mat").write_bytes(content)
    ours = read_affine(tmp_path / "0GenericAffine.mat", 3, PLAIN, FLIPPED)
    point = np.array([10, 20, -30.0])
    assert np.allclose(ours @ (*point, 1), [*(linear @ (point - center) + center + offset), 1])


# ---- FreeSurfer


def geometry(grid: Grid) -> str:
    affine, shape = to_ras(grid), np.array(grid.shape[::-1])
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    axes = affine[:3, :3] / spacing
    center = affine[:3, 3] + affine[:3, :3] @ (shape / 2)
    lines = [
        "valid = 1  # volume info valid",
        "filename = /data/some_image.mgz",
        f"volume = {shape[0]} {shape[1]} {shape[2]}",
    ]
    lines.append("voxelsize = " + " ".join(f"{v:.15e}" for v in spacing))
    for name, column in zip("xyz", axes.T, strict=True):
        lines.append(f"{name}ras   = " + " ".join(f"{v:.15e}" for v in column))
    lines.append("cras   = " + " ".join(f"{v:.15e}" for v in center))
    return "\n".join(lines)


def lta(kind: int, matrix: np.ndarray, source: Grid, destination: Grid) -> str:
    """A file in the words of FreeSurfer, source to destination."""
    rows = "\n".join(" ".join(f"{v:.15e}" for v in row) for row in matrix)
    return (
        f"# transform file a.lta\n# created by someone\n\ntype      = {kind} # LINEAR_RAS_TO_RAS\nnxforms   = 1\n"
        f"mean      = 0.0000 0.0000 0.0000\nsigma     = 1.0000\n1 4 4\n{rows}\nsrc volume info\n{geometry(source)}\n"
        f"dst volume info\n{geometry(destination)}\nsubject someone\nfscale 0.150000\n"
    )


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize(("f", "m"), PAIRS)
def test_lta_leads_from_its_source_to_its_destination(tmp_path, f, m, kind) -> None:
    fixed, moving = GRIDS[f], GRIDS[m]
    forward = some_affine(3)  # moving to fixed, RAS
    matrix = forward if kind == 1 else np.linalg.inv(to_ras(fixed)) @ forward @ to_ras(moving)
    (tmp_path / "a.lta").write_text(lta(kind, matrix, moving, fixed))
    ours, notes = read_affine_with_notes(tmp_path / "a.lta", 3, fixed, moving)
    assert corners_apart(ours, lps(np.linalg.inv(forward)), fixed) < 1e-9
    assert "FreeSurfer" in notes[0]
    assert "elsewhere" not in notes[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = nitransforms.io.lta.FSLinearTransform.from_filename(str(tmp_path / "a.lta")).to_ras()
    assert corners_apart(ours, lps(theirs), fixed) < 1e-3  # they keep single precision


@pytest.mark.parametrize(("f", "m"), PAIRS)
def test_lta_that_nitransforms_wrote_means_what_it_reads(tmp_path, f, m) -> None:
    """It names the fixed image as the source, and yet leads from the moving one to it."""
    fixed, moving = GRIDS[f], GRIDS[m]
    path = tmp_path / "a.lta"
    ras = some_affine(4)  # fixed to moving
    nitransforms.linear.Affine(ras, reference=nifti(fixed)).to_filename(str(path), fmt="fs", moving=nifti(moving))
    assert path.read_text().startswith("# LTA file created by NiTransforms")
    theirs = nitransforms.linear.Affine.from_filename(str(path), fmt="fs", reference=nifti(fixed)).matrix
    for grids in ((fixed, moving), (None, None), (fixed, None)):
        ours, notes = read_affine_with_notes(path, 3, *grids)
        assert corners_apart(ours, lps(ras), fixed) < 1e-9
        assert corners_apart(ours, lps(theirs), fixed) < 1e-3  # they read in single precision
        assert "nitransforms" in notes[0]
        assert "elsewhere" not in notes[0]
    other = Grid((5, 6, 7), OBLIQUE.affine)
    assert "its destination lies elsewhere" in read_affine_with_notes(path, 3, fixed, other)[1][0]
    if f != m:
        assert "its source lies elsewhere" in read_affine_with_notes(path, 3, other, moving)[1][0]


def test_lta_of_freesurfer_that_nitransforms_wrote_again(tmp_path) -> None:
    forward = some_affine(9)  # moving to fixed
    (tmp_path / "a.lta").write_text(lta(1, forward, PLAIN, OBLIQUE))
    again = nitransforms.io.lta.FSLinearTransform.from_filename(str(tmp_path / "a.lta"))
    again.to_filename(str(tmp_path / "b.lta"))
    assert "created by NiTransforms" in (tmp_path / "b.lta").read_text()
    ours, notes = read_affine_with_notes(tmp_path / "b.lta", 3, OBLIQUE, PLAIN)
    assert corners_apart(ours, lps(np.linalg.inv(forward)), OBLIQUE) < 1e-3
    assert "elsewhere" not in notes[0]


def test_an_array_of_one_by_nitransforms_is_read_and_of_several_refused(tmp_path) -> None:
    for count in (1, 2):
        chain = nitransforms.linear.LinearTransformsMapping([some_affine(4)] * count, reference=nifti(OBLIQUE))
        chain.to_filename(str(tmp_path / f"{count}.lta"), fmt="fs", moving=nifti(PLAIN))
    assert (tmp_path / "1.lta").read_text().startswith("# LTA-array file created by NiTransforms")
    ours = read_affine(tmp_path / "1.lta", 3, OBLIQUE, PLAIN)
    assert corners_apart(ours, lps(some_affine(4)), OBLIQUE) < 1e-9
    with pytest.raises(InputError, match="holds 2 transforms"):
        read_affine(tmp_path / "2.lta", 3, OBLIQUE, PLAIN)


def test_an_lta_with_crossed_images_that_nobody_signed_is_refused(tmp_path) -> None:
    """nitransforms 20 and 21 wrote no comment in front, and crossed the images; by FreeSurfer it would mean the
    inverse."""
    signed = lta(1, some_affine(), OBLIQUE, PLAIN)
    (tmp_path / "a.lta").write_text(signed[signed.index("type") :])
    with pytest.raises(InputError, match="does not say who wrote it"):
        read_affine(tmp_path / "a.lta", 3, OBLIQUE, PLAIN)
    assert (
        corners_apart(read_affine(tmp_path / "a.lta", 3, PLAIN, OBLIQUE), lps(np.linalg.inv(some_affine())), PLAIN)
        < 1e-9
    )


def test_lta_of_the_other_direction_is_inverted_and_of_other_images_noted(tmp_path) -> None:
    forward = some_affine(5)
    (tmp_path / "a.lta").write_text(lta(1, forward, PLAIN, OBLIQUE))
    ours, notes = read_affine_with_notes(tmp_path / "a.lta", 3, PLAIN, OBLIQUE)
    assert corners_apart(ours, lps(forward), PLAIN) < 1e-9
    assert "inverted" in notes[0]
    ours, notes = read_affine_with_notes(tmp_path / "a.lta", 3, OBLIQUE, PERMUTED)
    assert corners_apart(ours, lps(np.linalg.inv(forward)), PLAIN) < 1e-9
    assert "its source lies elsewhere" in notes[0]
    assert "destination lies" not in notes[0]
    # One grid is enough to see it.
    (tmp_path / "b.lta").write_text(lta(1, forward, PLAIN, OBLIQUE))
    for grids, inverted in (
        ((PLAIN, None), True),
        ((None, OBLIQUE), True),
        ((OBLIQUE, None), False),
        ((None, None), False),
    ):
        ours, notes = read_affine_with_notes(tmp_path / "b.lta", 3, *grids)
        assert corners_apart(ours, lps(forward if inverted else np.linalg.inv(forward)), PLAIN) < 1e-9
        assert ("inverted" in notes[0]) == inverted
        assert "elsewhere" not in notes[0]
    # The same box stored otherwise is the same place.
    turned = storages(sampled(PLAIN))[30].grid
    _, notes = read_affine_with_notes(tmp_path / "a.lta", 3, OBLIQUE, turned)
    assert "elsewhere" not in notes[0]
    text = lta(1, forward, PLAIN, OBLIQUE).replace("valid = 1  # volume info valid", "valid = 0  # volume info invalid")
    (tmp_path / "a.lta").write_text(text)
    ours, notes = read_affine_with_notes(tmp_path / "a.lta", 3, OBLIQUE, PLAIN)
    assert corners_apart(ours, lps(np.linalg.inv(forward)), PLAIN) < 1e-9
    assert "does not say" in notes[0]
    (tmp_path / "v.lta").write_text(text.replace("type      = 1", "type      = 0"))
    with pytest.raises(InputError, match="geometry of both"):
        read_affine(tmp_path / "v.lta", 3, OBLIQUE, PLAIN)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("type      = 1", "type      = 14", "tkregister"),
        ("nxforms   = 1", "nxforms   = 2", "2 transforms"),
        ("1 4 4", "1 3 4", "no affine matrix"),
        ("type      = 1", "", "type is missing"),
        ("volume = ", "volume = 9 ", "volume"),
        ("voxelsize = ", "voxelsize = nan ", "voxelsize"),
    ],
)
def test_unusable_lta_files_are_refused(tmp_path, old, new, message) -> None:
    text = lta(1, some_affine(), PLAIN, OBLIQUE)
    assert old in text
    (tmp_path / "a.lta").write_text(text.replace(old, new))
    with pytest.raises(InputError, match=message) as error:
        read_affine(tmp_path / "a.lta", 3, OBLIQUE, PLAIN)
    assert "a.lta" in str(error.value)


# ---- MINC


def xfm(*parts: tuple[np.ndarray, bool]) -> str:
    text = "MNI Transform File\n%Thu Jan  1 2026>>> minctracc a.mnc b.mnc c.xfm; with a comment = in it\n\n"
    for matrix, inverted in parts:
        text += "Transform_Type = Linear;\n" + ("Invert_Flag = True;\n" if inverted else "") + "Linear_Transform =\n"
        text += "\n".join(" " + " ".join(f"{v:.14g}" for v in row) for row in matrix[:3]) + ";\n"
    return text


def test_xfm_leads_from_the_moving_to_the_fixed_image_in_ras(tmp_path) -> None:
    forward = some_affine(6)
    (tmp_path / "a.xfm").write_text(xfm((forward, False)))
    ours, notes = read_affine_with_notes(tmp_path / "a.xfm", 3, PLAIN, OBLIQUE)
    assert corners_apart(ours, lps(np.linalg.inv(forward)), PLAIN) < 1e-9
    assert "MINC" in notes[0]
    # ITK reads the same 12 numbers, forwards and without a change of axes.
    same = sitk.ReadTransform(str(tmp_path / "a.xfm"))
    point = np.array([10.0, 20.0, 30.0])
    there = RAS_TO_LPS[:3, :3] @ same.TransformPoint(RAS_TO_LPS[:3, :3] @ point)
    assert np.allclose(ours @ (*there, 1), (*point, 1))


@pytest.mark.parametrize("change", ["crlf", "comments", "mark"])
def test_an_xfm_as_other_programs_write_it(tmp_path, change) -> None:
    text = xfm((some_affine(6), True))
    if change == "crlf":
        text = text.replace("\n", "\r\n")
    elif change == "comments":
        text = text.replace("\n\n", "\n%MNI Transform File; Transform_Type = Grid_Transform;\n").replace(
            "=\n", "= % rows\n"
        )
    else:
        text = "\ufeff" + text
    (tmp_path / "a.xfm").write_bytes(text.encode())
    assert corners_apart(read_affine(tmp_path / "a.xfm", 3, PLAIN, OBLIQUE), lps(some_affine(6)), PLAIN) < 1e-9


def test_parts_of_an_xfm_follow_each_other(tmp_path) -> None:
    first, second = some_affine(7), some_affine(8)
    first[:3, :3] = rotation((0, 1, 1), 30)
    (tmp_path / "a.xfm").write_text(xfm((first, False), (second, True)))
    ours = read_affine(tmp_path / "a.xfm", 3, PLAIN, OBLIQUE)
    assert corners_apart(ours, lps(np.linalg.inv(np.linalg.inv(second) @ first)), PLAIN) < 1e-9
    point = sitk.ReadTransform(str(tmp_path / "a.xfm")).TransformPoint((1.0, 2.0, 3.0))
    assert np.allclose(np.linalg.inv(second) @ first @ (1, 2, 3, 1), (*point, 1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MNI Transform File\nTransform_Type = Grid_Transform;\nDisplacement_Volume = a_grid.mnc;\n", "not linear"),
        ("MNI Transform File\nTransform_Type = Thin_Plate_Spline_Transform;\nNumber_Dimensions = 3;\n", "not linear"),
        (xfm((np.eye(4), False)) + "Invert_Flag = True;\n", "after its matrix"),
        (xfm((np.eye(4), True)).replace("= True", "= Maybe"), "Invert_Flag is unknown"),
        (xfm((np.eye(4), False)) + "Transform_Type = Linear;\n", "1 matrices for 2"),
        (xfm((np.eye(4), False)) + "Transform_Type = Grid_Transform;\nDisplacement_Volume = a.mnc;\n", "not linear"),
        ("MNI Transform File\n%ITK-XFM writer\nTransform_Type = Linear;\nLinear_Transform = 1;", "written by ITK"),
        ("MNI Transform File\nTransform_Type = Linear;\nLinear_Transform =\n1 2 3;\n", "other than 12"),
        ("MNI Transform File\n", "no linear transform"),
        ("hello", "no MNI transform"),
    ],
)
def test_unusable_xfm_files_are_refused(tmp_path, text, message) -> None:
    (tmp_path / "a.xfm").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_affine(tmp_path / "a.xfm", 3, PLAIN, OBLIQUE)
    assert "a.xfm" in str(error.value)


# ---- what all share


@pytest.mark.parametrize("name", ["a.tfm", "a.lta", "a.xfm", "a.mat"])
def test_a_mirror_is_noted_and_the_handedness_of_voxels_is_none(tmp_path, name) -> None:
    for mirrored in (False, True):
        forward = some_affine(3) @ np.diag([-1.0 if mirrored else 1.0, 1, 1, 1])
        if name == "a.tfm":
            write_affine(tmp_path / name, lps(np.linalg.inv(forward)))
        elif name == "a.mat":
            image = nitransforms.linear.Affine(np.linalg.inv(forward), reference=nifti(FLIPPED))
            image.to_filename(str(tmp_path / name), fmt="fsl", moving=nifti(PLAIN))
        else:
            text = lta(1, forward, PLAIN, FLIPPED) if name == "a.lta" else xfm((forward, False))
            (tmp_path / name).write_text(text)
        ours, notes = read_affine_with_notes(tmp_path / name, 3, FLIPPED, PLAIN)
        assert corners_apart(ours, lps(np.linalg.inv(forward)), FLIPPED) < 1e-5
        assert any("mirrors" in note for note in notes) == mirrored


def test_a_transform_that_leads_out_of_the_moving_image_is_noted(tmp_path) -> None:
    far = np.eye(4)
    far[:3, 3] = (500, 0, 0)
    write_affine(tmp_path / "a.tfm", far)
    assert "no part of the fixed image" in read_affine_with_notes(tmp_path / "a.tfm", 3, PLAIN, OBLIQUE)[1][0]
    write_affine(tmp_path / "a.tfm", np.eye(4))
    assert read_affine_with_notes(tmp_path / "a.tfm", 3, PLAIN, OBLIQUE)[1] == ()
    # A small image within a large one meets it.
    small = centered_grid((3, 3, 3), (0.1, 0.1, 0.1), None, (6, -3, 11))
    assert read_affine_with_notes(tmp_path / "a.tfm", 3, PLAIN, small)[1] == ()
    assert read_affine_with_notes(tmp_path / "a.tfm", 3, small, PLAIN)[1] == ()
