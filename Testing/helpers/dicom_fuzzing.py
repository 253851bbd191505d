# SPDX-License-Identifier: Apache-2.0
"""Damaged DICOM files, made from small valid ones by a seed, and a program that reads them.

`python dicom_fuzzing.py FOLDER COUNT [KIND …]` prints one line of JSON for each kind; a case that ends the process is
the one in FOLDER/KIND/damaged.dcm.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import time
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from DeepFLASHRegistrationLib.imaging import io
from DeepFLASHRegistrationLib.support.errors import InputError
from dicom_files import dataset, enhanced, line, save, write_stack

KINDS = ("plain", "implicit", "deflated", "RLE", "JPEG", "JPEG2000", "enhanced")
MEMORY = 512 << 20  # bytes, more than before
SECONDS, WAITING = 5, 90  # of this process's own work; and of another one's, for what is DICOM no longer
_NUMBERS = (
    b"\xff" * 4,
    b"\0" * 4,
    b"\xff\xff\xff\x7f",
    b"\xfe\xff\x00\xe0",
    b"\xff\xff\xff\x00",
    b"99999999",
    b"1e308\\9",
)


def valid(folder: Path, kind: str) -> bytes:
    """A small file of a kind."""
    if kind == "enhanced":
        return save(folder, "valid.dcm", enhanced(line((0, 0, 4)))).read_bytes()
    found = dataset((1, 2, 3), shape=(24, 20))
    if kind == "implicit":
        found.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    elif kind == "deflated":
        found.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    elif kind == "RLE":
        found.compress(pydicom.uid.RLELossless)
    file = save(folder, "valid.dcm", found)
    if kind.startswith("JPEG"):
        writer = sitk.ImageFileWriter()
        writer.SetCompressor(kind)
        writer.UseCompressionOn()
        writer.SetFileName(str(folder / "packed.dcm"))
        writer.Execute(sitk.ReadImage(str(file)))
        file = folder / "packed.dcm"
    return file.read_bytes()


def damaged(content: bytes, seed: int) -> bytes:
    """Bytes flipped, overwritten, left out, put in or cut off; mostly in the header."""
    chance = random.Random(seed)
    content = bytearray(content)
    way = chance.randrange(6)
    for _ in range(chance.choice([1, 1, 2, 5, 20])):
        end = min(len(content), 2500) if chance.random() < 0.8 else len(content)
        at = chance.randrange(min(128, end - 1), end)
        if way == 0:
            content[at] = chance.randrange(256)
        elif way == 1:
            number = chance.choice(_NUMBERS)
            content[at : at + len(number)] = number
        elif way == 2:
            del content[at : at + chance.randrange(1, 40)]
        elif way == 3:
            content[at:at] = chance.randbytes(chance.randrange(1, 40))
        elif way == 4:
            content[at] ^= 1 << chance.randrange(8)
        else:
            del content[chance.randrange(1, len(content)) :]
        if len(content) < 200:
            break
    return bytes(content)


def run(folder: Path, count: int, kinds=KINDS, first: int = 0) -> dict[str, dict]:
    """Reads `count` damaged files of each kind; what failed otherwise than by an InputError, or took too long."""
    results = {}
    for kind in kinds:
        content = valid(folder / f"{kind} valid", kind)
        file = save(folder / kind, "damaged.dcm", dataset())
        write_stack(folder / kind, line((0, 0, 4), 3), values=np.ones((24, 20)))  # the company of every second one
        results[kind] = result = {"read": 0, "refused": 0, "failures": [], "longest": 0.0}
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for seed in range(first, first + count):
            file.write_bytes(damaged(content, seed))
            start, work = time.perf_counter(), time.process_time()
            try:
                stored = io.open_image(file if seed % 2 else file.parent)
                for volume in stored.volumes(0, stored.count):
                    np.asarray(volume)
                result["read"] += 1
            except InputError:
                result["refused"] += 1
            except Exception as error:
                result["failures"].append(f"{seed}: {type(error).__name__}: {error}")
            seconds, work = time.perf_counter() - start, time.process_time() - work
            result["longest"] = max(result["longest"], round(seconds, 2))
            if work > SECONDS or seconds > WAITING:
                result["failures"].append(f"{seed}: {seconds:.1f} s")
        used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
        result["MB"] = used >> 20
        if used > MEMORY:
            result["failures"].append(f"{used >> 20} MB")
    return results


if __name__ == "__main__":
    for name in sys.argv[3:] or KINDS:
        print(json.dumps({name: run(Path(sys.argv[1]), int(sys.argv[2]), [name])[name]}), flush=True)
