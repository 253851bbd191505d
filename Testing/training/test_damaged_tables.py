# SPDX-License-Identifier: Apache-2.0
"""Damaged tables of subjects and of label names give a value or a message; more of them with DEEPFLASH_FUZZ=5000."""

import os
from pathlib import Path

import pytest
from damage import damaged
from DeepFLASHRegistrationLib.support.errors import InputError
from DeepFLASHRegistrationLib.training.dataset import read_dataset

pytest.importorskip("torch")
COUNT = int(os.environ.get("DEEPFLASH_FUZZ", "150"))
TABLES = {
    "subjects.csv": 'image,subject,labels,mask\na.nii.gz,one,"a_labels.nii.gz",\nb.nii.gz,two,b_labels.nii.gz,m.nii\n',
    "names.csv": 'number,name,r,g,b\n1,"Left, insula",0,1,2\n2,Right insula,1,2,3\n-3,x,0,0,0\n',
}


def read(path: Path) -> object:
    from DeepFLASHRegistrationLib.imaging.label_names import read_names

    return read_names(path) if path.name == "names.csv" else read_dataset(path)


@pytest.mark.parametrize("name", TABLES)
def test_damaged_tables_give_a_value_or_a_message(tmp_path, name) -> None:
    refused = 0
    for seed in range(COUNT):
        (tmp_path / name).write_bytes(damaged(TABLES[name].encode(), seed))
        try:
            read(tmp_path / name)
        except InputError:
            refused += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error
    assert refused > COUNT // 20


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("names.csv", "1" * 5000 + ",x\n"),
        ("names.csv", '1,"' + "x" * 200000 + '"\n'),
        ("names.csv", "²,x\n"),
        ("subjects.csv", 'image,labels\n"' + "x" * 200000 + '",y\n'),
    ],
)
def test_tables_with_huge_cells_are_refused(tmp_path, name, text) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=name) as error:
        read(tmp_path / name)
    assert len(str(error.value)) < 500
