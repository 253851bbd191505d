# SPDX-License-Identifier: Apache-2.0
"""A result written as DICOM registrations is the result's own map, by code that knows nothing of the library."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
import pytest
import registration_pairs as pairs
from DeepFLASHRegistrationLib.commands import main as cli
from DeepFLASHRegistrationLib.imaging import io
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.io import read_grid, read_volume
from DeepFLASHRegistrationLib.imaging.points import read_points, write_points
from DeepFLASHRegistrationLib.imaging.segmentation import (
    Segment,
    Segmentation,
    read_segmentation,
    write_segmentation,
)
from DeepFLASHRegistrationLib.imaging.transforms import write_affine
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.results.dicom_objects import lattice_of, write_dicom
from DeepFLASHRegistrationLib.results.velocity import load_result
from DeepFLASHRegistrationLib.support.errors import InputError
from dicom_files import write_volume_series
from registration_objects import by_the_standard

pytest.importorskip("torch")

AFFINE = np.eye(4)
AFFINE[:3, :3] = pairs.turn(14) @ np.diag([1.05, 0.97, 1.02])
AFFINE[:3, 3] = (40, -25, 130)


class Study(NamedTuple):
    """Two oblique DICOM series, their result, and its objects."""

    fixed: Path
    moving: Path
    result: Path
    objects: Path
    notes: list[str]


def write_pair(folder: Path) -> tuple[Path, Path]:
    """Series of two studies of one patient, on oblique grids of other voxels, and a.tfm from one to the other."""
    fixed = pairs.fixed_image(pairs.box((26, 30, 28), (3.4, 3.1, 3.1), pairs.turn(20)[:, ::-1]))
    back = np.linalg.inv(AFFINE)
    grid = pairs.box((26, 34, 36), (4.1, 3.0, 3.2), pairs.turn(-25, (0, 1, 1))[:, [2, 0, 1]], AFFINE[:3, 3])
    own = pairs.places(grid) @ back[:3, :3].T + back[:3, 3]
    write_volume_series(folder / "fixed", fixed.with_data(1000 * fixed.data), "planning CT")
    write_volume_series(folder / "moving", Volume(grid, 1000 * pairs.intensities(own)), "cone beam", "1.2.3.99")
    write_affine(folder / "a.tfm", AFFINE)
    return folder / "fixed", folder / "moving"


def registered(folder: Path, out: str, *more: str) -> Path:
    options = ["--init", str(folder / "a.tfm"), "--threads", "1", "--outputs", "none", "-q", *more]
    code = cli.main(["register", str(folder / "fixed"), str(folder / "moving"), "-o", str(folder / out), *options])
    assert code == 0
    return folder / out


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    folder = tmp_path_factory.mktemp("dicom")
    fixed, moving = write_pair(folder)
    result = registered(folder, "result", "--resolutions", "2,1", "--bands", "7,11", "--iterations", "5,4")
    notes = write_dicom(result, fixed, moving, folder / "objects", threads=1)
    return Study(fixed, moving, result, folder / "objects", notes)


def points_inside(grid: Grid, count: int = 300) -> np.ndarray:
    """Anywhere in the field of view, between voxels."""
    index = np.random.default_rng(1).uniform(-0.45, np.array(grid.shape) - 0.55, (count, 3))
    return grid.index_to_physical(index)


def test_the_objects_are_the_result_s_maps(study) -> None:
    saved = load_result(study.result)
    points = points_inside(saved.fixed_grid)
    exact = saved.deformation.points(points, "fixed_to_moving")
    linear = points @ AFFINE[:3, :3].T + AFFINE[:3, 3]
    assert np.abs(by_the_standard(study.objects / "alignment.dcm", points) - linear).max() < 1e-6
    off = np.linalg.norm(by_the_standard(study.objects / "deformation.dcm", points) - exact, axis=1)
    assert off.max() < 0.15 * saved.fixed_grid.spacing.min()  # between voxels; at them at most a tenth
    assert np.linalg.norm(exact - linear, axis=1).max() > 2  # there is something to be missed


def test_the_note_bounds_the_difference_at_the_voxels(study) -> None:
    saved = load_result(study.result)
    (note,) = [note for note in study.notes if "differs from the map" in note]
    largest, mostly = (float(part.split()[0]) for part in note.split("by at most ")[1:])
    grid = saved.fixed_grid
    points = grid.index_to_physical(np.random.default_rng(2).integers(0, grid.shape, (2000, 3)))
    off = by_the_standard(study.objects / "deformation.dcm", points)
    off -= saved.deformation.points(points, "fixed_to_moving")
    apart = np.linalg.norm(off, axis=1)
    assert apart.max() <= 1.05 * largest
    assert (apart <= 1.05 * mostly).mean() > 0.98
    assert (np.abs(off @ grid.direction / grid.spacing).max(-1) <= 0.105).mean() > 0.98
    assert 0.01 < mostly < largest  # the lattice is no finer than it must be


class Wave:
    """A map that bends by a known wave along y: what lines fall short of is h² / 8 times its second derivative."""

    def __init__(self, height: float, length: float) -> None:
        self.height, self.length = height, length

    def displacement(self, grid: Grid, direction: str) -> np.ndarray:
        points = pairs.places(grid)
        values = self.height * np.sin(points[..., 1] / self.length), 0 * points[..., 0], 30 + 0.5 * points[..., 2]
        return np.stack(values, -1).astype(np.float32)


def test_the_lattice_is_as_coarse_as_the_map_allows() -> None:
    grid = pairs.box((20, 40, 40), (2.0, 1, 1))
    lattice, vectors, (mostly, largest) = lattice_of(Wave(4, 10), grid)
    assert largest == pytest.approx(4 / 100 * lattice.spacing[1] ** 2 / 8, rel=0.1)
    assert 0.03 < mostly <= 0.1 < largest * 4
    assert vectors.shape == (*lattice.shape, 3)
    assert lattice.contains(grid.corners()).all()


def test_no_lattice_is_finer_than_the_voxels_along_the_patient_s_axes() -> None:
    grid = pairs.box((10, 40, 30), (3.0, 1, 1.5), np.eye(3)[:, [2, 1, 0]] * (1, -1, 1))
    lattice, _, (_, largest) = lattice_of(Wave(4, 0.8), grid)
    assert np.allclose(lattice.spacing, grid.spacing)
    assert largest < 1e-4  # its points are the voxels
    turned = pairs.box((10, 40, 30), (3.0, 1, 1.5), pairs.turn(20)[:, ::-1])
    lattice, _, _ = lattice_of(Wave(4, 0.8), turned)
    assert lattice.spacing.min() > 0.65 * turned.voxel_volume ** (1 / 3)


def test_frames_of_reference_and_references(study) -> None:
    fixed, moving = (pydicom.dcmread(folder / "000.dcm") for folder in (study.fixed, study.moving))
    instances = [[pydicom.dcmread(f).SOPInstanceUID for f in sorted(d.iterdir())] for d in (study.fixed, study.moving)]
    for name, sequence, frame in (
        ("alignment", "RegistrationSequence", "FrameOfReferenceUID"),
        ("deformation", "DeformableRegistrationSequence", "SourceFrameOfReferenceUID"),
    ):
        found = pydicom.dcmread(study.objects / f"{name}.dcm")
        assert found.FrameOfReferenceUID == fixed.FrameOfReferenceUID
        assert [found.PatientID, found.PatientName] == [fixed.PatientID, fixed.PatientName]
        assert found.StudyInstanceUID == fixed.StudyInstanceUID
        assert found.SeriesInstanceUID not in (fixed.SeriesInstanceUID, moving.SeriesInstanceUID)
        items = found[sequence].value
        assert [each[frame].value for each in items] == [fixed.FrameOfReferenceUID, moving.FrameOfReferenceUID]
        listed = [[r.ReferencedSOPInstanceUID for r in each.ReferencedImageSequence] for each in items]
        assert [sorted(each) for each in listed] == [sorted(each) for each in instances]
        (own,) = found.ReferencedSeriesSequence
        assert own.SeriesInstanceUID == fixed.SeriesInstanceUID
        assert len(own.ReferencedInstanceSequence) == len(instances[0])
        (other,) = found.StudiesContainingOtherReferencedInstancesSequence
        assert other.StudyInstanceUID == "1.2.3.99"
        assert other.ReferencedSeriesSequence[0].SeriesInstanceUID == moving.SeriesInstanceUID


# Of the modules of both, what is of type 1 (there, not empty) and of type 2 (there), in PS3.3.
FILLED = (
    "SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID Modality ContentDate "
    "ContentTime InstanceNumber ContentLabel Manufacturer ManufacturerModelName DeviceSerialNumber SoftwareVersions"
)
THERE = (
    "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime ReferringPhysicianName StudyID "
    "AccessionNumber SeriesNumber Laterality PositionReferenceIndicator ContentDescription ContentCreatorName"
)


@pytest.mark.parametrize("name", ["alignment", "deformation"])
def test_what_the_standard_requires_is_there(study, name) -> None:
    found = pydicom.dcmread(study.objects / f"{name}.dcm")
    assert not [each for each in FILLED.split() if not str(found.get(each) or "")]
    assert not [each for each in THERE.split() if each not in found]
    assert found.Modality == "REG"
    assert found.file_meta.MediaStorageSOPClassUID == found.SOPClassUID
    assert len(found.ContentLabel) <= 16
    for item in found.get("RegistrationSequence") or found.DeformableRegistrationSequence:
        way = item.MatrixRegistrationSequence[0] if "MatrixRegistrationSequence" in item else item
        (code,) = way.RegistrationTypeCodeSequence
        assert code.CodingSchemeDesignator == "DCM"
        assert all(len(v.original_string) <= 16 for m in way.get("MatrixSequence", []) for v in m[0x300600C6].value)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")
@pytest.mark.parametrize("name", ["alignment", "deformation"])
def test_dciodvfy_finds_no_error(study, name) -> None:
    done = subprocess.run(["dciodvfy", study.objects / f"{name}.dcm"], capture_output=True, text=True, check=False)
    assert "SpatialRegistration" in done.stderr
    assert "Error" not in done.stderr


@pytest.mark.parametrize(
    ("linear", "kind"),
    [(np.eye(3), "RIGID"), (np.diag([1, 1.1, 1.2]), "RIGID_SCALE"), ([[1, 0.1, 0], [0, 1, 0], [0, 0, 1]], "AFFINE")],
)
def test_matrices_are_of_the_group_that_is_named(study, linear, kind) -> None:
    from DeepFLASHRegistrationLib.imaging.dicom.registrations import spatial_registration
    from DeepFLASHRegistrationLib.imaging.dicom.series import read_series

    matrix = np.eye(4)
    matrix[:3, :3] = pairs.turn(33) @ linear
    found = spatial_registration(read_series(study.fixed), read_series(study.moving), matrix)
    (part,) = found.RegistrationSequence[1].MatrixRegistrationSequence[0].MatrixSequence
    assert part.FrameOfReferenceTransformationMatrixType == kind
    assert np.allclose(np.array(part.FrameOfReferenceTransformationMatrix, float).reshape(4, 4), matrix, atol=1e-12)


def test_images_and_points_go_through_the_objects_as_through_the_result(study, tmp_path) -> None:
    reference = ["--reference", str(study.fixed), "--threads", "1"]
    for source, out in ((study.result, "exact.nii.gz"), (study.objects / "deformation.dcm", "object.nii.gz")):
        assert cli.main(["apply", str(source), str(study.moving), "-o", str(tmp_path / out), *reference]) == 0
    exact, through = (read_volume(tmp_path / name).data for name in ("exact.nii.gz", "object.nii.gz"))
    assert np.abs(exact - through).max() < 0.1 * np.ptp(exact)
    assert np.abs(exact - through).mean() < 0.002 * np.ptp(exact)
    grid = read_grid(study.fixed)
    points = points_inside(grid, 20)
    write_points(tmp_path / "p.csv", points)
    for name in ("alignment", "deformation"):
        path = study.objects / f"{name}.dcm"
        more = ["--reference", str(study.moving), "--source", str(study.fixed), "--to", "moving"]
        assert cli.main(["apply", str(path), str(tmp_path / "p.csv"), "-o", str(tmp_path / f"{name}.csv"), *more]) == 0
        assert np.abs(read_points(tmp_path / f"{name}.csv")[0] - by_the_standard(path, points)).max() < 1e-3


def test_a_registration_starts_from_an_object_and_takes_one_as_it_is(study, tmp_path) -> None:
    pair = [str(study.fixed), str(study.moving)]
    quick = ["--threads", "1", "--outputs", "none", "-q", "--resolutions", "1", "--bands", "7", "--iterations", "1"]
    init = ["--init", str(study.objects / "alignment.dcm")]
    assert cli.main(["register", *pair, "-o", str(tmp_path / "a"), *init, *quick]) == 0
    assert np.allclose(load_result(tmp_path / "a").deformation.affine, AFFINE, atol=1e-6)
    init = ["--method", "transform", "--init", str(study.objects / "deformation.dcm")]
    assert cli.main(["register", *pair, "-o", str(tmp_path / "t"), *init, *quick]) == 0
    points = points_inside(load_result(study.result).fixed_grid, 100)
    one, two = (load_result(f).deformation.points(points, "fixed_to_moving") for f in (study.result, tmp_path / "t"))
    assert np.linalg.norm(one - two, axis=1).max() < 1.0
    # A dense map goes out again, too.
    write_dicom(tmp_path / "t", *pair, tmp_path / "again", threads=1)
    again = by_the_standard(tmp_path / "again" / "deformation.dcm", points)
    assert np.linalg.norm(again - two, axis=1).max() < 0.6


def test_a_map_that_is_linear_has_no_lattice(study, tmp_path) -> None:
    folder = study.fixed.parent
    result = registered(folder, "linear", "--resolutions", "1", "--bands", "5", "--iterations", "0")
    notes = write_dicom(result, study.fixed, study.moving, tmp_path / "o", threads=1)
    assert [each.name for each in (tmp_path / "o").iterdir()] == ["alignment.dcm"]
    assert any("the map is linear" in note for note in notes)


def copied(folder: Path, to: Path, change) -> Path:
    """A series with changed headers; change(header, number)."""
    to.mkdir()
    for number, file in enumerate(sorted(folder.iterdir())):
        found = pydicom.dcmread(file)
        change(found, number)
        found.save_as(to / file.name)
    return to


def refused(study: Study, tmp_path: Path, **changed) -> str:
    paths = {"result": study.result, "fixed": study.fixed, "moving": study.moving, **changed}
    with pytest.raises(InputError) as error:
        write_dicom(paths["result"], paths["fixed"], paths["moving"], tmp_path / "out", threads=1)
    assert not (tmp_path / "out").exists()
    return str(error.value)


def test_series_that_cannot_be_referred_to_are_refused(study, tmp_path) -> None:
    without = copied(study.moving, tmp_path / "without", lambda d, _: delattr(d, "FrameOfReferenceUID"))
    said = refused(study, tmp_path, moving=without)
    assert "names no frame of reference" in said
    assert "Export the series again" in said
    several = copied(
        study.fixed, tmp_path / "several", lambda d, k: setattr(d, "FrameOfReferenceUID", f"1.2.{k % 2 + 1}")
    )
    assert "2 frames of reference (1.2.1, 1.2.2)" in refused(study, tmp_path, fixed=several)
    volume = read_volume(several)  # as an image it can be used
    assert any("name 2 frames of reference" in note for note in volume.notes)
    assert not volume.grid.frame_of_reference
    nifti = tmp_path / "image.nii"
    nifti.write_bytes(b"no DICOM")
    assert "is no DICOM image" in refused(study, tmp_path, fixed=nifti)
    other = copied(study.fixed, tmp_path / "other", lambda d, _: setattr(d, "FrameOfReferenceUID", "1.2.7"))
    said = refused(study, tmp_path, fixed=other)
    assert "lies in the frame of reference 1.2.7" in said
    assert "Pass the series that was registered" in said


def test_series_of_other_places_are_refused(study, tmp_path) -> None:
    """Of a result of files that name no frame of reference, the place tells."""

    def nameless(name: str) -> Path:
        return copied(getattr(study, name), tmp_path / name, lambda d, _: delattr(d, "FrameOfReferenceUID"))

    nameless("fixed")
    nameless("moving")
    write_affine(tmp_path / "a.tfm", AFFINE)
    result = registered(tmp_path, "r", "--resolutions", "1", "--bands", "5", "--iterations", "0")
    assert write_dicom(result, study.fixed, study.moving, tmp_path / "good", threads=1)

    def moved(found, _) -> None:
        found.ImagePositionPatient = [float(v) + 5 for v in found.ImagePositionPatient]

    assert "covers another box" in refused(
        study, tmp_path, result=result, fixed=copied(study.fixed, tmp_path / "moved", moved)
    )


def test_other_patients_and_doubtful_results_are_named(study, tmp_path) -> None:
    other = copied(study.moving, tmp_path / "other", lambda d, _: setattr(d, "PatientID", "0815"))
    result = shutil.copytree(study.result, tmp_path / "result")
    values = json.loads((result / "result.json").read_text(encoding="utf-8"))
    values["verdict"]["level"], values["metrics"]["folds_strict"]["count"] = "poor", 12
    (result / "result.json").write_text(json.dumps(values), encoding="utf-8")
    notes = write_dicom(result, study.fixed, other, tmp_path / "o", threads=1)
    assert any("different patients (4711 and 0815)" in note for note in notes)
    assert any("was judged poor" in note for note in notes)
    assert any("folds at 12 voxels" in note for note in notes)
    (result / "result.json").unlink()
    notes = write_dicom(result, study.fixed, study.moving, tmp_path / "o", force=True, threads=1)
    assert any("holds no verdict" in note for note in notes)
    assert not any("different patients" in note or "map folds" in note for note in notes)


def test_names_are_written_in_the_letters_of_the_series(study, tmp_path) -> None:
    def named(found, _) -> None:
        found.SpecificCharacterSet, found.PatientName = "ISO_IR 100", "Müller^Jörg"

    fixed = copied(study.fixed, tmp_path / "fixed", named)
    write_dicom(study.result, fixed, study.moving, tmp_path / "o", threads=1)
    found = pydicom.dcmread(tmp_path / "o" / "alignment.dcm")
    assert (found.PatientName, found.SpecificCharacterSet) == ("Müller^Jörg", "ISO_IR 100")


def test_slices_are_refused(tmp_path) -> None:
    disk, other = pairs.disks((24, 26), 4.0)
    for name, image in (("fixed", disk), ("moving", other)):
        affine = np.eye(4)
        affine[:3, :3] = np.fliplr(np.eye(3)) * 4
        volume = Volume(Grid((1, *image.data.shape), affine), 1000 * image.data[None] / image.data.max())
        write_volume_series(tmp_path / name, volume, name)
    write_affine(tmp_path / "a.tfm", np.eye(4))
    result = registered(tmp_path, "r", "--resolutions", "1", "--bands", "5", "--iterations", "1")
    with pytest.raises(InputError, match="is of two dimensions"):
        write_dicom(result, tmp_path / "fixed", tmp_path / "moving", tmp_path / "o", threads=1)


def test_without_highdicom_nothing_is_begun(study, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    labels = draw(study, tmp_path / "m.seg.nrrd")
    with pytest.raises(InputError, match=r"m\.seg\.nrrd: .* need the package highdicom\. Install it"):
        write_dicom(study.result, study.fixed, study.moving, tmp_path / "o", labels, threads=1)
    assert not (tmp_path / "o").exists()


def test_the_objects_of_other_images_are_refused(study, tmp_path) -> None:
    other = copied(study.moving, tmp_path / "other", lambda d, _: setattr(d, "FrameOfReferenceUID", "1.2.7"))
    for name in ("alignment", "deformation"):
        path = study.objects / f"{name}.dcm"
        out = ["-o", str(tmp_path / "x.nii.gz"), "--reference", str(study.fixed), "--threads", "1"]
        assert cli.main(["apply", str(path), str(other), *out]) == 2
        assert not (tmp_path / "x.nii.gz").exists()


def draw(study: Study, path: Path) -> Path:
    """Parts of the moving object, and all of it in a layer of its own."""
    moving = read_grid(study.moving)
    back = np.linalg.inv(AFFINE)
    own = pairs.places(moving) @ back[:3, :3].T + back[:3, 3]
    labels = pairs.parts(own)
    layers = [Volume(moving, np.where(labels == 1, 0, labels)), Volume(moving, (labels > 0).astype(np.int32))]
    segments = [Segment(f"s{n}", f"part {n}", (0.2 * n, 0, 0), 0, n) for n in (2, 3, 4)]
    write_segmentation(path, Segmentation(tuple(layers), (*segments, Segment("b", "body", layer=1, label=1))))
    return path


def test_labels_go_along_as_a_segmentation_on_the_fixed_series(study, tmp_path) -> None:
    pytest.importorskip("highdicom")
    labels = draw(study, tmp_path / "m.seg.nrrd")
    pair = ["--fixed", str(study.fixed), "--moving", str(study.moving), "--moving-labels", str(labels)]
    assert cli.main(["dicom", str(study.result), *pair, "-o", str(tmp_path / "o"), "--threads", "1"]) == 0
    assert sorted(f.name for f in (tmp_path / "o").iterdir()) == [
        "alignment.dcm", "deformation.dcm", "segmentation.dcm",
    ]  # fmt: skip
    assert cli.main(["apply", str(study.result), str(labels), "-o", str(tmp_path / "exact.seg.nrrd")]) == 0
    exact, found = read_segmentation(tmp_path / "exact.seg.nrrd"), read_segmentation(tmp_path / "o/segmentation.dcm")
    assert [segment.name for segment in found.segments] == ["part 2", "part 3", "part 4", "body"]
    for one, two in zip(exact.segments, found.segments, strict=True):
        wanted = np.argwhere(exact.layers[one.layer].data == one.label)
        points = found.grid.index_to_physical(np.argwhere(found.layers[two.layer].data == two.label))
        assert np.array_equal(np.unique(np.rint(exact.grid.physical_to_index(points)), axis=0), wanted)
        assert len(wanted) > 50


def test_a_dicom_segmentation_is_carried_with_its_names(study, tmp_path) -> None:
    """As labels of a registration, and by deepflash apply into either kind of file."""
    pytest.importorskip("highdicom")
    from DeepFLASHRegistrationLib.imaging.dicom.registrations import write_object
    from DeepFLASHRegistrationLib.imaging.dicom.segments import segmentation_object
    from DeepFLASHRegistrationLib.imaging.dicom.series import read_series

    labels = draw(study, tmp_path / "m.seg.nrrd")
    write_object(tmp_path / "m.dcm", segmentation_object(read_series(study.moving), read_segmentation(labels))[0])
    for name, out in (("m.seg.nrrd", "one.seg.nrrd"), ("m.dcm", "two.seg.nrrd"), ("m.dcm", "two.nii.gz")):
        assert cli.main(["apply", str(study.result), str(tmp_path / name), "-o", str(tmp_path / out)]) == 0
    one, two = (read_segmentation(tmp_path / f"{name}.seg.nrrd") for name in ("one", "two"))
    assert [s.name for s in one.segments] == [s.name for s in two.segments]
    for first, second in zip(one.segments, two.segments, strict=True):
        same = (one.layers[first.layer].data == first.label) == (two.layers[second.layer].data == second.label)
        assert same.mean() > 0.999  # the last digits of where slices lie decide some ties
    assert len(np.unique(io.read_labels(tmp_path / "two.nii.gz").data)) > 4
    more = ["--init", str(study.fixed.parent / "a.tfm"), "--moving-labels", str(tmp_path / "m.dcm"), "--threads", "1"]
    quick = ["--outputs", "segmentation", "-q", "--resolutions", "1", "--bands", "5", "--iterations", "1"]
    pair = [str(study.fixed), str(study.moving)]
    assert cli.main(["register", *pair, "-o", str(tmp_path / "r"), *more, *quick]) == 0
    carried = read_segmentation(tmp_path / "r" / "segmentation.seg.nrrd")
    assert [s.name for s in carried.segments] == ["part 2", "part 3", "part 4", "body"]


def test_labels_that_lie_elsewhere_are_refused_before_anything_is_written(study, tmp_path) -> None:
    grid = read_grid(study.moving)
    affine = grid.affine.copy()
    affine[:3, 3] += 500
    io.write_volume(tmp_path / "far.nii.gz", Volume(Grid(grid.shape, affine), np.ones(grid.shape, np.int32)))
    with pytest.raises(InputError, match="lies outside the moving image"):
        write_dicom(study.result, study.fixed, study.moving, tmp_path / "out", tmp_path / "far.nii.gz", threads=1)
    assert not (tmp_path / "out").exists()
