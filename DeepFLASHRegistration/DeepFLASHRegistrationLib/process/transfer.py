# SPDX-License-Identifier: Apache-2.0
"""What travels between the processes: a value as JSON, its arrays as .npy files beside it. No pickle.

A folder written by `write` and read by `read` holds `value.json` and `0.npy`, `1.npy`, ... JSON's own types
stand for themselves; what JSON lacks is an object with one key that starts with "$": tuples, mappings with
other keys than strings, non-finite numbers, paths, arrays, and the objects of the classes listed in
`_CLASSES`.
"""

from __future__ import annotations

import base64
import dataclasses
import importlib
import io
import itertools
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..problem.field import Field
from ..support.side_by_side import side_by_side

_PACKAGE = __package__.rpartition(".")[0]

# The only classes whose objects travel, by name, with the module of the package that defines them. The module
# is imported when an object arrives: sending one needs no import, since its class is already there.
_CLASSES = {
    "Grid": "imaging.grid",
    "Volume": "imaging.volume",
    "Landmarks": "imaging.landmarks",
    "Subject": "problem.subject",
    "Parameters": "problem.parameters",
    "SampledTransform": "problem.known_transform",
    "Result": "registration.result",
    "Verdict": "registration.verdict",
}

# Smaller arrays (affines, a few points) stay in the JSON text: a file each would cost more than it saves.
_INLINE_BYTES = 1024
_CHUNK_BYTES = 1 << 24
# A mapped file cannot be removed on Windows, so there its contents are copied.
_MAPPED = os.name == "posix"


class Stopped(Exception):
    """Writing was given up because `stop` said so."""


def write(folder: Path, value: Any, stop: Callable[[], bool] | None = None) -> None:
    """Writes a value into a folder that does not exist yet.

    Args:
        folder: created by this function; its parent exists.
        value: None, numbers, strings, paths, arrays of numbers, objects of the package's own classes in `_CLASSES`, and
            lists, tuples and mappings of these. A Field is computed as it is written, and arrives as an array.
        stop: asked about every 16 MB; true gives up.

    Raises:
        TypeError: for anything else.
        Stopped: if `stop` returned true.
        OSError: if the folder cannot be written; what was written is left to the caller to remove.
    """
    folder.mkdir(mode=0o700)
    # allow_nan=False: what JSON cannot say has been encoded before.
    text = json.dumps(_Writer(folder, stop).encode(value), allow_nan=False)
    _write_bytes(folder / "value.json", [text.encode("ascii")])


def read(folder: Path) -> Any:
    """Reads what `write` wrote. The files may then be removed, also if arrays are mapped (on POSIX).

    Raises:
        ValueError: if the folder's contents were not written by `write`.
    """
    with open(folder / "value.json", encoding="ascii") as file:
        return _Reader(folder).decode(json.load(file))


def size_of(value: Any) -> int:
    """Bytes of the arrays in a value, the part of it that takes room on disk."""
    if isinstance(value, (np.ndarray, Field)):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(map(size_of, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(size_of, value))
    if dataclasses.is_dataclass(value):
        return sum(size_of(getattr(value, field.name)) for field in dataclasses.fields(value))
    return 0


class _Writer:
    def __init__(self, folder: Path, stop: Callable[[], bool] | None) -> None:
        self.folder = folder
        self.stop = stop
        self.count = 0

    def encode(self, value: Any) -> Any:
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, (bool, int, str)):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else {"$float": repr(value)}
        if isinstance(value, (np.ndarray, Field)):
            return {"$array": self.array(value)}
        if isinstance(value, tuple):
            return {"$tuple": [self.encode(item) for item in value]}
        if isinstance(value, list):
            return [self.encode(item) for item in value]
        if isinstance(value, Mapping):
            if all(isinstance(key, str) and not key.startswith("$") for key in value):
                return {key: self.encode(item) for key, item in value.items()}
            return {"$mapping": [[self.encode(key), self.encode(item)] for key, item in value.items()]}
        if isinstance(value, os.PathLike):
            return {"$path": os.fspath(value)}
        name = type(value).__name__
        if f"{_PACKAGE}.{_CLASSES.get(name)}" == type(value).__module__:
            return {"$object": [name, self.encode(_fields(value))]}
        raise TypeError(f"A {type(value).__module__}.{name} cannot be passed to the child process.")

    def array(self, value: np.ndarray | Field) -> Any:
        if value.dtype.kind not in "biufc":
            raise TypeError(f"An array of {value.dtype} cannot be passed to the child process.")
        if value.nbytes <= _INLINE_BYTES:
            text = base64.b64encode(np.asarray(value).tobytes()).decode("ascii")
            return [value.dtype.str, list(value.shape), text]
        name = f"{self.count}.npy"
        self.count += 1
        if isinstance(value, np.ndarray):
            value = np.ascontiguousarray(value)
        header = io.BytesIO()
        description = {"descr": value.dtype.str, "fortran_order": False, "shape": value.shape}
        np.lib.format.write_array_header_1_0(header, description)
        _write_bytes(self.folder / name, itertools.chain([header.getvalue()], _chunks(value)), self.stop)
        return name


def _chunks(value: np.ndarray | Field) -> Iterator[memoryview]:
    """The bytes of an array in portions; of a field that is not in memory, each is computed when its turn comes."""
    if isinstance(value, np.ndarray):
        parts: Iterable[np.ndarray] = [value]
    else:
        rows = max(1, _CHUNK_BYTES * len(value) // value.nbytes)
        parts = side_by_side(lambda start: value[start : start + rows], range(0, len(value), rows))
    for part in parts:
        data = memoryview(np.ascontiguousarray(part).reshape(-1).view(np.uint8))
        yield from (data[start : start + _CHUNK_BYTES] for start in range(0, len(data), _CHUNK_BYTES))


class _Reader:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def decode(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.decode(item) for item in value]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((key, content),) = value.items()
            if key.startswith("$"):
                return self.special(key, content)
        return {key: self.decode(item) for key, item in value.items()}

    def special(self, key: str, content: Any) -> Any:
        if key == "$float":
            return float(content)
        if key == "$array":
            return self.array(content)
        if key == "$tuple":
            return tuple(self.decode(content))
        if key == "$mapping":
            return {self.decode(name): self.decode(item) for name, item in content}
        if key == "$path":
            return Path(content)
        if key == "$object" and content[0] in _CLASSES:
            name, fields = content
            found = getattr(importlib.import_module(f"{_PACKAGE}.{_CLASSES[name]}"), name)
            fields = self.decode(fields)
            return found.from_dict(fields) if hasattr(found, "from_dict") else found(**fields)
        raise ValueError(f"Unknown kind of value {key!r} in {self.folder}.")

    def array(self, content: Any) -> np.ndarray:
        if isinstance(content, list):
            dtype, shape, text = content
            return np.frombuffer(base64.b64decode(text), dtype=np.dtype(dtype)).reshape(shape).copy()
        if not re.fullmatch(r"\d+\.npy", content):
            raise ValueError(f"Not the name of an array: {content!r}.")
        # Mode "c" gives the reader arrays of its own: writable, and never seen by the other process.
        array = np.load(self.folder / content, mmap_mode="c" if _MAPPED else None, allow_pickle=False)
        return array.view(np.ndarray)


def _fields(value: Any) -> dict[str, Any]:
    """What makes an equal object: to_dict() for classes that have it, else the arguments of a dataclass."""
    if hasattr(value, "to_dict"):
        return value.to_dict()
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}


def _write_bytes(path: Path, chunks: Iterable[Any], stop: Callable[[], bool] | None = None) -> None:
    # Unbuffered, since a buffer tells of a full disk only when it is closed; and written rather than mapped,
    # since a write to a mapped file on a full disk is a signal that ends the process.
    with open(path, "xb", buffering=0) as file:
        for chunk in chunks:
            if stop is not None and stop():
                raise Stopped
            chunk = memoryview(chunk)
            while len(chunk):
                chunk = chunk[file.write(chunk) :]
