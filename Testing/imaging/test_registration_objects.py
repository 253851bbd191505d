# SPDX-License-Identifier: Apache-2.0
"""DICOM's registrations, made by hand, are read as the standard means them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.transform_files.registration_object import (
    read_deformable,
    read_spatial,
    registration_kind,
)
from DeepFLASHRegistrationLib.imaging.transforms import read_affine_with_notes
from DeepFLASHRegistrationLib.support.errors import InputError
from imaging_shapes import rotation
from registration_objects import by_the_standard, item, write_deformable, write_spatial

FIXED, MOVING, OTHER = "1.2.3.1", "1.2.3.2", "1.2.3.9"
MATRIX = np.eye(4)
MATRIX[:3, :3] = rotation((1, -2, 1), 12) @ np.diag([1.05, 0.95, 1.1])
MATRIX[:3, 3] = (-7, 5, -4)
SHIFT = np.eye(4)
SHIFT[:3, 3] = (10, 0, 0)


def grid(frame: str = "") -> Grid:
    return Grid((5, 6, 7), np.diag([4.0, 4, 4, 1])[:, [2, 1, 0, 3]], frame_of_reference=frame)


def through(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def test_a_known_shift_leads_from_the_moving_image_to_the_registered_frame(tmp_path) -> None:
    """What lies at x = 30 in the moving image lies at x = 40 in the fixed one: the fixed point is sampled at x - 10."""
    path = write_spatial(tmp_path / "r.dcm", FIXED, [(FIXED, [np.eye(4)]), (MOVING, [SHIFT])])
    matrix, notes = read_spatial(path, grid(FIXED), grid(MOVING))
    assert np.allclose(through(matrix, np.array([[40.0, 2, 3]])), [[30, 2, 3]])
    assert not notes


def test_a_known_shift_of_vectors_leads_from_the_registered_frame_to_the_moving_image(tmp_path) -> None:
    vectors = np.broadcast_to(np.float32([-10, 0, 0]), (2, 2, 2, 3))
    path = write_deformable(tmp_path / "r.dcm", FIXED, MOVING, vectors, resolution=(9, 9, 9))
    _, values, matrix, notes = read_deformable(path, grid(FIXED), grid(MOVING))
    assert np.array_equal(values, vectors)
    assert np.array_equal(matrix, np.eye(4))
    assert not notes


@pytest.mark.parametrize("listed", [True, False], ids=["with the fixed image's item", "without"])
def test_a_spatial_registration_serves_both_ways(tmp_path, listed) -> None:
    items = [(FIXED, [np.eye(4)])] * listed + [(MOVING, [np.linalg.inv(MATRIX)])]
    path = write_spatial(tmp_path / "r.dcm", FIXED, items)
    points = np.random.default_rng(0).uniform(-50, 50, (20, 3))
    forth, _ = read_affine_with_notes(path, 3, grid(FIXED), grid(MOVING))
    back, _ = read_affine_with_notes(path, 3, grid(MOVING), grid(FIXED))
    assert np.allclose(through(forth, points), by_the_standard(path, points), atol=1e-9)
    assert np.allclose(through(back, through(forth, points)), points, atol=1e-9)


def test_images_may_both_lie_in_other_frames_than_the_registered_one(tmp_path) -> None:
    path = write_spatial(tmp_path / "r.dcm", OTHER, [(FIXED, [SHIFT]), (MOVING, [np.linalg.inv(MATRIX)])])
    matrix, _ = read_spatial(path, grid(FIXED), grid(MOVING))
    assert np.allclose(matrix, MATRIX @ SHIFT)


def test_two_matrices_of_one_frame_of_reference_are_refused(tmp_path) -> None:
    for frame in (FIXED, MOVING):
        items = [(FIXED, [np.eye(4)]), (frame, [MATRIX]), (MOVING, [SHIFT])]
        path = write_spatial(tmp_path / "r.dcm", FIXED, items)
        assert f"two matrices for the frame of reference {frame}" in refused(path)


def test_the_registered_frame_may_be_one_of_its_own(tmp_path) -> None:
    """With the coordinates of the fixed image, whose item rests; also of images that name no frame."""
    spatial = write_spatial(tmp_path / "r.dcm", OTHER, [(FIXED, [np.eye(4)]), (MOVING, [SHIFT])])
    vectors = np.ones((2, 2, 2, 3), np.float32)
    deformable = write_deformable(tmp_path / "d.dcm", FIXED, MOVING, vectors)
    found = pydicom.dcmread(deformable)
    found.FrameOfReferenceUID = OTHER
    found.save_as(deformable)
    for frames in ((FIXED, MOVING), ("", "")):
        assert np.allclose(read_spatial(spatial, *map(grid, frames))[0], np.linalg.inv(SHIFT))
        assert np.array_equal(read_deformable(deformable, *map(grid, frames))[1], vectors)


def test_images_of_one_frame_of_reference_are_told_apart_by_what_moves(tmp_path) -> None:
    path = write_spatial(tmp_path / "r.dcm", FIXED, [(FIXED, [np.eye(4)]), (FIXED, [SHIFT])])
    matrix, _ = read_spatial(path, grid(FIXED), grid(FIXED))
    assert np.allclose(matrix, np.linalg.inv(SHIFT))
    vectors = np.ones((2, 2, 2, 3), np.float32)
    path = write_deformable(tmp_path / "d.dcm", FIXED, FIXED, vectors)
    assert np.array_equal(read_deformable(path, grid(FIXED), grid(FIXED))[1], vectors)


def test_what_images_without_frames_left_open_is_said(tmp_path) -> None:
    path = write_spatial(tmp_path / "r.dcm", FIXED, [(MOVING, [SHIFT])])
    matrix, notes = read_affine_with_notes(path, 3, grid(), grid())
    assert np.allclose(matrix, np.linalg.inv(SHIFT))
    assert any(FIXED in note and MOVING in note and str(path) in note for note in notes)


@pytest.mark.parametrize("matrices", [(None, None), (MATRIX, None), (None, MATRIX), (SHIFT, MATRIX)])
def test_a_deformation_is_what_the_standard_says(tmp_path, matrices) -> None:
    """On an oblique lattice, with other numbers and distances of points along each of its axes."""
    turn = rotation((3, 1, 2), 35)
    generator = np.random.default_rng(3)
    vectors = generator.uniform(-5, 5, (4, 5, 6, 3))
    resolution, position = np.array([7.0, 9, 11]), np.array([-20.0, 15, 8])
    path = write_deformable(
        tmp_path / "r.dcm", FIXED, MOVING, vectors, position, turn.T[:2].ravel(), resolution, *matrices
    )
    lattice, values, matrix, _ = read_deformable(path, grid(FIXED), grid(MOVING))
    points = position + (generator.uniform(0.01, 0.99, (40, 3)) * ([5, 4, 3] * resolution)) @ turn.T
    from DeepFLASHRegistrationLib.results.bare_transform import Field

    pytest.importorskip("torch")
    moved = Field(lattice, values, "", last=matrix).points(points, "fixed_to_moving")
    assert np.abs(moved - by_the_standard(path, points)).max() < 2e-4
    assert np.abs(moved - points).max() > 3


def test_a_deformation_leads_from_slice_to_slice(tmp_path) -> None:
    """Of slices the way within the moving one's plane is taken, wherever its points lie beside it."""
    pytest.importorskip("torch")
    from DeepFLASHRegistrationLib.results.bare_transform import for_images, for_points

    vectors = np.random.default_rng(5).uniform(-4, 4, (3, 4, 4, 3))
    path = write_deformable(
        tmp_path / "r.dcm", FIXED, MOVING, vectors, (-5, -5, -5), resolution=(12, 12, 12), after=SHIFT
    )
    affine = np.diag([3.0, 2, 2, 1])[:, [2, 1, 0, 3]]
    affine[:3, 3] = (0, 0, 6)
    fixed = Grid((1, 8, 9), affine, frame_of_reference=FIXED).flattened()
    affine[:3, 3] = (0, 0, 11)
    moving = Grid((1, 12, 14), affine, frame_of_reference=MOVING).flattened()
    field, target, notes = for_images(path, "fixed", moving, fixed)
    assert target is fixed
    assert not notes
    points = fixed.index_to_physical(np.moveaxis(np.indices(fixed.shape), 0, -1).reshape(-1, 2))
    wanted = moving.project(by_the_standard(path, fixed.lift(points)))
    assert np.abs(points + field.displacement(fixed, "fixed_to_moving").reshape(-1, 2) - wanted).max() < 1e-4
    through_space, _ = for_points(path, "moving", fixed, moving)
    moved = through_space.points(fixed.lift(points), "fixed_to_moving")
    assert np.abs(moved - by_the_standard(path, fixed.lift(points))).max() < 1e-4


def test_big_endian_vectors_are_read(tmp_path) -> None:
    vectors = np.arange(24, dtype=np.float32).reshape(2, 2, 2, 3)
    found = pydicom.dcmread(write_deformable(tmp_path / "r.dcm", FIXED, MOVING, vectors))
    lattice = found.DeformableRegistrationSequence[1].DeformableRegistrationGridSequence[0]
    lattice.VectorGridData = vectors.astype(">f4").tobytes()
    found.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
    pydicom.dcmwrite(tmp_path / "b.dcm", found, implicit_vr=False, little_endian=False, enforce_file_format=True)
    assert np.array_equal(read_deformable(tmp_path / "b.dcm", grid(FIXED), grid(MOVING))[1], vectors)


def test_vectors_that_are_undefined_are_named_and_rest(tmp_path) -> None:
    vectors = np.ones((2, 2, 2, 3), np.float32)
    vectors[0, 0, 0] = np.nan
    path = write_deformable(tmp_path / "r.dcm", FIXED, MOVING, vectors)
    _, values, _, notes = read_deformable(path, grid(FIXED), grid(MOVING))
    assert not values[0, 0, 0].any()
    assert values.sum() == 21
    assert any("12.5 % of its lattice is undefined" in note for note in notes)


def test_kinds_are_told_by_what_a_file_says_it_is(tmp_path) -> None:
    spatial = write_spatial(tmp_path / "REG", FIXED, [(MOVING, [SHIFT])])
    deformable = write_deformable(tmp_path / "REG2", FIXED, MOVING, np.ones((2, 2, 2, 3)))
    (tmp_path / "text.dcm").write_text("no DICOM")
    assert registration_kind(spatial) == "spatial"
    assert registration_kind(deformable) == "deformable"
    for path in (tmp_path / "text.dcm", tmp_path, tmp_path / "absent.dcm"):
        assert not registration_kind(path)


def refused(path: Path, fixed: str = FIXED, moving: str = MOVING) -> str:
    """What is said of an object that cannot be used."""
    deformable = registration_kind(path) == "deformable"
    read = read_deformable if deformable else lambda *arguments: read_affine_with_notes(arguments[0], 3, *arguments[1:])
    with pytest.raises(InputError) as error:
        read(path, grid(fixed), grid(moving))
    assert str(path) in str(error.value)
    assert str(error.value).count(str(path)) == 1
    return str(error.value)


def test_an_object_of_other_images_is_refused_with_all_frames_named(tmp_path) -> None:
    spatial = write_spatial(tmp_path / "r.dcm", FIXED, [(MOVING, [SHIFT])])
    deformable = write_deformable(tmp_path / "d.dcm", FIXED, MOVING, np.ones((2, 2, 2, 3)))
    for path in (spatial, deformable):
        for frames in ((FIXED, OTHER), (OTHER, MOVING)):
            said = refused(path, *frames)
            assert all(uid in said for uid in (FIXED, MOVING, OTHER))
            assert "Pass the object that was made of these images" in said


def test_a_deformation_of_the_other_direction_is_refused(tmp_path) -> None:
    path = write_deformable(tmp_path / "d.dcm", FIXED, MOVING, np.ones((2, 2, 2, 3)))
    assert "leads from the moving image to the fixed one" in refused(path, MOVING, FIXED)


def test_several_matrices_are_taken_only_where_their_order_does_not_matter(tmp_path) -> None:
    """The equation of the standard and programs that read it (SlicerRT, vtk-dicom) disagree on their order."""
    path = write_spatial(tmp_path / "r.dcm", FIXED, [(MOVING, [SHIFT, SHIFT])])
    assert np.allclose(read_spatial(path, grid(FIXED), grid(MOVING))[0], np.linalg.inv(SHIFT @ SHIFT))
    path = write_spatial(tmp_path / "two.dcm", FIXED, [(MOVING, [SHIFT, MATRIX])])
    assert "2 matrices" in refused(path)


def test_damaged_objects_are_refused(tmp_path) -> None:
    path = write_deformable(tmp_path / "d.dcm", FIXED, MOVING, np.ones((3, 4, 5, 3)))
    (tmp_path / "cut.dcm").write_bytes(path.read_bytes()[:-200])
    assert "damaged" in refused(tmp_path / "cut.dcm")

    def changed(name: str, change) -> Path:
        found = pydicom.dcmread(path)
        change(found.DeformableRegistrationSequence[1].DeformableRegistrationGridSequence[0], found)
        found.save_as(tmp_path / name)
        return tmp_path / name

    assert "12 bytes" in refused(changed("short.dcm", lambda g, _: setattr(g, "VectorGridData", bytes(12))))
    assert "resolution" in refused(changed("flat.dcm", lambda g, _: setattr(g, "GridResolution", [1.0, 0, 1])))
    assert "damaged" in refused(changed("bare.dcm", lambda g, _: delattr(g, "GridDimensions")))
    assert "no frame of reference" in refused(changed("free.dcm", lambda _, d: delattr(d, "FrameOfReferenceUID")))
    nothing = changed("nan.dcm", lambda g, _: setattr(g, "VectorGridData", np.full(180, np.nan, "<f4").tobytes()))
    assert "no vector that is defined" in refused(nothing)
    empty = changed(
        "none.dcm", lambda _, d: delattr(d.DeformableRegistrationSequence[1], "DeformableRegistrationGridSequence")
    )
    assert "no lattice" in refused(empty)


@pytest.mark.parametrize("kind", ["spatial", "deformable"])
@pytest.mark.filterwarnings("ignore")
def test_whatever_is_damaged_is_read_finite_or_refused(tmp_path, kind) -> None:
    generator = np.random.default_rng(7)
    if kind == "spatial":
        path = write_spatial(tmp_path / "r.dcm", FIXED, [(FIXED, [np.eye(4)]), (MOVING, [MATRIX])])
    else:
        path = write_deformable(tmp_path / "r.dcm", FIXED, MOVING, np.ones((2, 3, 2, 3)), before=SHIFT, after=MATRIX)
    whole, refusals = path.read_bytes(), 0
    for _ in range(150):
        content = bytearray(whole)
        for at in generator.integers(132, len(content), 3):
            content[at] = generator.integers(256)
        path.write_bytes(content[: None if generator.random() < 0.8 else generator.integers(140, len(content))])
        if registration_kind(path) != kind:
            continue
        try:
            if kind == "spatial":
                assert np.isfinite(read_affine_with_notes(path, 3)[0]).all()
            else:
                assert all(np.isfinite(part).all() for part in read_deformable(path, None, None)[1:3])
        except InputError:
            refusals += 1
    assert 20 < refusals < 150


@pytest.mark.parametrize("matrix", [np.zeros((4, 4)), np.eye(4)[:3], np.diag([1.0, 1, 1, 2])])
def test_matrices_that_are_none_are_refused(tmp_path, matrix) -> None:
    path = write_spatial(tmp_path / "r.dcm", FIXED, [(MOVING, [matrix])])
    assert "matrix" in refused(path)


def test_a_deformation_is_no_linear_transform(tmp_path) -> None:
    path = write_deformable(tmp_path / "d.dcm", FIXED, MOVING, np.ones((2, 2, 2, 3)))
    with pytest.raises(InputError, match=r"no linear transform\. --method transform takes it"):
        read_affine_with_notes(path, 3, grid(FIXED), grid(MOVING))


def test_without_pydicom_it_is_said_what_to_install(tmp_path, monkeypatch) -> None:
    path = write_spatial(tmp_path / "r.dcm", FIXED, [(MOVING, [SHIFT])])
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(InputError, match="pip install pydicom highdicom"):
        read_spatial(path, grid(FIXED), grid(MOVING))


def test_an_item_that_names_images_alone_is_taken_for_the_moving_image(tmp_path) -> None:
    path = write_spatial(tmp_path / "r.dcm", FIXED, [(MOVING, [SHIFT])])
    found = pydicom.dcmread(path)
    del found.RegistrationSequence[0].FrameOfReferenceUID
    found.RegistrationSequence[0].ReferencedImageSequence = [item(ReferencedSOPInstanceUID="1.2")]
    found.save_as(path)
    matrix, _ = read_spatial(path, grid(FIXED), grid(MOVING))
    assert np.allclose(matrix, np.linalg.inv(SHIFT))
