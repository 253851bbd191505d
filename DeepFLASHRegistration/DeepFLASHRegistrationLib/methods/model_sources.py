# SPDX-License-Identifier: Apache-2.0
"""Where a model to be installed comes from: a folder, a .zip archive or an https address, none of which is trusted.

Of whatever it is, only the two files that make a model are taken, as bytes, into a folder of ours: what an archive
calls its files never becomes a path. Nothing is fetched that was not asked for, and nothing but by https.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import re
import shutil
import ssl
import stat
import time
import unicodedata
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from ..support.errors import InputError
from .trained_models import CONFIG, WEIGHTS, file_hash

# Models that come along have 2.5 MB.
MOST_BYTES = 512 << 20
_MOST_ENTRIES, _MOST_DIRECTORY = 1000, 1 << 20
SECONDS = 600.0  # for all of a download
_SILENCE_SECONDS = 20.0
_PORTION = 1 << 18
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
# What systems put into archives beside what was packed.
_LITTER = re.compile(r"(^|/)(__MACOSX/|\.DS_Store$|\._|Thumbs\.db$|desktop\.ini$)", re.IGNORECASE)


@dataclass(frozen=True)
class Fetched:
    """A model's files, not looked into yet.

    Attributes:
        folder: that holds them, and nothing else.
        source: where they are from, as it may be written down: of an address without what may be secret.
        sha256: of the archive; of a folder, of its model.json, which names that of its weights.
        hashed: "archive" or "model.json".
    """

    folder: Path
    source: str
    sha256: str
    hashed: str


@dataclass(frozen=True)
class Limits:
    """Of a download: bytes, seconds, and handlers of urllib besides those for https (tests bring a server)."""

    bytes: int = MOST_BYTES
    seconds: float = SECONDS
    handlers: Sequence[urllib.request.BaseHandler] = ()


def fetch(
    source: str | os.PathLike,
    folder: Path,
    progress: Callable[[int, int | None], None] | None = None,
    limits: Limits | None = None,
) -> Fetched:
    """The files of a model, in a folder.

    Args:
        source: a folder, a .zip file, or the https address of one.
        folder: empty.
        progress: called with bytes so far and those of all, if known; Cancelled raised there ends it.

    Raises:
        InputError: it is none of these, no model, hostile, damaged, too large, or cannot be had; says what to do.
    """
    limits, text = limits or Limits(), os.fspath(source).strip()
    address = _ADDRESS.match(text)
    if address is None:
        path = Path(text).expanduser()
        with _told(text, folder):
            if path.is_dir():
                return _from_folder(path, folder, limits)
            if path.is_file():
                return _from_archive(path, folder, str(path.absolute()), limits)
        raise InputError(f"{text}: there is no such folder or file. Give a model's folder, its .zip, or its address.")
    if address[1].lower() != "https":
        raise InputError(f"{text}: only https addresses are fetched from. Download it yourself, and give the file.")
    archive = folder / "download"
    with _told(text, folder):
        shown = _downloaded(text, archive, progress, limits)
        found = _from_archive(archive, folder, shown, limits)
        archive.unlink()
    return found


@contextlib.contextmanager
def _told(source: str, folder: Path) -> Iterator[None]:
    """Failures of disks, as messages with a remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):
            raise InputError(
                f"{folder}: there is no room on the disk for {source}. Free some, and try again."
            ) from error
        raise InputError(f"{source}: cannot be read ({error.strerror or error}). Check that it is whole.") from error


def _check_room(folder: Path, needed: int, source: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{folder}: there is no room on the disk for {source}: {needed / 1e6:.1f} MB are needed, {free / 1e6:.1f} "
            "MB are free. Free some, and try again."
        )


def _too_large(source: str, limits: Limits) -> InputError:
    return InputError(
        f"{source}: is larger than {limits.bytes / 1e6:.0f} MB, which no model of this kind is. Check the source."
    )


# ------------------------------------------------------------------------------------------------------ a folder


def _from_folder(path: Path, folder: Path, limits: Limits) -> Fetched:
    for name in (CONFIG, WEIGHTS):
        if not (path / name).is_file():
            raise InputError(f"{path}: holds no whole model ({name} is missing). Copy it again, with all of its files.")
    size = sum((path / name).stat().st_size for name in (CONFIG, WEIGHTS))
    if size > limits.bytes:
        raise _too_large(str(path), limits)
    _check_room(folder, size, str(path))
    for name in (CONFIG, WEIGHTS):
        shutil.copyfile(path / name, folder / name)
    return Fetched(folder, str(path.absolute()), file_hash(folder / CONFIG), CONFIG)


# ----------------------------------------------------------------------------------------------------- an archive


def _from_archive(path: Path, folder: Path, source: str, limits: Limits) -> Fetched:
    """Takes the two files of a model out of a .zip."""
    if path.stat().st_size > limits.bytes:
        raise _too_large(source, limits)
    digest = file_hash(path)
    try:
        with open(path, "rb") as file:
            _check_directory(file)
            with zipfile.ZipFile(file) as archive:
                entries = _checked_entries(archive)
                if sum(entry.file_size for entry in entries) > limits.bytes:
                    raise _too_large(f"{source}, unpacked,", limits)
                place = _place_of_model(entries)
                wanted = {name: archive.getinfo(f"{place}{name}") for name in (CONFIG, WEIGHTS)}
                _check_room(folder, sum(entry.file_size for entry in wanted.values()), source)
                for name, entry in wanted.items():
                    _unpack(archive, entry, folder / name)
    except _Hostile as error:
        raise InputError(f"{source}: is not unpacked: {error}. Do not trust where it is from.") from error
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise InputError(f"{source}: {error}") from error
        raise InputError(
            f"{source}: is no whole .zip archive ({error}). Download or copy it again; unpack other archives yourself, "
            "and give the folder."
        ) from error
    return Fetched(folder, source, digest, "archive")


class _Hostile(ValueError):
    """Something about an archive that nobody who packs a model brings about."""


def _check_directory(file: BinaryIO) -> None:
    """Refuses a list of entries so long that reading it would fill the memory."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - (22 + 0xFFFF)))
    tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < 22:
        raise zipfile.BadZipFile("its end is missing")
    if int.from_bytes(tail[at + 12 : at + 16], "little") > _MOST_DIRECTORY or tail.find(b"PK\6\7") >= 0:
        raise _Hostile("its list of files is too long")
    file.seek(0)


def _checked_entries(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The files in an archive, if all of them have harmless names."""
    entries = archive.infolist()
    if len(entries) > _MOST_ENTRIES:
        raise _Hostile(f"it holds {len(entries)} files")
    seen: dict[str, str] = {}
    for entry in entries:
        # What zipfile makes of a name may be less than what stands in the archive.
        for name in (entry.orig_filename, entry.filename):
            parts = PurePosixPath(name).parts
            if (
                name.startswith(("/", "\\"))
                or ".." in re.split(r"[/\\]", name)
                or re.search(r"[:\0]", name)
                or not parts
            ):
                raise _Hostile(f"the path {name[:80]!r} in it leads elsewhere")
            if "\\" in name:
                raise InputError("has paths with backslashes. Unpack it yourself, and give the folder.")
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _Hostile(f"{entry.filename[:80]!r} in it is a link, or no file")
        if entry.flag_bits & 1:
            raise InputError("is encrypted. Give an archive without a password.")
        same = unicodedata.normalize("NFC", entry.filename.rstrip("/")).casefold()
        if same in seen:
            raise _Hostile(f"{seen[same][:80]!r} and {entry.filename[:80]!r} in it would be one file")
        seen[same] = entry.filename
    return [entry for entry in entries if not entry.is_dir() and not _LITTER.search(entry.filename)]


def _place_of_model(entries: Sequence[zipfile.ZipInfo]) -> str:
    """The folder in an archive that holds the one model, "" or with a / at its end."""
    names = {entry.filename for entry in entries}
    places = sorted(name[: -len(CONFIG)] for name in names if PurePosixPath(name).name == CONFIG)
    if not places:
        raise InputError(f"holds no model ({CONFIG} is missing). Give the archive of a model's folder.")
    if len(places) > 1:
        raise InputError(f"holds {len(places)} models. Unpack it, and give the folder of one.")
    if f"{places[0]}{WEIGHTS}" not in names:
        raise InputError(f"holds no whole model ({WEIGHTS} is missing). Download or copy it again.")
    return places[0]


def _unpack(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> None:
    """Writes what an entry holds, at most as much as it says, which was counted."""
    left = entry.file_size
    with archive.open(entry) as packed, open(path, "xb") as file:
        while portion := packed.read(_PORTION):
            left -= len(portion)
            if left < 0:
                raise _Hostile(f"{entry.filename[:80]!r} in it is longer than it says")
            file.write(portion)


# ---------------------------------------------------------------------------------------------------- an address


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to https alone."""

    max_redirections = 5

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """See HTTPRedirectHandler."""
        if urllib.parse.urlsplit(newurl).scheme != "https":
            raise InputError(
                f"{req.full_url}: leads on to {_shown(newurl)}, which is not https. Download it yourself, and give the "
                "file."
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _downloaded(address: str, path: Path, progress: Callable[[int, int | None], None] | None, limits: Limits) -> str:
    """Downloads into a file; returns the address as it may be written down."""
    try:
        named, shown = urllib.parse.urlsplit(address).username is not None, _shown(address)
    except ValueError as error:
        raise InputError(f"{address}: is no address ({error}). Copy it again.") from error
    if named:
        raise InputError(f"{shown}: give the address without a name and a password.")
    ends = time.monotonic() + limits.seconds
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _Redirects(),
        *(limits.handlers or [urllib.request.HTTPSHandler()]),
    ):
        opener.add_handler(handler)
    try:
        request = urllib.request.Request(address, headers={"Accept": "*/*", "User-Agent": "deepflash"})
        with opener.open(request, timeout=min(_SILENCE_SECONDS, limits.seconds)) as response, open(path, "xb") as file:
            _take(response, file, progress, limits, ends, shown)
    except urllib.error.HTTPError as error:
        raise InputError(f"{shown}: the server answered {error.code} ({error.reason}). Check the address.") from error
    except (TimeoutError, http.client.HTTPException, urllib.error.URLError, ssl.SSLError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, TimeoutError):
            reason = "the server is silent"
        raise InputError(
            f"{shown}: could not be downloaded ({reason}). Check the address and the network, and try again."
        ) from error
    except (ValueError, UnicodeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{shown}: is no address ({error}). Copy it again.") from error
    return shown


def _take(
    response: Any,
    file: BinaryIO,
    progress: Callable[[int, int | None], None] | None,
    limits: Limits,
    ends: float,
    shown: str,
) -> None:
    length = response.headers.get("Content-Length")
    total = int(length) if length and length.isdigit() else None
    if total is not None and total > limits.bytes:
        raise _too_large(shown, limits)
    _check_room(Path(file.name).parent, 2 * (total or 0), shown)
    done = 0
    while True:
        if time.monotonic() > ends:
            raise InputError(
                f"{shown}: took longer than {limits.seconds:.0f} s. Download it yourself, and give the file."
            )
        portion = response.read1(_PORTION)
        if not portion:
            break
        done += len(portion)
        if done > limits.bytes:
            raise _too_large(shown, limits)
        file.write(portion)
        if progress is not None:
            progress(done, total)
    if total is not None and done < total:
        raise InputError(f"{shown}: the download ended after {done} of {total} bytes. Try again.")


def _shown(address: str) -> str:
    """An address without what may be secret: a password, or a signature behind the path."""
    parts = urllib.parse.urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    return urllib.parse.urlunsplit((parts.scheme, host, parts.path, "", ""))
