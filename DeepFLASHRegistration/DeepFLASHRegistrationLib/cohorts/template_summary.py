# SPDX-License-Identifier: Apache-2.0
"""What has become of a template: a table of its subjects, how all of it was made, and a page with its pictures."""

from __future__ import annotations

import csv
import datetime
import io
import json
from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import quote

import numpy as np

from ..imaging.files import atomic
from ..imaging.grid import Grid
from ..imaging.io import read_volume
from ..imaging.volume import Volume
from ..registration.result import FORMAT
from ..report.page import symbol
from ..report.pixels import data_uri, gray, to_bytes, window
from ..report.style import STYLE
from ..report.tables import escaped, table_of
from ..report.views import foreground_center, views
from ..results.plain import grid_values, plain
from ..support.errors import InputError
from ..version import __version__
from .pairs import NamedPair
from .summary import Outcome
from .template import TemplateRun
from .template_files import AGREEMENT, AVERAGES, LABELS, MASK, POSES, SPACE, SUBJECTS, SUMMARY, TEMPLATE, further

TABLE, PAGE = "subjects.tsv", "template.html"
_COLUMNS = ("name", "state", "verdict", "distance", "far", "to_mirror", "flipped", "reason", "image", "labels")


def write_template_summary(run: TemplateRun) -> None:
    """Writes the table, the summary and the page into the template's folder.

    Raises:
        OSError, InputError: they cannot be written; earlier ones stay.
    """
    # Of all at once: each looks at all of them.
    marked = set(run.far()), set(run.flipped())
    rows = [_row(run, name, *marked) for name in run.subjects]
    digests = [run.labels_digest(name) for name in run.subjects]
    grid = _grid(run)
    values = {
        "format": FORMAT,
        "program": f"deepflash-registration {__version__}",
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "data": str(run.dataset.path),
        "how": asdict(run.how),
        "parameters": run.settings.parameters.to_dict(),
        "grid": None if grid is None else grid_values(grid),
        "complete": bool(run.left_over),
        "rounds": [asdict(each) for each in run.rounds],
        "left_over": run.left_over or None,
        "template": TEMPLATE,
        "mask": MASK if run.cut else None,
        "channels": further(TEMPLATE, run.channels),
        "labels": LABELS if run.labelled else None,
        "labels_agreement": AGREEMENT if run.labelled else None,
        "results": SUBJECTS,
        "poses": POSES,
        "space": SPACE,
        "domain": None if run.domain is None else grid_values(run.domain),
        "middle": run.middle,
        "structures": run.structures,
        "subjects": [{**row, "labels_sha256": digest} for row, digest in zip(rows, digests, strict=True)],
    }
    for name, text in (
        (TABLE, _table(rows)),
        (SUMMARY, json.dumps(plain(values), indent=1, allow_nan=False) + "\n"),
        (PAGE, _page(run, rows)),
    ):
        with atomic(run.out / name) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="")


def _grid(run: TemplateRun) -> Grid | None:
    path = run.out / TEMPLATE
    return read_volume(path).grid if path.is_file() else None


def _row(run: TemplateRun, name: str, far: Collection[str], flipped: Collection[str]) -> dict[str, Any]:
    failed = run.failed.get(name)
    found = Outcome(NamedPair(0, name, None), failed or run.ledger.done(f"{SUBJECTS}/{name}"))
    distance, side, files = run.lengths.get(name), run.sides.get(name), run.subjects[name]
    values = (
        name, found.state, found.level, None if distance is None else round(distance, 3),
        "yes" if name in far else "",
        None if side is None else round(side, 4), "yes" if name in flipped else "",
        found.reason if found.level != "good" else "",
        str(files.image.absolute()), "" if files.labels is None else str(files.labels.absolute()),
    )  # fmt: skip
    return dict(zip(_COLUMNS, values, strict=True))


def _table(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, delimiter="\t", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: " ".join(cell.split()) if isinstance(cell, str) else cell for key, cell in row.items()})
    return text.getvalue().encode("utf-8", "backslashreplace").decode("utf-8")


def _page(run: TemplateRun, rows: Sequence[dict[str, Any]]) -> str:
    images = [("Rigid mean", "rigid"), ("Affine mean", "affine")]
    images += [(f"Round {each.number}", str(each.number)) for each in run.rounds]
    paths = [(title, run.out / AVERAGES / folder / TEMPLATE) for title, folder in images]
    paths.append(("Template", run.out / TEMPLATE))
    pictures = []
    for title, path in paths:
        try:
            pictures.append(_pictures(title, read_volume(path)))
        except (InputError, OSError):
            continue
    pictures.reverse()  # the template first
    moved = [
        (
            f"Round {each.number}",
            f"the mean deformation was {each.mean_voxels:.3f} voxels (largest {each.largest_voxels:.2f}); "
            f"sharpness {each.sharpness:.4g} per mm",
        )
        for each in run.rounds
    ]
    if run.left_over:
        moved.append(("Template", f"the mean deformation is {run.left_over['mean_voxels']:.3f} voxels"))
    head = "".join(f"<th>{title}</th>" for title in ("", "Subject", "Distance", ""))
    head += '<th style="text-align:left">What to look at</th>'
    body = "".join(
        f"<tr><td>{symbol(row['verdict']) if row['verdict'] else ''}</td>"
        f'<th scope="row" style="min-width:9em">{_link(row)}</th>'
        f"<td>{'' if row['distance'] is None else format(row['distance'], '.4g')}</td>"
        f"<td>{'far from the rest' if row['far'] else ''}{' left and right exchanged?' if row['flipped'] else ''}</td>"
        f'<td style="text-align:left">{escaped(row["reason"])}</td></tr>'
        for row in sorted(rows, key=lambda row: -(row["distance"] or float("inf")))
    )
    left = sum(row["state"] == "done" for row in rows)
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Template</title>'
        f"<style>{STYLE}</style></head><body><main><header><h1>Template of {left} subjects</h1>"
        f'<p class="sub">{escaped(str(run.dataset.path))}</p></header>{"".join(pictures[:1])}'
        f"<section><h2>Rounds</h2>{table_of(moved)}</section>"
        f"<section><h2>Subjects</h2><p>Distance: length of the geodesic from the template, the affine pose apart.</p>"
        f'<table class="numbers"><thead><tr>{head}</tr></thead>{body}</table></section>'
        f"{''.join(pictures[1:])}</main></body></html>"
    )


def _link(row: dict[str, Any]) -> str:
    name = escaped(row["name"])
    link = escaped(quote(f"{SUBJECTS}/{row['name']}/result.json"))
    return f'<a href="{link}">{name}</a>' if row["state"] == "done" else name


def _pictures(title: str, image: Volume) -> str:
    center = foreground_center(image.data)
    cuts = [view.cut(image.data, center) for view in views(image.grid)]
    limits = window(cuts)
    panels = "".join(
        f'<img alt="" style="height:14em;margin:.2em" src="{data_uri(to_bytes(gray(np.asarray(cut), limits)))}">'
        for cut in cuts
    )
    return f"<section><h2>{title}</h2>{panels}</section>"
