# SPDX-License-Identifier: Apache-2.0
"""Packs: what is stored is read again, what is damaged is named, and subjects lie where their affines say."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable

import numpy as np
import pytest
import training_packs
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.problem.subject import Subject
from DeepFLASHRegistrationLib.support.errors import InputError
from DeepFLASHRegistrationLib.training import pack as packs
from DeepFLASHRegistrationLib.training.label_naming import Naming, check_naming, painted, sides
from DeepFLASHRegistrationLib.training.pack import FIRST_OUTSIDE, packed, read_pack
from DeepFLASHRegistrationLib.training.packing import (
    Frame,
    Source,
    coarsened_to_limit,
    coarser,
    pack_subjects,
    within_limit,
)


def test_a_pack_is_read_as_it_was_made(tmp_path):
    made = training_packs.pack("one")
    (tmp_path / "one.npz").write_bytes(packed(made))
    read = read_pack(tmp_path / "one.npz")
    for field in dataclasses.fields(made):
        one, two = getattr(made, field.name), getattr(read, field.name)
        assert np.array_equal(one, two) if isinstance(one, np.ndarray) else one == two, field.name
    assert read.trained == (0, 1, 2)


# By what is wrong, what the message says beside the file and the remedy.
WRONG = {
    "nothing": "cannot be read",
    "text": "no pack",
    "half": "is damaged",
    "version": r"a pack of version 99; this program reads version 1\.",
    "counts": "do not fit its subjects",
    "affines": "affines",
    "unseen": "does not hold",
    "spacing": "size of nan mm",
    "alike": "look like",
    "facts": "facts",
}
CHANGES = {
    "counts": {"names": ("a", "b")},
    "affines": {"affines": np.full((4, 4, 4), np.nan)},
    "unseen": {"unseen": (4,)},
    "spacing": {"spacing_mm": float("nan")},
    "alike": {"alike": (0, 300)},
    "facts": {"facts": {"license": 5}},
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_pack_is_named_with_the_remedy(tmp_path, what, monkeypatch):
    path, made = tmp_path / "bad.npz", training_packs.pack("one")
    if what == "text":
        path.write_text("no pack")
    elif what == "half":
        content = packed(made)
        path.write_bytes(content[: len(content) // 2])
    elif what == "version":
        monkeypatch.setattr(packs, "VERSION", 99)
        path.write_bytes(packed(made))
        monkeypatch.undo()
    elif what in CHANGES:
        path.write_bytes(packed(dataclasses.replace(made, **CHANGES[what])))
    with pytest.raises(InputError, match=rf"bad\.npz: .*{WRONG[what]}.*(Pack the data|pack the data|Check the path)"):
        read_pack(path)


def test_a_pack_executes_nothing(tmp_path):
    file = io.BytesIO()
    np.savez(file, about=np.array([{"version": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "bad.npz").write_bytes(file.getvalue())
    with pytest.raises(InputError):
        read_pack(tmp_path / "bad.npz")


def subject(shift: tuple[float, float, float], labels: bool = True) -> Subject:
    """A lopsided object of 2 mm voxels, moved by mm."""
    at = np.stack(np.meshgrid(*[np.arange(24)] * 3, indexing="ij"), -1) * 2.0
    center = np.array([24.0, 22, 23])
    data = 200.0 * (((at - center) / [14, 18, 12]) ** 2).sum(-1).__lt__(1) * (1 + 0.01 * at[..., 0])
    data += 100 * ((at - center - [4, 5, 3]) ** 2).sum(-1).__lt__(25)
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = shift
    grid = Grid((24, 24, 24), affine[[2, 1, 0, 3]][:, [0, 1, 2, 3]])
    image = Volume(grid, data.astype(np.float32), name="object")
    values = (2 * (data > 0) + 501 * (data > 350)).astype(np.int32)
    return Subject(image, labels=Volume(grid, values, name="labels") if labels else None)


def source(name: str, read: Callable[[], Subject]) -> Source:
    return Source(name, read)


def shift(voxels: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[0, 3] = voxels
    return matrix


FRAME = Frame((32, 32, 32), 2.0)
TWO = [source("a", lambda: subject((0, 0, 0))), source("b", lambda: subject((30, -12, 7)))]


def test_subjects_lie_in_the_middle_and_their_affines_bring_them_together():
    made = pack_subjects("set", TWO, FRAME, naming=Naming(outside=501), unseen=["b"])
    assert made.shape == (32, 32, 32)
    assert made.unseen == (1,)
    # Both show the same: in the middle of their grids they agree, whatever their place in the world.
    np.testing.assert_allclose(made.affines[1], np.eye(4), atol=0.1)
    assert np.abs(made.images[0].astype(int) - made.images[1]).mean() < 2
    codes = set(np.unique(made.labels))
    assert codes == {0, 1, FIRST_OUTSIDE}
    assert made.label_values[1] == 2
    assert made.label_values[FIRST_OUTSIDE] == 503


def test_the_limit_takes_subjects_but_none_kept_aside():
    made = training_packs.pack("one", 8)
    size = len(packed(made))
    content, dropped = within_limit(made, size * 0.6 / 1e6)
    assert len(content) <= size * 0.6
    assert dropped
    assert made.names[-1] not in dropped
    with pytest.raises(InputError, match=r"two subjects to train on do not fit.*resolution"):
        within_limit(made, 1e-3)
    assert within_limit(made, 100)[1] == ()


def test_sets_that_cannot_be_packed_are_refused_with_the_reason():
    with pytest.raises(InputError, match="at least two"):
        pack_subjects("set", TWO[:1], FRAME)
    bare = source("b", lambda: subject((0, 0, 0), False))
    with pytest.raises(InputError, match="b has no labels, others have"):
        pack_subjects("set", [TWO[0], bare], FRAME)
    with pytest.raises(InputError, match="b has no labels, of which images"):
        pack_subjects("set", [TWO[0], bare], FRAME, maps_alone=True)


def other_scheme() -> Subject:
    found = subject((0, 0, 0))
    return Subject(found.image, found.label_map.with_data(found.label_map.data + 7 * (found.label_map.data > 0)))


def test_labels_of_two_naming_schemes_are_refused_with_the_subject() -> None:
    sources = [*TWO, source("c", lambda: subject((1, 0, 0))), source("odd", other_scheme)]
    with pytest.raises(InputError, match=r"set: the labels of odd are named unlike .*: 0 of its 2 .*pack of their own"):
        pack_subjects("set", sources, FRAME)
    # One label more or less is anatomy.
    check_naming([("a", [1, 2, 3]), ("b", [1, 2]), ("c", [1, 2, 3, 4])], "set")


def test_nan_in_an_image_is_background_and_told_and_nothing_but_nan_is_refused() -> None:
    def holed(part: slice) -> Subject:
        found = subject((0, 0, 0))
        data = found.image.data.copy()
        data[part] = np.nan
        return found.with_image(found.image.with_data(data))

    said: list[str] = []
    made = pack_subjects("set", [TWO[0], source("holed", lambda: holed(np.s_[:2]))], FRAME, tell=said.append)
    whole = pack_subjects("set", [TWO[0], source("same", lambda: subject((0, 0, 0)))], FRAME)
    assert np.array_equal(made.images, whole.images)  # what is gone was background
    assert any("1152 NaN or infinite voxels were replaced" in text for text in said)
    with pytest.raises(InputError, match="every voxel is NaN"):
        pack_subjects("set", [TWO[0], source("none", lambda: holed(np.s_[:]))], FRAME)


def test_without_a_grid_one_is_chosen_that_holds_what_all_show() -> None:
    made = pack_subjects("set", TWO, naming=Naming(outside=501))
    assert made.spacing_mm == 2.0
    assert all(n % 16 == 0 for n in made.shape)
    counts = [np.count_nonzero(subject((0, 0, 0)).label_map.data)] * 2
    assert [np.count_nonzero(x) for x in made.labels] == pytest.approx(counts, rel=0.02)
    finer = pack_subjects("set", TWO, spacing_mm=1.0)
    assert finer.shape == (48, 48, 48)  # of objects of 28 to 36 mm, with a border of 6 voxels


def test_sets_of_label_maps_alone_are_aligned_by_their_structures() -> None:
    made = pack_subjects("set", TWO, FRAME, maps_alone=True)
    assert made.images is None
    np.testing.assert_allclose(made.affines[1], np.eye(4), atol=0.15)
    assert (made.labels[0] == made.labels[1]).mean() > 0.99


def test_where_resolution_gives_way_all_subjects_stay_where_they_were() -> None:
    made = dataclasses.replace(training_packs.pack("one", 3), affines=np.stack([shift(x) for x in (0, 2, -3)]))
    half = coarser(made, 2.0)
    assert half.shape == (16, 16, 16)
    assert half.spacing_mm == 2.5
    # A voxel of the coarse grid is the mean of eight, in the middle of which it lies; affines are in its voxels.
    means = made.images.reshape(3, 16, 2, 16, 2, 16, 2).mean((2, 4, 6))
    assert np.abs(half.images - means).mean() < 4
    np.testing.assert_allclose(half.affines[1][:3, 3], [1, 0, 0], atol=1e-9)
    size = len(packed(made))
    content, spacing = coarsened_to_limit(made, 0.6 * size / 1e6)
    assert len(content) <= 0.6 * size
    assert spacing > made.spacing_mm
    with pytest.raises(InputError, match="give way"):
        coarsened_to_limit(made, 1e-4)


def test_left_and_right_of_one_name_look_alike() -> None:
    assert sides({4: "Left-Putamen", 9: "right putamen", 11: "Right-Odd", 12: "Brain_Stem"}) == {9: 4}
    codes = np.array([0, 1, 2, 3, FIRST_OUTSIDE], np.uint8)
    image = painted(codes, (0, 1, 2, 2))
    assert image[3] == image[2] != image[1]
    assert image[0] == image[4] == 0


def test_the_table_in_a_pack_is_plain_json():
    with np.load(io.BytesIO(packed(training_packs.pack("one")))) as file:
        assert json.loads(file["about"].tobytes())["name"] == "one"
