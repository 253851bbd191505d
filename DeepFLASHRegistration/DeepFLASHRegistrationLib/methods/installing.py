# SPDX-License-Identifier: Apache-2.0
"""Installing a model into the user's folder, and removing it: looked at first, then asked for, then all or nothing."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..support.errors import InputError
from ..support.output_folder import whole_folder
from .model_card import model_card
from .model_sources import Fetched, Limits, fetch
from .trained_models import (
    CARD,
    CONFIG,
    WEIGHTS,
    Found,
    ModelConfig,
    check_name,
    find_models,
    load_model,
    user_folder,
)

RECORD = "INSTALLED.json"
_FILES = (CONFIG, WEIGHTS, CARD, RECORD)
_SHA256 = re.compile(r"(?:sha256[:-])?([0-9a-f]{64})", re.IGNORECASE)


@dataclass(frozen=True)
class Offer:
    """A model that was fetched and found whole, of which nothing is installed yet.

    Attributes:
        config: what it says of itself.
        bytes: that it will take.
        fetched: where its files are, and where they are from.
        weights: how many numbers it has.
    """

    config: ModelConfig
    bytes: int
    fetched: Fetched
    weights: int


@contextlib.contextmanager
def offered(
    source: str | os.PathLike,
    sha256: str | None = None,
    progress: Callable[[int, int | None], None] | None = None,
    limits: Limits | None = None,
) -> Iterator[Offer]:
    """Yields a model from a folder, a .zip file or an https address, to be shown and perhaps installed.

    Args:
        source: see `model_sources.fetch`, as for the rest.
        sha256: that the archive (of a folder: its model.json) must have.

    Raises:
        InputError: it cannot be had, is no model that can be used here, or has another SHA-256; says what to do.
    """
    wanted = None
    if sha256 is not None:
        found = _SHA256.fullmatch(sha256.strip())
        if found is None:
            raise InputError(f"--sha256 {sha256}: is no SHA-256, which has 64 digits of 0-9 and a-f. Copy it again.")
        wanted = found[1].lower()
    with tempfile.TemporaryDirectory(prefix="deepflash-model-") as folder:
        fetched = fetch(source, Path(folder), progress, limits)
        if wanted is not None and fetched.sha256 != wanted:
            raise InputError(
                f"{fetched.source}: has the SHA-256 {fetched.sha256}, not {wanted}. It is not what was meant: do not "
                "install it, and ask who published it."
            )
        try:
            model = load_model(fetched.folder)
        except InputError as error:
            raise InputError(str(error).replace(str(fetched.folder), fetched.source)) from error
        size = sum((fetched.folder / name).stat().st_size for name in (CONFIG, WEIGHTS))
        yield Offer(model.config, size, fetched, sum(array.size for array in model.arrays.values()))


def install(offer: Offer, name: str = "", replace: bool = False) -> Path:
    """Installs an offer whole or not at all, with a record of its source; returns its folder.

    Args:
        name: by which it will be chosen; its own by default.
        replace: an installed model of that name.

    Raises:
        InputError: the name is taken, or is none; the folder cannot be written.
        OSError: the disk is full or fails; what was there is as it was.
    """
    name = name or offer.config.name
    check_free(name, replace)
    folder, fetched = user_folder() / name, offer.fetched
    other = _same_name(name)
    if other is not None:
        folder = other.folder  # which may be written otherwise, where that makes no other folder
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    record = {"source": fetched.source, "sha256": fetched.sha256, "sha256_of": fetched.hashed, "installed": now}
    with whole_folder(folder, _FILES, force=other is not None) as temporary:
        for each in (CONFIG, WEIGHTS):
            shutil.copyfile(fetched.folder / each, temporary / each)
        # Of the card no checksum is known: it is made of what was checked.
        (temporary / CARD).write_text(model_card(offer.config, offer.weights), encoding="utf-8", newline="\n")
        (temporary / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8", newline="\n")
    return folder


def check_free(name: str, replace: bool = False) -> None:
    """InputError if a model cannot be installed by this name."""
    try:
        check_name(name)
    except ValueError as error:
        raise InputError(f"{name}: cannot be installed: {error}. Choose another one (--name).") from error
    if any(found.bundled and found.name.lower() == name.lower() for found in find_models()):
        raise InputError(f"{name}: is the name of a model that comes along. Install it by another one (--name).")
    folder, other = user_folder() / name, _same_name(name)
    if other is not None and not replace:
        raise InputError(
            f"{other.folder}: a model of this name is installed. Replace it (--replace), or install by another name "
            "(--name)."
        )
    if other is None and os.path.lexists(folder):
        raise InputError(f"{folder}: is there already, and holds no model. Move it away, or choose another name.")


def remove(name: str) -> list[str]:
    """Removes a model of the user's; returns the names of files of others that stay in its folder.

    Raises:
        InputError: there is none of that name, it comes along, or cannot be removed.
    """
    found = _same_name(name)
    if found is None:
        if any(each.bundled and each.name == name for each in find_models()):
            raise InputError(f"{name}: comes along, and cannot be removed. Do not choose it.")
        names = ", ".join(each.folder.name for each in find_models() if not each.bundled) or "none"
        raise InputError(f"{name}: no model of this name is installed. Installed are: {names}.")
    try:
        if found.folder.is_symlink():
            found.folder.unlink()
            return []
        # At once: a model of which some files are missing would be told of as damaged.
        away = found.folder.with_name(f".{found.folder.name}.{secrets.token_hex(6)}.removed")
        found.folder.rename(away)
        for each in _FILES:
            with contextlib.suppress(FileNotFoundError):
                (away / each).unlink()
        left = sorted(os.listdir(away))
        if left:
            away.rename(found.folder)
        else:
            away.rmdir()
    except OSError as error:
        raise InputError(
            f"{found.folder}: cannot be removed ({error.strerror or error}). Close what uses it, or change its "
            "permissions."
        ) from error
    return left


def record_of(folder: Path) -> dict[str, str]:
    """What was written down when a model was installed: source, sha256, sha256_of, installed; {} if nothing was."""
    try:
        with open(folder / RECORD, encoding="utf-8") as file:
            values = json.loads(file.read(1 << 16))
        return {key: value for key, value in values.items() if isinstance(value, str)}
    except (OSError, ValueError, AttributeError):
        return {}


def _same_name(name: str) -> Found | None:
    """The user's model of a name, however its case: on some systems that is one folder."""
    for found in find_models():
        if not found.bundled and found.folder.name.lower() == name.lower():
            return found
    return None
