# SPDX-License-Identifier: Apache-2.0
"""deepflash apply with a bare transform, of ITK or another program, in the place of a result."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from DeepFLASHRegistrationLib.commands import main as cli
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.io import read_labels, read_volume, write_volume
from DeepFLASHRegistrationLib.imaging.points import read_points, write_points
from DeepFLASHRegistrationLib.imaging.segmentation import Segment, Segmentation, read_segmentation, write_segmentation
from DeepFLASHRegistrationLib.imaging.surfaces import read_surface
from DeepFLASHRegistrationLib.imaging.transforms import write_affine, write_displacement_field
from DeepFLASHRegistrationLib.imaging.volume import Volume
from imaging_shapes import centered_grid, rotation, sampled

pytest.importorskip("torch")

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Other shapes, voxels, handedness, axes and origins on the two sides.
FIXED = centered_grid((27, 33, 30), (3, 3.5, 3.2), None, (5, -4, 12))
MOVING = Grid(
    (36, 40, 34), centered_grid((36, 40, 34), (2.6, 2.8, 3), rotation((1, 2, 1), 15)[:, ::-1], (-6, 9, 3)).affine
)
FLIPPED = Grid(FIXED.shape, FIXED.affine @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 29], [0, 0, 0, 1.0]]))
# Fixed to moving, LPS mm.
MATRIX = np.eye(4)
MATRIX[:3, :3] = rotation((1, -2, 1), 12) @ np.diag([1.05, 0.95, 1.1])
MATRIX[:3, 3] = (-7, 5, -4)
POINTS = np.array([[10.5, -20, 5], [-30, 10.25, 20], [5, 30, -15.5]])


def apply(*arguments: Any) -> int:
    return cli.main(["apply", *(str(a) for a in arguments), "--threads", "1"])


def to_ras(grid: Grid) -> np.ndarray:
    """(4, 4), (i, j, k, 1) -> RAS mm."""
    return RAS_TO_LPS @ grid.affine[:, [2, 1, 0, 3]]


def by_hand(points: np.ndarray, matrix: np.ndarray = MATRIX) -> np.ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def write_itk(path: Path, fixed: Grid, moving: Grid) -> None:
    write_affine(path, MATRIX)


def write_flirt(path: Path, fixed: Grid, moving: Grid) -> None:
    """By the words of FSL: from the moving image to the fixed one, in mm from the first voxel on, x of images that are
    right-handed in RAS counted from the other end."""
    ends = []
    for grid in (fixed, moving):
        scaled = np.diag([*grid.spacing[::-1], 1.0])
        if np.linalg.det(to_ras(grid)[:3, :3]) > 0:
            scaled = np.array([[-1, 0, 0, grid.spacing[2] * (grid.shape[2] - 1)], *np.eye(4)[1:]]) @ scaled
        ends.append(scaled @ np.linalg.inv(to_ras(grid)))
    np.savetxt(path, ends[0] @ RAS_TO_LPS @ np.linalg.inv(MATRIX) @ RAS_TO_LPS @ np.linalg.inv(ends[1]), fmt="%.10f")


def write_lta(path: Path, fixed: Grid, moving: Grid) -> None:
    nibabel, nitransforms = pytest.importorskip("nibabel"), pytest.importorskip("nitransforms")
    images = [nibabel.Nifti1Image(np.zeros(grid.shape[::-1], np.uint8), to_ras(grid)) for grid in (fixed, moving)]
    ras = RAS_TO_LPS @ MATRIX @ RAS_TO_LPS
    nitransforms.linear.Affine(ras, reference=images[0]).to_filename(str(path), fmt="fs", moving=images[1])


def write_xfm(path: Path, fixed: Grid, moving: Grid) -> None:
    rows = (RAS_TO_LPS @ np.linalg.inv(MATRIX) @ RAS_TO_LPS)[:3]
    numbers = "\n".join(" ".join(f"{v:.14g}" for v in row) for row in rows)
    path.write_text(f"MNI Transform File\n%a comment\nTransform_Type = Linear;\nLinear_Transform =\n{numbers};\n")


def write_field(path: Path, fixed: Grid, moving: Grid) -> None:
    """The same map as displacements, on the fixed grid with a margin, as SimpleITK writes it."""
    reference = fixed.padded(3)
    size, spacing, origin, direction = reference.to_image_geometry()
    transform = sitk.AffineTransform(MATRIX[:3, :3].ravel().tolist(), MATRIX[:3, 3].tolist())
    field = sitk.TransformToDisplacementField(transform, sitk.sitkVectorFloat64, size, origin, spacing, direction)
    sitk.WriteImage(field, str(path))


LINEAR = {
    "a.tfm": write_itk, "a.h5": write_itk, "itk.mat": write_itk, "a.txt": write_itk, "flirt.mat": write_flirt,
    "a.lta": write_lta, "a.xfm": write_xfm,
}  # fmt: skip
FIELDS = {"field.nii.gz": write_field, "field.nrrd": write_field, "field.mha": write_field}


@pytest.fixture
def moving(tmp_path: Path) -> Path:
    write_volume(tmp_path / "moving.nii.gz", sampled(MOVING))
    return tmp_path / "moving.nii.gz"


@pytest.fixture
def fixed(tmp_path: Path) -> Path:
    """Only its grid matters."""
    write_volume(tmp_path / "fixed.nii.gz", Volume(FIXED, np.zeros(FIXED.shape, np.float32)))
    return tmp_path / "fixed.nii.gz"


def by_itk(image: Path, reference: Path, matrix: np.ndarray = MATRIX) -> np.ndarray:
    transform = sitk.AffineTransform(matrix[:3, :3].ravel().tolist(), matrix[:3, 3].tolist())
    found = sitk.Resample(sitk.ReadImage(str(image)), sitk.ReadImage(str(reference)), transform, sitk.sitkLinear, 0.0)
    return sitk.GetArrayFromImage(found)


@pytest.mark.parametrize("name", [*LINEAR, *FIELDS])
def test_an_image_goes_where_itk_takes_it(tmp_path: Path, moving: Path, fixed: Path, name: str) -> None:
    (LINEAR | FIELDS)[name](tmp_path / name, FIXED, MOVING)
    assert apply(tmp_path / name, moving, "--reference", fixed, "-o", tmp_path / "out.nii.gz") == 0
    found = read_volume(tmp_path / "out.nii.gz")
    assert found.grid.same_as(FIXED, 1e-4)
    assert found.data.max() > 0.5
    assert np.abs(found.data - by_itk(moving, fixed)).max() < 2e-3


@pytest.mark.parametrize("name", LINEAR)
def test_an_image_goes_back_by_the_inverse(tmp_path: Path, moving: Path, fixed: Path, name: str) -> None:
    LINEAR[name](tmp_path / name, FIXED, MOVING)
    write_volume(fixed, sampled(FIXED))
    assert apply(tmp_path / name, fixed, "--to", "moving", "--reference", moving, "-o", tmp_path / "out.nii.gz") == 0
    found = read_volume(tmp_path / "out.nii.gz")
    assert found.grid.same_as(MOVING, 1e-4)
    assert np.abs(found.data - by_itk(fixed, moving, np.linalg.inv(MATRIX))).max() < 2e-3


@pytest.mark.parametrize("grids", [(FIXED, MOVING), (FLIPPED, MOVING), (MOVING, FLIPPED)])
@pytest.mark.parametrize("name", ["flirt.mat", "a.lta"])
def test_nitransforms_resamples_by_the_same_file_to_the_same_image(tmp_path: Path, grids: Any, name: str) -> None:
    nibabel, nitransforms = pytest.importorskip("nibabel"), pytest.importorskip("nitransforms")
    from nitransforms.resampling import apply as resampled

    fixed, moving = grids
    LINEAR[name](tmp_path / name, fixed, moving)
    for side, grid in (("fixed", fixed), ("moving", moving)):
        write_volume(tmp_path / f"{side}.nii.gz", sampled(grid))
    images = [nibabel.load(tmp_path / f"{side}.nii.gz") for side in ("fixed", "moving")]
    kind = {"flirt.mat": "fsl", "a.lta": "fs"}[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = nitransforms.linear.Affine.from_filename(
            str(tmp_path / name), fmt=kind, reference=images[0], moving=images[1]
        )
        expected = np.asarray(resampled(theirs, images[1], reference=images[0], order=1).dataobj).T
    out, reference = tmp_path / "out.nii.gz", tmp_path / "fixed.nii.gz"
    assert apply(tmp_path / name, tmp_path / "moving.nii.gz", "--reference", reference, "-o", out) == 0
    index = np.stack(np.meshgrid(*[np.arange(n) for n in fixed.shape], indexing="ij"), -1)
    at = moving.physical_to_index(by_hand(fixed.index_to_physical(index)))
    inside = ((at >= 0) & (at <= np.array(moving.shape) - 1)).all(-1)  # beyond the centers they fade to 0
    assert inside.mean() > 0.4
    assert np.abs(read_volume(out).data - expected)[inside].max() < 2e-3
    assert expected.max() > 0.5


def test_labels_and_a_series_and_a_segmentation(tmp_path: Path, moving: Path, fixed: Path) -> None:
    write_flirt(tmp_path / "a.mat", FIXED, MOVING)
    labels = np.digitize(read_volume(moving).data, [0.3, 0.6]).astype(np.int32)
    write_volume(tmp_path / "labels.nii.gz", Volume(MOVING, labels))
    out = tmp_path / "out.nii.gz"
    assert apply(tmp_path / "a.mat", tmp_path / "labels.nii.gz", "--labels", "--reference", fixed, "-o", out) == 0
    weights = []
    for label in range(3):
        write_volume(tmp_path / "one.nii.gz", Volume(MOVING, np.float32(labels == label)))
        weights.append(by_itk(tmp_path / "one.nii.gz", fixed))
    assert (read_labels(out).data == np.argmax(weights, 0)).mean() > 0.999
    series = sitk.JoinSeries([MOVING.apply_to(sitk.GetImageFromArray(f * read_volume(moving).data)) for f in (1, 3)])
    sitk.WriteImage(series, str(tmp_path / "series.nrrd"))
    out = tmp_path / "series_out.nrrd"
    assert apply(tmp_path / "a.mat", tmp_path / "series.nrrd", "--reference", fixed, "-o", out) == 0
    both = sitk.GetArrayFromImage(sitk.ReadImage(str(out)))
    assert np.abs(both - np.stack([by_itk(moving, fixed) * f for f in (1, 3)])).max() < 6e-3
    parts = Segmentation((Volume(MOVING, labels),), (Segment("a", "Liver", label=1), Segment("b", "Tumor", label=2)))
    write_segmentation(tmp_path / "a.seg.nrrd", parts)
    out = tmp_path / "out.seg.nrrd"
    assert apply(tmp_path / "a.mat", tmp_path / "a.seg.nrrd", "--labels", "--reference", fixed, "-o", out) == 0
    assert [s.name for s in read_segmentation(out).segments] == ["Liver", "Tumor"]
    assert np.array_equal(read_segmentation(out).layers[0].data, read_labels(tmp_path / "out.nii.gz").data)


@pytest.mark.parametrize("name", LINEAR)
def test_points_go_the_other_way_than_images_are_looked_up(
    tmp_path: Path, moving: Path, fixed: Path, name: str
) -> None:
    LINEAR[name](tmp_path / name, FIXED, MOVING)
    write_points(tmp_path / "fixed.fcsv", POINTS)
    more = ["--reference", moving, "--source", fixed] if name == "flirt.mat" else []
    assert apply(tmp_path / name, tmp_path / "fixed.fcsv", "--to", "moving", *more, "-o", tmp_path / "m.fcsv") == 0
    assert np.allclose(read_points(tmp_path / "m.fcsv")[0], by_hand(POINTS), atol=1e-4)
    more = ["--reference", fixed, "--source", moving] if name == "flirt.mat" else []
    assert apply(tmp_path / name, tmp_path / "m.fcsv", *more, "-o", tmp_path / "f.fcsv") == 0
    assert np.allclose(read_points(tmp_path / "f.fcsv")[0], POINTS, atol=1e-4)


def test_a_point_lies_where_the_image_shows_it(tmp_path: Path, fixed: Path) -> None:
    """A bright voxel of the moving image and a landmark on it, carried by each kind of file."""
    data = np.zeros(MOVING.shape, np.float32)
    data[17:20, 20:23, 15:18] = 100
    write_volume(tmp_path / "spot.nii.gz", Volume(MOVING, data))
    write_points(tmp_path / "spot.csv", MOVING.index_to_physical(np.array([[18, 21, 16]])))
    for name in LINEAR:
        LINEAR[name](tmp_path / name, FIXED, MOVING)
        more = ["--source", tmp_path / "spot.nii.gz", "--reference", fixed] if name == "flirt.mat" else []
        assert apply(tmp_path / name, tmp_path / "spot.csv", *more, "-o", tmp_path / f"{name}.csv") == 0
        out = tmp_path / f"{name}.nii.gz"
        assert apply(tmp_path / name, tmp_path / "spot.nii.gz", "--reference", fixed, "-o", out) == 0
        shown = read_volume(out).data
        at = FIXED.index_to_physical(np.argwhere(shown > 0))
        center = np.average(at, axis=0, weights=shown[shown > 0])
        assert np.linalg.norm(center - read_points(tmp_path / f"{name}.csv")[0][0]) < 1.5


def test_a_surface(tmp_path: Path, capsys: Any) -> None:
    text = "# SPACE=LPS\n" + "".join(f"v {x} {y} {z}\n" for x, y, z in POINTS) + "f 1 2 3\n"
    (tmp_path / "a.obj").write_text(text)
    write_xfm(tmp_path / "a.xfm", FIXED, MOVING)
    assert apply(tmp_path / "a.xfm", tmp_path / "a.obj", "--to", "moving", "-o", tmp_path / "b.obj") == 0
    assert np.allclose(read_surface(tmp_path / "b.obj"), by_hand(POINTS), atol=1e-4)
    assert "a.obj" not in capsys.readouterr().err
    (tmp_path / "c.obj").write_text(text.partition("\n")[2])
    assert apply(tmp_path / "a.xfm", tmp_path / "c.obj", "--to", "moving", "-o", tmp_path / "d.obj") == 0
    assert "c.obj: " in capsys.readouterr().err  # it does not name its coordinate system


# ---- displacement fields


def bent(grid: Grid) -> np.ndarray:
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), -1)
    x = grid.index_to_physical(index)
    return (4 * np.sin(x[..., ::-1] / 20) + (2, -3, 1)).astype(np.float32)


def test_a_field_takes_images_and_points_as_itk_does(tmp_path: Path, moving: Path, fixed: Path, capsys: Any) -> None:
    write_displacement_field(tmp_path / "field.nii.gz", FIXED, bent(FIXED))
    image = sitk.ReadImage(str(tmp_path / "field.nii.gz"), sitk.sitkVectorFloat64)
    transform = sitk.DisplacementFieldTransform(image)
    # The field's own grid, and another one.
    write_volume(tmp_path / "other.nrrd", Volume(MOVING, np.zeros(MOVING.shape, np.float32)))
    for more, reference in (([], fixed), (["--reference", tmp_path / "other.nrrd"], tmp_path / "other.nrrd")):
        assert apply(tmp_path / "field.nii.gz", moving, *more, "-o", tmp_path / "out.nrrd", "--force") == 0
        expected = sitk.Resample(
            sitk.ReadImage(str(moving)), sitk.ReadImage(str(reference)), transform, sitk.sitkLinear, 0.0
        )
        found = sitk.ReadImage(str(tmp_path / "out.nrrd"))
        assert found.GetSize() == expected.GetSize()
        assert np.abs(sitk.GetArrayFromImage(found) - sitk.GetArrayFromImage(expected)).max() < 5e-3
    told = capsys.readouterr().err
    assert "there nothing was moved" in told
    places = np.vstack([POINTS, [[400.0, 0, 0]]])
    write_points(tmp_path / "a.csv", places)
    assert apply(tmp_path / "field.nii.gz", tmp_path / "a.csv", "--to", "moving", "-o", tmp_path / "b.csv") == 0
    there = [transform.TransformPoint(p) for p in places.tolist()]
    assert np.allclose(read_points(tmp_path / "b.csv")[0], there, atol=1e-4)
    assert np.allclose(there[3], places[3])
    assert "does not reach 25 %" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["1Composite.h5", "bspline.tfm", "bspline.h5", "composite.tfm"])
def test_a_transform_of_itk_that_is_not_linear(tmp_path: Path, moving: Path, fixed: Path, name: str) -> None:
    """A composite as ANTs writes it, and B-splines as Slicer and elastix do, against ITK itself."""
    corner, size = FIXED.corners().min(0) - 5, np.ptp(FIXED.corners(), 0) + 10
    spline = sitk.BSplineTransform(3)
    spline.SetTransformDomainOrigin(corner.tolist())
    spline.SetTransformDomainPhysicalDimensions(size.tolist())
    spline.SetTransformDomainMeshSize((3, 4, 3))
    spline.SetParameters((4 * np.random.default_rng(0).normal(size=len(spline.GetParameters()))).tolist())
    transform: Any = spline
    if "omposite" in name:
        affine = sitk.AffineTransform(MATRIX[:3, :3].ravel().tolist(), MATRIX[:3, 3].tolist())
        field = FIXED.apply_to(sitk.GetImageFromArray(bent(FIXED).astype(float), isVector=True))
        transform = sitk.CompositeTransform([affine, sitk.DisplacementFieldTransform(field)])
    sitk.WriteTransform(transform, str(tmp_path / name))
    out = tmp_path / "out.nii.gz"
    assert apply(tmp_path / name, moving, "--reference", fixed, "-o", out) == 0
    expected = sitk.Resample(sitk.ReadImage(str(moving)), sitk.ReadImage(str(fixed)), transform, sitk.sitkLinear, 0.0)
    assert sitk.GetArrayFromImage(expected).max() > 0.5
    assert np.abs(read_volume(out).data - sitk.GetArrayFromImage(expected)).max() < 5e-3
    write_points(tmp_path / "a.fcsv", POINTS)
    assert apply(tmp_path / name, tmp_path / "a.fcsv", "--to", "moving", "-o", tmp_path / "b.fcsv") == 0
    expected = [transform.TransformPoint(p) for p in POINTS.tolist()]
    assert np.allclose(read_points(tmp_path / "b.fcsv")[0], expected, atol=1e-4)
    assert np.abs(expected - POINTS).max() > 2


def test_what_a_result_wrote_carries_as_the_result_does(tmp_path: Path) -> None:
    """The field of a slice of 3-D space leads to the plane of the moving slice."""
    slices = [Grid((1, *grid.shape[1:]), grid.affine).flattened() for grid in (FIXED, FIXED.padded(1))]
    turned = np.array([[0.98, 0.1, 3], [-0.1, 1.02, -2], [0, 0, 1]])
    field = np.stack(np.meshgrid(*[np.arange(n) for n in slices[0].shape], indexing="ij"), -1)
    at = slices[0].index_to_physical(field)
    displacement = (at @ turned[:2, :2].T + turned[:2, 2] - at).astype(np.float32)
    write_displacement_field(tmp_path / "field.nii.gz", slices[0], displacement, slices[1])
    write_affine(tmp_path / "a.tfm", turned, *slices)
    write_volume(tmp_path / "moving.nrrd", Volume(slices[1], sampled(slices[1]).data + 1))
    write_volume(tmp_path / "fixed.nrrd", Volume(slices[0], np.zeros(slices[0].shape, np.float32)))
    found = {}
    for name in ("field.nii.gz", "a.tfm"):
        out = tmp_path / f"{name}.nrrd"
        more = ["--reference", tmp_path / "fixed.nrrd"]
        assert apply(tmp_path / name, tmp_path / "moving.nrrd", *more, "-o", out) == 0
        found[name] = read_volume(out)
        assert found[name].grid.same_as(slices[0], 1e-4)
    assert np.ptp(found["a.tfm"].data) > 0.5
    assert np.abs(found["a.tfm"].data - found["field.nii.gz"].data).max() < 1e-3


def test_pictures_by_a_2d_transform_and_a_2d_field(tmp_path: Path) -> None:
    grid = Grid((40, 44), np.eye(3)[[1, 0, 2]])
    ramp = np.add.outer(np.arange(40), 2 * np.arange(44)).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(ramp), str(tmp_path / "a.png"))
    matrix = np.array([[1, 0, 3], [0, 1, -2], [0, 0, 1.0]])
    write_affine(tmp_path / "a.tfm", matrix)
    write_displacement_field(tmp_path / "f.nii.gz", grid, np.broadcast_to(np.float32([3, -2]), (*grid.shape, 2)))
    for name, more in (("a.tfm", ["--reference", tmp_path / "a.png"]), ("f.nii.gz", [])):
        assert apply(tmp_path / name, tmp_path / "a.png", *more, "-o", tmp_path / f"{name}.png") == 0
        found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"{name}.png")))
        assert np.array_equal(found[2:, :-3], ramp[:-2, 3:])
    write_points(tmp_path / "a.csv", np.array([[10.0, 20]]))
    write_points(tmp_path / "a.fcsv", np.array([[10.0, 20, 0]]))
    for kind in ("csv", "fcsv"):
        out = tmp_path / f"b.{kind}"
        assert apply(tmp_path / "a.tfm", tmp_path / f"a.{kind}", "-o", out) == 0
        assert np.allclose(read_points(out)[0][0, :2], (7, 22))


# ---- errors and notes


def test_what_a_transform_cannot_do_is_said_and_nothing_is_written(
    tmp_path: Path, moving: Path, fixed: Path, capsys: Any
) -> None:
    for name, write in (LINEAR | FIELDS).items():
        write(tmp_path / name, FIXED, MOVING)
    write_points(tmp_path / "p.csv", POINTS)
    write_points(tmp_path / "flat.csv", POINTS[:, :2])
    write_volume(tmp_path / "flat.nrrd", sampled(centered_grid((20, 20), (3, 3))))
    sitk.WriteTransform(sitk.BSplineTransform(3), str(tmp_path / "b.tfm"))
    sitk.WriteTransform(sitk.BSplineTransform(2), str(tmp_path / "b2.tfm"))
    huge = (tmp_path / "b.tfm").read_text().replace("FixedParameters: 4 4 4", "FixedParameters: 99999 99999 99999")
    (tmp_path / "huge.tfm").write_text(huge)
    out, points = tmp_path / "out.nii.gz", tmp_path / "out.csv"
    given = ["--reference", fixed]
    cases: list[tuple[list[Any], str]] = [
        (["a.tfm", moving, "-o", out], "a.tfm: does not say on which voxels the output shall lie"),
        (["flirt.mat", moving, "-o", out], "flirt.mat: does not say on which voxels"),
        (["flirt.mat", tmp_path / "p.csv", "-o", points], "no meaning without the grids of both images"),
        (["flirt.mat", tmp_path / "p.csv", *given, "-o", points], "with points and surfaces --source"),
        (["a.tfm", moving, *given, "-o", out, "--time", "0.5"], "a.tfm: is a bare transform, without a time"),
        (["field.nrrd", moving, *given, "--to", "moving", "-o", out], "field.nrrd: is not linear, and so takes images"),
        (["field.nrrd", tmp_path / "p.csv", "-o", points], "Pass the inverse that was written"),
        (["field.nrrd", tmp_path / "flat.csv", "--to", "moving", "-o", points], "flat.csv: has 2-D points"),
        (["field.nrrd", tmp_path / "flat.nrrd", "-o", out], "Pass images of as many dimensions"),
        (["a.tfm", tmp_path / "flat.nrrd", *given, "-o", out], "Pass images of as many dimensions"),
        (["a.tfm", tmp_path / "flat.nrrd", "--reference", tmp_path / "flat.nrrd", "-o", out], "holds a 3-D transform"),
        (["b.tfm", moving, "-o", out], "b.tfm: does not say on which voxels"),
        (["b.tfm", moving, *given, "--to", "moving", "-o", out], "b.tfm: is not linear, and so takes images"),
        (["b.tfm", tmp_path / "p.csv", "-o", points], "Pass the inverse that was written with it"),
        (["b.tfm", tmp_path / "flat.csv", "--to", "moving", "-o", points], "flat.csv: has 2-D points"),
        (["b2.tfm", moving, *given, "-o", out], "b2.tfm: holds a 2-D transform, but the images or points are 3-D"),
        (["huge.tfm", moving, *given, "-o", out], "huge.tfm: "),
        (["moving.nii.gz", moving, *given, "-o", out], "moving.nii.gz: is 3-D with 1 components per voxel, no"),
        (["none.lta", moving, *given, "-o", out], "none.lta: there is no such file"),
        (["a.tfm", tmp_path / "p.csv", "--labels", "-o", points], "only make sense for images"),
    ]
    before = sorted(tmp_path.iterdir())
    for (name, *arguments), message in cases:
        assert apply(tmp_path / name, *arguments) == 2, (name, arguments)
        error = capsys.readouterr().err
        assert error.startswith("Error: "), error
        assert message in error
        assert sorted(tmp_path.iterdir()) == before


def test_what_is_assumed_of_a_transform_is_told(tmp_path: Path, moving: Path, fixed: Path, capsys: Any) -> None:
    write_flirt(tmp_path / "a.mat", FIXED, MOVING)
    assert apply(tmp_path / "a.mat", moving, "--reference", fixed, "-o", tmp_path / "a.nii.gz") == 0
    assert "Note: " in (told := capsys.readouterr().err)
    assert "a.mat: was read as a matrix of FSL FLIRT" in told
    far = np.eye(4)
    far[:3, 3] = 900
    write_affine(tmp_path / "far.tfm", far)
    assert apply(tmp_path / "far.tfm", moving, "--reference", fixed, "-o", tmp_path / "b.nii.gz") == 0
    assert "far.tfm: takes no part of the fixed image into the moving one" in capsys.readouterr().err
    write_displacement_field(tmp_path / "far.nrrd", FIXED, np.full((*FIXED.shape, 3), 900, np.float32))
    assert apply(tmp_path / "far.nrrd", moving, "-o", tmp_path / "c.nii.gz") == 0
    assert "far.nrrd: takes nothing of the output's voxels into the image" in capsys.readouterr().err
