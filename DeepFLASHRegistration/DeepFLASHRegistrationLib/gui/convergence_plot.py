# SPDX-License-Identifier: Apache-2.0
"""The energy while it falls."""

from __future__ import annotations

from typing import Any

import qt
from slicer.i18n import tr as _

_MARGIN = 6
_ENERGY, _SIMILARITY, _LEVEL = "#1f77b4", "#ff7f0e", "#808080"


class ConvergencePlot:
    """Draws energy (and its similarity part) over the iterations of all levels into a label."""

    def __init__(self, label: qt.QLabel) -> None:
        self._label = label
        label.scaledContents = True  # until the next point, after the window was resized
        self._drawn = None

    def clear(self) -> None:
        """Empties the plot."""
        self._drawn = None
        self._label.clear()

    def draw(self, history: list[dict[str, Any]]) -> None:
        """Shows a run's history; does nothing if nothing was added since and the label has kept its size."""
        width, height = max(self._label.width, 120), max(self._label.height, 60)
        if (len(history), width, height) == self._drawn or len(history) < 2:
            return
        self._drawn = len(history), width, height
        pixmap = qt.QPixmap(width, height)
        pixmap.fill(self._label.palette.color(qt.QPalette.Base))
        painter = qt.QPainter(pixmap)
        painter.setRenderHint(qt.QPainter.Antialiasing)
        self._paint(painter, history, width, height)
        painter.end()
        self._label.setPixmap(pixmap)
        last = history[-1]
        self._label.toolTip = _(
            "Energy {energy}, mismatch of the images {similarity}, smallest Jacobian determinant {determinant}"
        ).format(
            energy=f"{last['energy']:.4g}",
            similarity=f"{last['similarity']:.4g}",
            determinant=f"{last['smallest_determinant']:.3g}",
        )

    def _paint(self, painter: qt.QPainter, history: list[dict[str, Any]], width: int, height: int) -> None:
        text = self._label.palette.color(qt.QPalette.Text)
        line = painter.fontMetrics().height()
        bottom, top = height - _MARGIN, _MARGIN + line

        def across(index: float) -> float:
            return _MARGIN + (width - 2 * _MARGIN) * index / (len(history) - 1)

        painter.setPen(qt.QPen(qt.QColor(_LEVEL), 1, qt.Qt.DotLine))
        for index in range(1, len(history)):
            if history[index]["level"] != history[index - 1]["level"]:
                x = across(index - 0.5)
                painter.drawLine(qt.QPointF(x, top), qt.QPointF(x, bottom))
        # Each on a scale of its own: how they fall is what is of interest, and they differ by orders of magnitude.
        for key, color in (("similarity", _SIMILARITY), ("energy", _ENERGY)):
            painter.setPen(qt.QPen(qt.QColor(color), 2))
            values = [entry[key] for entry in history]
            lowest, size = min(values), (max(values) - min(values)) or 1.0
            points = [
                qt.QPointF(across(index), bottom - (bottom - top) * (value - lowest) / size)
                for index, value in enumerate(values)
            ]
            for start, end in zip(points, points[1:], strict=False):
                painter.drawLine(start, end)
        x, last = _MARGIN, history[-1]
        for color, label in (
            (_ENERGY, _("energy {value}").format(value=f"{last['energy']:.4g}")),
            (_SIMILARITY, _("mismatch {value}").format(value=f"{last['similarity']:.4g}")),
            (text, _("smallest det. {value}").format(value=f"{last['smallest_determinant']:.2g}")),
        ):
            painter.setPen(qt.QColor(color))
            # What does not fit any more is cut with an ellipsis; all of it is in the tooltip.
            shown = painter.fontMetrics().elidedText(label, qt.Qt.ElideRight, max(width - x - _MARGIN, 0))
            painter.drawText(qt.QPointF(x, line), shown)
            x += painter.fontMetrics().boundingRect(label).width() + 3 * _MARGIN
