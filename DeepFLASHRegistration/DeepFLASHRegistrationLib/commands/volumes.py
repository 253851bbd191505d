# SPDX-License-Identifier: Apache-2.0
"""deepflash volumes: the volumes of the structures of a template's subjects, as a table."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..support.errors import InputError

DESCRIPTION = (
    "Write the volumes of the structures of all subjects of a template as a table: of their own labels, and of the "
    "template's labels through their maps."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `run` reads."""
    parser.add_argument("template", metavar="TEMPLATE", type=Path, help='folder that "deepflash template" wrote')
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help='a table (.tsv; default: TEMPLATE/volumes.tsv, which is replaced, and with which "deepflash project" '
        "compares)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite FILE")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from ..cohorts.saved_template import load_template
    from ..cohorts.template_files import VOLUMES
    from ..cohorts.volumes import structure_volumes, write_volumes

    path = options.output
    if path is not None and path.suffix != ".tsv":
        raise InputError(f"{path}: a table of volumes ends in .tsv. Give it such a name.")
    if path is not None and path.exists() and not options.force:
        raise InputError(f"{path}: exists. Choose another name, or add --force.")
    template = load_template(options.template)
    path = path or template.folder / VOLUMES
    count = len(template.subjects)

    def told(name: str, number: int) -> None:
        if not options.quiet and sys.stderr.isatty():
            print(f"\r[{number + 1}/{count}] {name:40}", end="", file=sys.stderr, flush=True)

    rows = structure_volumes(template, told, lambda text: print(f"Note: {text}", file=sys.stderr, flush=True))
    write_volumes(path, rows, template.structures)
    if not options.quiet:
        print(path)
    return 0
