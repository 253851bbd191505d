# SPDX-License-Identifier: Apache-2.0
"""Private folders are private, and vanish even if their owner was killed."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from DeepFLASHRegistrationLib.process import folders

LEAVE_A_FOLDER = """
import os, sys
from pathlib import Path
from DeepFLASHRegistrationLib.process.folders import PrivateFolder
folder = PrivateFolder(Path(sys.argv[1]))
(folder.path / "0.npy").write_bytes(b"left")
print(folder.path, flush=True)
os._exit(1)
"""


def age(path: Path) -> None:
    os.utime(path, (1e9, 1e9))


@pytest.mark.skipif(os.name == "nt", reason="Windows has access lists instead of modes")
def test_only_the_owner_may_enter(scratch: Path) -> None:
    folder = folders.PrivateFolder(scratch)
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    folder.remove()


def test_removal_takes_everything_and_may_be_repeated(scratch: Path) -> None:
    folder = folders.PrivateFolder(scratch)
    (folder.path / "result").mkdir()
    (folder.path / "result" / "0.npy").write_bytes(b"x")
    folder.remove()
    folder.remove()
    assert not list(scratch.iterdir())


def test_a_folder_left_by_a_dead_process_is_swept_and_one_in_use_is_not(scratch: Path) -> None:
    mine = folders.PrivateFolder(scratch)
    library = Path(folders.__file__).parents[2]
    subprocess.run(
        [sys.executable, "-c", LEAVE_A_FOLDER, str(scratch)],
        check=False,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(library)},
    )
    (left,) = (path for path in scratch.iterdir() if path != mine.path)
    folders.sweep()
    assert left.exists(), "a folder just made may not have its lock yet"
    for path in (left, mine.path):
        age(path)
    folders.sweep()
    assert list(scratch.iterdir()) == [mine.path]
    mine.remove()


def test_sweeping_leaves_what_is_not_ours(scratch: Path) -> None:
    (scratch / "deepflash-notes").write_text("a file")
    (scratch / "deepflash-paper").mkdir()
    (scratch / "other").mkdir()
    for path in list(scratch.iterdir()):
        age(path)
    folders.sweep()
    assert len(list(scratch.iterdir())) == 3


def test_shared_memory_is_preferred_if_it_has_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "_SHARED_MEMORY", tmp_path)
    assert folders.base_with_room(1) == tmp_path
    assert folders.base_with_room(1 << 60) == Path(tempfile.gettempdir())
    monkeypatch.setattr(folders, "_SHARED_MEMORY", tmp_path / "none")
    assert folders.base_with_room(1) == Path(tempfile.gettempdir())
