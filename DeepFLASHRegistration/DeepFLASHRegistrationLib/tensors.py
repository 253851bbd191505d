# SPDX-License-Identifier: Apache-2.0
"""Reading and writing .safetensors (github.com/huggingface/safetensors, format of 2022): arrays and text, no code.

Slicer has no safetensors package, and the format is eight bytes of length, a JSON header and raw little-endian data.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .imaging.errors import InputError

_TYPES = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "I32": "<i4", "U8": "|u1"}
_MAX_HEADER = 1 << 20


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes arrays (float64, float32, int64, int32, uint8) and text to ``path``, not atomically."""
    names = {np.dtype(v): k for k, v in _TYPES.items()}
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    arrays = [(name, np.ascontiguousarray(value)) for name, value in tensors.items()]
    for name, value in arrays:
        header[name] = {"dtype": names[value.dtype], "shape": list(value.shape),
                        "data_offsets": [offset, offset + value.nbytes]}
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
        InputError: not such a file, damaged, or larger than its header says. Nothing in it is executed.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    try:
        (length,) = struct.unpack_from("<Q", content)
        if length > min(_MAX_HEADER, len(content) - 8):
            raise ValueError("the header is longer than the file")
        header = json.loads(content[8:8 + length])
        metadata = header.pop("__metadata__", {})
        data = memoryview(content)[8 + length:]
        tensors = {}
        for name, entry in header.items():
            dtype, shape = np.dtype(_TYPES[entry["dtype"]]), tuple(int(n) for n in entry["shape"])
            start, stop = (int(n) for n in entry["data_offsets"])
            size = math.prod(shape) * dtype.itemsize
            if min(shape, default=1) < 0 or not 0 <= start <= stop <= len(data) or stop - start != size:
                raise ValueError(f"the array {name!r} does not fit")
            tensors[name] = np.frombuffer(data[start:stop], dtype).reshape(shape).copy()
        if not all(isinstance(k, str) and isinstance(v, str) for k, v in metadata.items()):
            raise ValueError("its metadata are not text")
    except (ValueError, KeyError, TypeError, AttributeError, struct.error, RecursionError) as error:
        raise InputError(f"{path}: is not a readable .safetensors file ({error}). Write it again.") from error
    return tensors, metadata
