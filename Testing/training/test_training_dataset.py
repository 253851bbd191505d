# SPDX-License-Identifier: Apache-2.0
"""Data sets: found in every layout, what is wrong with them named, split by person, paired."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from DeepFLASHRegistrationLib.imaging.io import write_volume
from DeepFLASHRegistrationLib.support.errors import InputError
from DeepFLASHRegistrationLib.training.dataset import Dataset, SubjectFiles, draw_pairs, read_dataset, split
from training_images import subject, write_subjects


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_subjects(tmp_path / "data", 4)


def write(path: Path, number: int, labels: bool = False, **more: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(path, subject(number, **more)[labels])
    return path


def table(folder: Path, text: str) -> Path:
    path = folder / "data.csv"
    path.write_text(text, encoding="utf-8")
    return path


def cut(path: Path) -> None:
    """A file of which only the beginning was copied."""
    path.write_bytes(path.read_bytes()[:-400])


def named(count: int, scans: int = 1) -> Dataset:
    subjects = [SubjectFiles(f"p{k}s{i}", f"p{k}", Path(f"p{k}s{i}.nii")) for k in range(count) for i in range(scans)]
    return Dataset(Path("data"), tuple(subjects))


# ---------------------------------------------------------------------------------------------------------- layouts


def test_a_folder_of_images_with_labels_and_masks(data: Path) -> None:
    write(data / "masks" / "s1.nrrd", 1, labels=True)
    found = read_dataset(data)
    assert [s.name for s in found.subjects] == found.persons == ["s0", "s1", "s2", "s3"]
    assert [s.labels.name for s in found.subjects] == [f"s{k}.nii.gz" for k in range(4)]
    assert [s.mask and s.mask.name for s in found.subjects] == [None, "s1.nrrd", None, None]
    scan = found.subjects[1].read()
    assert (scan.image.data.dtype, scan.label_map.data.max(), scan.mask.data.max()) == (np.float32, 3, 1)


def test_a_flat_folder(tmp_path: Path) -> None:
    write(tmp_path / "b.nii.gz", 1)
    write(tmp_path / "b_mask.mha", 1, labels=True)
    write(tmp_path / "a.b.nrrd", 2)
    write(tmp_path / "a.b_labels.nii", 2, labels=True)
    (tmp_path / "README.txt").write_text("no image")
    (tmp_path / ".hidden.nii.gz").write_bytes(b"")
    found = read_dataset(tmp_path).subjects
    assert [(s.name, s.labels and s.labels.name, s.mask and s.mask.name) for s in found] == [
        ("a.b", "a.b_labels.nii", None),
        ("b", None, "b_mask.mha"),
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table(tmp_path: Path, delimiter: str) -> None:
    for person, visit in (("x", 1), ("x", 2), ("y", 1)):
        write(tmp_path / person / f"visit{visit}.nii.gz", visit)
    write(tmp_path / "x" / "labels.nii.gz", 1, labels=True)
    lines = [
        "\ufeffAge,Image,Subject,Labels",
        "7,x/visit1.nii.gz,x,x/labels.nii.gz",
        "8,x/visit2.nii.gz,x,",
        ",,,",
    ]
    lines.append(f"9,{tmp_path / 'y' / 'visit1.nii.gz'},y,")
    found = read_dataset(table(tmp_path, "\n".join(lines).replace(",", delimiter)))
    assert found.persons == ["x", "y"]
    assert len({s.name for s in found.subjects}) == 3
    assert not any("/" in s.name for s in found.subjects)
    assert found.subjects[0].labels == tmp_path / "x" / "labels.nii.gz"
    assert found.subjects[1].labels is None
    assert {frozenset((a.subject, b.subject)) for a, b in draw_pairs(found, 99)} == {frozenset("xy")}


def test_a_table_without_subjects_takes_every_image_for_one(data: Path) -> None:
    found = read_dataset(table(data, "image\nimages/s2.nii.gz\nimages/s0.nii.gz\n"))
    assert [(s.name, s.subject) for s in found.subjects] == [("s2", "s2"), ("s0", "s0")]


# -------------------------------------------------------------------------------------------------------- bad input


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such folder or table"):
        read_dataset(tmp_path / "missing")
    with pytest.raises(InputError, match=r"holds no images\. Give a folder with images/"):
        read_dataset(tmp_path)


def test_one_subject(tmp_path: Path) -> None:
    write_subjects(tmp_path / "one", 1)
    with pytest.raises(InputError, match=r"has 1 subject\. Pairs of different subjects are needed"):
        read_dataset(tmp_path / "one")
    text = "image,subject\none/images/s0.nii.gz,x\none/images/s1.nii.gz,x\n"
    write(tmp_path / "one" / "images" / "s1.nii.gz", 1)
    with pytest.raises(InputError, match="has 1 subject"):
        read_dataset(table(tmp_path, text))


def test_files_that_are_missing_are_all_named(data: Path) -> None:
    text = "image,labels\nimages/s0.nii.gz,labels/s0.nii.gz\nimages/s1.nii.gz,labels/s9.nii.gz\nimages/s8.nii.gz,\n"
    path = table(data, text + "images/s2.nii.gz,\n")
    with pytest.raises(InputError) as error:
        read_dataset(path)
    assert "2 of 4 images cannot be used" in str(error.value)
    for name in ("labels/s9.nii.gz: there is no such file", "images/s8.nii.gz: there is no such file", "--skip-broken"):
        assert name in str(error.value)
    found = read_dataset(path, skip_broken=True)
    assert [s.name for s in found.subjects] == ["s0", "s2"]
    assert len(found.skipped) == 2


def test_labels_whose_image_is_missing(data: Path) -> None:
    (data / "images" / "s3.nii.gz").unlink()
    with pytest.raises(InputError, match=r"labels/s3.nii.gz: belongs to an image that is missing"):
        read_dataset(data)
    assert len(read_dataset(data, skip_broken=True)) == 3


@pytest.mark.parametrize("folder", ["images", "labels"])
def test_damaged_volumes_are_named_and_left_out_on_request(data: Path, folder: str) -> None:
    cut(data / folder / "s1.nii.gz")
    (data / folder / "s2.nii.gz").write_bytes(b"")
    with pytest.raises(InputError) as error:
        read_dataset(data)
    assert "2 of 4 images cannot be used" in str(error.value)
    assert f"{data / folder / 's1.nii.gz'}: cannot be read" in str(error.value)
    assert f"{data / folder / 's2.nii.gz'}: the file is empty" in str(error.value)
    found = read_dataset(data, skip_broken=True)
    assert [s.name for s in found.subjects] == ["s0", "s3"]
    assert len(found.skipped) == 2
    # Headers alone do not tell that a file was cut off; reading the scan does.
    found = read_dataset(data, skip_broken=True, voxels=False)
    assert [s.name for s in found.subjects] == ["s0", "s1", "s3"]
    with pytest.raises(InputError, match=r"s1.nii.gz: cannot be read"):
        found.subjects[1].read()


def test_too_many_damaged_volumes(data: Path) -> None:
    for number in range(3):
        cut(data / "images" / f"s{number}.nii.gz")
    with pytest.raises(InputError, match=r"has 1 subject \(3 were left out, the first: .*s0.nii.gz: cannot be read"):
        read_dataset(data, skip_broken=True)


def test_no_labels_where_labels_are_needed(data: Path) -> None:
    (data / "labels" / "s2.nii.gz").unlink()
    assert len(read_dataset(data)) == 4
    with pytest.raises(InputError, match=r"images/s2.nii.gz: has no labels, which are needed here"):
        read_dataset(data, need_labels=True)
    assert len(read_dataset(data, need_labels=True, skip_broken=True)) == 3


def test_voxels_of_quite_another_size(data: Path) -> None:
    write(data / "images" / "s1.nii.gz", 1, spacing=0.004)
    write(data / "labels" / "s1.nii.gz", 1, labels=True, spacing=0.004)
    with pytest.raises(InputError, match=r"s1.nii.gz: has voxels of 0.004 x 0.004 x 0.004 mm, most .* about 4 x 4 x 4"):
        read_dataset(data)
    assert len(read_dataset(data, skip_broken=True)) == 3


def test_somewhat_different_voxels_are_fine(data: Path) -> None:
    write(data / "images" / "s1.nii.gz", 1, spacing=3.0)
    assert len(read_dataset(data)) == 4


def test_another_dimension(data: Path) -> None:
    write(data / "images" / "s1.nii.gz", 1, shape=(20, 22))
    with pytest.raises(InputError) as error:
        read_dataset(data)
    assert "1 of 4" in str(error.value)
    (data / "labels" / "s1.nii.gz").unlink()
    with pytest.raises(InputError, match=r"s1.nii.gz: has 2 dimensions, most images have 3"):
        read_dataset(data)


def test_labels_that_lie_elsewhere(data: Path) -> None:
    labels = subject(1)[1]
    affine = labels.grid.affine.copy()
    affine[:3, 3] += 1000
    write_volume(data / "labels" / "s1.nii.gz", type(labels)(type(labels.grid)(labels.grid.shape, affine), labels.data))
    for voxels in (True, False):
        with pytest.raises(InputError, match=r"labels/s1.nii.gz: lies outside"):
            read_dataset(data, voxels=voxels)


def test_names_that_occur_twice(data: Path) -> None:
    write(data / "images" / "s1.nrrd", 1)
    with pytest.raises(InputError, match=r"s1.nii.gz, s1.nrrd have the same name"):
        read_dataset(data)
    with pytest.raises(InputError, match=r"has the image .*s2.nii.gz twice"):
        read_dataset(table(data, "image\nimages/s2.nii.gz\nimages/s0.nii.gz\nimages/s2.nii.gz"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column 'image', but: nothing"),
        ("file,labels\na,b\n", "has no column 'image', but: file, labels"),
        ("image,label\na,b\n", "has a column 'label'. Rename it to 'labels'"),
        ("image,subject\n,x\n", "line 2 names no image"),
        ("image\n", "holds no images"),
        ("image\n\0.nii\n", "cannot be read|no such file|line contains NUL"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_dataset(table(tmp_path, text))


def test_a_table_that_is_none(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii.gz", 1)
    with pytest.raises(InputError, match="cannot be read as a table"):
        read_dataset(path)


# -------------------------------------------------------------------------------------------------------- splits


def test_no_person_is_on_both_sides() -> None:
    for who in ("0.2", "0.5", "p3,p7,p11", "p3s1,p4s0"):
        training, validation = split(named(20, scans=3), who)
        assert not set(training.persons) & set(validation.persons)
        assert len(training) + len(validation) == 60
        assert len(validation.persons) >= 2


def test_a_fraction_chooses_the_same_persons_always_and_not_the_first() -> None:
    dataset = named(50)
    held_out = split(dataset, "0.2")[1].persons
    assert len(held_out) == 10
    turned = Dataset(dataset.path, dataset.subjects[::-1])
    assert set(split(turned, "0.2")[1].persons) == set(held_out)
    assert set(held_out) != {f"p{k}" for k in range(10)}
    assert set(split(dataset, "0.1")[1].persons) <= set(held_out)


def test_a_file_of_names(tmp_path: Path) -> None:
    path = tmp_path / "held_out.txt"
    path.write_text("p1\n# a comment\n\np5  # the fifth\n", encoding="utf-8")
    assert split(named(8), str(path))[1].persons == ["p1", "p5"]


def test_none_for_validation() -> None:
    training, validation = split(named(3), "0")
    assert (len(training), len(validation)) == (3, 0)


@pytest.mark.parametrize(
    ("count", "who", "message"),
    [
        (8, "p1,p77", "has no subject 'p77' .did you mean 'p7'... It has 8: p0, p1"),
        (8, "1.5", "has no subject '1.5'"),
        (3, "0.1", "2 of 3 subjects for validation leave 1"),
        (8, "p1", "1 of 8 subjects for validation leave 7"),
    ],
)
def test_splits_that_cannot_be(count: int, who: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        split(named(count), who)


# --------------------------------------------------------------------------------------------------------- pairs


@pytest.mark.parametrize("count", [6, 400])  # listed, and drawn blindly
def test_pairs_are_different_and_of_different_persons(count: int) -> None:
    dataset = named(count, scans=2)
    pairs = draw_pairs(dataset, 60, seed=3)
    assert len(set(pairs)) == 60
    assert all(a.subject != b.subject for a, b in pairs)
    assert pairs[:20] == draw_pairs(dataset, 20, seed=3)
    assert pairs != draw_pairs(dataset, 60, seed=4)


def test_all_pairs_if_more_are_wanted() -> None:
    pairs = draw_pairs(named(4), 1000)
    assert set(pairs) == set(itertools.permutations(named(4).subjects, 2))
