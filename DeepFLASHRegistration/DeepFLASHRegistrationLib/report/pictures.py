# SPDX-License-Identifier: Apache-2.0
"""The pictures of the report: images, differences and the deformation, slice by slice."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..imaging.grid import Grid
from ..imaging.intensities import without_padding
from ..imaging.volume import Volume
from ..registration.metrics import folded_voxels, map_points
from .charts import factor_ticks
from .overlays import deformation_grid, outline, outline_path
from .pixels import (
    amount_picture,
    checkerboard,
    data_uri,
    determinant_picture,
    difference_picture,
    gray,
    to_bytes,
    window,
)
from .views import View, foreground_center, views

if TYPE_CHECKING:
    from ..registration.result import Result


class Pictures:
    """The slices of one report: cut once, drawn once, referred to where they come again."""

    def __init__(self, result: Result, fixed: Volume, fixed_labels: Volume | None) -> None:
        self.result = result
        self.fixed = fixed
        self.grid: Grid = result.fixed_grid
        self.views = views(self.grid)
        self.index = foreground_center(fixed.data)
        moving = (without_padding(volume)[0].data for volume in (result.moving_affine, result.warped))
        images = (fixed.data, *moving)
        cuts = [[view.cut(data, self.index) for view in self.views] for data in images]
        self.limits = window(cuts[0]), window([*cuts[1], *cuts[2]])
        self.gray = [[gray(c, self.limits[min(i, 1)]) for c in row] for i, row in enumerate(cuts)]
        self.labels = result.labels
        self.fixed_labels = fixed_labels
        self.logs = [view.cut(result.log_jacobian.data, self.index) for view in self.views]
        found = np.concatenate([np.abs(log[np.isfinite(log)]) for log in self.logs])
        spread = float(np.percentile(found, 99.5)) if found.size else 0.0
        self.limit = min(max(spread, math.log(1.2)), math.log(8.0))
        counts = [result.metrics.get(key) for key in ("folds", "folds_strict")]
        self.folds = any(count and count["count"] for count in counts)
        self.folded = [self._folded(k) for k in range(len(self.views))]
        self.uncertain = 0.0 if result.uncertainty is None else float(np.percentile(result.uncertainty.data, 99.8))
        self.unseen = [self._unseen(k) for k in range(len(self.views))]

    def sections(self) -> str:
        three = self.grid.ndim == 3
        where = "Slices through the middle of the fixed image's foreground." if three else ""
        return (
            self._section(
                "Images",
                [
                    ("Fixed", self._fixed),
                    ("Moving, affine only", self._before),
                    ("Moving, registered", self._warped),
                ],
                f"{where} {self._convention()} Both pictures of the moving image share one gray scale. {self._ends()}"
                '<span class="screen">Point at a registered picture to see the fixed image there.</span>',
            )
            + self._section(
                "What is left",
                [
                    ("Difference before", lambda k: self._difference(k, 1)),
                    ("Difference after", lambda k: self._difference(k, 2)),
                    ("Checkerboard, fixed and registered", self._checkerboard),
                ],
                '<span class="key"><i class="orange"></i>registered brighter</span>'
                '<span class="key"><i class="blue"></i>fixed brighter</span> '
                "Each image on its own gray scale; "
                "between different contrasts the differences say little, the edges in the checkerboard more.",
            )
            + self._section("Deformation", self._deformation_columns(), self._deformation_caption())
        )

    def _section(self, title: str, columns: list[tuple[str, Callable[[int], str]]], caption: str) -> str:
        head = "".join(f'<p class="column">{name}</p>' for name, _ in columns)
        cells = "".join(draw(k) for k in range(len(self.views)) for _, draw in columns)
        return (
            f'<section class="pictures"><h2>{title}</h2><figure><div class="panels c{len(columns)}">'
            f"{head}{cells}</div><figcaption>{caption}</figcaption></figure></section>"
        )

    def _panel(self, k: int, name: str, content: str, index: tuple[int, ...] | None = None) -> str:
        """One picture, at `index` or where all are: SVG in pixel units of the slice, shown in millimeters."""
        view, (rows, columns) = self.views[k], self.gray[0][k].shape
        across, down = self.grid.spacing[view.across], self.grid.spacing[view.down]
        width, height = columns * across, rows * down
        size = 0.052 * width  # panels are equally wide on the page, and so are their letters
        left, right, top, bottom = view.letters
        letters = "".join(
            f'<text x="{x:.2f}" y="{y:.2f}" text-anchor="{anchor}">{letter}</text>'
            for letter, x, y, anchor in (
                (left, 0.3 * size, height / 2 + 0.35 * size, "start"),
                (right, width - 0.3 * size, height / 2 + 0.35 * size, "end"),
                (top, width / 2, size, "middle"),
                (bottom, width / 2, height - 0.35 * size, "middle"),
            )
            if letter
        )
        place = f'<text x="{0.35 * size:.2f}" y="{0.8 * size:.2f}" font-size="{0.72 * size:.2f}">'
        place += f"{self._place(view, index or self.index)}</text>"
        label = f"{name}, {view.name}" if view.name else name
        return (
            f'<svg class="panel" viewBox="0 0 {width:.3f} {height:.3f}" role="img" aria-label="{label}">'
            f'<g transform="scale({across:.6g} {down:.6g})">{content}</g>'
            f'<g class="letters" font-size="{size:.2f}">{letters}{place}</g></svg>'
        )

    def _place(self, view: View, index: tuple[int, ...]) -> str:
        if view.normal is None:
            return view.name
        axis = ("sagittal", "coronal", "axial").index(view.name)
        at = float(self.grid.index_to_physical(np.array(index))[axis])
        return f"{view.name} {'LPS'[axis] if at >= 0 else 'RAI'[axis]} {abs(at):.0f} mm"

    def _image(self, pixels: np.ndarray, name: str = "") -> str:
        rows, columns = pixels.shape[:2]
        identity = f' id="{name}"' if name else ""
        return (
            f'<image{identity} width="{columns}" height="{rows}" preserveAspectRatio="none" href="{data_uri(pixels)}"/>'
        )

    def _fixed(self, k: int) -> str:
        return self._panel(k, "fixed", self._image(to_bytes(self.gray[0][k]), f"fixed{k}"))

    def _before(self, k: int) -> str:
        return self._panel(k, "moving, affine only", self._image(to_bytes(self.gray[1][k])))

    def _warped(self, k: int) -> str:
        warped = self._image(to_bytes(self.gray[2][k]), f"warped{k}")
        content = f'{warped}<use class="flip" href="#fixed{k}"/>{self._end(k)}'
        return self._panel(k, "moving, registered", content)

    def _unseen(self, k: int) -> np.ndarray:
        """Pixels of a slice that map to places outside the moving image."""
        shape, view = self.gray[0][k].shape, self.views[k]
        if not self.result.metrics.get("border_hits"):
            return np.zeros(shape, dtype=bool)
        rows, columns = np.indices(shape) + 0.5
        points = self.grid.index_to_physical(view.place(columns, rows, self.index, self.grid.shape))
        mapped = map_points(points.reshape(-1, self.grid.ndim), self.result.fixed_to_moving, self.result.field_grid)
        return ~self.result.moving_grid.contains(mapped).reshape(shape)

    def _end(self, k: int) -> str:
        """Where the moving image's field of view ends."""
        unseen = self.unseen[k]
        return f'<path class="end" d="{outline_path(*outline(unseen))}"/>' if unseen.any() else ""

    def _ends(self) -> str:
        if not any(unseen.any() for unseen in self.unseen):
            return ""
        return (
            '<span class="key"><i class="end"></i>end of the moving image</span> Beyond it nothing was seen: the map '
            "is continued smoothly there, carries no information, and was left out of the judgement. "
        )

    def _difference(self, k: int, which: int) -> str:
        name = ("difference before", "difference after")[which - 1]
        return self._panel(k, name, self._image(difference_picture(self.gray[which][k], self.gray[0][k])))

    def _checkerboard(self, k: int) -> str:
        view, spacing = self.views[k], self.grid.spacing
        rows, columns = self.gray[0][k].shape
        edge = max(rows * spacing[view.down], columns * spacing[view.across]) / 9
        tile = edge / spacing[view.down], edge / spacing[view.across]
        return self._panel(k, "checkerboard", self._image(checkerboard(self.gray[0][k], self.gray[2][k], tile)))

    def _convention(self) -> str:
        if not any(v.name for v in self.views):
            return ""
        tilt = max(v.tilt for v in self.views)
        text = "The patient's right is on the left (radiological convention)."
        if tilt > 1:
            text += f" The slices follow the fixed image's own axes, up to {tilt:.0f}° off the patient's."
        return text

    def _deformation_columns(self) -> list[tuple[str, Callable[[int], str]]]:
        columns = [
            ("Deformation grid on the registered", self._deformation_grid),
            ("Jacobian determinant", self._jacobian),
        ]
        if self.result.uncertainty is not None:
            columns.append(("Uncertainty of the prediction", self._uncertainty))
        if self.labels is not None:
            columns.append(
                ("Label outlines on the fixed" if self.fixed_labels else "Propagated labels", self._outlines)
            )
        return columns

    def _deformation_grid(self, k: int) -> str:
        result = self.result
        path = deformation_grid(
            self.views[k], self.index, self.grid, result.affine, result.moving_to_fixed, result.inverse_grid
        )
        return self._panel(
            k, "deformation grid", f'<use class="dim" href="#warped{k}"/><path class="grid" d="{path}"/>'
        )

    def _jacobian(self, k: int) -> str:
        folded = self.folded[k]
        pixels = determinant_picture(self.gray[0][k], self.logs[k], self.limit, folded)
        border = f'<path class="fold" d="{outline_path(*outline(folded))}"/>' if folded.any() else ""
        return self._panel(k, "Jacobian determinant", self._image(pixels) + border + self._end(k))

    def _uncertainty(self, k: int) -> str:
        spread = self.views[k].cut(self.result.uncertainty.data, self.index)
        pixels = amount_picture(self.gray[0][k], spread / max(self.uncertain, 1e-6))
        return self._panel(k, "uncertainty", self._image(pixels))

    def _folded(self, k: int) -> np.ndarray:
        """Folded pixels of a slice; by the strict criterion too if the field's grid continues the fixed."""
        folded = ~np.isfinite(self.logs[k])
        if not self.folds:
            return folded
        view, grid, outer = self.views[k], self.grid, self.result.field_grid
        start = outer.physical_to_index(grid.origin)
        offset = np.rint(start).astype(int)
        near = np.abs(start - offset).max() < 1e-3 and np.allclose(
            outer.affine[:-1, :-1], grid.affine[:-1, :-1], atol=1e-4
        )
        if not near or (offset < 0).any() or (offset + grid.shape > outer.shape).any():
            return folded
        box = [slice(o, o + n) for o, n in zip(offset, grid.shape)]
        middle = list(self.index)
        if view.normal is not None:
            at = int(offset[view.normal]) + self.index[view.normal]
            low, high = max(at - 1, 0), min(at + 2, outer.shape[view.normal])
            box[view.normal] = slice(low, high)
            middle[view.normal] = at - low
        part = self.result.fixed_to_moving[tuple(box)]
        return folded | view.cut(folded_voxels(part, Grid(part.shape[:-1], grid.affine)), middle)

    def _outlines(self, k: int) -> str:
        view, index = self.views[k], self._labeled_index(self.views[k])
        content = f'<use class="dim" href="#fixed{k}"/>'
        if index != self.index:
            other = gray(view.cut(self.fixed.data, index), self.limits[0])
            content = self._image(to_bytes(0.6 * other))
        edges = {"propagated": outline(view.cut(self.labels.data, index))}
        if self.fixed_labels is not None:
            own = outline(self._label_slice(self.fixed_labels, view, index))
            pairs = list(zip(own, edges["propagated"]))
            edges = {
                "own": tuple(a & ~b for a, b in pairs),
                "propagated": tuple(b & ~a for a, b in pairs),
                "both": tuple(a & b for a, b in pairs),
            }
        for name, found in edges.items():
            content += f'<path class="outline {name}" d="{outline_path(*found)}"/>'
        return self._panel(k, "label outlines", content, index)

    def _labeled_index(self, view: View) -> tuple[int, ...]:
        """The voxel that all pictures pass through; moved to where most labels are if its slice has none."""
        if view.normal is None or view.cut(self.labels.data, self.index).any():
            return self.index
        counts = np.count_nonzero(self.labels.data, axis=tuple(a for a in range(3) if a != view.normal))
        fullest = int(counts.argmax()) if counts.any() else self.index[view.normal]
        return (*self.index[: view.normal], fullest, *self.index[view.normal + 1 :])

    def _label_slice(self, labels: Volume, view: View, index: Sequence[int]) -> np.ndarray:
        """Slice of labels on any grid, at the voxels of the fixed grid: nearest neighbor, 0 outside."""
        if labels.grid.same_as(self.grid):
            return view.cut(labels.data, index)
        shape = self.grid.shape
        rows, columns = np.indices((shape[view.down], shape[view.across])) + 0.5
        points = self.grid.index_to_physical(view.place(columns, rows, index, shape))
        at = np.rint(labels.grid.physical_to_index(points)).astype(int)
        inside = np.all((at >= 0) & (at < labels.grid.shape), axis=-1)
        found = labels.data[tuple(np.where(inside[..., None], at, 0)[..., a] for a in range(self.grid.ndim))]
        return np.where(inside, found, 0)

    def _deformation_caption(self) -> str:
        gradient = np.linspace(-1, 1, 181, dtype=np.float32)[None]
        strip = determinant_picture(np.full_like(gradient, 0.5), gradient, 1.0, np.zeros(gradient.shape, bool))
        ticks = factor_ticks(self.limit)
        marks = "".join(
            f'<path d="M{x:.1f} 13v4"/><text x="{x:.1f}" y="27">{t}</text>'
            for x, t in ((30 + 90 * (1 + at / self.limit), t) for at, t in ticks)
        )
        legend = (
            '<svg class="legend" viewBox="0 0 240 30" role="img" aria-label="color scale of the determinant">'
            f'<image x="30" width="180" height="12" preserveAspectRatio="none" '
            f'href="{data_uri(strip)}"/>{marks}</svg>'
        )
        size = float(np.linalg.det(self.result.affine[:-1, :-1]))
        lines = [
            f"{legend} Determinant of fixed to moving, on a logarithmic scale: "
            '<span class="key"><i class="blue"></i>smaller in the moving image</span>'
            '<span class="key"><i class="orange"></i>larger in the moving image</span> '
            f"It includes the affine part, which has {size:.3g} everywhere."
        ]
        if self.folds:
            seen = "outlined in black" if any(f.any() for f in self.folded) else "none in these slices"
            lines[0] += f' <span class="key"><i class="fold"></i>folded voxels ({seen})</span>'
        lines.append("The grid is a regular one on the moving image after the affine part, carried along with it.")
        if self.result.uncertainty is not None:
            lines.append(
                "Uncertainty: by how much the prediction scatters when it is made at random, from none to "
                f"{self.uncertain:.2g} mm (full orange)."
            )
        if self.labels is not None and self.fixed_labels is not None:
            lines.append(
                'Label outlines: <span class="key"><i class="line white"></i>both agree</span>'
                '<span class="key"><i class="line sky"></i>fixed image only</span>'
                '<span class="key"><i class="line orange"></i>propagated only</span>'
            )
        return "<br>".join(lines)
