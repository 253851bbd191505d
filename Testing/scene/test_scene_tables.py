# SPDX-License-Identifier: Apache-2.0
"""The tables of a result as people read them."""

from types import SimpleNamespace

from DeepFLASHRegistrationLib.scene.tables import labelRows, metricRows, shownTable, tableText, writeTable

METRICS = {
    "similarity_before": 0.512345,
    "similarity_after": 0.987654,
    "landmarks": {"before_mm": [12.3456, 12.3456], "after_mm": [1.23456]},
    "folds": {"count": 1234, "percent": 0.0123456},
    "folds_strict": {"count": 0, "percent": 0.0},
    "largest_displacement_mm": 1234.567,
    "turn_degrees": 3.14159,
    "dice": {
        2: {"before": 0.61239, "after": 0.9, "volume_moving_mm3": 1234.5, "volume_warped_mm3": 1111.0},
        7: {"before": None, "after": None, "volume_moving_mm3": 10.0, "volume_warped_mm3": None},
    },
    "volume_change": {2: -10.04, 7: float("nan")},
}


def result():
    return SimpleNamespace(metrics=METRICS, verdict=SimpleNamespace(level="good", reasons=["smooth"]))


def shown(scene, rows):
    node = scene.AddNewNodeByClass("vtkMRMLTableNode")
    writeTable(node, rows)
    return shownTable(node)


def test_measurements_are_rounded_and_have_units_and_a_row_for_each_quantity(scene):
    titles, rows = shown(scene, metricRows(result()))
    assert titles == ["Quantity", "Before", "After"]
    cells = {row[0].text: (row[1].text, row[2].text) for row in rows}
    assert len(cells) == len(rows)  # no quantity twice
    assert cells["Similarity (cross-correlation)"] == ("0.512", "0.988")
    assert cells["Mean landmark distance"] == ("12.3 mm", "1.23 mm")
    assert cells["Folded voxels"] == ("", "1234")
    assert cells["Largest displacement"] == ("", "1235 mm")
    assert cells["Turn of the alignment against the headers"] == ("", "3.14 degrees")
    assert "Verdict" not in cells
    assert "Reason" not in cells  # they stand above the table


def test_labels_have_names_and_numbers_that_fit(scene):
    titles, rows = shown(scene, labelRows(result(), {2: "Hippocampus", 7: "amygdala"}))
    assert titles == ["Label", "Dice before", "Dice after", "Volume (ml)", "Change (%)"]
    assert [cell.text for cell in rows[0]] == ["Hippocampus", "0.612", "0.900", "1.11", "-10.0"]
    assert [cell.text for cell in rows[1]] == ["amygdala", "", "", "", ""]


def test_it_is_sorted_by_numbers_and_names_not_by_digits_and_capitals(scene):
    _, rows = shown(scene, labelRows(result(), {2: "Hippocampus", 7: "amygdala"}))
    assert [row[0].text for row in sorted(rows, key=lambda row: row[0].key)] == ["amygdala", "Hippocampus"]
    assert rows[0][3].key == 1.111
    assert rows[1][1].key is None  # what was not measured is no number
    _, rows = shown(scene, metricRows(result()))
    assert {row[0].text: row[2].key for row in rows}["Largest displacement"] > 1234


def test_as_text_it_has_its_titles_and_a_line_for_each_row(scene):
    text = tableText(*shown(scene, labelRows(result(), {2: "Hippocampus"})))
    lines = [line.split("\t") for line in text.splitlines()]
    assert lines[0][0] == "Label"
    assert lines[1][:3] == ["Hippocampus", "0.612", "0.900"]
    assert lines[2][0] == "7"  # a label without a name keeps its number
    assert len({len(line) for line in lines}) == 1


def test_a_table_that_holds_nothing_shows_nothing(scene):
    assert shownTable(scene.AddNewNodeByClass("vtkMRMLTableNode")) == ([], [])
    assert shown(scene, []) == ([], [])
