# SPDX-License-Identifier: Apache-2.0
"""Input that cannot be used: exit code 2, one line that names the file and the remedy, and nothing written."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import registration_pairs as pairs
import SimpleITK as sitk
from DeepFLASHRegistrationLib.commands import main as cli
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.io import read_volume, write_volume
from DeepFLASHRegistrationLib.imaging.points import write_points
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.registration.register import register
from DeepFLASHRegistrationLib.support.errors import InputError

pytest.importorskip("torch")

TINY = Parameters.from_preset("default", resolutions=(1,), bands=(9,), iterations=(3,), initial_alignment="none")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    pairs.write_tiny_pair(tmp_path / "in")
    return tmp_path / "in"


def refused(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    *options: Any,
    fixed: str = "fixed.nii.gz",
    moving: str = "moving.nii.gz",
) -> str:
    """The message of a registration that is refused."""
    code = cli.main(
        [
            "register",
            str(folder / fixed),
            str(folder / moving),
            "-o",
            str(folder.parent / "out"),
            *pairs.TINY_OPTIONS,
            *map(str, options),
        ]
    )
    captured = capsys.readouterr()
    assert code == 2, captured.err
    assert captured.out == ""
    *notes, message = captured.err.splitlines()
    assert all(note.startswith("Note: ") for note in notes)
    assert message.startswith("Error: ")
    assert os.listdir(folder.parent) == ["in"]
    return message[len("Error: ") :].strip()


# ------------------------------------------------------------------------------------------------------------- files


def write_image(path: Path, array: np.ndarray, vector: bool = False) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=vector), str(path))


BAD_IMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing.nii.gz": (lambda p: None, "there is no such file or folder. Check the path."),
    "text.nii.gz": (lambda p: p.write_text("Dear colleague, "), ""),
    "empty.nii.gz": (lambda p: p.write_bytes(b""), "the file is empty. Copy or export it again."),
    "a.docx": (lambda p: p.write_text("x" * 1000), "is no image file that can be read. Pass NIfTI, NRRD, MetaImage or"),
    "black.nrrd": (
        lambda p: write_image(p, np.zeros((9, 9, 9, 3), np.uint8), True),
        "every voxel is 0, there is nothing to register.",
    ),
    "vectors.nrrd": (
        lambda p: write_image(p, np.zeros((9, 9, 9, 3), np.float32), True),
        "has 3 components per voxel (vectors). Name one of them",
    ),
    "4d.nii.gz": (
        lambda p: sitk.WriteImage(sitk.Image([6, 7, 8, 5], sitk.sitkFloat32), str(p)),
        "holds 5 volumes (4-D). Name one of them",
    ),
    "complex.nrrd": (lambda p: sitk.WriteImage(sitk.Image([6, 7, 8], sitk.sitkComplexFloat32), str(p)), ""),
    "nan.nii.gz": (lambda p: write_image(p, np.full((9, 9, 9), np.nan, np.float32)), "every voxel is NaN or infinite."),
    "constant.nii.gz": (
        lambda p: write_image(p, np.full((9, 9, 9), 7, np.int16)),
        "every voxel is 7, there is nothing to register.",
    ),
    "line.nii.gz": (lambda p: write_image(p, np.arange(9, dtype=np.float32).reshape(1, 1, 9)), "a line of voxels"),
    "folder": (lambda p: p.mkdir(), "holds no DICOM series. Pass an image file, or the folder that holds the slices."),
    "2d.nrrd": (lambda p: write_volume(p, pairs.disks((20, 20), 4.0)[0]), "Pass images of the same dimension."),
    "slice.nii.gz": (lambda p: write_image(p, np.random.default_rng(0).random((1, 20, 20), np.float32)), "2"),
}


@pytest.mark.parametrize("role", ["fixed", "moving"])
@pytest.mark.parametrize("name", BAD_IMAGES)
def test_images_that_cannot_be_used(folder: Path, capsys: pytest.CaptureFixture[str], name: str, role: str) -> None:
    make, expected = BAD_IMAGES[name]
    make(folder / name)
    message = refused(folder, capsys, **{role: name})
    assert name in message
    assert expected in message
    assert message.endswith(".")


@pytest.mark.parametrize("kept", [0.05, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["nii.gz", "nii", "nrrd", "mha"])
def test_truncated_files(folder: Path, capsys: pytest.CaptureFixture[str], kept: float, kind: str) -> None:
    rng = np.random.default_rng(0)
    write_volume(folder / f"cut.{kind}", Volume(pairs.box((17, 16, 15), 4.0), rng.random((17, 16, 15), np.float32)))
    content = (folder / f"cut.{kind}").read_bytes()
    (folder / f"cut.{kind}").write_bytes(content[: int(kept * len(content))])
    message = refused(folder, capsys, moving=f"cut.{kind}")
    assert f"cut.{kind}: " in message
    assert "again" in message or "is no image file" in message


def test_a_damaged_archive(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = bytearray(gzip.decompress((folder / "moving.nii.gz").read_bytes()))
    content = bytearray(gzip.compress(bytes(raw)))
    content[len(content) // 2] ^= 0xFF
    (folder / "bad.nii.gz").write_bytes(content)
    assert "bad.nii.gz: " in refused(folder, capsys, moving="bad.nii.gz")


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no permissions of this kind")
def test_a_file_that_may_not_be_read(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "moving.nii.gz").chmod(0)
    if os.geteuid() == 0:  # who may read everything
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        message = refused(folder, capsys)
        assert "may not be read. Change its permissions." in message
        return
    assert "moving.nii.gz: may not be read. Change its permissions." in refused(folder, capsys)


# ------------------------------------------------------------------------------------------------------- where they lie


def shifted(volume: Volume, shift: Any) -> Volume:
    affine = volume.grid.affine.copy()
    affine[:-1, -1] += shift
    return Volume(Grid(volume.grid.shape, affine), volume.data, volume.name)


def test_images_that_do_not_overlap(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_volume(folder / "far.nii.gz", shifted(read_volume(folder / "moving.nii.gz"), (500, 0, 0)))
    message = refused(folder, capsys, moving="far.nii.gz")
    both = f"{folder / 'fixed.nii.gz'} and {folder / 'far.nii.gz'}"
    assert f"{both} do not overlap after the alignment" in message
    assert 'use the initial alignment "affine" or "centers", or give an initial transform' in message


@pytest.mark.parametrize("shift", [60.0, 80.0, 90.0, 96.0])
def test_fields_of_view_that_hardly_meet(folder: Path, shift: float) -> None:
    """Refused, or registered with a verdict that says so; never called good."""
    fixed, moving = (read_volume(folder / f"{n}.nii.gz") for n in ("fixed", "moving"))
    try:
        result = register(fixed, shifted(moving, (0, shift, 0)), TINY, threads=1)
    except InputError as error:
        assert "do not overlap" in str(error)
        assert shift > 80
    else:
        # Coverage alone fails nothing, but then little is left that could show that it is right.
        assert result.verdict.level != "good"
        assert {r.code for r in result.verdict.reasons} & {"field-of-view", "similarity"}
        assert np.isfinite(result.fixed_to_moving).all()


def test_a_mirroring_transform_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sitk.WriteTransform(sitk.AffineTransform((-1, 0, 0, 0, 1, 0, 0, 0, 1), (0, 0, 0)), str(folder / "mirror.tfm"))
    assert "mirrors the image" in refused(folder, capsys, "--init", folder / "mirror.tfm")


BAD_TRANSFORMS: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing.tfm": (lambda p: None, "there is no such file"),
    "text.txt": (lambda p: p.write_text("1 0 0 0\n0 1 0 0\n"), "is no ITK transform file"),
    "flat.tfm": (
        lambda p: sitk.WriteTransform(sitk.Euler2DTransform(), str(p)),
        "2-D transform, but the images are 3-D",
    ),
    "spline.tfm": (
        lambda p: sitk.WriteTransform(sitk.BSplineTransform(3), str(p)),
        "not linear. Pass a rigid or affine",
    ),
    "flat_space.tfm": (lambda p: sitk.WriteTransform(sitk.ScaleTransform(3, (1, 1, 1e-12)), str(p)), "not invertible"),
}


@pytest.mark.parametrize("name", BAD_TRANSFORMS)
def test_transforms_that_cannot_be_used(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    make, expected = BAD_TRANSFORMS[name]
    make(folder / name)
    message = refused(folder, capsys, "--init", folder / name)
    assert name in message
    assert expected in message


# --------------------------------------------------------------------------------------------- labels, masks, landmarks


@pytest.mark.parametrize("option", ["--moving-labels", "--fixed-labels"])
def test_labels_that_are_no_integers(folder: Path, capsys: pytest.CaptureFixture[str], option: str) -> None:
    labels = read_volume(folder / "fixed_labels.nii.gz")
    write_volume(folder / "soft.nii.gz", labels.with_data(labels.data * 0.5))
    message = refused(folder, capsys, option, folder / "soft.nii.gz")
    assert "soft.nii.gz: labels must be integers, but" in message
    assert "Pass the label map itself, not one that was resampled with interpolation" in message


def test_labels_without_a_label(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = read_volume(folder / "fixed_labels.nii.gz")
    write_volume(folder / "none.nii.gz", labels.with_data(np.zeros_like(labels.data)))
    assert "none.nii.gz: every voxel is 0, there is no label" in refused(
        folder, capsys, "--moving-labels", folder / "none.nii.gz"
    )


def test_files_of_the_same_name_are_told_apart(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("fixed", "moving"):
        (folder / name).mkdir()
        volume = read_volume(folder / f"{name}.nii.gz")
        write_volume(folder / name / "t1.nii.gz", shifted(volume, (0, 0, 0) if name == "fixed" else (900, 0, 0)))
    message = refused(folder, capsys, fixed="fixed/t1.nii.gz", moving="moving/t1.nii.gz")
    both = f"{folder / 'fixed' / 't1.nii.gz'} and {folder / 'moving' / 't1.nii.gz'}"
    assert f"{both} do not overlap after the alignment" in message


def test_labels_on_another_grid_are_welcome(folder: Path) -> None:
    write_volume(folder / "fine.nii.gz", pairs.moving_labels(pairs.box((50, 52, 54), 2.3, pairs.turn(30))))
    assert (
        cli.main(
            [
                "register",
                str(folder / "fixed.nii.gz"),
                str(folder / "moving.nii.gz"),
                "-q",
                "-o",
                str(folder.parent / "out"),
                *pairs.TINY_OPTIONS,
                "--moving-labels",
                str(folder / "fine.nii.gz"),
            ]
        )
        == 0
    )


@pytest.mark.parametrize("option", ["--moving-mask", "--fixed-mask"])
def test_masks(folder: Path, capsys: pytest.CaptureFixture[str], option: str) -> None:
    grid = read_volume(folder / "fixed.nii.gz").grid
    write_volume(folder / "empty.nii.gz", Volume(grid, np.zeros(grid.shape, np.uint8)))
    assert "empty.nii.gz: the mask is empty, nothing would be registered. Draw it, or leave it out." in refused(
        folder, capsys, option, folder / "empty.nii.gz"
    )
    write_volume(folder / "away.nii.gz", shifted(Volume(grid, np.ones(grid.shape, np.uint8)), (400, 0, 0)))
    assert "away.nii.gz: lies outside" in refused(folder, capsys, option, folder / "away.nii.gz")
    image = read_volume(folder / f"{option[2:-5]}.nii.gz")
    corner = np.zeros(image.grid.shape, np.uint8)
    corner[0, 0, 0] = 1
    write_volume(folder / "corner.nii.gz", Volume(image.grid, corner))
    message = refused(folder, capsys, option, folder / "corner.nii.gz")
    assert "corner.nii.gz: " in message
    assert "shows nothing inside this mask. Draw it on the object." in message


def test_masks_that_leave_nothing_in_common(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = read_volume(folder / "fixed.nii.gz").grid
    at = pairs.places(grid)[..., 0]
    for name, inside in (("left", at < -15), ("right", at > 15)):
        write_volume(folder / f"{name}.nii.gz", Volume(grid, inside.astype(np.uint8)))
    message = refused(folder, capsys, "--fixed-mask", folder / "left.nii.gz", "--moving-mask", folder / "right.nii.gz")
    assert "do not overlap" in message


def test_landmarks(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def message(fixed: Any, moving: Any = ((0, 0, 0), (5, 5, 5))) -> str:
        options = []
        for name, points in (("fixed", fixed), ("moving", moving)):
            if points is not None:
                write_points(folder / f"{name}.fcsv", np.array(points, dtype=float))
                options += [f"--{name}-points", folder / f"{name}.fcsv"]
        return refused(folder, capsys, *options)

    assert "Landmarks are compared in pairs" in message(((0, 0, 0), (1, 1, 1)), None)
    (folder / "one.csv").write_text("x,y,z\n0,0,0\n")
    (folder / "two.csv").write_text("x,y,z\n0,0,0\n5,5,5\n")
    one_for_two = refused(folder, capsys, "--fixed-points", folder / "one.csv", "--moving-points", folder / "two.csv")
    assert "has 1 landmarks" in one_for_two
    assert "their names do not say which belong together" in one_for_two
    outside = message(((0, 0, 0), (1000, 0, 0)))
    where = f"outside {folder / 'fixed.nii.gz'} (the first is number 2 at [1000.0, 0.0, 0.0] mm LPS)"
    assert f"1 of 2 fixed landmarks lie {where}" in outside
    assert "their coordinate system (RAS or LPS)" in outside
    (folder / "words.csv").write_text("x,y,z\n1,2,three\n")
    assert "words.csv: is no valid .csv file" in refused(
        folder, capsys, "--fixed-points", folder / "words.csv", "--moving-points", folder / "moving.csv"
    )
    (folder / "nan.csv").write_text("x,y,z\n1,2,nan\n")
    assert "nan.csv: holds coordinates that are not finite" in refused(
        folder, capsys, "--fixed-points", folder / "nan.csv", "--moving-points", folder / "moving.csv"
    )
    assert "missing.csv: cannot be read" in refused(
        folder, capsys, "--fixed-points", folder / "missing.csv", "--moving-points", folder / "moving.csv"
    )


def test_the_truth(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "moving.nii.gz: is 3-D with 1 components per voxel, no displacement field" in refused(
        folder, capsys, "--truth", folder / "moving.nii.gz"
    )
    sitk.WriteImage(sitk.Image([8, 9], sitk.sitkVectorFloat32, 2), str(folder / "flat.nrrd"))
    assert "flat.nrrd: is a 2-D field, but" in refused(folder, capsys, "--truth", folder / "flat.nrrd")
    far = sitk.Image([8, 9, 7], sitk.sitkVectorFloat32, 3)
    far.SetOrigin((9e3, 0, 0))
    sitk.WriteImage(far, str(folder / "far.nrrd"))
    assert "The true field does not cover the fixed image" in refused(folder, capsys, "--truth", folder / "far.nrrd")


# ---------------------------------------------------------------------------------------------------- folders to write


def test_output_folders_are_asked_for_first(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is read, let alone computed."""

    def too_late(*_: Any) -> None:
        raise AssertionError("read before the folder was checked")

    monkeypatch.setattr("DeepFLASHRegistrationLib.imaging.io.read_volume", too_late)
    (folder / "file").write_text("x")
    for out, message in (
        (folder, "exists and is not empty. Choose another folder, or add --force"),
        (folder / "file", "is a file. Give the name of a folder."),
        (folder / "file" / "x", "cannot be made, because"),
    ):
        assert cli.main(["register", "a.nii.gz", "b.nii.gz", "-o", str(out)]) == 2
        assert f"Error: {out}: {message}" in capsys.readouterr().err


def test_arrays_that_cannot_be_used() -> None:
    """The same of register(), whose images have no file."""
    fixed, moving = pairs.fixed_image(), pairs.moving_image()
    for data, message in (
        (np.zeros(fixed.grid.shape), "fixed.nii.gz: every voxel is 0"),
        (np.full(fixed.grid.shape, np.inf), "every voxel is NaN or infinite"),
        (fixed.data.astype(complex), "holds complex128 values"),
        (np.array(["x"] * fixed.data.size).reshape(fixed.grid.shape), "holds <U1 values"),
    ):
        with pytest.raises(InputError, match=message):
            register(fixed.with_data(data), moving, TINY)
    with pytest.raises(
        InputError, match=r"fixed\.nii\.gz has 3 dimensions and .* 2\. Pass images of the same dimension"
    ):
        register(fixed, pairs.disks()[1], TINY)
    for affine in (np.eye(3), np.full((4, 4), np.nan), np.zeros((4, 4))):
        with pytest.raises(InputError, match="initial transform must be an invertible"):
            register(fixed, moving, TINY, initial_affine=affine)
    for points in (np.zeros(3), np.zeros((0, 3)), np.full((1, 3), np.nan), np.zeros((2, 2))):
        with pytest.raises(InputError, match="fixed landmarks"):
            register(fixed, moving, TINY, fixed_points=points, moving_points=np.zeros((1, 3)))
