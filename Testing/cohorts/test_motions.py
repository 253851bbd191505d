# SPDX-License-Identifier: Apache-2.0
"""Images moved rigidly: by as much as is said, with all that they show, and nothing invented around them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from DeepFLASHRegistrationLib.cohorts.motions import (
    EXCHANGED,
    MOTIONS,
    REST,
    Motion,
    keys,
    moved_pairs,
    moved_subject,
    moves,
    widened,
)
from DeepFLASHRegistrationLib.cohorts.pairs import NamedPair, Pairs
from DeepFLASHRegistrationLib.imaging.intensities import background_value
from DeepFLASHRegistrationLib.imaging.io import read_volume, write_volume
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.problem.reading import PairFiles
from DeepFLASHRegistrationLib.problem.subject import Subject
from DeepFLASHRegistrationLib.registration.properties import carried
from registration_pairs import box, disks, places, turn

pytest.importorskip("scipy")
OBLIQUE = box((12, 14, 16), (1.0, 2.0, 3.0), turn(30), (5.0, -7.0, 9.0))


@pytest.mark.parametrize("grid", [OBLIQUE, box((12, 14), (1.0, 2.0))], ids=["3-D", "2-D"])
def test_motions_are_as_far_as_they_say(grid) -> None:
    d = grid.ndim
    voxels, mm, turned = (each.matrix(grid) for each in MOTIONS)
    corner = grid.index_to_physical(np.zeros((1, d)))
    np.testing.assert_allclose(grid.physical_to_index(carried(voxels, corner)), 4, atol=1e-9)
    assert np.linalg.norm(mm[:d, d]) == pytest.approx(10)
    rotation = turned[:d, :d]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(d), atol=1e-12)
    cosine = (np.trace(rotation) - (d - 2)) / 2
    assert np.degrees(np.arccos(cosine)) == pytest.approx(20)
    np.testing.assert_allclose(carried(turned, grid.center[None])[0], grid.center, atol=1e-9)
    for motion in MOTIONS:
        half, back = motion.matrix(grid, 0.5), motion.matrix(grid, -0.5)
        np.testing.assert_allclose(half @ half, motion.matrix(grid), atol=1e-9)
        np.testing.assert_allclose(half @ back, np.eye(d + 1), atol=1e-9)


def test_whole_voxels_stay_what_they_are_and_what_is_new_does_not_count() -> None:
    image = Volume(OBLIQUE, np.random.default_rng(1).uniform(1, 2, OBLIQUE.shape).astype(np.float32), "a")
    matrix = MOTIONS[0].matrix(OBLIQUE)
    subject = Subject(image).checked()
    wide = widened(subject, [np.eye(4), matrix])
    assert wide.shape == tuple(n + 8 for n in OBLIQUE.shape)
    there = moved_subject(subject, matrix, wide)
    np.testing.assert_array_equal(there.image.data[8:, 8:, 8:], image.data)
    inside = np.zeros(wide.shape, bool)
    inside[8:, 8:, 8:] = True
    np.testing.assert_array_equal(there.mask.data != 0, inside)
    # The border's values go on.
    assert (there.image.data[:8, 8, 8] == image.data[0, 0, 0]).all()


def test_a_turned_image_shows_at_a_moved_point_what_it_showed_there() -> None:
    """A wave of 24 voxels, which splines follow closely."""
    grid = box((24, 26, 28), 1.0)

    def wave(points: np.ndarray) -> np.ndarray:
        return 2 + np.sin(points @ [0.1, 0.2, 0.15])

    subject = Subject(Volume(grid, wave(places(grid)).astype(np.float32), "a")).checked()
    matrix = MOTIONS[2].matrix(grid)
    there = moved_subject(subject, matrix, widened(subject, [matrix]))
    inner = there.mask.data != 0
    came = carried(np.linalg.inv(matrix), places(there.image.grid)[inner])
    deep = np.abs(came).max(-1) < 8  # away from where it ends
    assert deep.sum() > 2000
    assert np.abs(there.image.data[inner] - wave(came))[deep].max() < 2e-3


def test_background_stays_background_and_needs_no_mask() -> None:
    fixed = disks((48, 52), 2.0)[0]
    shown = fixed.data > 0.02
    image = fixed.with_data(np.where(shown, fixed.data, np.float32(0)))
    subject = Subject(image).checked()
    matrix = MOTIONS[2].matrix(image.grid)
    there = moved_subject(subject, matrix, widened(subject, [matrix]))
    assert there.mask is None
    assert background_value(there.image) == 0
    # As large as before: nothing swings around the object's edge.
    assert np.count_nonzero(there.image.data) == pytest.approx(np.count_nonzero(shown), rel=0.02)


def test_pairs_are_moved_alike_and_by_halves_apart_and_exchanged(tmp_path: Path) -> None:
    for volume in disks((20, 22), 4.0):
        write_volume(tmp_path / volume.name, volume)
    files = PairFiles(str(tmp_path / "fixed.nii.gz"), str(tmp_path / "moving.nii.gz"))
    broken = PairFiles(str(tmp_path / "fixed.nii.gz"), str(tmp_path / "none.nii.gz"))
    told: list[str] = []
    given = Pairs(tmp_path / "p.csv", (NamedPair(2, "a", files), NamedPair(3, "b", broken)))
    found = {each.key: each for each in moved_pairs(given, tmp_path / "out", lambda *said: told.extend(said))}
    assert told[0] == "b"
    assert set(found) == {REST, *keys(), EXCHANGED}
    assert {each.pair.name for each in found.values()} == {f"{key}/a" for key in found}
    images = {key: [read_volume(p) for p in (e.pair.files.fixed, e.pair.files.moving)] for key, e in found.items()}
    rest = images[REST]
    # By 4 voxels both, and by 2 of them forth and back; all on one grid each.
    for n in (0, 1):
        assert all(volumes[n].grid.same_as(rest[n].grid) for key, volumes in images.items() if key != EXCHANGED)
        np.testing.assert_array_equal(images["uu0"][n].data[4:, 4:], rest[n].data[:-4, :-4])
    np.testing.assert_array_equal(images["wu0"][0].data[2:, 2:], rest[0].data[:-2, :-2])
    np.testing.assert_array_equal(images["wu0"][1].data[:-2, :-2], rest[1].data[2:, 2:])
    np.testing.assert_array_equal(images[EXCHANGED][0].data, rest[1].data)
    for key, way in moves(read_volume(files.fixed).grid).items():
        np.testing.assert_allclose(found[key].moves.fixed, way.fixed)


def test_a_motion_of_nothing_is_none() -> None:
    np.testing.assert_array_equal(Motion("still").matrix(OBLIQUE), np.eye(4))
