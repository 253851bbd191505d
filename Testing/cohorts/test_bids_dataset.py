# SPDX-License-Identifier: Apache-2.0
"""What is found in a data set in BIDS, what belongs to it, what is said, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import registration_pairs as pairs
from bids_trees import data_set, image, named
from DeepFLASHRegistrationLib.cohorts.bids_dataset import BidsDataset, Choice, parsed, read_bids
from DeepFLASHRegistrationLib.cohorts.bids_folder import check_apart, own_description
from DeepFLASHRegistrationLib.cohorts.bids_space import read_space
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.support.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return data_set(tmp_path / "ds")


def found(folder: Path, **choice: object) -> BidsDataset:
    return read_bids(folder, Choice(**choice))


def names(dataset: BidsDataset) -> list[str]:
    return [each.name for each in dataset.images]


def test_every_run_and_session_is_an_image_of_its_own(folder: Path) -> None:
    named(folder, "sub-01_T1w", "sub-01_T2w", "sub-02_ses-b_T1w", "sub-02_ses-a_run-1_T1w", "sub-02_ses-a_run-2_T1w")
    named(folder, "sub-03_T2w")
    (folder / "sub-01" / "anat" / "sub-01_desc-old_T1w.nii.gz").write_bytes(b"a derivative is no raw image")
    (folder / "sub-01" / "anat" / "._sub-01_T1w.nii.gz").write_bytes(b"Mac OS X")
    dataset = found(folder)
    assert names(dataset) == ["sub-01_T1w", "sub-02_ses-a_run-1_T1w", "sub-02_ses-a_run-2_T1w", "sub-02_ses-b_T1w"]
    assert [each.folder for each in dataset.images][1] == "sub-02/ses-a/anat"
    assert dataset.title == "Made"
    assert "Left out, since there is no *_T1w.nii.gz: sub-03." in dataset.notes
    assert names(found(folder, participants=("sub-02",), sessions=("b",))) == ["sub-02_ses-b_T1w"]
    assert names(found(folder, participants=("01", "sub-01"))) == ["sub-01_T1w"]
    assert names(found(folder, suffix="T2w")) == ["sub-01_T2w", "sub-03_T2w"]


def test_a_mask_is_that_of_the_image_or_none(folder: Path) -> None:
    named(folder, "sub-01_acq-a_T1w", "sub-02_ses-1_run-1_T1w", "sub-02_ses-1_run-2_T1w", "sub-03_ses-1_T1w")
    prep = folder / "derivatives" / "fmriprep"
    # One whose name says less than the image's is of it; in another space, or of something else, it is not.
    (mask,) = named(prep, "sub-01_desc-brain_mask")
    named(prep, "sub-01_space-MNI_desc-brain_mask", "sub-01_desc-csf_mask", "sub-01_desc-brain_T1w")
    # Of the average of both runs it is of neither.
    (together,) = named(prep, "sub-02_ses-1_desc-brain_mask")
    (own,) = named(prep, "sub-02_ses-1_run-2_desc-brain_mask")
    (without_session,) = named(prep, "sub-03_desc-brain_mask")
    dataset = found(folder)
    assert [each.mask for each in dataset.images] == [mask, None, own, without_session]
    assert f"{together}: is not used, since it is of 2 images together." in dataset.notes
    said = "No brain mask (desc-brain_mask) in derivatives of 1 of 4 images"
    assert any(note.startswith(said) and note.endswith("sub-02_ses-1_run-1_T1w.") for note in dataset.notes)
    assert [each.mask for each in found(folder, masks=False).images] == [None] * 4
    # The same in derivatives that are elsewhere, which take the place of those here.
    assert [each.mask for each in found(folder, derivatives=(folder,)).images] == [None] * 4
    # Results of an earlier run hold no masks of others.
    out = folder / "derivatives" / "deepflash"
    named(out, "sub-01_desc-brain_mask")
    assert read_bids(folder, Choice(), out).images[0].mask == mask
    with pytest.raises(InputError, match=r"could both belong to it. Name the derivatives to use: --derivatives FOLDER"):
        found(folder)


def test_labels_are_those_of_the_name_that_was_given(folder: Path) -> None:
    named(folder, "sub-01_T1w", "sub-02_T1w")
    prep = folder / "derivatives" / "prep"
    tissues, aseg = named(prep, "sub-01_dseg", "sub-01_desc-aseg_dseg")
    assert [each.labels for each in found(folder, labels="dseg").images] == [tissues, None]
    dataset = found(folder, labels="desc-aseg_dseg")
    assert [each.labels for each in dataset.images] == [aseg, None]
    assert "No *_desc-aseg_dseg.nii.gz of 1 of 2 images: sub-02_T1w." in dataset.notes
    with pytest.raises(InputError, match="is no end of a name by BIDS"):
        found(folder, labels="aseg.mgz")


def test_a_mask_on_other_voxels_than_a_t2w_is_of_the_t1w(folder: Path) -> None:
    named(folder, "sub-01_T1w", "sub-01_T2w")
    (mask,) = named(folder / "derivatives" / "prep", "sub-01_desc-brain_mask")
    assert found(folder, suffix="T2w").images[0].mask == mask
    grid = pairs.box((5, 6, 4), 29.0)
    image(mask, Volume(grid, np.ones(grid.shape, np.uint8)))
    with pytest.raises(InputError, match=r"lies on other voxels than sub-01_T2w.*--no-masks"):
        found(folder, suffix="T2w")
    assert found(folder, suffix="T2w", masks=False).images[0].mask is None
    assert found(folder).images[0].mask == mask


@pytest.mark.parametrize(
    ("files", "choice", "message"),
    [
        (["sub-01_T1w"], {"participants": ("1",)}, r"--participant-label 1: .* has no sub-1. Near it is: sub-01."),
        (["sub-01_T1w"], {"participants": ("x9",)}, r"has no sub-x9. There is: sub-01."),
        (["sub-01_ses-a_T1w"], {"sessions": ("b",)}, r"--session-label b: .* has no ses-b. "),
        (["sub-01_T1w"], {"sessions": ("b",)}, r"has no sessions \(ses-\*\)"),
        (["sub-01_T2w", "sub-01_bold"], {}, r"no \*_T1w.nii.gz of sub-01. .*\(--suffix\). There is: T2w, bold."),
        (["sub-01_T1w", "sub-02_T2w"], {"participants": ("02",)}, r"no \*_T1w.nii.gz of sub-02"),
        (["sub-01_desc-preproc_T1w"], {}, "is a derivative: give the data set that it was made of as BIDS_DIR"),
        (["sub-01_T1w"], {"derivatives": (Path("nowhere"),)}, "--derivatives nowhere: there is no such folder"),
        ([], {}, r"has no participants \(sub-\*\)"),
    ],
)
def test_what_is_not_there(folder: Path, files: list[str], choice: dict, message: str) -> None:
    named(folder, *files)
    with pytest.raises(InputError, match=message):
        found(folder, **choice)


def test_names_and_files_that_are_not_as_bids_wants_them(folder: Path, tmp_path: Path) -> None:
    for name, message in (
        ("sub-01/anat/sub-01_old_T1w.nii.gz", "is no name by BIDS"),
        ("sub-01/anat/sub-02_T1w.nii.gz", "says another participant or session than its folder"),
        ("sub-01/ses-a/anat/sub-01_T1w.nii.gz", "says another participant or session than its folder"),
        ("sub-01/anat/run-1_sub-01_T1w.nii.gz", "is no name by BIDS"),
    ):
        path = image(folder / name)
        with pytest.raises(InputError, match=message):
            found(folder)
        path.unlink()
    one, _ = named(folder, "sub-01_T1w"), image(folder / "sub-01" / "anat" / "sub-01_T1w.nii")
    with pytest.raises(InputError, match=r"lies beside sub-01_T1w\.nii"):
        found(folder)
    one[0].unlink()
    if os.name == "posix":  # others make links for administrators alone
        one[0].symlink_to("../.git/annex/objects/x")
        (folder / "sub-01" / "anat" / "sub-01_T1w.nii").unlink()
        with pytest.raises(InputError, match=r"is a link to what is not here\. Fetch it"):
            found(folder)
    for content, message in (("[1]", "it is no object"), ("{", "Mend the JSON"), (None, "has no dataset_description")):
        (folder / "dataset_description.json").unlink()
        if content is not None:
            (folder / "dataset_description.json").write_text(content)
        with pytest.raises(InputError, match=message):
            found(folder)
    with pytest.raises(InputError, match="there is no such folder"):
        found(tmp_path / "nowhere")


def test_a_name_is_taken_apart() -> None:
    assert parsed("sub-01_ses-1_acq-mp2rage_run-02_T1w.nii.gz") == (
        {"sub": "01", "ses": "1", "acq": "mp2rage", "run": "02"},
        "T1w",
    )
    for name in (
        "sub-01_T1w.nii.gz.part",
        "sub-01_run-1_run-2_T1w.nii.gz",
        "sub-01.nii.gz",
        "T1w.nii.gz",
        "sub-_T1w.nii",
    ):
        assert parsed(name) is None, name


# --------------------------------------------------------------------------------------------------- where results lie


@pytest.mark.parametrize("place", ["", "sub-01", "derivatives", "sourcedata/out", ".."])
def test_results_lie_in_no_other_place_of_the_data_set(folder: Path, place: str) -> None:
    with pytest.raises(InputError, match=r"Give OUT as"):
        check_apart(folder, folder / place)


def test_results_lie_in_derivatives_or_elsewhere(folder: Path, tmp_path: Path) -> None:
    check_apart(folder, folder / "derivatives" / "mine")
    check_apart(folder, tmp_path / "ds2")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        check_apart(folder, tmp_path / "file")


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert own_description(out) is None
    out.mkdir()
    (out / "work").mkdir()
    assert own_description(out, out / "work" / "here") is None
    with pytest.raises(InputError, match="holds something else"):
        own_description(out)
    for text, message in (
        ('{"GeneratedBy": [{"Name": "fMRIPrep"}]}', "is of fMRIPrep. Choose a folder of its own"),
        ('{"Name": "raw"}', "does not say by what it was made"),
    ):
        (out / "dataset_description.json").write_text(text)
        with pytest.raises(InputError, match=message):
            own_description(out)


# -------------------------------------------------------------------------------------------------------- the template


def test_the_space_is_called_after_the_template(tmp_path: Path) -> None:
    space = read_space(image(tmp_path / "my_mean-T1.nii.gz"))
    assert (space.name, space.stem, space.to, space.mask) == ("mymeanT1", "space-mymeanT1", "mymeanT1", None)
    path = image(tmp_path / "tpl-MNIPediatricAsym_cohort-2_res-1_T1w.nii.gz")
    mask = image(tmp_path / "tpl-MNIPediatricAsym_cohort-2_res-1_desc-brain_mask.nii.gz")
    space = read_space(path)
    assert (space.to, space.mask) == ("MNIPediatricAsym+2", mask)
    assert space.stem == "space-MNIPediatricAsym_cohort-2_res-1"
    assert read_space(path, "Mine").to == "Mine+2"
    made = tmp_path / "T 1"
    with pytest.raises(InputError, match=r"there is no such file"):
        read_space(made)
    made.mkdir()
    with pytest.raises(InputError, match=r"has no template.nii.gz"):
        read_space(made)
    image(made / "template.nii.gz")
    labels = image(made / "labels.nii.gz")
    space = read_space(made)
    assert (space.name, space.labels) == ("T1", labels)
    with pytest.raises(InputError, match="is no label in BIDS"):
        read_space(made, "my space")
    flat = pairs.box((5, 6), 2.0)
    with pytest.raises(InputError, match="is no 3-D image"):
        read_space(image(tmp_path / "flat.nii.gz", Volume(flat, np.ones(flat.shape, np.float32))))
