# SPDX-License-Identifier: Apache-2.0
"""Models from folders, archives and addresses: what is whole arrives, and nothing that is hostile or half."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import http.server
import os
import shutil
import socket
import stat
import threading
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import made_models
import pytest
from DeepFLASHRegistrationLib.methods import model_sources
from DeepFLASHRegistrationLib.methods.model_sources import Limits, fetch
from DeepFLASHRegistrationLib.methods.trained_models import CARD, CONFIG, WEIGHTS
from DeepFLASHRegistrationLib.support.errors import Cancelled, InputError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return made_models.make(tmp_path / "trained" / "ellipsoids")


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def whole(found: model_sources.Fetched, model: Path) -> bool:
    """Whether just the two files of the model arrived."""
    same = all((found.folder / name).read_bytes() == (model / name).read_bytes() for name in (CONFIG, WEIGHTS))
    return same and sorted(os.listdir(found.folder)) == [CONFIG, WEIGHTS]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ------------------------------------------------------------------------------------------------ folders and files


@pytest.mark.parametrize("name", ["plain", "with spaces & more", "naïve µ", "C:\\models\\brain"])
def test_a_folder_is_taken_whatever_its_name(model: Path, empty: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    shutil.copytree(model, folder)
    (folder / "checkpoint").write_text("mine")
    found = fetch(str(folder), empty)
    assert whole(found, model)
    assert (found.sha256, found.hashed, found.source) == (sha256(model / CONFIG), CONFIG, str(folder))


@pytest.mark.parametrize("inside", ["", "ellipsoids/", "a folder/ellipsoids/"])
def test_an_archive_may_hold_the_model_in_folders(model: Path, empty: Path, tmp_path: Path, inside: str) -> None:
    archive = made_models.pack(model, tmp_path / "my model.ZIP", inside)
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(f"__MACOSX/{inside}._{CONFIG}", "litter")
        file.writestr(f"{inside}notes.txt", "not taken")
    found = fetch(archive, empty)
    assert whole(found, model)
    assert (found.sha256, found.hashed, found.source) == (sha256(archive), "archive", str(archive))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no such thing", "there is no such folder or file"),
        ("C:\\Users\\me\\model.zip", "there is no such folder or file"),
        ("http://models.example/m.zip", "only https addresses are fetched"),
        ("file:///etc/passwd", "only https addresses are fetched"),
        ("ftp://models.example/m.zip", "only https addresses are fetched"),
        ("https://me:secret@models.example/m.zip", "without a name and a password"),
        ("https://[::1/m.zip", "is no address"),
    ],
)
def test_what_is_no_source_is_refused_with_what_would_be_one(empty: Path, source: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        fetch(source, empty)
    assert "secret" not in str(error.value)
    assert os.listdir(empty) == []


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_folder_or_an_archive_that_was_half_copied(model: Path, empty: Path, tmp_path: Path, name: str) -> None:
    (model / name).unlink()
    with pytest.raises(InputError, match=f"{name} is missing.*again|holds no whole model"):
        fetch(model, empty)
    with pytest.raises(InputError, match=f"{name} is missing"):
        fetch(made_models.pack(model, tmp_path / "m.zip"), empty)
    assert os.listdir(empty) == []


def test_an_archive_of_two_models_asks_for_one(model: Path, empty: Path, tmp_path: Path) -> None:
    archive = made_models.pack(model, tmp_path / "m.zip", "one/")
    with zipfile.ZipFile(archive, "a") as file:
        file.write(model / CONFIG, f"two/{CONFIG}")
    with pytest.raises(InputError, match=r"holds 2 models. Unpack it"):
        fetch(archive, empty)


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
def test_an_archive_that_ends_early(model: Path, empty: Path, tmp_path: Path, part: float) -> None:
    archive = made_models.pack(model, tmp_path / "m.zip")
    data = archive.read_bytes()
    archive.write_bytes(data[: int(part * len(data))])
    with pytest.raises(InputError, match=r"no whole \.zip archive.*again"):
        fetch(archive, empty)


def test_damage_within_an_archive_is_noticed(model: Path, empty: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.zip", "w", zipfile.ZIP_STORED) as file:
        for name in (CONFIG, WEIGHTS):
            file.write(model / name, name)
    data = bytearray((tmp_path / "m.zip").read_bytes())
    data[data.find(b'"license"') + 3] ^= 1
    (tmp_path / "m.zip").write_bytes(data)
    with pytest.raises(InputError, match=r"no whole \.zip archive"):
        fetch(tmp_path / "m.zip", empty)


def test_another_kind_of_archive_is_named(empty: Path, tmp_path: Path) -> None:
    (tmp_path / "m.tar.gz").write_bytes(b"\x1f\x8b" + bytes(200))
    with pytest.raises(InputError, match="unpack other archives yourself, and give the folder"):
        fetch(tmp_path / "m.tar.gz", empty)


# ------------------------------------------------------------------------------------------------ hostile archives


def entry(name: str, kind: int = 0) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo("x")
    made.filename = made.orig_filename = name  # as it is: the constructor would mend it
    made.external_attr = (kind | 0o644) << 16
    return made


@pytest.mark.parametrize(
    "extra",
    [
        entry("../../outside"),
        entry("a/../../outside"),
        entry("/etc/outside"),
        entry("C:/outside"),
        entry("..\\outside"),
        entry("\\\\server\\share"),
        entry("a/link", stat.S_IFLNK),
        entry("a/pipe", stat.S_IFIFO),
        entry(CONFIG.upper()),
        entry(f"{WEIGHTS}/"),
    ],
    ids=lambda each: f"{each.filename} {each.external_attr >> 28}",
)
def test_an_archive_that_would_reach_elsewhere_is_not_unpacked(
    model: Path, empty: Path, tmp_path: Path, extra: zipfile.ZipInfo
) -> None:
    archive = made_models.pack(model, tmp_path / "in" / "m.zip")
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(extra, "../../outside")
    with pytest.raises(InputError, match=r"is not unpacked: .*Do not trust where it is from"):
        fetch(archive, empty)
    assert os.listdir(empty) == []
    assert sorted(os.listdir(tmp_path)) == ["empty", "in", "trained"]


def test_the_same_file_twice(model: Path, empty: Path, tmp_path: Path) -> None:
    archive = made_models.pack(model, tmp_path / "m.zip")
    with zipfile.ZipFile(archive, "a") as file, pytest.warns(UserWarning, match="Duplicate name"):
        file.writestr(CONFIG, "{}")
    with pytest.raises(InputError, match="would be one file"):
        fetch(archive, empty)


def test_paths_with_backslashes_ask_for_the_folder(model: Path, empty: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as file:
        file.writestr(entry("brain\\model.json"), "{}")
    with pytest.raises(InputError, match=r"backslashes. Unpack it yourself"):
        fetch(tmp_path / "m.zip", empty)


def test_an_encrypted_archive_asks_for_another(model: Path, empty: Path, tmp_path: Path) -> None:
    archive = made_models.pack(model, tmp_path / "m.zip")
    data = bytearray(archive.read_bytes())
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.find(signature) + at] |= 1
    archive.write_bytes(data)
    with pytest.raises(InputError, match=r"encrypted. Give an archive without a password"):
        fetch(archive, empty)


def test_what_would_fill_the_disk_is_not_unpacked(model: Path, empty: Path, tmp_path: Path) -> None:
    archive = made_models.pack(model, tmp_path / "m.zip")
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("zeros", bytes(8 << 20))
    assert archive.stat().st_size < 100_000
    with pytest.raises(InputError, match="unpacked,: is larger than 1 MB"):
        fetch(archive, empty, limits=Limits(1 << 20))
    assert os.listdir(empty) == []


def test_an_entry_that_says_less_than_it_holds(model: Path, empty: Path, tmp_path: Path) -> None:
    (model / WEIGHTS).write_bytes(bytes(1 << 20))
    archive = made_models.pack(model, tmp_path / "m.zip")
    data, size = bytearray(archive.read_bytes()), (1 << 20).to_bytes(4, "little")
    while (at := data.find(size)) >= 0:
        data[at : at + 4] = (1000).to_bytes(4, "little")
    archive.write_bytes(data)
    with pytest.raises(InputError):
        fetch(archive, empty)
    assert sum(path.stat().st_size for path in empty.iterdir()) < 10_000


def test_a_list_of_files_that_would_fill_the_memory(empty: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as file:
        for number in range(20_000):
            file.writestr(zipfile.ZipInfo(f"{number:060d}"), "")
    with pytest.raises(InputError, match="its list of files is too long"):
        fetch(tmp_path / "m.zip", empty)


def test_a_file_and_a_folder_that_are_too_large(model: Path, empty: Path, tmp_path: Path) -> None:
    for source in (model, made_models.pack(model, tmp_path / "m.zip")):
        with pytest.raises(InputError, match="which no model of this kind is"):
            fetch(source, empty, limits=Limits(100))


def test_no_room_on_the_disk(model: Path, empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(model_sources.shutil, "disk_usage", lambda path: usage(10**9, 10**9, 50))
    for source in (model, made_models.pack(model, tmp_path / "m.zip")):
        with pytest.raises(InputError, match=r"no room on the disk.*Free some, and try again"):
            fetch(source, empty)
    assert os.listdir(empty) == []


def test_a_disk_that_is_full_all_the_same(model: Path, tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / CONFIG).symlink_to(full)
    with pytest.raises(InputError, match="no room on the disk"):
        fetch(model, tmp_path / "out")


# -------------------------------------------------------------------------------------------------------- addresses


class Loopback(urllib.request.HTTPSHandler):
    """Takes https addresses for a server on this machine, without encryption: everything else is as it is."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port = port

    def https_open(self, request: Any) -> Any:
        """See HTTPSHandler."""

        def connection(host: str, timeout: float, **_: Any) -> http.client.HTTPConnection:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

        return self.do_open(connection, request)


@contextlib.contextmanager
def served(answer: Callable[[Any], None]) -> Iterator[tuple[Limits, list[str]]]:
    """A server that answers so, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            with contextlib.suppress(ConnectionError):
                answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield Limits(1 << 20, 20.0, (Loopback(server.server_address[1]),)), asked
    finally:
        server.shutdown()
        server.server_close()


def sends(data: bytes, length: int | None = None) -> Callable[[Any], None]:
    """An answer with these bytes, which says that it has so many."""

    def answer(handler: Any) -> None:
        handler.send_response(200)
        if length is not None:
            handler.send_header("Content-Length", str(length))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def moves(to: str) -> Callable[[Any], None]:
    """An answer that leads elsewhere, once."""

    def answer(handler: Any) -> None:
        handler.send_response(302)
        handler.send_header("Location", to)
        handler.end_headers()

    return answer


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("stated", [True, False])
def test_an_archive_is_downloaded(model: Path, empty: Path, tmp_path: Path, stated: bool) -> None:
    data = made_models.pack(model, tmp_path / "m.zip").read_bytes()
    told: list[tuple[int, int | None]] = []
    with served(sends(data, len(data) if stated else None)) as (limits, asked):
        found = fetch("https://models.example/a/m.zip?key=secret", empty, lambda *x: told.append(x), limits)
    assert whole(found, model)
    assert asked == ["/a/m.zip?key=secret"]
    assert found.source == "https://models.example/a/m.zip"  # what may be secret is not written down
    assert found.sha256 == hashlib.sha256(data).hexdigest()
    assert told[-1] == (len(data), len(data) if stated else None)


def test_redirects_lead_to_https_alone(model: Path, empty: Path, tmp_path: Path) -> None:
    data = made_models.pack(model, tmp_path / "m.zip").read_bytes()

    def answer(handler: Any) -> None:
        (moves("https://mirror.example/m.zip") if handler.path == "/" else sends(data, len(data)))(handler)

    with served(answer) as (limits, asked):
        assert whole(fetch("https://models.example/", empty, None, limits), model)
        assert asked == ["/", "/m.zip"]
    for to in ("http://mirror.example/m.zip", "file:///etc/passwd", "ftp://mirror.example/m.zip"):
        with served(moves(to)) as (limits, asked):
            with pytest.raises(InputError, match=r"which is not https. Download it yourself|is not allowed"):
                fetch("https://models.example/", empty, None, limits)
            assert len(asked) == 1


def test_redirects_in_a_circle_end(empty: Path) -> None:
    with served(moves("https://models.example/again")) as (limits, asked):
        with pytest.raises(InputError, match="the server answered 302"):
            fetch("https://models.example/", empty, None, limits)
        assert len(asked) < 12


@pytest.mark.parametrize("part", [0, 0.5, 0.99])
def test_a_download_that_ends_early(model: Path, empty: Path, tmp_path: Path, part: float) -> None:
    data = made_models.pack(model, tmp_path / "m.zip").read_bytes()
    some = data[: int(part * len(data))]
    told = rf"ended after {len(some)} of {len(data)} bytes\. Try again"
    with served(sends(some, len(data))) as (limits, _), pytest.raises(InputError, match=told):
        fetch("https://models.example/m.zip", empty, None, limits)
    (empty / "download").unlink()
    with served(sends(some)) as (limits, _), pytest.raises(InputError, match=r"no whole \.zip archive"):
        fetch("https://models.example/m.zip", empty, None, limits)


def test_a_download_that_is_too_large_is_left(empty: Path) -> None:
    with served(sends(b"", 2 << 20)) as (limits, _), pytest.raises(InputError, match="larger than 1 MB"):
        fetch("https://models.example/m.zip", empty, None, limits)
    (empty / "download").unlink()
    with served(sends(bytes(3 << 20))) as (limits, _), pytest.raises(InputError, match="larger than 1 MB"):
        fetch("https://models.example/m.zip", empty, None, limits)
    assert (empty / "download").stat().st_size <= 1 << 20


def test_a_server_that_is_silent_or_slow_is_left(empty: Path) -> None:
    def slow(handler: Any) -> None:
        sends(b"", 1000)(handler)
        for _ in range(40):
            time.sleep(0.05)
            handler.wfile.write(b"x")

    for answer, message in ((lambda _: time.sleep(1.5), "the server is silent"), (slow, "took longer than 0 s")):
        began = time.monotonic()
        with served(answer) as (limits, _), pytest.raises(InputError, match=message):
            fetch("https://models.example/m.zip", empty, None, Limits(1 << 20, 0.4, limits.handlers))
        (empty / "download").unlink(missing_ok=True)
        assert time.monotonic() - began < 10


def test_a_server_without_it_and_one_that_is_not_there(empty: Path) -> None:
    told = r"the server answered 404.*Check the address"
    with served(lambda handler: handler.send_error(404)) as (limits, _), pytest.raises(InputError, match=told):
        fetch("https://models.example/m.zip", empty, None, limits)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(InputError, match="could not be downloaded"):
        fetch("https://models.example/m.zip", empty, None, Limits(handlers=(Loopback(port),)))


def test_without_encryption_a_server_is_no_https_server(empty: Path) -> None:
    """The handler that is used for everybody, against a real server."""
    with served(sends(b"x", 1)) as (limits, asked):
        port = limits.handlers[0].port
        with pytest.raises(InputError, match="could not be downloaded"):
            fetch(f"https://127.0.0.1:{port}/m.zip", empty)
        assert asked == []


def test_a_download_can_be_cancelled(model: Path, empty: Path, tmp_path: Path) -> None:
    data = made_models.pack(model, tmp_path / "m.zip").read_bytes()

    def cancel(done: int, total: int | None) -> None:
        raise Cancelled("enough")

    with served(sends(data, len(data))) as (limits, _), pytest.raises(Cancelled):
        fetch("https://models.example/m.zip", empty, cancel, limits)


def test_the_card_is_not_taken(model: Path, empty: Path) -> None:
    """No checksum stands for it: it is made anew."""
    assert (model / CARD).exists()
    fetch(model, empty)
    assert not (empty / CARD).exists()
