# SPDX-License-Identifier: Apache-2.0
"""What all that reads and writes shares: what a path is, errors in words, ITK's silence, and whole files or none."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..support.errors import InputError

IMAGES = (".nii.gz", ".nii", ".mgz", ".mgh", ".nrrd", ".nhdr", ".mha", ".mhd", ".png", ".tif", ".tiff")
ITK_TRANSFORMS = (".tfm", ".txt", ".mat", ".h5", ".hdf5")
# A .mat is ITK's or FSL FLIRT's; which one, its content says.
TRANSFORMS = (*ITK_TRANSFORMS, ".xfm", ".lta")
POINT_TABLES = (".csv", ".tsv", ".txt", ".pts")
POINTS = (".fcsv", ".mrk.json", *POINT_TABLES)
SURFACES = (".gii", ".obj", ".vtk", ".vtp", ".ply", ".stl")


def stem(path: Path) -> str:
    """The name of an image file without its suffix."""
    lower = path.name.lower()
    return next((path.name[: -len(s)] for s in IMAGES if lower.endswith(s) and len(lower) > len(s)), path.name)


def is_folder(path: Path) -> bool:
    """Whether a path is a folder; InputError if it is nothing that can be read."""
    try:
        if path.is_dir():
            return True
        found = path.exists()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    if not found:
        raise InputError(f"{path}: there is no such file or folder. Check the path.")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: may not be read. Change its permissions.")
    return False


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of a file of at most `limit` bytes; InputError if it is larger or cannot be read."""
    content = bytearray()
    try:
        with open(path, "rb") as file:
            while len(content) <= limit and (piece := file.read(1 << 20)):
                content += piece
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}). Check the path.") from error
    if len(content) > limit:
        raise InputError(f"{path}: has more than {limit >> 20} MB, too much for a file of its kind. Check the path.")
    return bytes(content)


def unreadable(path: Path, error: RuntimeError) -> InputError:
    """What to raise when ITK could not read a file, with its reason and the remedy."""
    text = str(error)
    if "rthonormal" in text:
        return InputError(
            f"{path}: its voxel axes are not orthogonal (the sform has a shear). "
            "Resample it on an orthogonal grid, or remove the sform if the qform is right."
        )
    if "Unable to determine ImageIO reader" in text:
        with open(path, "rb") as file:
            start = file.read(200).lstrip().lower()
        if start.startswith((b"<!doctype html", b"<html")):
            return InputError(f"{path}: is a web page, no image: its download went wrong. Download it again.")
        if start.startswith(b"version https://git-lfs"):
            return InputError(f'{path}: stands for a file that git-lfs has yet to fetch. Run "git lfs pull" there.')
        return InputError(f"{path}: is no image file that can be read. Pass NIfTI, NRRD, MetaImage or a DICOM folder.")
    if "Only BMP depths" in text:
        return InputError(f"{path}: is a bitmap of less than 8 bits per pixel, which cannot be read. Save it as PNG.")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    reason = lines[-1].split("): ", 1)[-1] if lines else "unknown reason"
    return InputError(f"{path}: cannot be read ({reason}). The file may be damaged: copy or export it again.")


def unwritable(path: str | os.PathLike) -> Exception:
    """What to raise when ITK or VTK could not write a file, and does not say why."""
    if not os.access(Path(path).parent, os.W_OK):
        return InputError(f"{path}: may not be written. Choose another folder.")
    return OSError(f"{path}: could not be written. Check the free space on the disk.")


@contextmanager
def quiet() -> Iterator[list[str]]:
    """Keeps ITK's warnings off the terminal and collects them, so that what matters becomes a note."""
    import SimpleITK as sitk

    warnings: list[str] = []
    if not hasattr(sitk, "LoggerBase"):
        shown = sitk.ProcessObject.GetGlobalWarningDisplay()
        sitk.ProcessObject.SetGlobalWarningDisplay(False)
        try:
            yield warnings
        finally:
            sitk.ProcessObject.SetGlobalWarningDisplay(shown)
        return

    class Collector(sitk.LoggerBase):
        """Where ITK sends what it would print."""

        def DisplayWarningText(self, text: str) -> None:  # noqa: N802
            # "WARNING: In FILE, line N\nClass (0x…): message"
            message = text.strip().splitlines()[-1].split("): ", 1)[-1].strip() if text.strip() else ""
            if message and message not in warnings:
                warnings.append(message)

        def DisplayText(self, text: str) -> None:  # noqa: N802
            """Told by the errors that are raised."""

        DisplayErrorText = DisplayGenericOutputText = DisplayDebugText = DisplayText

    collector = Collector()
    previous = collector.SetAsGlobalITKLogger()
    try:
        yield warnings
    finally:
        previous.SetAsGlobalITKLogger()


@contextmanager
def atomic(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `path`, of the same suffix, and renames it to `path` when the block ends well.

    Whatever ends the block otherwise (also an interrupt), the temporary file is removed and `path` is untouched.

    Raises:
        InputError: the folder does not exist or may not be written.
        OSError: the disk is full.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist. Create it first.")
    if path.is_dir():
        raise InputError(f"{path}: is a folder. Give the name of a file.")
    temporary = path.with_name(f".{secrets.token_hex(6)}.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise InputError(f"{path}: may not be written ({error.strerror}). Choose another folder.") from error
        if error.errno == errno.ENOSPC:
            raise OSError(errno.ENOSPC, f"{path}: the disk is full. Free some space and try again") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
