# SPDX-License-Identifier: Apache-2.0
"""Result folders: what is in them agrees with the result and with ITK, all or nothing of it is written, and the saved
geodesic gives the same maps again."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import registration_pairs as pairs
import SimpleITK as sitk
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.io import read_labels, read_volume
from DeepFLASHRegistrationLib.imaging.transforms import read_affine, read_displacement_field
from DeepFLASHRegistrationLib.problem import field
from DeepFLASHRegistrationLib.registration.verdict import Verdict
from DeepFLASHRegistrationLib.report import FILES as ALL
from DeepFLASHRegistrationLib.results import folder as folder_module
from DeepFLASHRegistrationLib.results import plain, velocity
from DeepFLASHRegistrationLib.results.folder import save_result
from DeepFLASHRegistrationLib.results.velocity import load_result
from DeepFLASHRegistrationLib.support import output_folder
from DeepFLASHRegistrationLib.support.errors import InputError
from DeepFLASHRegistrationLib.support.output_folder import check_output
from DeepFLASHRegistrationLib.support.tensors import read_tensors, write_tensors
from registration_pairs import Registered, Saved

pytest.importorskip("torch")

# Of a result of images and label maps.
FILES = [name for name in ALL if name not in ("segmentation.seg.nrrd", "uncertainty.nii.gz")]


def moving_image(saved: Saved) -> sitk.Image:
    return saved.moving.grid.apply_to(sitk.GetImageFromArray(saved.moving.data))


def transform_of(saved: Saved, name: str) -> sitk.Transform:
    return sitk.DisplacementFieldTransform(sitk.ReadImage(str(saved.folder / name), sitk.sitkVectorFloat64))


def mapped(transform: sitk.Transform, points: np.ndarray) -> np.ndarray:
    return np.array([transform.TransformPoint(tuple(map(float, p))) for p in points])


def inside(saved: Saved, count: int = 600) -> np.ndarray:
    """Points of the fixed object."""
    index = np.argwhere(saved.fixed.data > 0.3 * saved.fixed.data.max())
    chosen = np.random.default_rng(0).choice(len(index), count, replace=False)
    return saved.fixed.grid.index_to_physical(index[chosen] + np.random.default_rng(1).uniform(-0.4, 0.4, (count, 3)))


# ------------------------------------------------------------------------------------------------ what is in a folder


def test_every_file_is_there_and_no_other(saved: Saved) -> None:
    assert sorted(os.listdir(saved.folder)) == sorted(FILES)
    assert os.listdir(saved.folder.parent) == [saved.folder.name]


def test_images_come_back_on_the_fixed_grid(saved: Saved) -> None:
    for name, expected in (("warped.nii.gz", saved.result.warped), ("log_jacobian.nii.gz", saved.result.log_jacobian)):
        volume = read_volume(saved.folder / name)
        assert volume.grid.same_as(saved.fixed.grid, 1e-4)
        assert (volume.data == expected.data).all()
    labels = read_labels(saved.folder / "labels.nii.gz")
    assert labels.grid.same_as(saved.fixed.grid, 1e-4)
    assert (labels.data == saved.result.labels.data).all()


@pytest.mark.parametrize("name", ["fixed_to_moving", "moving_to_fixed"])
def test_fields_are_nifti_of_intent_1006_in_itks_convention(saved: Saved, name: str) -> None:
    import gzip

    header = gzip.open(saved.folder / f"{name}.nii.gz").read(348)
    assert struct.unpack_from("<h", header, 68) == (1006,)
    assert struct.unpack_from("<8h", header, 40)[4:6] == (1, 3)
    grid, field = read_displacement_field(saved.folder / f"{name}.nii.gz")
    result = saved.result
    assert grid.same_as(result.field_grid if name == "fixed_to_moving" else result.inverse_grid, 1e-4)
    # Rounded in the file, by at most what result.json says, which is that of 1/128 mm for voxels of 1 mm and more.
    change = json.loads((saved.folder / "result.json").read_text())["largest_change_by_rounding_mm"][f"{name}.nii.gz"]
    assert change == 1 / 256
    assert np.abs(field - getattr(result, name)).max() <= change


def test_simpleitk_reproduces_the_warped_image_from_the_field(saved: Saved) -> None:
    transform = transform_of(saved, "fixed_to_moving.nii.gz")
    reference = sitk.ReadImage(str(saved.folder / "warped.nii.gz"))
    again = sitk.GetArrayFromImage(sitk.Resample(moving_image(saved), reference, transform, sitk.sitkLinear, 0.0))
    difference = np.abs(again - sitk.GetArrayFromImage(reference))
    assert difference.max() < 1e-3 * saved.moving.data.max()


def test_simpleitk_reproduces_the_affine_image_from_the_transform_file(saved: Saved) -> None:
    transform = sitk.ReadTransform(str(saved.folder / "affine.tfm"))
    reference = sitk.ReadImage(str(saved.folder / "warped.nii.gz"))
    again = sitk.GetArrayFromImage(sitk.Resample(moving_image(saved), reference, transform, sitk.sitkLinear, 0.0))
    assert np.abs(again - saved.result.moving_affine.data).max() < 1e-3 * saved.moving.data.max()
    assert np.allclose(read_affine(saved.folder / "affine.tfm", 3), saved.result.affine, atol=1e-6)


def test_there_and_back_is_the_identity_to_the_reported_error(saved: Saved) -> None:
    # At voxels, where images are resampled; the inverse is looked at between its own.
    grid = saved.fixed.grid
    points = grid.index_to_physical(np.rint(grid.physical_to_index(inside(saved))))
    there = mapped(transform_of(saved, "fixed_to_moving.nii.gz"), points)
    back = mapped(transform_of(saved, "moving_to_fixed.nii.gz"), there)
    error = np.linalg.norm(back - points, axis=1)
    reported = saved.result.metrics["inverse_error_mm"]
    assert reported["outside"] == 0
    assert error.mean() < 1.2 * reported["mean"] + 0.01
    assert np.percentile(error, 95) < 1.3 * reported["p95"] + 0.01
    assert reported["p95"] < 0.3  # a tenth of a voxel
    # And it is a deformation that is being undone, beside the affine.
    affine = points @ saved.result.affine[:3, :3].T + saved.result.affine[:3, 3]
    assert np.linalg.norm(there - affine, axis=1).mean() > 1


def test_the_fields_cover_a_margin_and_agree_with_the_affine_beyond_the_deformation(saved: Saved) -> None:
    result = saved.result
    extent = result.field_grid.extent - result.fixed_grid.extent
    assert (extent >= 2 * 2 * result.fixed_grid.spacing - 1e-6).all()
    # The inverse's grid holds every point to which the field takes its own grid.
    corner = result.field_grid.corners()
    taken = corner @ result.affine[:3, :3].T + result.affine[:3, 3]
    index = result.inverse_grid.physical_to_index(taken)
    assert (index > -1e-3).all()
    assert (index < np.array(result.inverse_grid.shape) - 1 + 1e-3).all()


def test_the_log_jacobian_is_that_of_the_written_field(saved: Saved) -> None:
    """By SimpleITK's transform at displaced points, the affine's determinant included."""
    transform = transform_of(saved, "fixed_to_moving.nii.gz")
    grid = saved.fixed.grid
    rng = np.random.default_rng(2)
    index = np.argwhere(saved.fixed.data > 0.3 * saved.fixed.data.max())
    index = index[rng.choice(len(index), 200, replace=False)]
    points = grid.index_to_physical(index)
    h = float(grid.spacing[0])  # the same difference as the voxels' own
    columns = []
    for axis in range(3):
        step = grid.direction[:, axis] * h
        columns.append((mapped(transform, points + step) - mapped(transform, points - step)) / (2 * h))
    determinant = np.linalg.det(np.stack(columns, -1) @ np.linalg.inv(grid.direction))
    written = read_volume(saved.folder / "log_jacobian.nii.gz").data[tuple(index.T)]
    # The field is rounded by up to 1/256 mm in each component: a central difference by 1/256 mm over h.
    assert np.allclose(np.log(determinant), written, atol=1e-3 + 3 / 256 / h)
    assert abs(written.mean() - np.log(np.linalg.det(saved.result.affine[:3, :3]))) < 0.2


def test_result_json_is_strict_and_complete(saved: Saved) -> None:
    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is no JSON")

    values = json.loads((saved.folder / "result.json").read_text(encoding="utf-8"), parse_constant=refuse)
    result = saved.result
    assert values["verdict"]["level"] == result.verdict.level
    assert Verdict.from_dict(values["verdict"]) == result.verdict
    assert values["metrics"]["mean_dice_after"] == pytest.approx(result.metrics["mean_dice_after"])
    assert values["parameters"] == result.parameters.to_dict()
    assert values["timings_seconds"]["total"] > 0
    assert np.allclose(values["affine_fixed_to_moving_lps_mm"], result.affine)
    assert [step["iteration"] for step in values["history"]] == [step["iteration"] for step in result.history]
    assert sorted(values["files"]) == sorted(os.listdir(saved.folder))
    assert values["provenance"].keys() >= {"program", "date", "device", "fixed_sha256", "moving_sha256", "torch"}


# ------------------------------------------------------------------------------------------------ the saved geodesic


def test_the_saved_geodesic_gives_the_fields_bit_by_bit(saved: Saved) -> None:
    again = load_result(saved.folder)
    result = saved.result
    assert again.fixed_grid.same_as(result.fixed_grid, 1e-9)
    assert again.moving_grid.same_as(result.moving_grid, 1e-9)
    assert np.array_equal(again.deformation.velocity, result.velocity["velocity"])
    assert np.array_equal(again.deformation.displacement(result.field_grid, "fixed_to_moving"), result.fixed_to_moving)
    assert np.array_equal(
        again.deformation.field(result.inverse_grid, "moving_to_fixed", between=True), result.moving_to_fixed
    )


def test_the_file_alone_suffices(saved: Saved, tmp_path: Path) -> None:
    shutil.copy(saved.folder / "velocity.safetensors", tmp_path / "renamed.bin")
    again = load_result(tmp_path / "renamed.bin").deformation
    point = saved.fixed.grid.center[None]
    assert np.array_equal(
        again.points(point, "fixed_to_moving"), saved.result.deformation.points(point, "fixed_to_moving")
    )


def test_the_safetensors_library_reads_the_velocity(saved: Saved) -> None:
    pytest.importorskip("safetensors")
    from safetensors.numpy import load_file

    found = load_file(saved.folder / "velocity.safetensors")
    assert np.array_equal(found["velocity"], saved.result.velocity["velocity"])
    assert np.array_equal(found["affine"], saved.result.affine)
    assert (saved.folder / "velocity.safetensors").stat().st_size < 1_000_000


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"velocity\.safetensors: there is no such file\. Pass the folder"):
        load_result(tmp_path)
    write_tensors(tmp_path / "velocity.safetensors", {"velocity": np.zeros(3)}, {"format": "something else"})
    with pytest.raises(InputError, match="holds no geodesic of this program"):
        load_result(tmp_path)
    write_tensors(tmp_path / "velocity.safetensors", {"velocity": np.zeros(3)}, {"format": velocity._FORMAT})
    with pytest.raises(InputError, match=r"early version, without the checksum .* Register the images again"):
        load_result(tmp_path)
    (tmp_path / "velocity.safetensors").write_text("not tensors at all")
    with pytest.raises(InputError, match="is damaged"):
        load_result(tmp_path)


def test_a_damaged_velocity_is_never_used(saved: Saved, tmp_path: Path) -> None:
    """A flipped bit gives a refusal, or, where it changes nothing that counts, the same maps."""
    content = (saved.folder / "velocity.safetensors").read_bytes()
    expected = load_result(saved.folder)
    rng = np.random.default_rng(3)
    header = 8 + struct.unpack_from("<Q", content)[0]
    path, read = tmp_path / "velocity.safetensors", 0
    for trial in range(300):
        damaged = bytearray(content)
        if trial % 5 == 0:
            del damaged[rng.integers(len(content)) :]
        else:
            for place in rng.integers(header if trial % 5 < 4 else len(content), size=rng.integers(1, 3)):
                damaged[place] = rng.integers(256) if trial % 2 else damaged[place] ^ (1 << rng.integers(8))
        path.write_bytes(damaged)
        try:
            found = load_result(path)
        except InputError as error:
            assert str(path) in str(error)
            continue
        read += 1
        assert np.array_equal(found.deformation.velocity, expected.deformation.velocity)
        assert np.array_equal(found.deformation.affine, expected.deformation.affine)
        assert found.fixed_grid.same_as(expected.fixed_grid, 0)
        assert found.deformation.unit_mm == expected.deformation.unit_mm
    assert read < 150


def set_item(*path: Any, value: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def change(settings: dict[str, Any], tensors: dict[str, Any]) -> None:
        place = settings
        for key in path[:-1]:
            place = place[key]
        if value is KeyError:
            del place[path[-1]]
        else:
            place[path[-1]] = value

    return change


def set_tensor(name: str, value: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda settings, tensors: tensors.update({name: value})


HOSTILE = {
    "no grid": set_item("domain", value=KeyError),
    "grid of text": set_item("domain", value="x"),
    "shape of text": set_item("domain", "shape", value=["a", "b", "c"]),
    "shape too large": set_item("fixed", "shape", value=[10**6, 10**6, 10**6]),
    "shape infinite": set_item("fixed", "shape", value=[float("inf"), 3, 3]),
    "shape empty": set_item("moving", "shape", value=[]),
    "affine sheared": set_item(
        "domain", "index_to_lps_mm", value=[[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    ),
    "affine nan": set_item("domain", "index_to_lps_mm", value=[[float("nan")] * 4] * 4),
    "affine ragged": set_item("domain", "index_to_lps_mm", value=[[1], [1, 2]]),
    "another dimension": set_item("moving", value={"shape": [4, 4], "index_to_lps_mm": np.eye(3).tolist()}),
    "unit zero": set_item("unit_mm", value=0),
    "unit text": set_item("unit_mm", value="one"),
    "unit missing": set_item("unit_mm", value=None),
    "alpha list": set_item("alpha", value=[1]),
    "power nan": set_item("power", value=float("nan")),
    "gamma negative": set_item("gamma", value=-1),
    "steps many": set_item("steps", value=10**9),
    "steps fraction": set_item("steps", value=2.5),
    "integrator": set_item("integrator", value="leapfrog"),
    "band_limited": set_item("band_limited", value="no"),
    "margin": set_item("margin_mm", value=float("inf")),
    "domain stretched": set_item(
        "domain", value={"shape": [40, 20_000, 20_000], "index_to_lps_mm": np.diag([1e-4, 1.0, 1.0, 1.0]).tolist()}
    ),
    "velocity flat": set_tensor("velocity", np.zeros(3, np.float32)),
    "velocity scalar": set_tensor("velocity", np.zeros((1,), np.float32)),
    "velocity even": set_tensor("velocity", np.zeros((3, 4, 5, 5), np.float32)),
    "velocity empty": set_tensor("velocity", np.zeros((3, 0, 5, 5), np.float32)),
    "velocity 2-D": set_tensor("velocity", np.zeros((2, 5, 5), np.float32)),
    "velocity nan": set_tensor("velocity", np.full((3, 5, 5, 5), np.nan, np.float32)),
    "velocity integers": set_tensor("velocity", np.zeros((3, 5, 5, 5), np.int32)),
    "affine singular": set_tensor("affine", np.zeros((4, 4))),
    "affine projective": set_tensor("affine", np.eye(4) + np.eye(4)[3][:, None] * 1e-3),
    "affine of 2-D": set_tensor("affine", np.eye(3)),
    "affine infinite": set_tensor("affine", np.full((4, 4), np.inf)),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_geodesics_are_refused(saved: Saved, tmp_path: Path, change: Callable[..., None]) -> None:
    """Even with a right checksum."""
    tensors, metadata = read_tensors(saved.folder / "velocity.safetensors")
    settings = json.loads(metadata["geodesic"])
    change(settings, tensors)
    text = json.dumps(settings)
    metadata.update(geodesic=text, crc32=velocity._checksum(tensors, text))
    path = tmp_path / "velocity.safetensors"
    write_tensors(path, tensors, metadata)
    with pytest.raises(InputError, match=r"velocity\.safetensors: cannot be used \(.+\)\. Copy it again, or register"):
        load_result(path)


# ------------------------------------------------------------------------------------------- where, and all or nothing


def test_the_folder_is_asked_for_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"file: is a file\. Give the name of a folder\."):
        check_output(tmp_path / "file", FILES)
    with pytest.raises(InputError, match=r"cannot be made, because .*file is a file\. Choose another folder"):
        check_output(tmp_path / "file" / "a" / "b", FILES)
    with pytest.raises(InputError, match=r"exists and is not empty\. Choose another folder, or add --force"):
        check_output(tmp_path, FILES)
    with pytest.raises(InputError, match=r"cannot be written \(File name too long\)"):
        check_output(tmp_path / ("x" * 300), FILES)
    (tmp_path / "report.html").mkdir()
    with pytest.raises(InputError, match=r"report\.html: is a folder, where a file is to be written"):
        check_output(tmp_path, FILES, force=True)
    assert check_output(tmp_path / "new" / "deep", FILES) == tmp_path / "new" / "deep"
    (tmp_path / "empty").mkdir()
    check_output(tmp_path / "empty", FILES)
    assert sorted(os.listdir(tmp_path)) == ["empty", "file", "report.html"]


def test_a_folder_that_may_not_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(InputError, match=r"new: cannot be written \(Permission denied\)\. Choose another folder"):
        check_output(tmp_path / "new", FILES)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no permissions of this kind")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)  # nobody, since root may write everywhere
    try:
        for force in (False, True):
            with pytest.raises(InputError, match=r"cannot be written \(Permission denied\)\. Choose another folder"):
                check_output(tmp_path / "new", FILES, force)
    finally:
        if root:
            os.seteuid(0)
        tmp_path.chmod(0o755)


def save(registered: Registered, folder: Path, force: bool = False) -> Path:
    return save_result(registered.result, folder, registered.fixed, registered.moving, force=force)


def test_folders_above_are_made(registered: Registered, tmp_path: Path) -> None:
    save(registered, tmp_path / "a" / "b" / "c")
    assert sorted(os.listdir(tmp_path / "a" / "b" / "c")) == sorted(FILES)
    assert os.listdir(tmp_path / "a" / "b") == ["c"]


def test_force_replaces_the_result_and_leaves_other_files(registered: Registered, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    (tmp_path / "warped.nii.gz").write_text("old")
    with pytest.raises(InputError, match="--force"):
        save(registered, tmp_path)
    save(registered, tmp_path, force=True)
    assert sorted(os.listdir(tmp_path)) == sorted([*FILES, "mine.txt"])
    assert (tmp_path / "mine.txt").read_text() == "keep"
    assert read_volume(tmp_path / "warped.nii.gz").grid.same_as(registered.fixed.grid, 1e-3)


def test_force_leaves_no_labels_of_an_earlier_result(registered: Registered, tmp_path: Path) -> None:
    import dataclasses

    save(registered, tmp_path)
    without = dataclasses.replace(registered.result, labels=None, labels_before=None)
    save_result(without, tmp_path, registered.fixed, registered.moving, force=True)
    assert not (tmp_path / "labels.nii.gz").exists()


WRITERS = ["write_velocity", "write_report", "os.replace"]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("where", ["disk", *WRITERS])
@pytest.mark.parametrize(
    "what",
    [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "I/O error"), KeyboardInterrupt()],
    ids=["full", "failing", "interrupt"],
)
def test_a_failure_leaves_everything_as_it_was(
    registered: Registered,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    what: BaseException,
    force: bool,
) -> None:
    folder = tmp_path / "deep" / "out"
    if force:
        folder.mkdir(parents=True)
        for name in ("warped.nii.gz", "report.html", "result.json"):
            (folder / name).write_text("old")
    before = tree(tmp_path)

    def fail(*_: Any, **__: Any) -> None:
        raise what

    if where == "os.replace":
        real, calls = os.replace, []

        def replace(a: Any, b: Any) -> None:
            inner = str(tmp_path / "deep" / "out") + os.sep
            if str(b).startswith(inner) or str(b) == str(folder):
                calls.append(b)
                # The fourth file: some are in place by then, and must go back.
                if len(calls) == (4 if force else 1):
                    raise what
            real(a, b)

        # Of the writers, only output_folder.py renames into the folder itself.
        monkeypatch.setattr(output_folder.os, "replace", replace)
    elif where == "disk":
        from DeepFLASHRegistrationLib.imaging.image_files import nifti

        monkeypatch.setattr(nifti, "write_gzip", fail)
    else:
        monkeypatch.setattr(folder_module, where, fail)
    if isinstance(what, OSError):
        with pytest.raises(OSError, match=r"out: could not be written \(.+\)\. Nothing was left there; free some"):
            save(registered, folder, force)
    else:
        with pytest.raises(KeyboardInterrupt):
            save(registered, folder, force)
    assert tree(tmp_path) == before


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def test_an_interrupt_during_the_renaming_waits(
    registered: Registered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in FILES:
        (tmp_path / name).write_text("old")
    real = output_folder._replace

    def replace(*arguments: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        real(*arguments)

    monkeypatch.setattr(output_folder, "_replace", replace)
    with pytest.raises(KeyboardInterrupt):
        save(registered, tmp_path, force=True)
    assert sorted(os.listdir(tmp_path)) == sorted(FILES)
    assert all((tmp_path / name).read_bytes() != b"old" for name in FILES)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_while_the_folder_is_tried_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.mkdir

    def mkdir(*arguments: Any, **options: Any) -> None:
        real(*arguments, **options)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(KeyboardInterrupt):
        output_folder.check_output(tmp_path / "out", ["report.html"])
    assert not os.listdir(tmp_path)


def test_a_really_full_disk(registered: Registered, tmp_path: Path) -> None:
    """Where the system lets a small file system be mounted."""
    import subprocess

    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], capture_output=True, check=False
        )
        if shutil.which("mount")
        else None
    )
    if mounted is None or mounted.returncode:
        pytest.skip("no file system may be mounted here")
    try:
        with pytest.raises(
            OSError, match=r"result: could not be written \(the disk is full\)\. Nothing was left there"
        ):
            save(registered, disk / "result")
        assert os.listdir(disk) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_an_image_of_a_folded_map_is_written(registered: Registered, tmp_path: Path) -> None:
    """A folded voxel has no logarithm; the file says a thousandth."""
    import dataclasses

    result = registered.result
    data = result.log_jacobian.data.copy()
    data.flat[0] = -np.inf
    folded = dataclasses.replace(result, log_jacobian=result.log_jacobian.with_data(data))
    save_result(folded, tmp_path / "out", registered.fixed, registered.moving)
    written = read_volume(tmp_path / "out" / "log_jacobian.nii.gz")
    assert written.data.flat[0] == pytest.approx(np.log(1e-3))
    assert not written.notes


def test_grids_of_every_kind_survive(tmp_path: Path) -> None:
    for grid in (Grid((2, 3), np.diag([1.0, 2.0, 1.0])), Grid((4, 5, 1), np.diag([3.0, 1.0, 2.0, 1.0])).flattened()):
        again = plain.grid_from(json.loads(json.dumps(plain.grid_values(grid))))
        assert again.same_as(grid, 0)
        assert (again.plane is None) == (grid.plane is None)
        if grid.plane is not None:
            assert again.lifted().same_as(grid.lifted(), 0)


def test_a_result_too_large_to_keep_its_fields_is_written_as_any_other(
    saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its fields are computed for whatever looks at them, a few slices at a time: the same files, byte by byte."""
    monkeypatch.setattr(field, "_KEPT_BYTES", 0)
    large = pairs.registered()
    files = ["warped.nii.gz", "labels.nii.gz", "log_jacobian.nii.gz", "affine.tfm", "velocity.safetensors"]
    files += ["fixed_to_moving.nii.gz", "moving_to_fixed.nii.gz"]
    save_result(large.result, tmp_path / "out", large.fixed, large.moving, large.fixed_labels)
    for name in files:
        assert (tmp_path / "out" / name).read_bytes() == (saved.folder / name).read_bytes(), name
    first, second = (json.loads((each / "result.json").read_text()) for each in (saved.folder, tmp_path / "out"))
    assert first["metrics"] == second["metrics"]
    assert first["verdict"] == second["verdict"]
