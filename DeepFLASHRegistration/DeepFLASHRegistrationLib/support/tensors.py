# SPDX-License-Identifier: Apache-2.0
"""Reading and writing .safetensors (github.com/huggingface/safetensors, format of 2022): arrays and text, no code.

Slicer has no safetensors package, and the format is eight bytes of length, a JSON header and raw little-endian data.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .errors import InputError

_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "|u1"}
_MAX_HEADER = 1 << 20


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes arrays (float64, float32, float16, int64, int32, uint8) and text to ``path``, not atomically."""
    names = {np.dtype(v): k for k, v in _TYPES.items()}
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    arrays = [(name, np.asarray(value, order="C")) for name, value in tensors.items()]
    for name, value in arrays:
        header[name] = {
            "dtype": names[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [offset, offset + value.nbytes],
        }
        offset += value.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, value in arrays:
            file.write(value.tobytes())


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and the text of a file.

    Raises:
        InputError: not such a file, or damaged. Nothing in it is executed, and no more memory is taken than the file is
            long.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            (length,) = struct.unpack("<Q", start) if len(start) == 8 else (0,)
            if not 0 < length <= min(_MAX_HEADER, size - 8):
                raise ValueError("it has no header")
            header, metadata, stop = _parsed(file.read(length))
            # Nothing is read, let alone allocated, beyond what the header accounts for.
            if size - 8 - length != stop:
                raise ValueError("its length is not what its header says")
            arrays = {name: np.empty(shape, dtype) for name, (dtype, shape, _) in header.items()}
            # One after the other without a gap, as was checked: straight to where they stay.
            for name in sorted(header, key=lambda name: (header[name][2], arrays[name].nbytes)):
                if arrays[name].nbytes and file.readinto(memoryview(arrays[name]).cast("B")) != arrays[name].nbytes:
                    raise ValueError("it is cut off")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Check the path and its permissions.") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(
            f"{path}: is damaged, or no .safetensors file ({_reason(error)}). Copy it again, or register again."
        ) from error
    return arrays, metadata


def _parsed(text: bytes) -> tuple[dict[str, tuple[np.dtype, tuple[int, ...], int]], dict[str, str], int]:
    """Type, shape and offset of each array, the metadata, and the length of the data."""
    header = json.loads(text)
    metadata = header.pop("__metadata__", {})
    if not all(isinstance(k, str) and isinstance(v, str) for k, v in metadata.items()):
        raise ValueError("its metadata are not text")
    arrays, ranges = {}, []
    for name, entry in header.items():
        dtype, shape, (start, stop) = np.dtype(_TYPES[entry["dtype"]]), tuple(entry["shape"]), entry["data_offsets"]
        if any(type(n) is not int or not 0 <= n < 2**40 for n in (*shape, start, stop)) or len(shape) > 8:
            raise ValueError(f"the array {name!r} has impossible sizes")
        if stop - start != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"the array {name!r} does not fit")
        arrays[name] = dtype, shape, start
        ranges.append((start, stop))
    end = 0
    for start, stop in sorted(ranges):  # as the format demands: no holes, and nothing twice
        if start != end:
            raise ValueError("its arrays overlap or leave gaps")
        end = stop
    return arrays, metadata, end


def _reason(error: BaseException) -> str:
    """Why reading failed; a missing key's own text is but its name."""
    return f"{error} is missing or unknown" if isinstance(error, KeyError) else str(error)
