# SPDX-License-Identifier: Apache-2.0
"""Tables of pairs: as spreadsheets and people write them, and what is wrong in them, by line and column."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from damage import damaged
from DeepFLASHRegistrationLib.cohorts.pairs import read_pairs
from DeepFLASHRegistrationLib.problem.reading import PairFiles
from DeepFLASHRegistrationLib.support.errors import InputError

COUNT = int(os.environ.get("DEEPFLASH_FUZZ", "150"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of files that exist; nobody reads them here."""
    for name in ("a.nii.gz", "b.nii.gz", "größe, 影像.nii", "a_seg.nii.gz", "b_seg.nii.gz", "a.csv", "series.nii.gz"):
        (tmp_path / name).write_text("x")
    (tmp_path / "dicom").mkdir()
    return tmp_path


def write(folder: Path, text: str | bytes) -> Path:
    table = folder / "pairs.csv"
    table.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return table


def refused(folder: Path, text: str | bytes) -> str:
    """The message with which a table is refused, without its path."""
    table = write(folder, text)
    with pytest.raises(InputError) as error:
        read_pairs(table, folder / "out")
    assert str(error.value).startswith(str(table))
    assert str(error.value).endswith(".")
    return str(error.value).removeprefix(str(table))


WRITTEN = "fixed,moving,moving_labels,output\na.nii.gz,b.nii.gz,b_seg.nii.gz,one\na.nii.gz,größe%s 影像.nii,,two\n"


@pytest.mark.parametrize(
    "text",
    [
        (WRITTEN % ",").replace("größe, 影像.nii", '"größe, 影像.nii"').encode(),
        (WRITTEN.replace(",", ";") % ",").encode("utf-8-sig"),
        (WRITTEN.replace(",", "\t") % ",").replace("\n", "\r\n").encode("utf-8-sig"),
        (WRITTEN.replace(",", "\t") % ",").replace("\n", "\r").encode(),
        (WRITTEN.replace(",", " ; ") % ",").replace("\n", "\n\n;;;\n").rstrip().encode(),
        (WRITTEN.replace(",", ";") % ",")
        .replace("fixed;moving;moving_labels", 'Fixed;"MOVING";Moving labels')
        .encode(),
    ],
    ids=["quotes", "semicolons and BOM", "tabs, BOM, Windows", "tabs, old Mac", "blanks, empty lines", "titles"],
)
def test_tables_as_programs_write_them(folder: Path, text: bytes) -> None:
    found = read_pairs(write(folder, text), folder / "out")
    one, two = found.rows
    a, b = str(folder / "a.nii.gz"), str(folder / "b.nii.gz")
    assert (one.name, one.files) == ("one", PairFiles(a, b, moving_labels=str(folder / "b_seg.nii.gz")))
    assert (two.name, two.files) == ("two", PairFiles(a, str(folder / "größe, 影像.nii")))
    assert [note.partition(":")[0] for note in found.notes] == [f"Labels of the moving image alone (line {one.line})"]


def test_paths_are_relative_to_the_table(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "tables").mkdir()
    table = folder / "tables" / "pairs.tsv"
    table.write_text(f"fixed\tmoving\n../a.nii.gz\t{folder / 'b.nii.gz'}\n../series.nii.gz[3]\t../dicom\n")
    monkeypatch.chdir(folder)
    one, two = read_pairs("tables/pairs.tsv", "out").rows
    assert one.files == PairFiles(str(folder / "a.nii.gz"), str(folder / "b.nii.gz"))
    assert two.files == PairFiles(f"{folder / 'series.nii.gz'}[3]", str(folder / "dicom"))
    assert two.paths() == {"fixed": folder / "series.nii.gz", "moving": folder / "dicom"}
    # Without names, those of the images.
    assert [one.name, two.name] == ["b_to_a", "dicom_to_series"]


def test_other_columns_are_named(folder: Path) -> None:
    found = read_pairs(write(folder, ",age,fixed,moving,site\n0,33,a.nii.gz,b.nii.gz,Graz\n"), folder / "out")
    assert [note.partition(": ")[2] for note in found.notes] == ["not used: the columns age, site."]


HEAD = "fixed,moving,output\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": has no column 'fixed', but: nothing. Its first line must have the titles fixed and moving"),
        ("fixed,image\na.nii.gz,b.nii.gz\n", ": has no column 'moving', but: fixed, image."),
        ("fixed,movin\na.nii.gz,b.nii.gz\n", ": has a column 'movin'. Rename it to 'moving'"),
        ("fixed,moving,fixed_lables\na.nii.gz,b.nii.gz,\n", ": has a column 'fixed_lables'. Rename it to"),
        ("fixed,moving,fixed\na.nii.gz,b.nii.gz,a.nii.gz\n", ": has the column 'fixed' twice."),
        (HEAD, ": names no pairs. Give one on each line below the titles."),
        (f"{HEAD}\n,,\n  ,,\n", ": names no pairs."),
        (f"{HEAD}a.nii.gz,b.nii.gz,x\n\na.nii.gz,,y\n", ", line 4, column moving: is empty. Name an image."),
        (f"{HEAD}a.nii.gz,c.nii.gz,x\n", ", line 2, column moving: there is no file or folder "),
        (f"{HEAD}größe, 影像.nii,b.nii.gz,x\n", ", line 2: has more cells than there are columns, the first"),
        (f"{HEAD}a.nii.gz,{'b' * 5000},x\n", ", line 2, column moving: "),
        (f"{HEAD}a.nii.gz,b.nii.gz,One\na.nii.gz,b.nii.gz,one\n", ", line 3, column output: 'one' is that of line 2"),
        (f"{HEAD}a.nii.gz,b.nii.gz,\na.nii.gz,b.nii.gz,\n", ", line 3, column output: 'b_to_a' is that of line 2 too."),
        (f"{HEAD}a.nii.gz,b.nii.gz,x/y\nb.nii.gz,a.nii.gz,x\n", ", line 2, column output: 'x/y' lies within the"),
        (f"{HEAD}a.nii.gz,b.nii.gz,../x\n", ", line 2, column output: '../x' leads out of the folder of results."),
        (f"{HEAD}a.nii.gz,b.nii.gz,/tmp/x\n", ", line 2, column output: '/tmp/x' leads out of the folder of results."),
        (f"{HEAD}a.nii.gz,b.nii.gz,C:\\x\n", ", line 2, column output: 'C:/x' leads out of the folder of results."),
        (f"{HEAD}a.nii.gz,b.nii.gz,a?b\n", ", line 2, column output: 'a?b' is no name for a folder everywhere."),
        (f"{HEAD}a.nii.gz,b.nii.gz,.jobs\n", ", line 2, column output: '.jobs' is no name for a folder everywhere."),
        (f"{HEAD}a.nii.gz,b.nii.gz,Summary.tsv\n", ", line 2, column output: 'Summary.tsv' is the name of the"),
        (f"{HEAD}a.nii.gz[mean,b.nii.gz,x\n", ", line 2, column fixed: there is no file or folder"),
        ("fixed,moving\n\xe4.nii.gz,b.nii.gz\n".encode("latin-1"), ": cannot be read as a table"),
        ("fixed,moving\na.nii.gz,b.nii.gz\n".encode("utf-16"), ": cannot be read as a table"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_by_line_and_column(folder: Path, text: str | bytes, message: str) -> None:
    assert refused(folder, text).startswith(message)


def test_a_table_that_is_not_there(folder: Path) -> None:
    for path in (folder / "none.csv", folder / "dicom"):
        with pytest.raises(InputError, match=rf"{path.name}: cannot be read \(.*\)\. Check the path\."):
            read_pairs(path, folder / "out")


@pytest.mark.parametrize("output", ["a.nii.gz", "dicom", "deep"])
def test_an_output_that_is_or_holds_an_input(folder: Path, output: str) -> None:
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "c.nii.gz").write_text("x")
    text = f"fixed,moving,fixed_mask,output\na.nii.gz,dicom,deep/er/c.nii.gz,x\nb.nii.gz,a.nii.gz,,{output}\n"
    with pytest.raises(InputError, match=rf"line 3, column output: '{output}' is or holds what line 2 names as"):
        read_pairs(write(folder, text), folder)
    # In another folder the same names are free, and results of other pairs may be inputs.
    assert len(read_pairs(write(folder, text), folder / "out").rows) == 2


def test_damaged_tables_give_a_value_or_a_message(folder: Path) -> None:
    text = 'fixed,moving,moving_labels,output\na.nii.gz,"b.nii.gz",b_seg.nii.gz,one\nb.nii.gz,a.nii.gz,,deep/two\n'
    refusals = 0
    for seed in range(COUNT):
        try:
            read_pairs(write(folder, damaged(text.encode(), seed)), folder / "out")
        except InputError:
            refusals += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error
    assert refusals > COUNT // 20
