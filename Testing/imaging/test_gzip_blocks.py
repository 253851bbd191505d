# SPDX-License-Identifier: Apache-2.0
"""Gzip by blocks: any reader gets what was given, also where its parts came side by side."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from DeepFLASHRegistrationLib.imaging.image_files import gzip_blocks


def test_checks_of_two_parts_join_to_that_of_both() -> None:
    rng = np.random.default_rng(0)
    for first, second in [(0, 5), (5, 0), (1, 1), (17, 300), (4096, 1 << 20), (1000, 123_457)]:
        a, b = rng.bytes(first), rng.bytes(second)
        assert gzip_blocks.joined(zlib.crc32(a), zlib.crc32(b), len(b)) == zlib.crc32(a + b)


@pytest.mark.parametrize("block", [64, 1000, 1024, 4096, 1 << 20])
@pytest.mark.parametrize(("count", "rows", "at_once"), [(3, 37, 5), (2, 8, 8), (3, 1, 1), (1, 12, 5)])
def test_streams_that_come_side_by_side_lie_one_behind_the_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, block: int, count: int, rows: int, at_once: int
) -> None:
    """Blocks that end within a stream, at its end, and that hold several; as if written in one go, byte by byte."""
    monkeypatch.setattr(gzip_blocks, "BLOCK", block)
    data = np.random.default_rng(1).normal(size=(count, rows, 5, 7)).astype(np.float32)
    data[:, : rows // 2] = 0
    header = bytes(range(200))
    path = tmp_path / "a.gz"
    with open(path, "wb") as file:
        slabs = (data[:, start : start + at_once] for start in range(0, rows, at_once))
        gzip_blocks.write_gzip_of_streams(file, header, data[0].nbytes, count, slabs)
    assert gzip.decompress(path.read_bytes()) == header + data.tobytes()
    assert os.listdir(tmp_path) == ["a.gz"]
    whole, body = io.BytesIO(), data.tobytes()
    parts = [header, *(body[start : start + block] for start in range(0, len(body), block))]
    gzip_blocks.write_gzip(whole, parts, floats=True)
    assert path.read_bytes() == whole.getvalue()
