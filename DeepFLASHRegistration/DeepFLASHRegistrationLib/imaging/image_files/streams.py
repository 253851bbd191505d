# SPDX-License-Identifier: Apache-2.0
"""The bytes of a file one after the other, unpacked if they are gzip, whatever the file is called."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from types import TracebackType

import numpy as np

from ...support.errors import InputError

_MAGIC = b"\x1f\x8b"
_EITHER = 47  # of gzip's format and zlib's
_CHUNK = 1 << 18
# Deflate cannot pack more than this many bytes into one (zlib's technical notes).
_RATIO = 1032
_BEYOND = 64 << 20


class Stream:
    """Reads a file from its start; gzip is known by its first bytes.

    Attributes:
        capacity: the most bytes that the file can hold, so that nothing larger need be made room for.

    Raises:
        InputError: by every method, if the file cannot be read or the compressed data are damaged.
    """

    def __init__(self, path: Path, start: int = 0, zlib_format: bool = False) -> None:
        """Reads from `start`; zlib's own format has no mark of which to be sure, and must be told."""
        self._path = path
        try:
            self._file = open(path, "rb")  # noqa: SIM115 (closed with the stream)
            size = max(os.fstat(self._file.fileno()).st_size - start, 0)
            self._file.seek(start)
            packed = self._file.read(2) == _MAGIC or zlib_format
            self._file.seek(start)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
        self._unpacker = zlib.decompressobj(_EITHER) if packed else None
        self._pending = b""
        self._ended = False
        self.capacity = size * _RATIO if packed else size

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def read(self, count: int) -> bytes:
        """The next `count` bytes, fewer at the end."""
        parts = []
        while count > 0 and (part := self._some(count)):
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def array(self, kind: np.dtype, count: int) -> np.ndarray:
        """The next `count` elements; InputError if the file ends before them."""
        wanted = count * kind.itemsize
        if wanted > self.capacity:
            raise self._cut_off()
        data = np.empty(count, kind)
        view = memoryview(data).cast("B")
        filled = 0
        while filled < wanted:
            part = self._some(min(wanted - filled, 1 << 24))
            if not part:
                raise self._cut_off()
            view[filled : filled + len(part)] = part
            filled += len(part)
        return data

    def skip(self, count: int) -> None:
        """Goes on by `count` bytes, or to the end."""
        if self._unpacker is None:
            self._file.seek(count, os.SEEK_CUR)
            return
        while count > 0 and (part := self._some(min(count, 1 << 24))):
            count -= len(part)

    def finish(self, left: int = 0) -> None:
        """Reads what is left, so that damage which only gzip's check sum shows is found.

        Args:
            left: how many bytes the header says that these are; a little more is nobody's harm, but some small files
                unpack to more than there is time for.
        """
        most = left + _BEYOND
        while self._unpacker is not None and (part := self._some(1 << 24)):
            most -= len(part)
            if most < 0:
                raise self._damaged(f"it goes on for more than {_BEYOND >> 20} MB after its last voxel")

    def _some(self, count: int) -> bytes:
        """At least one byte and at most `count`; none at the end."""
        try:
            return self._file.read(count) if self._unpacker is None else self._unpacked(count)
        except (OSError, zlib.error) as error:
            raise self._damaged(str(error)) from error

    def _unpacked(self, count: int) -> bytes:
        while not self._ended:
            if self._unpacker.eof:
                self._pending = self._unpacker.unused_data + self._file.read(2)
                # Another member may follow; padding after the last one is nobody's harm.
                self._ended = not self._pending.startswith(_MAGIC)
                self._unpacker = zlib.decompressobj(_EITHER)
                continue
            if not self._pending:
                self._pending = self._file.read(_CHUNK)
                if not self._pending:
                    raise self._damaged("the compressed data end too early")
            part = self._unpacker.decompress(self._pending, count)
            self._pending = self._unpacker.unconsumed_tail
            if part:
                return part
        return b""

    def _damaged(self, reason: str) -> InputError:
        return InputError(f"{self._path}: cannot be read ({reason}). The file may be damaged: copy or export it again.")

    def _cut_off(self) -> InputError:
        return InputError(f"{self._path}: the file is cut off, voxels are missing. Copy or export it again.")
