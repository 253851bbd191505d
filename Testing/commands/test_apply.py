# SPDX-License-Identifier: Apache-2.0
"""deepflash apply: images, labels, landmarks and surfaces, in both directions, at any time, on any grid."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import registration_pairs as pairs
import SimpleITK as sitk
from DeepFLASHRegistrationLib.commands import main as cli
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.io import read_labels, read_volume, write_volume
from DeepFLASHRegistrationLib.imaging.points import read_points, write_points
from DeepFLASHRegistrationLib.imaging.segmentation import Segment, Segmentation, read_segmentation, write_segmentation
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.registration.register import register
from DeepFLASHRegistrationLib.results.folder import save_result
from registration_pairs import Registered, Saved

pytest.importorskip("torch")


def apply(*arguments: Any) -> int:
    return cli.main(["apply", *(str(a) for a in arguments), "--threads", "1"])


@pytest.fixture
def moving(saved: Saved, tmp_path: Path) -> Path:
    write_volume(tmp_path / "moving.nii.gz", saved.moving)
    return tmp_path / "moving.nii.gz"


@pytest.fixture
def points(registered: Registered) -> np.ndarray:
    """Points of the fixed object."""
    return pairs.places(pairs.box((4, 4, 4), 11.0)).reshape(-1, 3) + 1.7


def test_an_image_is_what_register_wrote(saved: Saved, moving: Path, tmp_path: Path) -> None:
    assert apply(saved.folder, moving, "-o", tmp_path / "again.nii.gz") == 0
    # NIfTI keeps the place of the moving image in single precision.
    first = read_volume(tmp_path / "again.nii.gz").data
    assert np.allclose(first, saved.result.warped.data, atol=0.05)
    assert apply(saved.folder / "velocity.safetensors", moving, "-o", tmp_path / "again.nrrd") == 0
    assert np.array_equal(read_volume(tmp_path / "again.nrrd").data, first)


def test_labels_are_what_register_wrote(saved: Saved, registered: Registered, tmp_path: Path) -> None:
    write_volume(tmp_path / "labels.nii.gz", registered.labels)
    assert apply(saved.folder, tmp_path / "labels.nii.gz", "-o", tmp_path / "out.nii.gz", "--labels") == 0
    written = sitk.ReadImage(str(tmp_path / "out.nii.gz"))
    assert written.GetPixelID() == sitk.sitkInt32
    assert (sitk.GetArrayFromImage(written) != saved.result.labels.data).mean() < 1e-3


def test_time_zero_is_the_affine_alone(saved: Saved, moving: Path, tmp_path: Path) -> None:
    assert apply(saved.folder, moving, "-o", tmp_path / "a.nii.gz", "--time", 0) == 0
    found = read_volume(tmp_path / "a.nii.gz").data
    assert np.abs(found - saved.result.moving_affine.data).max() < 1e-3 * saved.moving.data.max()
    assert apply(saved.folder, moving, "-o", tmp_path / "b.nii.gz", "--time", 0.5) == 0
    half = read_volume(tmp_path / "b.nii.gz").data
    # On its way from the one to the other.
    whole = np.abs(saved.result.warped.data - found).mean()
    assert np.abs(half - found).mean() < whole
    assert np.abs(half - saved.result.warped.data).mean() < whole


def test_any_reference_grid(saved: Saved, moving: Path, tmp_path: Path) -> None:
    """The same anatomy at the same place, however the reference is stored, and finer where it is finer."""
    reference = pairs.box((40, 44, 38), (2.3, 2.4, 2.6), pairs.turn(35), (1.0, -2.0, 3.0))
    # Of a reference only the grid counts: it may show nothing.
    write_volume(tmp_path / "reference.mha", Volume(reference, np.zeros(reference.shape, np.float32)))
    assert apply(saved.folder, moving, "-o", tmp_path / "out.nii.gz", "--reference", tmp_path / "reference.mha") == 0
    found = read_volume(tmp_path / "out.nii.gz")
    assert found.grid.same_as(reference, 1e-3)
    true = 1000 * pairs.intensities(pairs.bend(pairs.places(reference)))
    assert pairs.correlation(found.data, true) > 0.985
    for order, flip in [((2, 0, 1), (0, 2)), ((0, 1, 2), (1,))]:
        write_volume(tmp_path / "other.nii.gz", pairs.stored(saved.fixed, order, flip))
        assert (
            apply(
                saved.folder, moving, "-o", tmp_path / "o.nii.gz", "--reference", tmp_path / "other.nii.gz", "--force"
            )
            == 0
        )
        expected = pairs.stored(saved.result.warped, order, flip)
        assert np.allclose(read_volume(tmp_path / "o.nii.gz").data, expected.data, atol=0.05)


def test_the_fixed_image_can_be_brought_to_the_moving_space(
    saved: Saved, registered: Registered, tmp_path: Path
) -> None:
    write_volume(tmp_path / "fixed.nii.gz", saved.fixed)
    write_volume(tmp_path / "labels.nii.gz", registered.fixed_labels)
    assert apply(saved.folder, tmp_path / "fixed.nii.gz", "-o", tmp_path / "a.nii.gz", "--to", "moving") == 0
    found = read_volume(tmp_path / "a.nii.gz")
    assert found.grid.same_as(saved.moving.grid, 1e-3)
    inside = saved.moving.data > 100
    assert pairs.correlation(found.data[inside], saved.moving.data[inside]) > 0.9
    assert (
        apply(saved.folder, tmp_path / "labels.nii.gz", "-o", tmp_path / "b.nii.gz", "--to", "moving", "--labels") == 0
    )
    assert (read_labels(tmp_path / "b.nii.gz").data == registered.labels.data).mean() > 0.96


def test_interpolations_differ_where_they_should(saved: Saved, moving: Path, tmp_path: Path) -> None:
    found = {}
    for kind in ("linear", "cubic", "nearest"):
        assert apply(saved.folder, moving, "-o", tmp_path / f"{kind}.nii.gz", "--interpolation", kind) == 0
        found[kind] = read_volume(tmp_path / f"{kind}.nii.gz").data
    assert set(np.unique(found["nearest"])) <= set(np.unique(saved.moving.data))
    assert 0 < np.abs(found["cubic"] - found["linear"]).mean() < np.abs(found["nearest"] - found["linear"]).mean()


@pytest.mark.parametrize("suffix", [".csv", ".fcsv", ".mrk.json"])
def test_landmarks_go_there_and_back(saved: Saved, points: np.ndarray, tmp_path: Path, suffix: str) -> None:
    names = [f"point {i}" for i in range(len(points))]
    source, there, back = (tmp_path / f"{name}{suffix}" for name in ("source", "there", "back"))
    write_points(source, points, names)
    assert apply(saved.folder, source, "-o", there, "--to", "moving") == 0
    found, labels = read_points(there)
    assert labels == names
    assert np.allclose(found, saved.result.deformation.points(points, "fixed_to_moving"), atol=1e-4)
    assert apply(saved.folder, there, "-o", back) == 0
    assert np.linalg.norm(read_points(back)[0] - points, axis=1).max() < 0.3
    # Where the warped image shows them.
    true = pairs.bend(points) @ saved.result.affine[:3, :3].T + saved.result.affine[:3, 3]
    affine = points @ saved.result.affine[:3, :3].T + saved.result.affine[:3, 3]
    assert np.linalg.norm(found - true, axis=1).mean() < 0.7 * np.linalg.norm(affine - true, axis=1).mean()


@pytest.mark.parametrize("suffix", [".vtk", ".vtp", ".stl", ".ply"])
@pytest.mark.parametrize("space", ["LPS", "RAS"])
def test_surfaces(saved: Saved, tmp_path: Path, suffix: str, space: str) -> None:
    vtk = pytest.importorskip("vtk")
    from DeepFLASHRegistrationLib.imaging.surfaces import read_surface

    sphere = vtk.vtkSphereSource()
    sphere.SetRadius(20)
    sphere.SetCenter(3, -5, 2)
    sphere.Update()
    writer = {
        ".vtk": vtk.vtkPolyDataWriter,
        ".vtp": vtk.vtkXMLPolyDataWriter,
        ".stl": vtk.vtkSTLWriter,
        ".ply": vtk.vtkPLYWriter,
    }[suffix]()
    mesh = sphere.GetOutput()
    if suffix == ".ply":
        writer.AddComment(f"SPACE={space}")
    elif suffix == ".vtp":
        tag = vtk.vtkStringArray()
        tag.SetName("SPACE")
        tag.InsertNextValue(space)
        mesh.GetFieldData().AddArray(tag)
    else:
        writer.SetHeader(f"SPACE={space}")
    source, there, back = (tmp_path / f"{name}{suffix}" for name in ("source", "there", "back"))
    writer.SetFileName(str(source))
    writer.SetInputData(mesh)
    writer.Write()
    before = read_surface(source)
    assert apply(saved.folder, source, "-o", there, "--to", "moving") == 0
    assert np.allclose(read_surface(there), saved.result.deformation.points(before, "fixed_to_moving"), atol=1e-2)
    assert apply(saved.folder, there, "-o", back, "--to", "fixed") == 0
    assert np.linalg.norm(read_surface(back) - before, axis=1).max() < 0.3


def test_surfaces_without_vtk(
    saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    (tmp_path / "a.stl").write_text("solid\nendsolid\n")
    monkeypatch.setitem(sys.modules, "vtk", None)
    assert apply(saved.folder, tmp_path / "a.stl", "-o", tmp_path / "b.stl") == 2
    assert "surfaces need VTK. Install it (pip install vtk)" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------- two dimensions


def test_2d(tmp_path: Path) -> None:
    fixed, moving = pairs.disks((30, 33), 3.2)
    result = register(
        fixed, moving, pairs.quick(initial_alignment="none", resolutions=(1,), bands=(9,), iterations=(4,)), threads=1
    )
    save_result(result, tmp_path / "out", fixed, moving)
    transform = sitk.DisplacementFieldTransform(
        sitk.ReadImage(str(tmp_path / "out" / "fixed_to_moving.nii.gz"), sitk.sitkVectorFloat64)
    )
    image = moving.grid.apply_to(sitk.GetImageFromArray(moving.data))
    reference = sitk.ReadImage(str(tmp_path / "out" / "warped.nii.gz"))
    again = sitk.GetArrayFromImage(sitk.Resample(image, reference, transform, sitk.sitkLinear, 0.0))
    assert np.abs(again - result.warped.data).max() < 1.0
    write_volume(tmp_path / "moving.nrrd", moving)
    assert apply(tmp_path / "out", tmp_path / "moving.nrrd", "-o", tmp_path / "again.nrrd") == 0
    # A field on another grid is the same but for roundings, of 1e-5 mm.
    assert np.allclose(read_volume(tmp_path / "again.nrrd").data, result.warped.data, atol=0.01)
    points = pairs.places(pairs.box((3, 3), 14.0)).reshape(-1, 2)
    expected = result.deformation.points(points, "fixed_to_moving")
    write_points(tmp_path / "flat.csv", points)
    assert apply(tmp_path / "out", tmp_path / "flat.csv", "-o", tmp_path / "a.csv", "--to", "moving") == 0
    assert np.allclose(read_points(tmp_path / "a.csv")[0], expected, atol=1e-4)
    # Markups always have three coordinates; a 2-D image lies in the plane z = 0.
    write_points(tmp_path / "upright.fcsv", np.c_[points, np.zeros(len(points))])
    assert apply(tmp_path / "out", tmp_path / "upright.fcsv", "-o", tmp_path / "b.fcsv", "--to", "moving") == 0
    assert np.allclose(read_points(tmp_path / "b.fcsv")[0], np.c_[expected, np.zeros(len(points))], atol=1e-4)


def slices(folder: Path, axis: int) -> tuple[Path, Path, np.ndarray]:
    """Files of oblique single slices of 3-D space, the moving one elsewhere, and the world of the fixed one."""
    world = np.eye(4)
    world[:3, :3], world[:3, 3] = pairs.turn(20), (10, 20, 30)
    names = folder / "fixed.nii.gz", folder / "moving.nii.gz"
    for name, volume, z in zip(names, pairs.disks((30, 33), 3.2), (4.0, -9.0), strict=True):
        affine, shape = np.zeros((4, 4)), [*volume.grid.shape]
        shape.insert(axis, 1)
        affine[:2, [a for a in range(3) if a != axis]] = volume.grid.affine[:2, :2]
        affine[2, axis], affine[:, 3] = 3.0, (*volume.grid.affine[:2, 2], z, 1)
        write_volume(name, Volume(Grid(tuple(shape), world @ affine), volume.data.reshape(shape)))
    return *names, world


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_of_3d_space_end_to_end(tmp_path: Path, axis: int) -> None:
    fixed, moving, world = slices(tmp_path, axis)
    out = tmp_path / "out"
    points = pairs.places(pairs.box((3, 3), 14.0)).reshape(-1, 2)
    for name, at, z in (("f", points, 4.0), ("m", pairs.bend(points), -9.0)):
        write_points(tmp_path / f"{name}.mrk.json", np.c_[at, np.full(len(at), z)] @ world[:3, :3].T + world[:3, 3])
    assert (
        cli.main(
            [
                "register",
                str(fixed),
                str(moving),
                "-o",
                str(out),
                "-q",
                *pairs.TINY_OPTIONS,
                "--fixed-points",
                str(tmp_path / "f.mrk.json"),
                "--moving-points",
                str(tmp_path / "m.mrk.json"),
            ]
        )
        == 0
    )
    landmarks = json.loads((out / "result.json").read_text())["metrics"]["landmarks"]
    assert landmarks["mean_after_mm"] < landmarks["mean_before_mm"] < 6
    # SimpleITK leads from slice to slice.
    images = [sitk.ReadImage(str(p)) for p in (moving, out / "warped.nii.gz", fixed)]
    assert images[1].GetSize() == images[2].GetSize()
    transform = sitk.DisplacementFieldTransform(
        sitk.ReadImage(str(out / "fixed_to_moving.nii.gz"), sitk.sitkVectorFloat64)
    )
    again = sitk.GetArrayFromImage(sitk.Resample(images[0], images[1], transform, sitk.sitkLinear, 0.0))
    assert np.abs(again - sitk.GetArrayFromImage(images[1])).max() < 2.0
    assert apply(out, moving, "-o", tmp_path / "again.nii.gz") == 0
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "again.nii.gz")))
    assert np.allclose(found, sitk.GetArrayFromImage(images[1]), atol=0.01)
    # Points lead from slice to slice as well, and back.
    assert apply(out, tmp_path / "f.mrk.json", "-o", tmp_path / "there.mrk.json", "--to", "moving") == 0
    there = read_points(tmp_path / "there.mrk.json")[0]
    by_field = np.array([transform.TransformPoint(tuple(p)) for p in read_points(tmp_path / "f.mrk.json")[0]])
    assert np.allclose(there, by_field, atol=0.2)
    assert np.allclose((there - world[:3, 3]) @ world[:3, 2], -9.0, atol=1e-3)
    assert apply(out, tmp_path / "there.mrk.json", "-o", tmp_path / "back.mrk.json") == 0
    assert np.allclose(read_points(tmp_path / "back.mrk.json")[0], read_points(tmp_path / "f.mrk.json")[0], atol=0.3)


# ------------------------------------------------------------------------------------------------------------- errors


def test_errors_are_told_and_nothing_is_written(
    saved: Saved, moving: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path
    write_points(source / "flat.csv", np.zeros((2, 2)))
    write_points(source / "points.csv", np.zeros((2, 3)))
    write_volume(source / "flat.nrrd", pairs.disks((9, 9), 3.0)[0])
    (source / "text.nii.gz").write_text("no image")
    (source / "text.stl").write_text("no surface")
    (source / "empty.csv").write_text("")
    (source / "taken.nii.gz").write_text("mine")
    out = source / "out.nii.gz"
    cases: list[tuple[list[Any], str]] = [
        ([source, moving, "-o", out], "velocity.safetensors: there is no such file. Pass the folder that"),
        ([moving, moving, "-o", out], "moving.nii.gz: is 3-D with 1 components per voxel, no displacement field"),
        ([source / "text.stl", moving, "-o", out], "is damaged, or no .safetensors file"),
        ([saved.folder, source / "missing.nii.gz", "-o", out], "missing.nii.gz: there is no such file or folder"),
        ([saved.folder, source / "text.nii.gz", "-o", out], "text.nii.gz: "),
        ([saved.folder, source / "text.stl", "-o", source / "o.stl"], "text.stl: holds no surface that can be read"),
        ([saved.folder, source / "empty.csv", "-o", source / "o.csv"], "empty.csv: holds no points"),
        (
            [saved.folder, source / "flat.csv", "-o", source / "o.csv"],
            "flat.csv: has 2-D points, but the result is 3-D",
        ),
        ([saved.folder, source / "flat.nrrd", "-o", out], "flat.nrrd: has 2 dimensions, the result 3"),
        ([saved.folder, moving, "-o", out, "--reference", source / "flat.nrrd"], "flat.nrrd: has 2 dimensions"),
        ([saved.folder, moving, "-o", out, "--reference", source / "no.nrrd"], "no.nrrd: there is no such file"),
        ([saved.folder, moving, "-o", out, "--time", "1.5"], "The time must lie between 0 (affine alone) and 1"),
        ([saved.folder, moving, "-o", out, "--time", "nan"], "The time must lie between 0"),
        ([saved.folder, moving, "-o", out, "--labels"], "labels must be integers"),
        (
            [saved.folder, source / "points.csv", "-o", source / "o.csv", "--reference", moving],
            "only make sense for images",
        ),
        ([saved.folder, source / "points.csv", "-o", source / "o.csv", "--labels"], "only make sense for images"),
        ([saved.folder, source / "points.csv", "-o", out], "out.nii.gz: unknown kind of landmark file"),
        ([saved.folder, moving, "-o", source / "out.xyz"], "out.xyz: unknown kind of image file"),
        ([saved.folder, moving, "-o", source / "none" / "o.nii.gz"], "does not exist. Create it first"),
        (
            [saved.folder, moving, "-o", source / "taken.nii.gz"],
            "taken.nii.gz: exists. Choose another name, or add --force",
        ),
        ([saved.folder, moving, "-o", source], "exists. Choose another name"),
    ]
    before = sorted(os.listdir(source))
    for arguments, message in cases:
        assert apply(*arguments) == 2, arguments
        error = capsys.readouterr().err
        assert error.startswith("Error: "), error
        assert message in error
        assert sorted(os.listdir(source)) == before
    assert (source / "taken.nii.gz").read_text() == "mine"
    assert apply(saved.folder, moving, "-o", source / "taken.nii.gz", "--force") == 0
    assert read_volume(source / "taken.nii.gz").grid.same_as(saved.fixed.grid, 1e-3)


def test_the_input_may_be_replaced(saved: Saved, moving: Path) -> None:
    assert apply(saved.folder, moving, "-o", moving, "--force") == 0
    assert np.allclose(read_volume(moving).data, saved.result.warped.data, atol=0.05)


@pytest.mark.parametrize(
    "stage",
    [
        "results.velocity.read_tensors",
        "problem.deformation.Deformation.displacement",
        "results.carrying.warp",
        "imaging.image_files.nifti.write_gzip",
    ],
)
def test_an_interrupt_leaves_nothing(
    saved: Saved,
    moving: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stage: str,
) -> None:
    monkeypatch.setattr(f"DeepFLASHRegistrationLib.{stage}", pairs.interrupt)
    assert apply(saved.folder, moving, "-o", tmp_path / "out.nii.gz") == 130
    assert "Cancelled; nothing was written." in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["moving.nii.gz"]


def test_a_device_that_is_not_there(
    saved: Saved, moving: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert apply(saved.folder, moving, "-o", tmp_path / "out.nii.gz", "--device", "cuda:99") == 1
    assert "The device 'cuda:99' cannot be used" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------- series and colors


def one_by_one(saved: Saved, folder: Path, volumes: list[np.ndarray], grid: Grid, *options: Any) -> list[np.ndarray]:
    """What apply makes of each volume alone."""
    found = []
    for number, data in enumerate(volumes):
        write_volume(folder / f"alone{number}.nii.gz", Volume(grid, data))
        assert apply(saved.folder, folder / f"alone{number}.nii.gz", "-o", folder / f"w{number}.nii.gz", *options) == 0
        found.append(read_volume(folder / f"w{number}.nii.gz").data)
    return found


@pytest.mark.parametrize("kind", ["nii.gz", "nii", "nrrd"])
def test_every_volume_of_a_series_is_carried_and_time_goes_on_as_before(
    saved: Saved, moving: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    nibabel = pytest.importorskip("nibabel")
    image = read_volume(moving)
    volumes = [image.data * np.float32(factor) for factor in (1, 0.5, 2)]
    affine = nibabel.load(moving).affine
    series = nibabel.Nifti1Image(np.stack([v.T for v in volumes], -1), affine)
    series.header.set_zooms((*series.header.get_zooms()[:3], 2.5))
    series.header.set_xyzt_units("mm", "sec")
    nibabel.save(series, tmp_path / "fmri.nii.gz")
    out = tmp_path / f"out.{kind}"
    assert apply(saved.folder, tmp_path / "fmri.nii.gz", "-o", out) == 0
    assert "all its 3 volumes were carried" in capsys.readouterr().err
    alone = one_by_one(saved, tmp_path, volumes, image.grid)
    if kind != "nrrd":
        found = nibabel.load(out)
        assert found.shape[3] == 3
        assert found.header.get_zooms()[3] == 2.5
        assert found.header.get_xyzt_units() == ("mm", "sec")
        np.testing.assert_allclose(found.affine, nibabel.load(tmp_path / "w0.nii.gz").affine, atol=1e-5)
        for number, expected in enumerate(alone):
            np.testing.assert_array_equal(np.asanyarray(found.dataobj)[..., number].T, expected)
    else:
        found = sitk.ReadImage(str(out))
        assert found.GetSpacing()[3] == 2.5
        np.testing.assert_array_equal(sitk.GetArrayFromImage(found), np.stack(alone))
    assert apply(saved.folder, f"{tmp_path / 'fmri.nii.gz'}[1]", "-o", tmp_path / "second.nii.gz") == 0
    np.testing.assert_array_equal(read_volume(tmp_path / "second.nii.gz").data, alone[1])


def test_a_volume_of_nothing_and_one_with_holes_do_not_end_a_series(saved: Saved, moving: Path, tmp_path: Path) -> None:
    image = read_volume(moving)
    holes = image.data.copy()
    holes[3, 4, 5] = np.nan
    joined = sitk.JoinSeries(
        [
            image.grid.apply_to(sitk.GetImageFromArray(v))
            for v in (image.data, 0 * image.data, holes, 0 * holes + np.nan)
        ]
    )
    sitk.WriteImage(joined, str(tmp_path / "series.nrrd"))
    assert apply(saved.folder, tmp_path / "series.nrrd", "-o", tmp_path / "out.nii.gz") == 0
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out.nii.gz")))
    assert np.isfinite(found).all()
    assert not found[1].any()
    assert np.count_nonzero(found[2] != found[0]) < 100


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """The folder of a 2-D result, and a picture of its moving image beside it."""
    # Pictures lie at the origin, with pixels of 1 mm.
    fixed = moving = Volume(Grid((40, 44), np.eye(3)[[1, 0, 2]]), pairs.disks((40, 44), 1.0)[0].data, "disks")
    result = register(fixed, moving, Parameters.from_preset("fast", initial_alignment="none", **pairs.QUICK), threads=1)
    save_result(result, tmp_path / "flat", fixed, moving)
    return tmp_path / "flat"


@pytest.mark.parametrize(("name", "channels"), [("o.png", 3), ("o.png", 4), ("o.jpg", 3), ("o.bmp", 3), ("o.tif", 3)])
def test_pictures_stay_pictures(flat: Path, tmp_path: Path, name: str, channels: int) -> None:
    ramp = np.add.outer(np.arange(40), np.arange(44)).astype(np.uint8)
    colors = np.stack([ramp, 200 - ramp, ramp + 50, ramp * 0 + 255][:channels], -1)
    sitk.WriteImage(sitk.GetImageFromArray(colors, isVector=True), str(tmp_path / "in.png"))
    assert apply(flat, tmp_path / "in.png", "-o", tmp_path / name) == 0
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / name)))
    assert (found.dtype, found.shape) == (np.uint8, colors.shape)
    assert np.abs(found[5:-5, 5:-5].astype(int) - colors[5:-5, 5:-5]).mean() < 6


def test_what_a_picture_cannot_hold_is_said(flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edge = np.zeros((40, 44), np.uint8)
    edge[10:30, 12:30] = 250
    sitk.WriteImage(sitk.GetImageFromArray(edge), str(tmp_path / "edge.png"))
    assert apply(flat, tmp_path / "edge.png", "-o", tmp_path / "cubic.png", "--interpolation", "cubic") == 0
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "cubic.png"))).max() == 250
    assert apply(flat, tmp_path / "edge.png", "--labels", "-o", tmp_path / "labels.png") == 0
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "labels.png")))
    assert set(np.unique(labels)) == {0, 250}
    assert apply(flat, tmp_path / "edge.png", "--labels", "-o", tmp_path / "labels.jpg") == 2
    sitk.WriteImage(sitk.GetImageFromArray(np.stack([edge] * 4, -1), isVector=True), str(tmp_path / "rgba.png"))
    assert apply(flat, tmp_path / "rgba.png", "-o", tmp_path / "rgba.jpg") == 2
    told = capsys.readouterr().err
    assert "labels must stay what they are" in told
    assert "JPEG has no place for opacity" in told


@pytest.mark.parametrize("name", ["out.nii.gz", "out.nrrd"])
def test_colors_are_carried_channel_by_channel(saved: Saved, moving: Path, tmp_path: Path, name: str) -> None:
    image = read_volume(moving)
    gray = np.clip(image.data / image.data.max() * 255, 0, 255).astype(np.uint8)
    colors = np.stack([gray, 255 - gray, gray // 2], -1)
    sitk.WriteImage(image.grid.apply_to(sitk.GetImageFromArray(colors, isVector=True)), str(tmp_path / "c.nrrd"))
    assert apply(saved.folder, tmp_path / "c.nrrd", "-o", tmp_path / name) == 0
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / name)))
    alone = one_by_one(saved, tmp_path, [colors[..., c] for c in range(3)], image.grid)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, np.rint(np.stack(alone, -1)).astype(np.uint8))


def test_labels_of_another_image_are_noted(
    saved: Saved, moving: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = read_volume(moving).grid
    away = grid.affine.copy()
    away[:3, 3] += 500
    labels = Volume(Grid(grid.shape, away), np.ones(grid.shape, np.int32))
    write_volume(tmp_path / "labels.nrrd", labels)
    assert apply(saved.folder, tmp_path / "labels.nrrd", "--labels", "-o", tmp_path / "out.nrrd") == 0
    assert "labels.nrrd: lies outside the moving image that was registered (0 % of its" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------ segmentations


def test_a_segmentation_keeps_layers_names_colors_and_terminology(
    saved: Saved, registered: Registered, tmp_path: Path
) -> None:
    one = registered.labels.data == 2
    layers = tuple(Volume(registered.labels.grid, np.int32(value * one), "organs") for value in (5, 1))
    segments = (
        Segment("a", "Liver", (1.0, 0.5, 0.25), 0, 5, {"Tags": "Terminology~x"}),
        Segment("b", "Tumor", (0.25, 0.25, 0.25), 1, 1),
    )
    own = Segmentation(layers, segments)
    write_segmentation(tmp_path / "organs.seg.nrrd", own)
    out = tmp_path / "out.seg.nrrd"
    assert apply(saved.folder, tmp_path / "organs.seg.nrrd", "--labels", "-o", out) == 0
    found = read_segmentation(out)
    assert [(s.id, s.name, s.color, s.layer, s.label, s.other) for s in found.segments] == [
        (s.id, s.name, s.color, s.layer, s.label, s.other) for s in own.segments
    ]
    expected = saved.result.labels.data == 2
    assert ((found.layers[0].data == 5) != expected).mean() < 1e-3
    assert ((found.layers[1].data == 1) != expected).mean() < 1e-3


def test_a_segmentation_is_labels_whatever_the_output_and_labels_become_one(
    saved: Saved, registered: Registered, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = registered.labels
    names = [Segment(str(value), f"part {value}", label=int(value)) for value in np.unique(labels.data) if value]
    write_segmentation(
        tmp_path / "own.seg.nrrd", Segmentation((labels.with_data(np.int32(labels.data)),), tuple(names))
    )
    write_volume(tmp_path / "labels.nii.gz", labels)
    assert apply(saved.folder, tmp_path / "own.seg.nrrd", "-o", tmp_path / "a.nii.gz") == 0
    expected = read_labels(saved.folder / "labels.nii.gz").data
    assert np.array_equal(read_labels(tmp_path / "a.nii.gz").data, expected)
    assert apply(saved.folder, tmp_path / "labels.nii.gz", "--labels", "-o", tmp_path / "b.seg.nrrd") == 0
    found = read_segmentation(tmp_path / "b.seg.nrrd")
    assert np.array_equal(found.layers[0].data, expected)
    assert [s.label for s in found.segments] == [int(v) for v in np.unique(expected) if v]
    write_volume(tmp_path / "gray.nii.gz", saved.moving)
    assert apply(saved.folder, tmp_path / "gray.nii.gz", "-o", tmp_path / "c.seg.nrrd") == 2
    assert "is no label map" in capsys.readouterr().err
    assert not (tmp_path / "c.seg.nrrd").exists()


def test_an_image_that_lies_elsewhere_is_noted(
    saved: Saved, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    affine = saved.moving.grid.affine.copy()
    affine[:3, 3] += 900
    write_volume(tmp_path / "far.nii.gz", Volume(Grid(saved.moving.grid.shape, affine), saved.moving.data))
    assert apply(saved.folder, tmp_path / "far.nii.gz", "-o", tmp_path / "out.nii.gz") == 0
    assert "far.nii.gz: lies outside the image that was registered" in capsys.readouterr().err


def test_a_reference_larger_than_the_memory_is_refused_by_its_header(
    saved: Saved, moving: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from DeepFLASHRegistrationLib.support import memory

    monkeypatch.setattr(memory, "free_bytes", lambda: 10_000)
    assert apply(saved.folder, moving, "-o", tmp_path / "o.nii.gz", "--reference", moving) == 2
    assert "moving.nii.gz: to read it takes" in capsys.readouterr().err
    assert not (tmp_path / "o.nii.gz").exists()
