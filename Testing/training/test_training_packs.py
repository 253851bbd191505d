# SPDX-License-Identifier: Apache-2.0
"""Packs: what is stored is read again, what is damaged is named, and subjects lie where their affines say."""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import pytest
import training_packs
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.problem.subject import Subject
from DeepFLASHRegistrationLib.support.errors import InputError
from DeepFLASHRegistrationLib.training import pack as packs
from DeepFLASHRegistrationLib.training.pack import FIRST_OUTSIDE, packed, read_pack
from DeepFLASHRegistrationLib.training.packing import Naming, pack_subjects, within_limit


def test_a_pack_is_read_as_it_was_made(tmp_path):
    made = training_packs.pack("one")
    (tmp_path / "one.npz").write_bytes(packed(made))
    read = read_pack(tmp_path / "one.npz")
    for field in dataclasses.fields(made):
        one, two = getattr(made, field.name), getattr(read, field.name)
        assert np.array_equal(one, two) if isinstance(one, np.ndarray) else one == two, field.name
    assert read.trained == (0, 1, 2)


@pytest.mark.parametrize("what", ["nothing", "text", "half", "version", "counts", "affines"])
def test_what_is_no_pack_is_named(tmp_path, what, monkeypatch):
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
    elif what == "counts":
        path.write_bytes(packed(dataclasses.replace(made, names=made.names[:2])))
    elif what == "affines":
        path.write_bytes(packed(dataclasses.replace(made, affines=np.full((4, 4, 4), np.nan))))
    with pytest.raises(InputError, match=r"bad\.npz"):
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


def test_subjects_lie_in_the_middle_and_their_affines_bring_them_together():
    made = pack_subjects(
        "set",
        [("a", subject((0, 0, 0))), ("b", subject((30, -12, 7)))],
        (32, 32, 32),
        2.0,
        naming=Naming(outside=lambda v: v > 500),
        unseen=["b"],
    )
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
    with pytest.raises(InputError, match="two subjects do not fit"):
        within_limit(made, 1e-3)
    assert within_limit(made, 100)[1] == ()


def test_sets_that_cannot_be_packed_are_refused_with_the_reason():
    with pytest.raises(InputError, match="at least two"):
        pack_subjects("set", [("a", subject((0, 0, 0)))], (32, 32, 32), 2.0)
    with pytest.raises(InputError, match="b has no labels"):
        pack_subjects("set", [("a", subject((0, 0, 0))), ("b", subject((0, 0, 0), False))], (32, 32, 32), 2.0)


def test_the_table_in_a_pack_is_plain_json():
    with np.load(io.BytesIO(packed(training_packs.pack("one")))) as file:
        assert json.loads(file["about"].tobytes())["name"] == "one"
