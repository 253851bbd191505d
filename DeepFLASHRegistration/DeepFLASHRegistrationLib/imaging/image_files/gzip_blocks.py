# SPDX-License-Identifier: Apache-2.0
"""Gzip with its blocks compressed side by side and joined as pigz does: one member, an ordinary .gz for any reader.

The mantissas of floats are noise: a displacement field shrinks by a tenth, at ten times the time of storing it. So of
floats only runs (background) are looked for, and a block that hardly shrinks is stored; but where mantissas end in
zeros (see `nifti.rounded`), what remains of them is worth the search.
"""

from __future__ import annotations

import collections
import os
import struct
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from ...support.side_by_side import side_by_side

BLOCK = 1 << 20
_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\xff"  # no name and no time: the same data give the same file
_SAMPLE = 1 << 14
_MEMORY_LEVEL = 8  # its shorter Huffman blocks make rounded fields a tenth smaller than 9 does
_CHECK = 0xEDB88320  # the polynomial of CRC-32, its bits reversed


class _Packed(NamedTuple):
    data: bytes
    size: int
    check: int


def write_gzip(file: BinaryIO, blocks: Iterable[bytes | memoryview], floats: bool) -> None:
    """Writes blocks of at most BLOCK bytes, the first of them a header."""
    file.write(_HEADER)
    check = size = 0
    for packed in side_by_side(lambda block: _compressed(*block, floats), _with_last(blocks)):
        file.write(packed.data)
        check, size = joined(check, packed.check, packed.size), size + packed.size
    file.write(struct.pack("<II", check, size & 0xFFFFFFFF))


def write_gzip_of_streams(file: BinaryIO, header: bytes, length: int, count: int, slabs: Iterable[np.ndarray]) -> None:
    """Writes floats that come side by side and lie one behind the other: the parts of ``count`` streams of ``length``
    bytes each, a slab at a time. What belongs further behind waits, compressed, in a file without a name."""
    file.write(_HEADER + _compressed(header, False, True).data)
    last = -(-length * count // BLOCK) - 1
    known: dict[int, tuple[int, int, int, int]] = {}  # by block: size and check, and where it waits

    def work(block: tuple[int, bytearray]) -> tuple[int, _Packed]:
        return block[0], _compressed(block[1], block[0] == last, True)

    with tempfile.TemporaryFile(dir=os.path.dirname(file.name)) as waiting:
        following = 0
        for number, packed in side_by_side(work, _blocks(length, count, slabs)):
            known[number] = packed.size, packed.check, waiting.tell(), len(packed.data)
            if number == following:
                file.write(packed.data)
                following += 1
            else:
                waiting.write(packed.data)
        for number in range(following, last + 1):
            *_, start, size = known[number]
            waiting.seek(start)
            file.write(waiting.read(size))
    check, total = zlib.crc32(header), len(header)
    for number in range(last + 1):
        size, own, *_ = known[number]
        check, total = joined(check, own, size), total + size
    file.write(struct.pack("<II", check, total & 0xFFFFFFFF))


def _with_last(blocks: Iterable[bytes | memoryview]) -> Iterator[tuple[bytes | memoryview, bool]]:
    """Each block with whether it is the last."""
    blocks = iter(blocks)
    block = next(blocks)
    for following in blocks:
        yield block, False
        block = following
    yield block, True


def _blocks(length: int, count: int, slabs: Iterable[np.ndarray]) -> Iterator[tuple[int, bytearray]]:
    """Blocks of the streams behind each other, with their numbers, as they are full; one may hold the end of a stream
    and the beginning of the next."""
    whole = length * count
    missing: dict[int, int] = {}
    open_blocks: dict[int, bytearray] = collections.defaultdict(lambda: bytearray(BLOCK))
    done = 0
    for slab in slabs:
        for stream in range(count):
            data = memoryview(np.ascontiguousarray(slab[stream])).cast("B")
            first, taken = stream * length + done, 0
            while taken < len(data):
                number, offset = divmod(first + taken, BLOCK)
                size = min(BLOCK, whole - number * BLOCK)
                part = min(size - offset, len(data) - taken)
                open_blocks[number][offset : offset + part] = data[taken : taken + part]
                missing[number] = missing.get(number, size) - part
                taken += part
                if not missing[number]:
                    del missing[number]
                    yield number, open_blocks.pop(number)[:size]
        done += slab[0].nbytes


def _compressed(block: bytes | bytearray | memoryview, last: bool, floats: bool) -> _Packed:
    level, strategy = 1, zlib.Z_DEFAULT_STRATEGY
    if floats:
        middle = block[len(block) // 2 :][:_SAMPLE]
        share = len(zlib.compress(middle, 1)) / len(middle)
        level, strategy = (2, strategy) if share < 0.65 else (0 if share > 0.8 else 1, zlib.Z_RLE)
    packer = zlib.compressobj(level, zlib.DEFLATED, -15, _MEMORY_LEVEL, strategy)
    data = packer.compress(block) + packer.flush(zlib.Z_FINISH if last else zlib.Z_FULL_FLUSH)
    return _Packed(data, len(block), zlib.crc32(block))


def joined(first: int, second: int, size: int) -> int:
    """CRC-32 of two parts, the second of ``size`` bytes, behind each other (Adler's crc32_combine of zlib)."""
    for bit in range(size.bit_length()):
        if size >> bit & 1:
            first = _times(_zeros(bit), first)
    return first ^ second


_ZEROS: list[tuple[int, ...]] = []


def _zeros(power: int) -> tuple[int, ...]:
    """What 2**power bytes of zeros do to a check, as a matrix over GF(2): its columns, (32,)."""
    if not _ZEROS:
        bit = (_CHECK, *(1 << n for n in range(31)))
        for _ in range(3):
            bit = tuple(_times(bit, column) for column in bit)
        _ZEROS.append(bit)
    while len(_ZEROS) <= power:
        last = _ZEROS[-1]
        _ZEROS.append(tuple(_times(last, column) for column in last))
    return _ZEROS[power]


def _times(matrix: tuple[int, ...], vector: int) -> int:
    total = 0
    for column in matrix:
        if not vector:
            break
        if vector & 1:
            total ^= column
        vector >>= 1
    return total
