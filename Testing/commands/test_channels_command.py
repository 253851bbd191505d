# SPDX-License-Identifier: Apache-2.0
"""Several images of each subject, from files: one pair, and a table of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import registration_pairs as pairs
from command_line import register, run
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.io import read_volume, write_volume
from DeepFLASHRegistrationLib.imaging.volume import Volume

pytest.importorskip("torch")

SCHEMA = json.loads((Path(__file__).resolve().parents[2] / "docs" / "result.schema.json").read_text(encoding="utf-8"))


@pytest.fixture
def inverted(pair: tuple[str, str]) -> list[str]:
    """Options for the negatives of both images as further ones."""
    options = []
    for side, path in zip(("fixed", "moving"), pair, strict=True):
        volume = read_volume(path)
        other = Path(path).with_name(f"{side}_negative.nii.gz")
        negative = np.where(volume.data > 0.05, 1.15 - volume.data, 0)
        write_volume(other, volume.with_data(negative.astype(np.float32)))
        options += [f"--{side}-channel", str(other)]
    return options


def test_a_pair_of_two_images_each(pair: tuple[str, str], inverted: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert register(pair, out, *inverted, "--channel-weights", "0.5", "--channel-similarities", "ncc") == 0
    values = json.loads((out / "result.json").read_text())
    jsonschema.validate(values, SCHEMA)
    (found,) = values["metrics"]["channels"]
    assert (found["name"], found["weight"], found["similarity"]) == ("moving_negative.nii.gz", 0.5, "ncc")
    assert found["after"] > found["before"]
    assert values["parameters"]["channel_similarities"] == ["ncc"]
    assert "Further images (1)" in (out / "report.html").read_text(encoding="utf-8")
    # With the transform the other images follow.
    assert run("apply", out, inverted[3], "-o", tmp_path / "negative.nii.gz") == 0
    assert read_volume(tmp_path / "negative.nii.gz").grid.same_as(read_volume(pair[0]).grid)


def test_what_is_given_on_one_side_only(
    pair: tuple[str, str], inverted: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert register(pair, tmp_path / "out", *inverted[:2]) == 2
    assert "fixed side has 1 further image and the moving side no further images" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert register(pair, tmp_path / "out", *inverted, "--method", "nephi") == 2
    assert "looks at one image of each side" in capsys.readouterr().err


def test_a_result_is_refined_of_its_own_images_alone(
    pair: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, options = tmp_path / "first", list(pairs.TINY_OPTIONS)
    at = options.index("--init")
    del options[at : at + 2]

    def refine(fixed: str, moving: str) -> int:
        return run("register", fixed, moving, "-o", tmp_path / "more", "--force", *options, "--refine", first)

    assert register(pair, first) == 0
    assert refine(*pair) == 0
    capsys.readouterr()
    for number, side in enumerate(("fixed", "moving")):
        changed = read_volume(pair[number])
        write_volume(tmp_path / "other.nii.gz", changed.with_data(changed.data * 1.01))
        other = [*pair]
        other[number] = str(tmp_path / "other.nii.gz")
        assert refine(*other) == 2
        assert f"is the result of another {side} image" in capsys.readouterr().err
    flat = read_volume(pair[0])
    for name in ("a", "b"):
        write_volume(tmp_path / f"{name}.nii.gz", Volume(Grid(flat.data.shape[:2], np.eye(3)), flat.data[:, :, 9]))
    assert refine(str(tmp_path / "a.nii.gz"), str(tmp_path / "b.nii.gz")) == 2
    assert "is a result in 3 dimensions" in capsys.readouterr().err


def test_a_table_of_such_pairs(pair: tuple[str, str], inverted: list[str], tmp_path: Path) -> None:
    table, one, out = tmp_path / "pairs.csv", tmp_path / "one", tmp_path / "many"
    again = shutil.copy(inverted[1], tmp_path / "again.nii.gz")
    table.write_text(
        "fixed,moving,fixed_channels,moving_channels,output\n"
        f"{pair[0]},{pair[1]},{inverted[1]}|{again},{inverted[3]}|{inverted[3]},two\n"
    )
    more = ["--workers", 1, "--quiet"]
    assert run("register-many", table, "-o", out, *pairs.TINY_OPTIONS, *more) == 0
    options = [*inverted, "--fixed-channel", again, *inverted[2:]]
    assert register(pair, one, *options) == 0
    for name in ("velocity.safetensors", "warped.nii.gz"):
        assert (out / "two" / name).read_bytes() == (one / name).read_bytes(), name
    rows = table.read_text()
    table.write_text(rows.replace(f"{inverted[1]}|", f"{inverted[1]}||"))
    assert run("register-many", table, "-o", out, *pairs.TINY_OPTIONS, *more) == 2
    table.write_text(rows)
    # A further image that changed is another input.
    write_volume(again, read_volume(again).with_data(read_volume(again).data + 1))
    assert run("register-many", table, "-o", out, *pairs.TINY_OPTIONS, *more) == 2
