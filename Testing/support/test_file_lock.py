# SPDX-License-Identifier: Apache-2.0
"""Who holds a file, and whether a file system tells that to others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from DeepFLASHRegistrationLib.support.file_lock import is_locked, knows_locks, try_lock


def test_a_hold_is_seen_and_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    assert not is_locked(path)
    lock = try_lock(path)
    assert is_locked(path)
    assert try_lock(path) is None
    lock.release()
    assert not is_locked(path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "shared"),
    [
        ("rw,relatime", True),
        ("rw,flock,lazystatfs", True),
        ("rw,vers=4.2,local_lock=none,addr=10.0.0.1", True),
        ("rw,localflock", False),
        ("rw,vers=3,nolock", False),
        ("rw,vers=3,local_lock=all", False),
    ],
)
def test_a_mount_that_keeps_locks_to_itself_is_noticed(tmp_path: Path, options: str, shared: bool) -> None:
    folder = tmp_path / "my scratch" / "out"
    folder.mkdir(parents=True)
    place = str(folder.parent.resolve()).replace(" ", "\\040")
    mounts = tmp_path / "mounts"
    mounts.write_text(f"none / overlay rw,nolock 0 0\nserver:/x {place} nfs {options} 0 0\nb {place}2 nfs nolock 0 0\n")
    assert knows_locks(folder, mounts) is shared
    assert knows_locks(folder, tmp_path / "none")
    assert os.listdir(folder) == []
