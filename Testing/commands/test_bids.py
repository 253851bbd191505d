# SPDX-License-Identifier: Apache-2.0
"""deepflash bids: what it writes, in which direction, how it goes on, and what it refuses."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import registration_pairs as pairs
import SimpleITK as sitk
from bids_trees import data_set, image
from command_line import run
from DeepFLASHRegistrationLib.cohorts import bids as bids_run
from DeepFLASHRegistrationLib.cohorts.bids import BidsRun
from DeepFLASHRegistrationLib.cohorts.bids_dataset import Choice, read_bids
from DeepFLASHRegistrationLib.cohorts.bids_space import read_space
from DeepFLASHRegistrationLib.cohorts.many import Settings
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.io import read_volume
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.jobs.ledger import Failed
from DeepFLASHRegistrationLib.problem.parameters import Parameters

pytest.importorskip("torch")

GRID = pairs.box((18, 20, 17), 5.2)
SHIFT = np.array([30.0, -20.0, 45.0])  # mm, LPS
# Centers on each other, which finds a shift, and three iterations.
TINY = ["--resolutions", 1, "--bands", 9, "--iterations", 3, "--init", "centers", "--threads", 1, "--workers", 1]
TO = "from-T1w_to-middle_mode-image_xfm"
BACK = "from-middle_to-T1w_mode-image_xfm"


def moved(volume: Volume, by: np.ndarray) -> Volume:
    """The same voxels elsewhere."""
    affine = volume.grid.affine.copy()
    affine[:3, 3] += by
    return Volume(Grid(volume.grid.shape, affine), volume.data)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, and the folder of a template. Its first image is the template itself, moved."""
    top = tmp_path_factory.mktemp("bids")
    ds = data_set(top / "ds")
    template, labels = pairs.fixed_image(GRID), pairs.fixed_labels(GRID)
    image(top / "middle" / "template.nii.gz", template)
    image(top / "middle" / "labels.nii.gz", labels)
    image(ds / "sub-01" / "anat" / "sub-01_T1w.nii.gz", moved(template, SHIFT))
    (ds / "sub-01" / "anat" / "sub-01_T1w.json").write_text('{"SkullStripped": true}')
    prep = ds / "derivatives" / "prep" / "sub-01" / "anat"
    image(prep / "sub-01_desc-brain_mask.nii.gz", moved(labels.with_data((labels.data > 0).astype(np.uint8)), SHIFT))
    image(prep / "sub-01_dseg.nii.gz", moved(labels, SHIFT))
    for number, spacing in ((1, 5.0), (2, 5.5)):
        name = f"sub-02_ses-a_run-{number}_T1w.nii.gz"
        image(ds / "sub-02" / "ses-a" / "anat" / name, pairs.moving_image(pairs.box((19, 18, 18), spacing)))
    image(ds / "sub-03" / "anat" / "sub-03_T2w.nii.gz")
    (ds / "sub-04" / "anat").mkdir(parents=True)
    (ds / "sub-04" / "anat" / "sub-04_T1w.nii.gz").write_text("no image")
    return top


def bids(tree: Path, *more: Any, out: Path | None = None, level: str = "participant") -> int:
    out = out or tree / "ds" / "derivatives" / "deepflash"
    template = ["--template", tree / "middle", "--labels", "dseg", *TINY] if level == "participant" else []
    return run("bids", tree / "ds", out, level, *template, *more)


@pytest.fixture(scope="module")
def both(tree: Path) -> tuple[list[BidsRun], list[list[Any]]]:
    """All of it done by two runs at once in one folder, one of which writes maps for ITK; and how each job ended."""
    dataset, space = read_bids(tree / "ds", Choice(labels="dseg")), read_space(tree / "middle")
    parameters = Parameters.from_preset(
        "default", resolutions=(1,), bands=(9,), iterations=(3,), initial_alignment="centers"
    )
    settings, out = Settings(parameters, None, "cpu", 1, 1), tree / "ds" / "derivatives" / "deepflash"
    runs = [BidsRun(dataset, space, out, settings, None, maps, "dseg") for maps in ([], ["itk"])]
    ends: list[list[Any]] = [[], []]
    other = threading.Thread(target=runs[0].run, args=(ends[0].append,))
    other.start()
    runs[1].run(ends[1].append)
    other.join(120)
    return runs, ends


@pytest.fixture(scope="module")
def made(both: Any) -> Path:
    """The folder of derivatives."""
    return both[0][0].out


@pytest.fixture
def copy(tree: Path, made: Path, tmp_path: Path) -> Path:
    """The tree with what was made of it, to be changed."""
    shutil.copytree(tree, tmp_path / "tree", copy_function=shutil.copy2)
    return tmp_path / "tree"


def files(folder: Path) -> set[str]:
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in found if path.parts[0] != ".deepflash"}


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


# ----------------------------------------------------------------------------------------------------- what is written


def test_every_image_has_its_derivatives_under_the_names_of_bids(made: Path) -> None:
    expected = {".bidsignore", "README.md", "dataset_description.json", "descriptions.tsv"}
    for place, stem in (("sub-01/anat", "sub-01"), *(("sub-02/ses-a/anat", f"sub-02_ses-a_run-{n}") for n in (1, 2))):
        ends = [f"{TO}.safetensors", f"{TO}.h5", f"{TO}.json", f"{BACK}.h5", f"{BACK}.json"]
        ends += ["space-middle_desc-warped_T1w.nii.gz", "space-middle_desc-warped_T1w.json"]
        if stem == "sub-01":
            ends += ["space-middle_dseg.nii.gz", "space-middle_dseg.json"]
        expected |= {f"{place}/{stem}_{end}" for end in ends}
        expected |= {f"{stem[:6]}/figures/{stem}_space-middle_T1w.html", f"{stem[:6]}.html"}
    assert files(made) == expected
    # Its report names the files as they are called here.
    report = (made / "sub-01.html").read_text(encoding="utf-8")
    assert f"<li>sub-01/anat/sub-01_{TO}.h5</li>" in report
    assert "warped.nii.gz" not in report.replace("desc-warped_T1w.nii.gz", "")
    # One page of both runs, of the one image its report.
    assert (made / "sub-02.html").read_text(encoding="utf-8").count("<main>") == 2
    assert (made / "sub-01.html").read_bytes() == (made / "sub-01/figures/sub-01_space-middle_T1w.html").read_bytes()


def test_where_each_file_comes_from_is_said(tree: Path, made: Path) -> None:
    description = read(made / "dataset_description.json")
    assert description["DatasetType"] == "derivative"
    assert [each["Name"] for each in description["GeneratedBy"]] == ["DeepFLASH"]
    assert description["DatasetLinks"] == {"prep": "../prep", "raw": "../.."}

    def file(uri: str) -> Path:
        _, name, path = uri.split(":", 2)
        return (made / description["DatasetLinks"][name] if name else made) / path

    warped = read(made / "sub-01/anat/sub-01_space-middle_desc-warped_T1w.json")
    assert file(warped["Sources"][0]).samefile(tree / "ds/sub-01/anat/sub-01_T1w.nii.gz")
    assert file(warped["Sources"][1]).name == f"sub-01_{TO}.safetensors"
    assert warped["SkullStripped"] is True
    assert warped["SpatialReference"] == (tree / "middle" / "template.nii.gz").as_uri()
    other = read(made / "sub-02/ses-a/anat/sub-02_ses-a_run-1_space-middle_desc-warped_T1w.json")
    assert other["SkullStripped"] is False
    for name in files(made):
        if name.endswith(".json"):
            for uri in read(made / name).get("Sources", ()):
                assert file(uri).is_file(), uri
    record = read(made / f"sub-01/anat/sub-01_{TO}.json")
    assert file(record["BrainMask"]).name == "sub-01_desc-brain_mask.nii.gz"
    assert all((made / name).is_file() for name in record["Outputs"])
    assert record["Result"]["parameters"]["bands"] == [9]


def test_from_t1w_to_the_template_resamples_the_image_on_it(tree: Path, made: Path) -> None:
    """Of the template, moved by a known shift: a point of the template goes to where it lies in the image."""
    place = made / "sub-01" / "anat"
    forth, back = (sitk.ReadTransform(str(place / f"sub-01_{name}.h5")) for name in (TO, BACK))
    points = pairs.places(pairs.box((3, 3, 3), 14.0)).reshape(-1, 3)
    there = np.array([forth.TransformPoint(p) for p in points.tolist()])
    assert np.abs(there - (points + SHIFT)).max() < 0.6  # a tenth of a voxel and little more
    assert np.abs([back.TransformPoint(p) for p in there.tolist()] - points).max() < 0.05
    # And as fMRIPrep's file of that name is applied.
    raw = sitk.ReadImage(str(tree / "ds/sub-01/anat/sub-01_T1w.nii.gz"))
    template = sitk.ReadImage(str(tree / "middle" / "template.nii.gz"))
    theirs = sitk.GetArrayFromImage(sitk.Resample(raw, template, forth))
    ours = read_volume(place / "sub-01_space-middle_desc-warped_T1w.nii.gz").data
    assert np.abs(theirs - ours).max() < 1e-3 * ours.max()
    assert pairs.correlation(ours, read_volume(tree / "middle" / "template.nii.gz").data) > 0.99
    assert (read_volume(place / "sub-01_space-middle_dseg.nii.gz").data == pairs.fixed_labels(GRID).data).mean() > 0.97


def test_the_command_beside_a_velocity_makes_its_map(made: Path, tmp_path: Path) -> None:
    place = made / "sub-02" / "ses-a" / "anat"
    record = read(place / f"sub-02_ses-a_run-2_{TO}.json")
    for name, stem in (("MapToTemplate", TO), ("MapToSubject", BACK)):
        _, command, velocity, *rest = record["Apply"][name].split()
        assert run(command, place / velocity, *rest[:-1], tmp_path / rest[-1]) == 0
        assert rest[-1] == f"sub-02_ses-a_run-2_{stem}.h5"
        one, other = (sitk.ReadTransform(str(folder / rest[-1])) for folder in (tmp_path, place))
        assert one.TransformPoint((3.0, -9.0, 8.0)) == pytest.approx(other.TransformPoint((3.0, -9.0, 8.0)), abs=1e-6)


# ------------------------------------------------------------------------------------------------------------ going on


def test_what_is_done_is_not_done_again_and_what_went_is_put_back(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = copy / "ds" / "derivatives" / "deepflash"
    before = {name: (out / name).read_bytes() for name in files(out)}
    velocity = out / "sub-01" / "anat" / f"sub-01_{TO}.safetensors"
    velocity.unlink()
    (out / "sub-02.html").unlink()
    good = ["--participant-label", "01", "02"]
    assert bids(copy, "--transforms", "itk", *good) == 0
    assert capsys.readouterr().out.startswith("3 of 3 images were done before.")
    # Only where the template lies is not the same.
    after = {name: (out / name).read_bytes() for name in files(out)}
    assert set(after) == set(before)
    changed = {name for name in before if before[name] != after[name]}
    assert all(name.endswith(".json") and BACK not in name for name in changed)
    # One that cannot be put in its place is told, and stops none of the others.
    velocity.unlink()
    velocity.mkdir()
    assert bids(copy, "-q", *good) == 3
    assert re.search(r"sub-01_T1w_to-middle: not in its place\. .*safetensors", capsys.readouterr().err)


def test_other_inputs_are_refused_and_replaced_as_a_whole(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = copy / "ds" / "derivatives" / "deepflash"
    assert run("status", out) == 0
    assert "derivatives/deepflash/.deepflash: " in capsys.readouterr().out
    one = ["--participant-label", "01"]
    record = out / "sub-01" / "anat" / f"sub-01_{TO}.json"
    key = read(record)["Key"]
    assert bids(copy, *one, "--sigma", 0.5) == 2
    assert f"{record}: is of other inputs or parameters." in capsys.readouterr().err
    # Neither does another folder of work hide them.
    assert bids(copy, *one, "--sigma", 0.5, "-w", copy / "work") == 2
    assert f"{record}: is of other inputs or parameters." in capsys.readouterr().err
    assert read(record)["Key"] == key
    text = record.read_text()
    record.write_text(text[: len(text) // 2])
    assert bids(copy, *one) == 2
    assert f"{record}: is damaged, or was not written by this program." in capsys.readouterr().err
    assert bids(copy, *one, "--no-masks", "--force", "-w", copy / "work", "-q") == 0
    after = read(record)
    assert after["Key"] != key
    assert after["BrainMask"] is None
    # The maps of the earlier velocity are gone with it.
    assert not list((out / "sub-01" / "anat").glob("*.h5"))
    assert not (out / "sub-01" / "anat" / f"sub-01_{BACK}.json").exists()
    assert (out / "sub-02" / "ses-a" / "anat" / f"sub-02_ses-a_run-1_{TO}.h5").is_file()


def test_two_runs_at_once_in_one_folder_divide_the_images(both: Any, made: Path) -> None:
    runs, ends = both
    failed = "registrations/sub-04_T1w_to-middle"
    for each in ends:
        assert len({end.job.name for end in each}) == 4
        assert {end.job.name for end in each if isinstance(end.result, Failed)} == {failed}
        assert all(end.result.tries == 1 for end in each if end.job.name != failed)
    assert not runs[0].lacking
    assert not runs[1].lacking
    assert not list(made.glob("sub-*/**/.*"))


def test_an_interrupt_says_how_to_go_on(
    copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bids_run, "run_jobs", pairs.interrupt)
    out = copy / "ds" / "derivatives" / "deepflash"
    before = files(out)
    assert bids(copy, "-q") == 130
    assert f"Cancelled. 3 of 4 images are done in {out}; run the same command to go on." in capsys.readouterr().err
    assert files(out) == before


def test_a_brain_is_compared_with_a_brain(tree: Path, tmp_path: Path) -> None:
    """The template's mask counts where the image has one, and only there."""
    template = image(tmp_path / "tpl-Middle_T1w.nii.gz", pairs.fixed_image(GRID))
    mask = image(tmp_path / "tpl-Middle_desc-brain_mask.nii.gz", pairs.fixed_labels(GRID))
    found = BidsRun(read_bids(tree / "ds", Choice()), read_space(template), tmp_path / "out", Settings())
    masks = [
        (pair.files.fixed_mask, pair.files.moving_mask and Path(pair.files.moving_mask).name) for pair in found.open
    ]
    assert masks == [(str(mask), "sub-01_desc-brain_mask.nii.gz"), (None, None), (None, None), (None, None)]


# --------------------------------------------------------------------------------------------------------------- group


def test_the_group_has_a_table_an_overview_and_a_paragraph(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = copy / "ds" / "derivatives" / "deepflash"
    image(copy / "ds" / "sub-05" / "anat" / "sub-05_T1w.nii.gz")
    assert bids(copy, level="group") == 0
    told = capsys.readouterr()
    assert told.out.strip() == str(out / "group_T1w.html")
    assert "Note: 2 of 5 images have no result: sub-04_T1w to middle, sub-05_T1w to middle." in told.err
    with open(out / "group_T1w.tsv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert list(rows[0]) == list(read(out / "group_T1w.json"))
    assert [(row["participant_id"], row["session_id"], row["state"]) for row in rows] == [
        ("sub-01", "n/a", "done"), ("sub-02", "ses-a", "done"), ("sub-02", "ses-a", "done"),
        ("sub-04", "n/a", "failed"), ("sub-05", "n/a", "open"),
    ]  # fmt: skip
    figures = read(out / "sub-01" / "anat" / f"sub-01_{TO}.json")["Figures"]
    assert rows[0]["verdict"] == figures["verdict"]["level"]
    assert float(rows[0]["dice_after"]) == pytest.approx(figures["dice"][1], abs=1e-5)
    assert rows[1]["dice_after"] == rows[1]["mask"] == rows[3]["verdict"] == "n/a"
    page = (out / "group_T1w.html").read_text(encoding="utf-8")
    links = re.findall(r'href="([^"]+)"', page)
    assert links == ["sub-01.html", "sub-02.html", "sub-02.html"]
    assert all((out / link).is_file() for link in links)
    text = (out / "logs" / "CITATION.md").read_text(encoding="utf-8")
    assert "3 T1w images of 2 participants of the data set Made were registered to the template middle" in text
    assert "The middles of each image and the template were first brought together." in text
    assert "preset “default” but for resolutions 1, bands 9, iterations 3." in text
    assert "For 1 of the images a brain mask" in text
    assert "2 T1w images of the data set have no result." in text
    assert re.search(r"1\. Zhang & Fletcher: Fast diffeomorphic image registration", text)
    # Why one failed is known from the folder of the work; without it, it is not done.
    assert "sub-04_T1w.nii.gz: " in rows[3]["reason"]
    shutil.rmtree(out / ".deepflash")
    assert bids(copy, "-q", level="group") == 0
    assert (out / "group_T1w.tsv").read_text(encoding="utf-8").count("\topen\t") == 2


# --------------------------------------------------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--participant_label", "sub-01", "9"], "--participant-label 9: "),
        (["--session_label", "b"], "--session-label b: "),
        (["--template-name", "T1w"], "is what the images are called"),
        (["--template", "nowhere.nii.gz"], "nowhere.nii.gz: there is no such file"),
        (
            ["--method", "lddmm"],
            "finds maps without a velocity, of which these derivatives are made. Add --as-geodesic",
        ),
        (["--landmark-weight", 1], "--landmark-weight: it is of one pair alone"),
        (["--threads", 0], "threads must be at least 1"),
        (["--suffix", "FLAIR"], "no *_FLAIR.nii.gz of sub-01, sub-02, sub-03, sub-04"),
        (["-w", "{ds}/sub-01/work"], "Give WORK as"),
        (["-w", "{out}"], "is OUT and the folder of work at once"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_written(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[Any], message: str
) -> None:
    out, before = tmp_path / "out", files(tree)
    assert bids(tree, *(str(each).format(ds=tree / "ds", out=out) for each in more), out=out) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert told.out == ""
    assert not out.exists()
    assert files(tree) == before


def test_x5_needs_a_package_and_that_is_said_first(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nitransforms", None)
    assert bids(tree, "--transforms", "x5", out=tmp_path / "out") == 2
    assert "pip install 'nitransforms>=25'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_each_level_says_what_it_lacks(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bids", tree / "ds", tmp_path / "out", "participant") == 2
    assert "--template: is needed." in capsys.readouterr().err
    assert bids(tree, out=tmp_path / "out", level="group") == 2
    assert 'has no registrations yet. Run "deepflash bids … participant" first.' in capsys.readouterr().err
    assert bids(tree, out=tree / "ds" / "sub-01") == 2
    assert "where only derivatives/NAME is for results" in capsys.readouterr().err
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    assert bids(tree, out=foreign) == 2
    assert "holds something else than registrations" in capsys.readouterr().err
    assert os.listdir(foreign) == ["thesis.txt"]
    assert os.listdir(tmp_path) == ["foreign"]
