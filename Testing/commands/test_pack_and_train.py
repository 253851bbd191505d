# SPDX-License-Identifier: Apache-2.0
"""deepflash pack, and deepflash train on packs: from images to a model that registers, and what is refused."""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from DeepFLASHRegistrationLib.commands import main as cli
from DeepFLASHRegistrationLib.commands import train_packs
from DeepFLASHRegistrationLib.imaging.io import read_volume, write_volume
from DeepFLASHRegistrationLib.methods.trained_models import load_model
from DeepFLASHRegistrationLib.support.tensors import read_tensors
from DeepFLASHRegistrationLib.training.pack import read_pack
from DeepFLASHRegistrationLib.training.pack_training import PackTraining
from training_images import write_subjects

torch = pytest.importorskip("torch")

SOURCES = str(Path(cli.__file__).parents[2])
COUNT = 6
GRID = ["--shape", "32,32,32", "--spacing-mm", 4]
QUICK = ["--minutes", 0, "--updates", 2, "--device", "cpu", "--learning-rate", 1e-4]


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_subjects(tmp_path_factory.mktemp("data") / "subjects", COUNT)


@pytest.fixture(scope="module")
def packed(data: Path) -> Path:
    path = data.parent / "blobs.npz"
    facts = ["--license", "CC BY-NC 4.0", "--attribution", "nobody", "--description", "formulas"]
    assert run("pack", data, "-o", path, *GRID, "--validation", "s1,s4", *facts) == 0
    return path


@pytest.fixture(scope="module")
def trained(packed: Path, mean_once: None) -> Path:
    model = packed.parent / "model"
    assert run("train", packed, "-o", model, *QUICK, "--name", "blobs", "--license", "CC BY-NC 4.0") == 0
    return model


def run(*arguments: Any) -> int:
    return cli.main([str(a) for a in arguments])


def test_a_pack_holds_what_was_given_and_says_who_is_kept_aside(packed: Path, data: Path) -> None:
    pack = read_pack(packed)
    assert pack.names == tuple(f"s{n}" for n in range(COUNT))
    assert pack.unseen == (1, 4)
    assert pack.name == "blobs"
    assert pack.facts == {"license": "CC BY-NC 4.0", "attribution": "nobody", "description": "formulas"}
    assert pack.label_values == (0, 1, 2, 3)
    image = read_volume(data / "images" / "s2.nii.gz")
    # As much of the object as in the file, at the same size of voxels.
    assert np.count_nonzero(pack.labels[2]) == np.count_nonzero(read_volume(data / "labels" / "s2.nii.gz").data)
    assert np.corrcoef(np.sort(pack.images[2].ravel())[-500:], np.sort(image.data.ravel())[-500:])[0, 1] > 0.98


def test_a_model_trained_on_a_pack_registers_and_its_card_tells(trained: Path, data: Path, tmp_path: Path) -> None:
    config = load_model(trained).config
    assert config.kind == "feature-net"
    assert config.license_note == "Not for commercial use: trained on data under CC BY-NC 4.0."
    assert config.attribution == "nobody"
    assert config.training_data.startswith("formulas (CC BY-NC 4.0): 4 images with labels. 2 updates of the weights in")
    assert 0 < config.held_out["validation Dice before"] <= 1
    assert config.energy[0] == pytest.approx(config.held_out["energy left"], abs=1e-3)
    assert {a.dtype for a in load_model(trained).arrays.values()} == {np.dtype(np.float16)}
    curve = json.loads((trained / "training.json").read_text())
    assert curve[-1]["update"] == 2
    assert (trained / "learning_curves.svg").read_text().startswith("<svg")
    sides = [data / "images" / f"s{n}.nii.gz" for n in (1, 4)]
    assert run("register", *sides, "-o", tmp_path / "result", "--method", "deepflash", "--model", trained, "-q") == 0


@pytest.mark.usefixtures("mean_once")
def test_the_same_command_goes_on_to_the_same_weights(packed: Path, tmp_path: Path, capsys: Any) -> None:
    whole, parts, elsewhere = (tmp_path / name for name in ("whole", "parts", "elsewhere"))
    four = [*QUICK, "--updates", 4]
    assert run("train", packed, "-o", whole, *four) == 0
    # Interrupted after two of four: the checkpoint of a training that was to be as long.
    progress = PackTraining.progress
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PackTraining, "progress", lambda self: 1.0 if self.iteration >= 2 else progress(self))
        assert run("train", packed, "-o", parts, *four) == 0
    copy = tmp_path / "brought.checkpoint"
    copy.write_bytes((parts / "training.checkpoint").read_bytes())
    for out, more in ((parts, []), (elsewhere, ["--resume", copy])):
        capsys.readouterr()
        assert run("train", packed, "-o", out, *four, *more) == 0
        assert "Going on after 2 updates" in capsys.readouterr().out
        arrays, _ = read_tensors(out / "training.checkpoint")
        expected, _ = read_tensors(whole / "training.checkpoint")
        assert all(np.array_equal(arrays[key], expected[key]) for key in ("weights", "average", "mean", "square"))


@pytest.mark.usefixtures("mean_once")
def test_images_are_packed_first_where_a_method_learns_from_packs(tmp_path: Path, capsys: Any) -> None:
    data, quick = write_subjects(tmp_path / "subjects", 3), ["--method", "nephi-codes", "--validation", "s1", *QUICK]
    assert run("train", data, "-o", tmp_path / "model", *quick) == 0
    pack = read_pack(tmp_path / "model-subjects.npz")
    assert pack.names == ("s0", "s1", "s2")
    assert pack.unseen == (1,)
    assert load_model(tmp_path / "model").config.kind == "nephi-codes"
    # Once more it is taken as it is, unless images came later.
    written = (tmp_path / "model-subjects.npz").stat().st_mtime_ns
    options = argparse.Namespace(output=tmp_path / "model", validation="s1", skip_broken=False)
    for newer in (False, True):
        if newer:
            os.utime(data / "images" / "s2.nii.gz")
        assert train_packs._packed(data, options) == tmp_path / "model-subjects.npz"
        assert ((tmp_path / "model-subjects.npz").stat().st_mtime_ns > written) == newer
        assert ("was packed before" in capsys.readouterr().out) != newer


_WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in ("SimpleITK", "scipy", "vtk", "nibabel", "safetensors"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from DeepFLASHRegistrationLib.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_training_on_packs_needs_torch_and_numpy_alone(packed: Path, trained: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _WITHOUT, "train", *map(str, [packed, "-o", tmp_path / "alone", *QUICK])]
    environment = {**os.environ, "PYTHONPATH": SOURCES, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    alone, usual = (load_model(folder).arrays for folder in (tmp_path / "alone", trained))
    assert all(np.array_equal(alone[key], usual[key]) for key in usual)


def test_packs_of_one_grid_are_mixed_as_asked(packed: Path, data: Path, tmp_path: Path, capsys: Any) -> None:
    maps = tmp_path / "maps.npz"
    assert run("pack", data / "labels", "-o", maps, "--label-maps", "--like", packed, "--validation", 0) == 0
    pack = read_pack(maps)
    assert pack.images is None
    assert pack.shape == read_pack(packed).shape
    assert pack.unseen == ()
    assert run("train", packed, maps, "-o", tmp_path / "model", "--mix", "blobs=1,maps=3", *QUICK) == 0
    assert "deepflash models install" in capsys.readouterr().out
    text = load_model(tmp_path / "model").config.training_data
    assert "maps: 6 label maps, of which images were made" in text
    capsys.readouterr()
    assert run("train", packed, maps, "-o", tmp_path / "model", *QUICK) == 2
    assert "checkpoint of other settings (shares)" in capsys.readouterr().err


def test_the_limit_is_kept_and_what_gave_way_is_said(data: Path, packed: Path, tmp_path: Path, capsys: Any) -> None:
    limit = 0.7 * packed.stat().st_size / 1e6
    small = tmp_path / "small.npz"
    assert run("pack", data, "-o", small, *GRID, "--validation", "s1,s4", "--limit-mb", limit) == 0
    assert "hold no more: without s" in capsys.readouterr().out
    assert small.stat().st_size <= limit * 1e6
    assert {"s1", "s4"} <= set(read_pack(small).names)
    coarse = tmp_path / "coarse.npz"
    more = ["--limit-mb", limit, "--give-way", "resolution"]
    assert run("pack", data, "-o", coarse, *GRID, "--validation", "s1,s4", *more) == 0
    assert "instead of 4 mm" in capsys.readouterr().out
    assert len(read_pack(coarse)) == COUNT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pack", "DATA", "-o", "x.zip"], "packs are .npz files"),
        (["pack", "DATA", "-o", "x.npz", "--shape", "30,32,32", "--spacing-mm", "4"], "multiples of 16"),
        (["pack", "DATA", "-o", "x.npz", "--shape", "32,32,32"], "--shape needs --spacing-mm"),
        (["pack", "DATA", "-o", "x.npz", "--like", "PACK", "--spacing-mm", "4"], "leave out --shape"),
        (["pack", "DATA", "-o", "x.npz", "--limit-mb", "0"], "above 0"),
        (["pack", "DATA", "-o", "x.npz", "--validation", "s0,s1,s2,s3,s4"], "5 are kept aside"),
        (["pack", "DATA", "-o", "x.npz", "--validation", "s9"], "no subject 's9'"),
        (["train", "PACK", "-o", "m", "--mix", "blobs"], "give shares such as"),
        (["train", "PACK", "-o", "m", "--mix", "others=1"], "no pack 'others'"),
        (["train", "PACK", "-o", "m", "--size", "huge"], "size must be one of"),
        (["train", "PACK", "-o", "m", "--minutes", "0"], "needs an end"),
        (["train", "PACK", "-o", "m", "--resume", "PACK"], "is damaged, or no .safetensors file"),
        (["train", "PACK", "-o", "m", "--initial-model", "hippocampus"], "weights of another network"),
        (["train", "missing.npz", "-o", "m"], "missing.npz: cannot be read"),
        (["train", "PACK", "-o", "m", "--validation", "s1"], "packs say who is kept aside"),
        (["train", "missing", "-o", "m", "--method", "nephi-codes"], "there is no such folder or table"),
        (["train", "DATA", "-o", "m", "--method=huge"], "method must be one of"),
        (["train", "DATA", "-o", "m", "--method=nephi-codes", "--validation", "s9"], "no subject 's9'"),
    ],
)
def test_what_cannot_be_is_refused_with_the_remedy(
    arguments: list[str], message: str, data: Path, packed: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"DATA": str(data), "PACK": str(packed)}
    assert run(*[names.get(a, a) for a in arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_subjects_of_one_person_are_kept_aside_together(data: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    with open(table, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("subject", "image"))
        for n in range(COUNT):
            writer.writerow((f"person-{n // 2}", data / "images" / f"s{n}.nii.gz"))
    assert run("pack", table, "-o", tmp_path / "x.npz", *GRID, "--validation", "person-1") == 0
    pack = read_pack(tmp_path / "x.npz")
    assert pack.unseen == (2, 3)
    assert pack.labels is None


def test_an_image_with_nan_is_packed_without_and_named(data: Path, tmp_path: Path, capsys: Any) -> None:
    folder = write_subjects(tmp_path / "holed", 4, labels=False)
    image = read_volume(folder / "images" / "s1.nii.gz")
    values = image.data.copy()
    values[0, 0] = np.nan
    write_volume(folder / "images" / "s1.nii.gz", image.with_data(values))
    assert run("pack", folder, "-o", tmp_path / "x.npz", *GRID, "--validation", 0) == 0
    assert "NaN or infinite voxels were replaced" in capsys.readouterr().out
