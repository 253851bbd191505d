# SPDX-License-Identifier: Apache-2.0
"""A table of a result as people read it."""

from __future__ import annotations

from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from ..scene.tables import Cell, shownTable, tableText

_LAST = 1e300  # what was not measured is sorted behind all that was


class ResultTable:
    """A QTableView that fits its width, sorts by a click on a title, and copies what is selected, or all, as text."""

    def __init__(self, view: Any) -> None:
        self._view = view
        self._titles: list[str] = []
        self._rows: list[list[Cell]] = []
        self._model = qt.QStandardItemModel(view)
        self._model.setSortRole(qt.Qt.UserRole)
        view.setModel(self._model)
        view.verticalHeader().hide()
        view.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
        view.setSelectionBehavior(qt.QAbstractItemView.SelectRows)
        view.setHorizontalScrollBarPolicy(qt.Qt.ScrollBarAlwaysOff)
        view.setWordWrap(True)
        view.setContextMenuPolicy(qt.Qt.ActionsContextMenu)
        self._copy = qt.QAction(_("Copy"), view)
        self._copy.setShortcut(qt.QKeySequence(qt.QKeySequence.Copy))
        self._copy.setShortcutContext(qt.Qt.WidgetShortcut)
        self._copy.connect("triggered()", self.copy)
        view.addAction(self._copy)

    def setTable(self, table: slicer.vtkMRMLTableNode | None) -> None:
        """Shows a table of scene.tables; hides the view without one."""
        titles, rows = shownTable(table) if table is not None else ([], [])
        self._view.visible = bool(rows)
        if (titles, rows) == (self._titles, self._rows):
            return  # as it was sorted and selected
        self._titles, self._rows = titles, rows
        self._view.setSortingEnabled(False)
        self._model.clear()
        self._model.setHorizontalHeaderLabels([title.replace(" ", "\n", 1) for title in titles])
        for number, row in enumerate(rows):
            for column, cell in enumerate(row):
                item = qt.QStandardItem(cell.text)
                item.setData(_LAST if cell.key is None else cell.key, qt.Qt.UserRole)
                item.setData(number, qt.Qt.UserRole + 1)
                if column:
                    item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
                item.setToolTip(cell.text)
                self._model.setItem(number, column, item)
        header = self._view.horizontalHeader()
        header.setSectionResizeMode(qt.QHeaderView.Stretch)  # what is too long is told by its tooltip
        if len(titles) in (3, 4):  # quantities are sentences and names are long, figures are not
            for column in range(1, len(titles)):
                header.setSectionResizeMode(column, qt.QHeaderView.ResizeToContents)
        header.setSortIndicator(-1, qt.Qt.AscendingOrder)  # in the order of the table until a title is clicked
        self._view.setSortingEnabled(True)
        self._view.verticalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)

    def selected(self) -> str:
        """The first cell of the line that is selected; "" if none is."""
        for index in self._view.selectionModel().selectedRows():
            return self._rows[int(self._model.index(index.row(), 0).data(qt.Qt.UserRole + 1))][0].text
        return ""

    def text(self) -> str:
        """What is selected, or all, in the order that is shown, with the titles."""
        shown = range(self._model.rowCount())
        chosen = {index.row() for index in self._view.selectionModel().selectedRows()}
        numbers = [
            int(self._model.index(row, 0).data(qt.Qt.UserRole + 1)) for row in shown if not chosen or row in chosen
        ]
        return tableText(self._titles, [self._rows[number] for number in numbers])

    def copy(self) -> None:
        """Puts the text into the clipboard."""
        slicer.app.clipboard().setText(self.text())
