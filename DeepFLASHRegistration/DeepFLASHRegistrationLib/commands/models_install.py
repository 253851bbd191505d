# SPDX-License-Identifier: Apache-2.0
"""deepflash models install: a model into the user's folder, after it was looked at."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from ..support.errors import Cancelled, InputError

if TYPE_CHECKING:
    from ..methods.installing import Offer

DESCRIPTION = (
    "Install a trained model: SOURCE is its folder, a .zip file of it, or the https address of one. Its purpose, "
    "license, size and SHA-256 are shown, and nothing is installed before you agree."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `run` reads."""
    parser.add_argument("install", choices=["install"], metavar="install", help=argparse.SUPPRESS)
    parser.add_argument("source", metavar="SOURCE", help="folder, .zip file or https address")
    parser.add_argument("-y", "--yes", action="store_true", help="agree beforehand; nothing is asked")
    parser.add_argument(
        "--sha256", metavar="DIGITS", help="refuse an archive (of a folder: a model.json) that has not this SHA-256"
    )
    parser.add_argument("--name", default="", metavar="NAME", help="install by this name instead of its own")
    parser.add_argument("--replace", action="store_true", help="replace an installed model of the same name")


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from ..methods.installing import check_free, install, offered

    with offered(options.source, options.sha256, _progress if sys.stderr.isatty() else None) as offer:
        name = options.name or offer.config.name
        print("\n".join(_shown(offer)))
        check_free(name, options.replace)
        if not options.yes:
            _ask(name)
        folder = install(offer, name, options.replace)
    print(f"Installed in {folder}. Use it with --model {name}; remove it with: deepflash models remove {name}")
    return 0


def _shown(offer: Offer) -> list[str]:
    from ..methods.model_words import model_sentence

    fetched = offer.fetched
    return [
        offer.config.name,
        f"    {model_sentence(offer.config)}",
        f"    Source: {fetched.source}",
        f"    Size: {offer.bytes / 1e6:.1f} MB",
        f"    SHA-256 of the {fetched.hashed}: {fetched.sha256}",
    ]


def _ask(name: str) -> None:
    if not sys.stdin.isatty():
        raise InputError(f"{name}: nothing was installed, since nobody can be asked here. Add --yes to agree.")
    try:
        answer = input(f"Install {name}? [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise Cancelled("Nothing was installed.")


def _progress(done: int, total: int | None) -> None:
    of = f" of {total / 1e6:.1f}" if total else ""
    print(f"\r{done / 1e6:.1f}{of} MB", end="" if done != total else "\n", file=sys.stderr, flush=True)
