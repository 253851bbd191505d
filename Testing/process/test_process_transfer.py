# SPDX-License-Identifier: Apache-2.0
"""What goes into a job's folder comes out of it, bit by bit; anything else is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.process import transfer


def there_and_back(folder: Path, value: Any) -> Any:
    transfer.write(folder / "job", value)
    result = transfer.read(folder / "job")
    shutil.rmtree(folder / "job")
    return result


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -1,
        1.5,
        2**70,
        "Größe 影像 \x1e\n",
        [],
        [1, [2.5, None]],
        (),
        (1, (2, "a")),
        {},
        {"a": {"b": (1,)}},
        {1: "one", 2: {3: 4.0}},
        {"$array": "0.npy"},
        {(1, 2): 3},
        float("inf"),
        -float("inf"),
        Path("a b/ü"),
        [1e-320, 0.1 + 0.2, -0.0],
    ],
)
def test_plain_values_return_equal_and_of_the_same_type(tmp_path: Path, value: Any) -> None:
    result = there_and_back(tmp_path, value)
    assert result == value
    assert repr(result) == repr(value)


def test_numpy_scalars_become_pythons_numbers(tmp_path: Path) -> None:
    result = there_and_back(tmp_path, [np.float32(0.5), np.int64(3), np.bool_(True), np.nan])
    assert result[:3] == [0.5, 3, True]
    assert np.isnan(result[3])
    assert [type(item) for item in result] == [float, int, bool, float]


@pytest.mark.parametrize("dtype", ["f4", "f8", ">f4", "i2", "i4", "u1", "u8", "c8", "?"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (0, 4), (2, 3), (9, 10, 11, 3), (1000, 3)])
def test_arrays_return_bit_by_bit(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    result = there_and_back(tmp_path, array)
    assert type(result) is np.ndarray
    assert (result.dtype, result.shape) == (array.dtype, array.shape)
    assert result.tobytes() == array.tobytes()
    assert result.flags.writeable


@pytest.mark.parametrize("change", [np.asfortranarray, lambda a: a[::2, :, ::-1], lambda a: a.transpose(2, 0, 1)])
def test_arrays_in_any_memory_order_return_equal(tmp_path: Path, change: Any) -> None:
    array = change(np.random.default_rng(0).normal(size=(12, 13, 14)))
    np.testing.assert_array_equal(there_and_back(tmp_path, array), array)


def test_arrays_outlive_their_files_and_do_not_write_to_them(tmp_path: Path) -> None:
    transfer.write(tmp_path / "job", np.arange(10_000))
    first, second = transfer.read(tmp_path / "job"), transfer.read(tmp_path / "job")
    first[:] = 0
    shutil.rmtree(tmp_path / "job")
    np.testing.assert_array_equal(second, np.arange(10_000))


def test_volumes_and_grids_return_equal(tmp_path: Path) -> None:
    grid = Grid((4, 5, 6), np.diag([1.5, -2.0, 3.0, 1.0]))
    flat = Grid((1, 5, 6), np.diag([1.5, -2.0, 3.0, 1.0])).flattened()
    data = np.random.default_rng(0).normal(size=grid.shape).astype("f4")
    volume = Volume(grid, data, "bräin", ("a note",))
    result, plane = there_and_back(tmp_path, (volume, flat))
    assert isinstance(result, Volume)
    assert (result.grid.shape, result.name, result.notes) == (grid.shape, volume.name, volume.notes)
    np.testing.assert_array_equal(result.grid.affine, grid.affine)
    np.testing.assert_array_equal(result.data, volume.data)
    np.testing.assert_array_equal(plane.plane, flat.plane)
    assert (plane.slice_axis, plane.slice_step) == (flat.slice_axis, flat.slice_step)


class Grid2(Grid):
    """A class that does not travel."""


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1, 2},
        b"bytes",
        lambda: 0,
        np.array([object()]),
        np.array(["text"]),
        Grid2((2, 2), np.eye(3)),
        type("Grid", (), {})(),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(TypeError, match="cannot be passed"):
        transfer.write(tmp_path / "job", {"value": value})


@pytest.mark.parametrize(
    "text",
    [
        '{"$array": "../secret.npy"}',
        '{"$array": "/etc/passwd"}',
        '{"$object": ["Popen", {"args": "id"}]}',
        '{"$object": ["os.system", {}]}',
        '{"$pickle": "gASVAA=="}',
        '{"$array": ["O", [1], "AAAAAAAAAAA="]}',
        "[",
    ],
)
def test_foreign_contents_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "value.json").write_text(text)
    with pytest.raises(ValueError, match=r"Unknown|Not the name|Expecting|OBJECT"):
        transfer.read(tmp_path)


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "0.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "value.json").write_text(json.dumps({"$array": "0.npy"}))
    with pytest.raises(ValueError, match="objects"):
        transfer.read(tmp_path)


def test_writing_can_be_given_up_between_chunks(tmp_path: Path) -> None:
    answers = iter([False, False, True])
    with pytest.raises(transfer.Stopped):
        transfer.write(tmp_path / "job", np.zeros(40 << 20, np.uint8), stop=lambda: next(answers))
    assert (tmp_path / "job" / "0.npy").stat().st_size <= 17 << 20


def test_size_counts_every_array() -> None:
    grid = Grid((10, 10), np.eye(3))
    volume = Volume(grid, np.zeros(grid.shape, "f4"))
    size = transfer.size_of({"a": [volume, (np.zeros(5), "x")], "b": None})
    assert 440 <= size <= 440 + 2 * 9 * 8


def test_a_field_that_is_not_in_memory_arrives_as_the_array_it_stands_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from DeepFLASHRegistrationLib.problem import field
    from DeepFLASHRegistrationLib.problem.on_grid import OnGrid

    monkeypatch.setattr(field, "_KEPT_BYTES", 0)
    monkeypatch.setattr(transfer, "_CHUNK_BYTES", 5000)
    grid = Grid((9, 10, 11), np.diag([2.0, 3.0, 4.0, 1.0]))
    linear = field.Field(grid, OnGrid(np.arange(9.0).reshape(3, 3), np.array([0.5, -1.0, 2.0]), None))
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)
    expected = (index @ np.arange(9.0).reshape(3, 3).T + [0.5, -1.0, 2.0]).astype(np.float32)
    assert transfer.size_of({"field": linear}) == expected.nbytes
    found = there_and_back(tmp_path, {"field": linear})["field"]
    assert isinstance(found, np.ndarray)
    assert np.array_equal(found, expected)
