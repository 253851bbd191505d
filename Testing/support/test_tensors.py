# SPDX-License-Identifier: Apache-2.0
""".safetensors files: the library reads ours, we read the library's, and neither trusts a damaged one."""

from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from DeepFLASHRegistrationLib.support.errors import InputError
from DeepFLASHRegistrationLib.support.tensors import read_tensors, write_tensors

ARRAYS = {
    "velocity": np.random.default_rng(0).normal(size=(3, 5, 3, 7)).astype(np.float32),
    "affine": np.eye(4),
    "counts": np.arange(-3, 3, dtype=np.int64),
    "codes": np.array([[1], [-2]], dtype=np.int32),
    "bytes": np.array([0, 255], dtype=np.uint8),
    "none": np.zeros((0, 4), dtype=np.float32),
}
METADATA = {"format": "test", "text": 'Größe "α"\n{}'}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.safetensors"
    write_tensors(path, ARRAYS, METADATA)
    return path


def raw(path: Path, header: Any, data: bytes = b"") -> Path:
    """A file of any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_there_and_back(file: Path) -> None:
    arrays, metadata = read_tensors(file)
    assert metadata == METADATA
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert (arrays[name].dtype, arrays[name].shape) == (array.dtype, array.shape)
        assert (arrays[name] == array).all()
        assert arrays[name].flags.writeable


def test_the_library_reads_ours(file: Path) -> None:
    library = pytest.importorskip("safetensors")
    from safetensors.numpy import load_file

    found = load_file(file)
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)
    with library.safe_open(file, "np") as opened:
        assert opened.metadata() == METADATA


def test_we_read_the_librarys(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    from safetensors.numpy import save_file

    save_file(ARRAYS, tmp_path / "b.safetensors", METADATA)
    arrays, metadata = read_tensors(tmp_path / "b.safetensors")
    assert metadata == METADATA
    assert all(np.array_equal(arrays[name], array) for name, array in ARRAYS.items())


def test_arrays_in_any_layout_are_written(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    write_tensors(tmp_path / "c", {"a": array.transpose(2, 0, 1)[::-1]}, {})
    assert np.array_equal(read_tensors(tmp_path / "c")[0]["a"], array.transpose(2, 0, 1)[::-1])


def entry(shape: Any, offsets: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


HOSTILE: list[tuple[Any, bytes]] = [
    (b"", b""),
    (b"[]", b""),
    (b"7", b""),
    (b"null", b""),
    (b"{", b""),
    (b"\xff\xfe{}", b""),
    (b"[" * 100_000, b""),
    ({"__metadata__": []}, b""),
    ({"__metadata__": {"a": 1}}, b""),
    ({"a": 1}, b""),
    ({"a": {}}, b""),
    (entry([1], [0, 4], "F16"), b"1234"),
    (entry([1], [0, 4], ["F32"]), b"1234"),
    (entry([2], [0, 4]), b"1234"),
    (entry([1], [0, 8]), b"12345678"),
    (entry([-1], [0, -4]), b"1234"),
    (entry([-1, -1], [0, 4]), b"1234"),
    (entry([1], [4, 8]), b"12345678"),
    (entry([1], [0, 4]), b"12345"),
    (entry([1], [0, 4]), b"123"),
    (entry([1.0], [0, 4]), b"1234"),
    (entry(["1"], [0, 4]), b"1234"),
    (entry([True], [0, 4]), b"1234"),
    (entry([1e400], [0, 4]), b"1234"),
    (entry([1], [0, 1e400]), b"1234"),
    (entry([1], [0]), b"1234"),
    (entry([1], "04"), b"1234"),
    (entry(1, [0, 4]), b"1234"),
    (entry([2**62, 4], [0, 4]), b"1234"),
    (entry([0, 2**39, 2**39], [0, 0]), b""),
    (entry([0, 10**30], [0, 0]), b""),
    (entry([1] * 40, [0, 4]), b"1234"),
    (b'{"a":{"dtype":"F32","shape":[' + b"9" * 6000 + b'],"data_offsets":[0,4]}}', b"1234"),
    (b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', b"1234"),
]


@pytest.mark.parametrize(("header", "data"), HOSTILE, ids=[str(h)[:60] for h, _ in HOSTILE])
def test_hostile_headers_are_refused(tmp_path: Path, header: Any, data: bytes) -> None:
    path = raw(tmp_path / "h.safetensors", header, data)
    with pytest.raises(
        InputError, match=r"h\.safetensors: is damaged, or no \.safetensors file \(.+\)\. Copy it again"
    ):
        read_tensors(path)


def test_arrays_may_not_share_their_data(tmp_path: Path) -> None:
    """A small file of many names for one large array would fill the memory."""
    data = bytes(4_000_000)
    header = {str(i): {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]} for i in range(3000)}
    path = raw(tmp_path / "bomb", header, data)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="overlap"):
            read_tensors(path)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


def test_a_header_longer_than_the_file_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "long"
    for length in (2**63, 2**40, 100):
        path.write_bytes(struct.pack("<Q", length) + b"{}")
        with pytest.raises(InputError, match="it has no header"):
            read_tensors(path)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match="cannot be read"):
            read_tensors(path)


def test_damage_never_ends_in_another_error(file: Path, tmp_path: Path) -> None:
    content = file.read_bytes()
    rng = np.random.default_rng(1)
    path = tmp_path / "damaged"
    header = 8 + struct.unpack_from("<Q", content)[0]
    for trial in range(400):
        if trial % 4 == 0:
            damaged = content[: rng.integers(len(content))]
        else:
            bytes_ = bytearray(content)
            for place in rng.integers(header if trial % 4 < 3 else len(content), size=rng.integers(1, 4)):
                bytes_[place] ^= 1 << rng.integers(8)
            damaged = bytes(bytes_)
        path.write_bytes(damaged)
        try:
            arrays, _ = read_tensors(path)
        except InputError as error:
            assert str(path) in str(error)
        else:
            assert sum(a.nbytes for a in arrays.values()) <= len(content)
