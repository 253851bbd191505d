# SPDX-License-Identifier: Apache-2.0
"""Whether the user has agreed to licenses that exclude commercial use: asked once, and kept in the user's folder.

Until then nothing chooses such a model by itself. Who names one has chosen it, with its license shown beside.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import secrets
import time
from pathlib import Path
from typing import Any

from ..support.errors import InputError
from ..support.file_lock import FileLock, try_lock
from .trained_models import user_folder

SETTINGS = "settings.json"
_KEY = "noncommercial"
_WAIT_SECONDS = 5.0


def settings_file() -> Path:
    """Where the answer is kept; it need not exist."""
    return user_folder() / SETTINGS


def noncommercial_accepted() -> bool | None:
    """Whether the user has agreed; None if that was never asked, or the answer cannot be read."""
    answer = _read().get(_KEY)
    accepted = answer.get("accepted") if isinstance(answer, dict) else None
    return accepted if isinstance(accepted, bool) else None


def accept_noncommercial(accepted: bool = True) -> Path:
    """Keeps the user's answer, or another one; returns the file.

    Raises:
        InputError: it cannot be written; says what to do.
    """
    path = settings_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _locked(path.with_name(f".{SETTINGS}.lock"))
        temporary = path.with_name(f".{SETTINGS}.{secrets.token_hex(6)}.partial")
        try:
            date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
            # What else stands there may be of a later version.
            values = {**_read(), _KEY: {"accepted": accepted, "date": date}}
            temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8", newline="\n")
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
            lock.release()
    except OSError as error:
        raise InputError(
            f"{path}: your answer cannot be kept ({error.strerror or error}). Change the permissions of its folder, or "
            "free some space."
        ) from error
    return path


def _locked(path: Path) -> FileLock:
    ends = time.monotonic() + _WAIT_SECONDS
    while True:
        lock = try_lock(path)
        if lock is not None:
            return lock
        if time.monotonic() > ends:
            raise InputError(f"{path}: another program has held this for {_WAIT_SECONDS:.0f} s. Try again.")
        time.sleep(0.02)


def _read() -> dict[str, Any]:
    """What the file holds; {} for none, and for what is no such file, which the next answer replaces."""
    try:
        with open(settings_file(), encoding="utf-8") as file:
            values = json.loads(file.read(1 << 16))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}
