# SPDX-License-Identifier: Apache-2.0
"""ANTs and Greedy as methods: their own maps, read back exactly; and programs that are missing, die or hang."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import registration_pairs as pairs
from DeepFLASHRegistrationLib.methods import peers
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.registration.register import register
from DeepFLASHRegistrationLib.support.errors import Cancelled, InputError

pytest.importorskip("torch")
posix = pytest.mark.skipif(os.name != "posix", reason="POSIX: a script stands in for a Python")


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python that the tests' environment brings."""
    python = Path(sys.prefix) / "peers" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    named = os.environ.get(peers.PEERS, str(python))
    if not Path(named).exists():
        pytest.skip("no environment with ANTs and Greedy")
    monkeypatch.setenv(peers.PEERS, named)


def stand_in(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in the place of the peers' Python."""
    path = folder / "python"
    path.write_text(f"#!{sys.executable}\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv(peers.PEERS, str(path))


def parameters(method: str, **changes: object) -> Parameters:
    return Parameters(method=method, initial_alignment="none", **changes)


@pytest.mark.usefixtures("real")
@pytest.mark.parametrize(("method", "said"), [("ants", "antspyx 0"), ("greedy", "picsl-greedy 1")])
def test_a_peers_map_is_read_back_as_it_is(method: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Axes neither upright nor of one spacing; the images that the peer warps itself are the judge."""
    import SimpleITK as sitk

    fixed = pairs.fixed_image(pairs.box((30, 32, 28), (3.2, 3.0, 3.4), pairs.turn(20)))
    moving = pairs.moving_image()
    kept = {}
    real_run = peers._run

    def run(python: Path, given: dict, folder: Path, *more: object) -> dict:
        answer = real_run(python, given, folder, *more)
        field = sitk.DisplacementFieldTransform(sitk.ReadImage(given["forth"], sitk.sitkVectorFloat64))
        read = [sitk.ReadImage(given[key]) for key in ("fixed", "moving")]
        kept["warped"] = sitk.GetArrayFromImage(sitk.Resample(read[1], read[0], field, sitk.sitkLinear, 0.0))
        kept["points"] = np.array([field.TransformPoint(p) for p in kept["at"].tolist()])
        return answer

    monkeypatch.setattr(peers, "_run", run)
    points = pairs.places(fixed.grid)[fixed.data > 0.3][::97]
    kept["at"] = points
    result = register(fixed, moving, parameters(method, similarity="ssd"), threads=1)
    assert any(said in note and "was run as" in note for note in result.notes)
    assert not result.deformation.timed
    # Between voxels ITK is linear and we are cubic.
    moved = result.deformation.points(points, "fixed_to_moving")
    np.testing.assert_allclose(moved, kept["points"], atol=0.15)
    assert np.abs(moved - kept["points"]).mean() < 0.02
    back = result.deformation.points(moved, "moving_to_fixed")
    assert np.percentile(np.linalg.norm(back - points, axis=-1), 95) < 0.8
    before, after = (result.metrics[f"similarity_{when}"] for when in ("before", "after"))
    assert after > before + 0.01
    # It found the true map, for what it is worth.
    assert np.linalg.norm(moved - pairs.bend(points), axis=-1).mean() < 2.0


@pytest.mark.usefixtures("real")
def test_a_geodesic_near_it_and_flash_from_there() -> None:
    fixed, moving = pairs.fixed_image(), pairs.moving_image()
    as_it_is = register(fixed, moving, parameters("greedy", similarity="ssd"), threads=1)
    geodesic = register(fixed, moving, parameters("greedy", similarity="ssd", as_geodesic=True), threads=1)
    refined = register(fixed, moving, parameters("greedy+flash", similarity="ssd", refinement=3), threads=1)
    points = pairs.places(fixed.grid)[fixed.data > 0.3]
    moved = [r.deformation.points(points, "fixed_to_moving") for r in (as_it_is, geodesic)]
    assert np.linalg.norm(moved[0] - moved[1], axis=-1).mean() < 0.5
    assert geodesic.deformation.timed
    assert refined.deformation.timed
    assert geodesic.metrics["folds_strict"]["count"] == 0
    assert len({record["level"] for record in refined.history}) == 4


@pytest.mark.usefixtures("real")
@pytest.mark.parametrize("method", ["ants", "greedy"])
def test_planes_too(method: str) -> None:
    grid = pairs.box((40, 44), 2.4)
    result = register(
        pairs.fixed_image(grid), pairs.moving_image(grid), parameters(method, similarity="ssd"), threads=1
    )
    assert result.metrics["similarity_after"] > result.metrics["similarity_before"]


@pytest.mark.parametrize("named", ["", "/nowhere/python"])
def test_without_them_it_is_said_how_to_get_them(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(peers.PEERS, named)
    with pytest.raises(InputError, match="pip install antspyx picsl-greedy"):
        register(pairs.fixed_image(), pairs.moving_image(), parameters("greedy"), threads=1)


@posix
def test_a_python_without_the_package_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in(tmp_path, "import os, sys; os.execv(sys.executable, [sys.executable, *sys.argv[1:]])", monkeypatch)
    with pytest.raises(InputError, match="-m pip install antspyx"):
        register(pairs.fixed_image(), pairs.moving_image(), parameters("ants"), threads=1)


@posix
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("print('out of luck'); raise SystemExit(3)", "Greedy ended with exit status 3: out of luck"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "Greedy ended with exit status -9"),
    ],
    ids=["fails", "dies"],
)
def test_a_program_that_fails_is_told(text: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in(tmp_path, text, monkeypatch)
    with pytest.raises(RuntimeError, match=message):
        register(pairs.fixed_image(), pairs.moving_image(), parameters("greedy"), threads=1)


@posix
def test_one_that_hangs_is_cancelled_with_all_that_it_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    started = tmp_path / "started"
    child = f"import os, time; open({str(started)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    stand_in(
        tmp_path,
        f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(600)",
        monkeypatch,
    )
    with pytest.raises(Cancelled, match="before Greedy was done"):
        register(
            pairs.fixed_image(), pairs.moving_image(), parameters("greedy"), threads=1, cancel=lambda: started.exists()
        )
    deadline = time.monotonic() + 20
    pid = started.read_text() or "0"
    while subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True).stdout.strip("Z<s+l \n"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert os.listdir(tmp_path / "temporary") == []


@posix
def test_a_field_of_other_voxels_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = f"""
import json, sys
sys.path[:0] = {[p for p in sys.path if p]!r}
given = json.loads(sys.argv[3])
import SimpleITK as sitk
image = sitk.Image([8, 8, 8], sitk.sitkVectorFloat32, 3)
for key in ("forth", "back"):
    sitk.WriteImage(image, given[key])
open("answer.json", "w").write(json.dumps({{"version": "x", "settings": "y"}}))
"""
    stand_in(tmp_path, text, monkeypatch)
    with pytest.raises(RuntimeError, match="returned a field of other voxels"):
        register(pairs.fixed_image(), pairs.moving_image(), parameters("greedy"), threads=1)


@posix
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import sys; sys.exit(1)", "has no antspyx. Install it there: .* -m pip install antspyx"),
        ("raise SystemError('broken')", "is no Python that can be used"),
        ("import sys; sys.exit(9)", "is no Python that can be used"),
    ],
    ids=["without the package", "broken", "another program"],
)
def test_a_python_is_asked_before_the_run(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, text, monkeypatch)
    with pytest.raises(InputError, match=message):
        peers.checked_peers("", "ants+flash")


def test_the_python_that_is_named_counts_and_not_the_environments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(peers.PEERS, str(tmp_path / "nothing"))
    # This one has what stands for the package.
    monkeypatch.setitem(peers._PACKAGES, "greedy", ("json", "picsl-greedy"))
    assert peers.checked_peers(sys.executable, "greedy") == sys.executable
    with pytest.raises(InputError, match="nothing is no program"):
        peers.checked_peers("", "greedy")
    with pytest.raises(InputError, match="other is no program"):
        peers.checked_peers(str(tmp_path / "other"), "greedy")
