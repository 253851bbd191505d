# SPDX-License-Identifier: Apache-2.0
"""What methods made of some pairs, slice beside slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..imaging.intensities import without_padding
from ..imaging.io import read_volume
from ..report.pixels import data_uri, difference_picture, gray, to_bytes, window
from ..report.tables import escaped
from ..report.views import foreground_center, views
from ..support.errors import InputError
from .comparison import Comparison, Measured

_WIDTH = 150
STYLE = f"""
.row {{ display: flex; flex-wrap: wrap; gap: 10px 8px; margin: 8px 0 18px }}
.row figure {{ margin: 0; width: {_WIDTH}px }} .row img {{ width: {_WIDTH}px; display: block; background: #000 }}
.row img + img {{ margin-top: 2px }} .row figcaption {{ color: var(--soft); overflow-wrap: anywhere; font-size: 12px }}
"""
_WARPED = "warped.nii.gz"
# Of more pairs than these, the rest are seen in their reports.
_MOST_PAIRS = 3


def pictures(comparison: Comparison, measured: Sequence[Measured]) -> str:
    """A section with the first pairs that all methods registered: the fixed image, and by each method the moving one on
    it with what is left of the difference; "" if there is none."""
    by_pair: dict[str, list[Measured]] = {}
    for each in measured:
        if each.variant == comparison.title:
            by_pair.setdefault(each.pair, []).append(each)
    files = {pair.name: pair.files for pair in comparison.pairs.rows}
    parts: list[str] = []
    for pair, rows in by_pair.items():
        if len(parts) == _MOST_PAIRS:
            break
        if all(row.state == "done" for row in rows):
            try:
                drawn = _row(files[pair].fixed, {row.title: comparison.top / row.folder for row in rows})
            except InputError:  # moved or deleted since; the reports have their own
                continue
            parts.append(f"<h3>{escaped(pair)}</h3>{drawn}")
    if not parts:
        return ""
    note = (
        "<p>A slice through the middle of the fixed image's foreground; below, the difference to it: orange where the "
        "moving image is brighter, blue where the fixed one is. Those of the moving image share one gray scale.</p>"
    )
    return f"<section><h2>Pictures</h2>{''.join(parts)}{note}</section>"


def _row(fixed_path: str, folders: Mapping[str, Path]) -> str:
    """The pictures of one pair."""
    fixed = without_padding(read_volume(fixed_path))[0]
    view, index = views(fixed.grid)[0], foreground_center(fixed.data)
    cuts = {}
    for name, folder in folders.items():
        warped = without_padding(read_volume(folder / _WARPED))[0]
        if warped.grid.shape != fixed.grid.shape:
            raise InputError(f"{folder / _WARPED}: is not of the voxels of {fixed_path}.")
        cuts[name] = view.cut(warped.data, index)
    own = view.cut(fixed.data, index)
    base, limits = gray(own, window([own])), window(list(cuts.values()))
    rows, columns = own.shape
    across, down = (fixed.grid.spacing[axis] for axis in (view.across, view.down))
    shape = f'style="height: {_WIDTH * (rows * down) / (columns * across):.1f}px"'

    def image(pixels: np.ndarray, name: str) -> str:
        return f'<img {shape} alt="{escaped(name)}" src="{data_uri(pixels)}">'

    figures = [f"<figure>{image(to_bytes(base), 'fixed')}<figcaption>Fixed</figcaption></figure>"]
    for name, cut in cuts.items():
        shown = gray(cut, limits)
        both = image(to_bytes(shown), name) + image(difference_picture(shown, base), f"{name}, difference")
        figures.append(f"<figure>{both}<figcaption>{escaped(name)}</figcaption></figure>")
    return f'<div class="row">{"".join(figures)}</div>'
