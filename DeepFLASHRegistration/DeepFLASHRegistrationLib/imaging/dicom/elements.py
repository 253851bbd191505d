# SPDX-License-Identifier: Apache-2.0
"""The elements of a DICOM file (PS3.5, section 7; PS3.10, section 7), as far as its images need them."""

from __future__ import annotations

import math
import mmap
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PIXELS = 0x7FE00010
# UIDs of classes: radiation doses, and segmentations (SEG), whose frames hold labels.
RT_DOSE = "1.2.840.10008.5.1.4.1.1.481.2"
SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_ITEM, _END_OF_ITEM, _END_OF_SEQUENCE = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_STORAGE_CLASS, _TRANSFER_SYNTAX = 0x00020002, 0x00020010
_IMPLICIT, _DEFLATED, _BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
# The sequences that say where frames lie, what they are and how they are scaled; others are stepped over.
_SEQUENCES = frozenset(
    (
        0x52009229,  # SharedFunctionalGroupsSequence
        0x52009230,  # PerFrameFunctionalGroupsSequence
        0x00209111,  # FrameContentSequence
        0x00209113,  # PlanePositionSequence
        0x00209116,  # PlaneOrientationSequence
        0x00289110,  # PixelMeasuresSequence
        0x00289145,  # PixelValueTransformationSequence
        0x00189114,  # MREchoSequence
        0x00189117,  # MRDiffusionSequence
        0x00189076,  # DiffusionGradientDirectionSequence
        0x00189118,  # CardiacSynchronizationSequence
        0x00189226,  # MRImageFrameTypeSequence
        0x00189329,  # CTImageFrameTypeSequence
        0x00540022,  # DetectorInformationSequence
    )
)
_PRIVATE = (0x00291010,)  # Siemens' CSA header of the image, for mosaics
_DEEPEST = 16
_LONGEST_VALUE = 1 << 18  # bytes; what is longer (tables of colors, icons, thousands of offsets) is not needed
_INFLATED = 1 << 28  # bytes; a deflated file that holds more is damaged or hostile


@dataclass(eq=False)
class Elements:
    """A data set: what its elements hold, by tag (group << 16 | element).

    Attributes:
        order: "<" or ">".
        syntax: the UID of the transfer syntax.
        values: the value of each element.
        items: of the sequences that matter, their items.
        pixels: where the voxels lie in the (inflated) file, (start, stop), if they are not compressed.
        fragments: (start, stop) of each fragment of compressed voxels, the offset table first.
        damage: what was wrong, if the file could not be read to its end.
    """

    order: str = "<"
    syntax: str = ""
    values: dict[int, bytes] = field(default_factory=dict)
    items: dict[int, list[Elements]] = field(default_factory=dict)
    pixels: tuple[int, int] | None = None
    fragments: list[tuple[int, int]] = field(default_factory=list)
    damage: str = ""

    def text(self, tag: int) -> str:
        """A text on one line, without what a terminal would take for a command."""
        raw = self.values.get(tag, b"")
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            text = raw.decode("latin-1")
        return "".join(c for c in text if c.isprintable()).strip()

    def numbers(self, tag: int) -> tuple[float, ...]:
        """Finite numbers written as text (DS, IS); none if absent or no numbers."""
        try:
            numbers = tuple(float(v) for v in self.text(tag).split("\\"))
        except ValueError:
            return ()
        return numbers if all(map(math.isfinite, numbers)) else ()

    def number(self, tag: int, default: float = 0.0) -> float:
        """The first of such numbers."""
        return next(iter(self.numbers(tag)), default)

    def binary(self, tag: int, kind: str) -> tuple[float, ...]:
        """Numbers in binary, of one of struct's kinds: H (US), I (UL), d (FD)."""
        raw = self.values.get(tag, b"")
        return struct.unpack_from(f"{self.order}{len(raw) // struct.calcsize(kind)}{kind}", raw)

    def unsigned(self, tag: int, default: int) -> int:
        """The first of 16-bit numbers."""
        return int(next(iter(self.binary(tag, "H")), default))

    def flat(self) -> dict[int, bytes]:
        """Its values, and those of the first item of each of its sequences, however deep."""
        values = dict(self.values)
        for items in self.items.values():
            if items:
                values = {**items[0].flat(), **values}
        return values


def read_elements(path: Path) -> Elements | None:
    """The elements of a DICOM file; None if it is none.

    A file that cannot be read to its end, and one whose lengths contradict each other, gives what was found, with its
    `damage`. Time is proportional to the file's length, memory to what the elements hold.
    """
    with _opened(path) as data:
        if data is None:
            return None
        found = Elements()
        try:
            _, start, syntax = _file_meta(data)
            found.syntax, found.order = syntax, ">" if syntax == _BIG else "<"
            if syntax == _DEFLATED:
                data, start = _inflated(data, start), 0
            _Parser(data, found.order, syntax != _IMPLICIT).parse(found, start, len(data), 0)
        except _Damaged as error:
            found.damage = str(error)
        except (struct.error, zlib.error, IndexError):
            found.damage = "it is cut off"
        return found


def read_bytes(path: Path, elements: Elements, parts: list[tuple[int, int]]) -> list[bytes]:
    """Parts of a file, given by (start, stop), of which `elements` were read."""
    with _opened(path) as data:
        if data is None:
            return []
        if elements.syntax == _DEFLATED:
            data = _inflated(data, _file_meta(data)[1])
        return [bytes(data[start:stop]) for start, stop in parts]


def storage_class(path: Path) -> str:
    """The UID of what kind of object a DICOM file says that it holds; "" for any other file, or none."""
    with _opened(path) as data:
        try:
            return "" if data is None else _file_meta(data)[0].text(_STORAGE_CLASS).strip("\0")
        except (_Damaged, struct.error, IndexError):
            return ""


@contextmanager
def _opened(path: Path) -> Iterator[mmap.mmap | bytes | None]:
    """A DICOM file as bytes that are read when looked at; None if it is no DICOM file."""
    try:
        file = open(path, "rb")  # noqa: SIM115 (closed below; errors of whoever looks at it are not caught here)
    except (OSError, ValueError):  # no such file, or no such name
        yield None
        return
    with file:
        if not _is_dicom(file.read(132)):
            yield None
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def _is_dicom(head: bytes) -> bool:
    """By its mark; or, for files without one (ACR-NEMA, bare data sets), by a first element of group 2 or 8."""
    if head[128:] == b"DICM":
        return True
    if len(head) < 132 or head[:2] not in (b"\x02\x00", b"\x08\x00") or head[3]:
        return False
    return (head[4:6].isalpha() and head[4:6].isupper()) or head[5:8] == b"\0\0\0"


def _file_meta(data: mmap.mmap | bytes) -> tuple[Elements, int, str]:
    """Reads group 2, which is always explicit little endian; where the data set begins, and its transfer syntax."""
    start = 132 if data[128:132] == b"DICM" else 0
    meta = Elements()
    while data[start : start + 2] == b"\x02\x00":
        start = _Parser(data, "<", True).element(meta, start, len(data), 0)
    bare = "" if data[start + 4 : start + 6].isalpha() else _IMPLICIT
    return meta, start, meta.text(_TRANSFER_SYNTAX).strip("\0") or bare


def _inflated(data: mmap.mmap | bytes, start: int) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflater.decompress(data[start:], _INFLATED)
    if inflater.unconsumed_tail or not inflater.eof:
        raise _Damaged("its deflated data do not end")
    return inflated


class _Damaged(Exception):
    """The lengths in a file contradict each other."""


@dataclass(frozen=True)
class _Parser:
    data: mmap.mmap | bytes
    order: str
    explicit: bool

    def parse(self, into: Elements, start: int, stop: int, depth: int) -> int:
        """Elements from start to stop, or to the end of the item; returns where they end."""
        while start < stop:
            if stop - start < 8 and not any(self.data[start:stop]):
                return stop  # padding
            if self._tag(start) == _END_OF_ITEM:
                return start + 8
            start = self.element(into, start, stop, depth)
        return start

    def element(self, into: Elements, start: int, stop: int, depth: int) -> int:
        """One element; returns where it ends."""
        tag = self._tag(start)
        kind, start, length = self._length(start)
        if length == _UNDEFINED:
            if tag == PIXELS and not depth:
                return self._fragments(into, start, stop)
            return self._inside(kind)._items(into, tag, start, stop, depth, ended=True)
        if start + length > stop:
            raise _Damaged("it is cut off, or its lengths are damaged")
        if tag in _SEQUENCES:
            self._inside(kind)._items(into, tag, start, start + length, depth, ended=False)
        elif tag == PIXELS:
            into.pixels = (start, start + length)
        elif length <= _LONGEST_VALUE and (not tag >> 16 & 1 or tag in _PRIVATE):
            into.values[tag] = bytes(self.data[start : start + length])
        return start + length

    def _inside(self, kind: bytes) -> _Parser:
        """What reads a sequence; one that its writer did not know is implicit little endian."""
        return _Parser(self.data, "<", False) if kind == b"UN" else self

    def _tag(self, start: int) -> int:
        group, element = struct.unpack_from(f"{self.order}HH", self.data, start)
        return group << 16 | element

    def _length(self, start: int) -> tuple[bytes, int, int]:
        """The kind of an element, where its value starts, and its length."""
        if self.explicit:
            kind = bytes(self.data[start + 4 : start + 6])
            if kind not in _LONG:
                if not (kind.isalpha() and kind.isupper()):
                    raise _Damaged("an element is of no kind")
                return kind, start + 8, struct.unpack_from(f"{self.order}H", self.data, start + 6)[0]
            return kind, start + 12, struct.unpack_from(f"{self.order}I", self.data, start + 8)[0]
        return b"", start + 8, struct.unpack_from(f"{self.order}I", self.data, start + 4)[0]

    def _items(self, into: Elements, tag: int, start: int, stop: int, depth: int, ended: bool) -> int:
        """The items of a sequence, kept if it is one of those that matter; returns where it ends."""
        if depth >= _DEEPEST:
            raise _Damaged("its sequences are nested too deeply")
        items = []
        while start < stop:
            mark, length = self._tag(start), struct.unpack_from(f"{self.order}I", self.data, start + 4)[0]
            start += 8
            if mark == _END_OF_SEQUENCE and ended:
                break
            if mark != _ITEM or (length != _UNDEFINED and start + length > stop):
                raise _Damaged("a sequence is damaged")
            item = Elements(self.order)
            start = self.parse(item, start, stop if length == _UNDEFINED else start + length, depth + 1)
            items.append(item)
        if tag in _SEQUENCES:
            into.items[tag] = items
        return start

    def _fragments(self, into: Elements, start: int, stop: int) -> int:
        while True:
            mark, length = self._tag(start), struct.unpack_from(f"{self.order}I", self.data, start + 4)[0]
            start += 8
            if mark == _END_OF_SEQUENCE:
                return start
            if mark != _ITEM or start + length > stop:
                raise _Damaged("its compressed voxels are cut off, or damaged")
            into.fragments.append((start, start + length))
            start += length
