# SPDX-License-Identifier: Apache-2.0
"""Models that work on one domain: dual nets and nets on forces, posed or not, by the calls that every model has."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepFLASHRegistrationLib.geodesics import captured
from DeepFLASHRegistrationLib.geodesics.band import Lattice
from DeepFLASHRegistrationLib.geodesics.flow import Flow
from DeepFLASHRegistrationLib.geodesics.shooting import Shooting
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.learning.dual_net import DualNet
from DeepFLASHRegistrationLib.learning.force_net import ForceNet
from DeepFLASHRegistrationLib.methods.pose import MeanImage
from DeepFLASHRegistrationLib.methods.prediction import Predictor, predictor, predictor_of
from DeepFLASHRegistrationLib.methods.prediction_on_domain import domain_values
from DeepFLASHRegistrationLib.methods.registry import Estimated, Plan
from DeepFLASHRegistrationLib.methods.trained_models import ModelConfig, load_model, save_model
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.problem.problem import comparable
from DeepFLASHRegistrationLib.problem.subject import Subject
from DeepFLASHRegistrationLib.registration.register import made_again, register
from DeepFLASHRegistrationLib.support.errors import InputError
from DeepFLASHRegistrationLib.training.mean_image import mean_image
from helpers import made_anatomies as made
from helpers.recordings import Traced

PARAMETERS = Parameters(
    resolutions=(2,), bands=(9,), iterations=(4,), margin_mm=10.0, window_mm=9.0, alpha=6.0, power=2.0, search="lbfgs"
)


def scan(seed: int, kind: str = "fetal", motion: np.ndarray | None = None, ndim: int = 3) -> Volume:
    body = made.KINDS[kind]
    grid = made.grid_of(body.view, body.unit_mm, 36)
    values = made.person(kind, seed, 0.08).intensities(made.places(grid) / body.unit_mm, "t1")
    volume = made.scanned(values, grid, np.random.default_rng(seed), 0.01, f"{kind} {seed}")
    if ndim == 2:
        affine = np.eye(3)
        affine[:2, :2] = grid.affine[:2, 1:3]
        volume = Volume(Grid(grid.shape[1:], affine), np.ascontiguousarray(volume.data[18]), volume.name)
    return volume if motion is None else moved(volume, motion)


def moved(volume: Volume, motion: np.ndarray) -> Volume:
    return dataclasses.replace(volume, grid=dataclasses.replace(volume.grid, affine=motion @ volume.grid.affine))


def turned(degrees: float, shift: tuple[float, float, float]) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(4)
    matrix[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    matrix[:3, 3] = shift
    return matrix


@pytest.fixture(scope="module")
def heads() -> MeanImage:
    return mean_image([scan(seed) for seed in range(4)])


def domain(ndim: int, shape: tuple[int, ...] = (48, 44, 40), spacing: float = 2.6) -> Grid:
    affine = np.eye(ndim + 1)
    affine[:ndim, :ndim] = spacing * np.eye(ndim)[::-1]
    affine[:ndim, ndim] = -affine[:ndim, :ndim] @ ((np.array(shape[:ndim]) - 1) / 2)
    return Grid(shape[:ndim], affine)


def saved(
    folder: Path, kind: str, mean: MeanImage | None = None, ndim: int = 3, size: float = 0.02, **architecture: Any
) -> Path:
    """A model with random weights: R_net and I_net, or nets on the force."""
    torch.manual_seed(3)
    given = {"domain": domain_values(domain(ndim)), "refinement": {"resolutions": [2], "bands": [9]}, **architecture}
    if kind == "dual-net":
        given = {"network": "dense", "width": 2, "center": [], "look": [], **given}
    else:
        given = {"steps": 2, "hidden": 4, "time_steps": 4, **given}
    config = ModelConfig(
        name="made",
        kind=kind,
        architecture=given,
        parameters=PARAMETERS,
        ndim=ndim,
        unit_mm=2.0,
        spacing_mm=2.6,
        extent_mm=(50.0, 120.0),
        energy=(0.9, 0.1),
        description="",
        training_data="made bodies",
        license="CC0",
        mean_image={} if mean is None else mean.to_dict(),
        contrast="alike",
        posed=mean is not None,
    )
    from DeepFLASHRegistrationLib.methods.prediction_on_domain import DomainPredictor

    class Bare(DomainPredictor):
        def __init__(self) -> None:
            self.config = config

    bare = Bare()
    bare.prepared()
    if kind == "dual-net":
        network: torch.nn.Module = DualNet(bare.band, given["network"], given["width"])
        network.velocity_spread.fill_(size)
        network.image_spread.fill_(0.01)
    else:
        network = ForceNet(
            bare.band, bare.metric, PARAMETERS.sigma, given["steps"], given["hidden"], given["time_steps"]
        )
        network.unit.fill_(size)
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    return save_model(folder, config, weights, mean)


def problem_of(found: Predictor, fixed: Volume, moving: Volume, affine: np.ndarray | None = None) -> Any:
    sides = comparable(*(Subject(v).checked(n) for v, n in ((fixed, "fixed"), (moving, "moving"))), found.parameters)
    plan = Plan(found.parameters, found)
    pose = plan.pose(sides[0])
    return plan.problem(*sides, np.eye(fixed.ndim + 1) if affine is None else affine, "cpu", pose), pose


NETWORKS = [("dual-net", "dense"), ("dual-net", "cnn"), ("dual-net", "unet"), ("force-net", "")]


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize(("kind", "network"), NETWORKS)
def test_every_network_predicts_what_it_would_of_the_images_on_its_domain(
    tmp_path: Path, kind: str, network: str, ndim: int
) -> None:
    found = predictor_of(
        load_model(saved(tmp_path / "m", kind, ndim=ndim, **({"network": network} if network else {})))
    )
    pairs = [(scan(1, ndim=ndim), scan(2, ndim=ndim)), (scan(2, ndim=ndim), scan(1, ndim=ndim))]
    problems = [problem_of(found, *pair)[0] for pair in pairs]
    assert problems[0].grid.shape == found.domain.shape
    together = found.velocities(problems[0], [p.pair() for p in problems])
    assert together.shape == (2, ndim, *found.band.modes)
    for k, (pair, problem) in enumerate(zip(pairs, problems, strict=True)):
        # Independent of the library's own: the images on that grid by SimpleITK.
        images = [itk_on(Volume(v.grid, x.image.data), problem.grid) for v, x in zip(pair, scaled_pair(pair, found))]
        inside = torch.tensor(images[0] != -1) & torch.tensor(images[1] != -1)
        for image, own in zip(images, (problem.fixed, problem.moving), strict=True):
            assert np.abs(image - own)[inside.numpy()].max() < 1e-3
        alone = found.network.predict(*(torch.from_numpy(x)[None] for x in (problem.fixed, problem.moving)))[0]
        torch.testing.assert_close(together[k], alone, rtol=1e-4, atol=1e-6)
    assert float(together.abs().max()) > 0


def scaled_pair(pair: tuple[Volume, Volume], found: Predictor) -> tuple[Subject, Subject]:
    return comparable(*(Subject(v).checked(n) for v, n in zip(pair, ("fixed", "moving"))), found.parameters)


def itk_on(volume: Volume, grid: Grid) -> np.ndarray:
    image = volume.grid.apply_to(sitk.GetImageFromArray(volume.data.astype(np.float32)))
    size, spacing, origin, direction = grid.to_image_geometry()
    resampled = sitk.Resample(image, size, sitk.Transform(), sitk.sitkLinear, origin, spacing, direction, -1.0)
    return sitk.GetArrayFromImage(resampled)


def test_a_posed_model_predicts_the_same_wherever_both_images_lie(heads: MeanImage, tmp_path: Path) -> None:
    found = predictor_of(load_model(saved(tmp_path / "m", "dual-net", heads)))
    fixed, moving, motion = scan(7), scan(8), turned(20, (35, -60, 15))
    here, pose = problem_of(found, fixed, moving)
    sides = scaled_pair((fixed, moving), found)
    unasked = Plan(found.parameters, found).problem(*sides, np.eye(4))
    assert unasked.grid.same_as(here.grid, 1e-9)
    there, other = problem_of(found, moved(fixed, motion), moved(moving, motion))
    # The pose absorbs the motion to a part of a voxel, and so what is seen, and what is predicted, is the same.
    corners = fixed.grid.corners()
    ends = [corners @ m[:3, :3].T + m[:3, 3] for m in (pose.matrix, other.matrix @ motion)]
    assert np.abs(ends[0] - ends[1]).max() < 1.0
    one, two = (found.velocities(p, [p.pair()])[0] for p in (here, there))
    assert float((one - two).norm() / one.norm()) < 0.05
    # Without the pose it would not be: the same images, moved within the domain.
    shifted = predictor_of(load_model(saved(tmp_path / "n", "dual-net")))
    shift = turned(0, (8, 6, 0))
    still, away = (
        problem_of(shifted, *(Volume(fixed.grid, v.data) for v in pair))[0]
        for pair in ((fixed, moving), (rolled(fixed, shift), rolled(moving, shift)))
    )
    one, two = (shifted.velocities(p, [p.pair()])[0] for p in (still, away))
    assert float((one - two).norm() / one.norm()) > 0.1


def rolled(volume: Volume, shift: np.ndarray) -> Volume:
    steps = np.round(np.linalg.inv(volume.grid.affine)[:3, :3] @ shift[:3, 3]).astype(int)
    return volume.with_data(np.roll(volume.data, tuple(steps), (0, 1, 2)))


def test_the_working_grid_of_a_posed_model_lies_as_its_mean_image_does(heads: MeanImage, tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", "dual-net", heads)
    motion = turned(25, (10, 20, -30))
    fixed, moving = moved(scan(7), motion), moved(scan(8), motion)
    result = register(fixed, moving, Parameters(method="deepflash", model=str(folder)), device="cpu", threads=1)
    grid, matrix = result.velocity["domain"], None
    assert grid.shape == domain(3).shape
    # Its axes are those of space, turned as the body is.
    cosines = (motion[:3, :3].T @ grid.direction)[:, ::-1]
    assert np.abs(cosines - np.eye(3)).max() < 0.12
    # The maps of it are right in the fixed image's space: against the geodesic followed point by point.
    deformation = result.deformation
    points = fixed.grid.index_to_physical(np.array([[18, 18, 18], [14, 20, 16], [22, 15, 19]]))
    field = result.displacement
    index = fixed.grid.physical_to_index(points).round().astype(int)
    expected = deformation.points(points, "fixed_to_moving") - points
    assert np.abs(np.asarray(field)[tuple(index.T)] - expected).max() < 0.05
    assert matrix is None


def test_a_result_is_made_again_of_its_velocity_where_it_was_found(heads: MeanImage, tmp_path: Path) -> None:
    settings = Parameters(method="deepflash", model=str(saved(tmp_path / "m", "dual-net", heads)))
    fixed, moving = scan(7), scan(2, "knee")
    result = register(fixed, moving, settings, device="cpu", threads=1)
    assert result.metrics["unusual"]
    found = Estimated(result.velocity, result.history, False, tuple(result.metrics["unusual"]))
    history = {name: getattr(result, name) for name in ("notes", "timings", "provenance")}
    again = made_again(
        Subject(fixed), Subject(moving), result.parameters, found, (result.fixed_grid, result.moving_grid), history
    )
    np.testing.assert_allclose(np.asarray(again.displacement), np.asarray(result.displacement), atol=1e-5)
    assert again.metrics["unusual"] == result.metrics["unusual"]


def test_maps_in_one_go_are_those_of_the_geodesic(tmp_path: Path) -> None:
    found = predictor_of(load_model(saved(tmp_path / "m", "dual-net", size=0.05)))
    problem, _ = problem_of(found, scan(1), scan(2))
    pair = problem.pair()
    velocity = found.velocities(problem, [pair])[0]
    (maps,) = found.maps(problem, [pair])
    cells = Lattice.cells(tuple(pair.fixed.shape), pair.lengths)
    shooting = Shooting(found.band, found.metric, torch.float64)
    window = problem.window()(cells).double()
    flow = Flow(found.band, cells, torch.float64, "cpu", window)
    trajectory = shooting.shoot(velocity.double(), 40, "rk4")
    for mine, way in ((maps.fixed_to_moving, flow.fixed_to_moving), (maps.moving_to_fixed, flow.moving_to_fixed)):
        # Beyond the border's window, which the maps' lattice shows but roughly.
        inner = (..., *(slice(5, -5),) * 3)
        exact = way(trajectory)[inner]
        assert float(exact.abs().max()) > 0.3
        assert float((mine[inner] - exact).norm()) < 0.1 * float(exact.norm())


def test_what_is_recorded_and_replayed_is_what_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path / "m", "dual-net", size=0.05)
    found = predictor_of(load_model(folder))
    problem, _ = problem_of(found, scan(1), scan(2))
    pair = problem.pair()
    other = dataclasses.replace(pair, fixed=pair.moving, moving=pair.fixed)
    plain = [(found.maps(problem, [each])[0], found.velocities(problem, [each])) for each in (pair, other)]
    monkeypatch.setitem(captured.RECORDINGS, "cpu", Traced)
    found, before = predictor_of(load_model(folder)), Traced.replayed
    again = [(found.maps(problem, [each])[0], found.velocities(problem, [each])) for each in (other, pair, other)][1:]
    assert Traced.replayed == before + 4
    for (maps, velocity), (same_maps, same_velocity) in zip(plain, again, strict=True):
        assert torch.equal(velocity, same_velocity)
        for name in ("fixed_to_moving", "moving_to_fixed", "warped"):
            assert torch.equal(getattr(maps, name), getattr(same_maps, name)), name


# -------------------------------------------------------------------------------------------------------- bad input


def test_images_unlike_the_training_are_told_before_the_run_and_in_the_verdict(
    heads: MeanImage, tmp_path: Path
) -> None:
    folder = saved(tmp_path / "m", "dual-net", heads)
    events: list[dict[str, Any]] = []
    knees = scan(1, "knee"), scan(2, "knee")
    result = register(
        *knees, Parameters(method="deepflash", model=str(folder)), device="cpu", threads=1, progress=events.append
    )
    assert result.verdict.level != "good"
    told = [str(c) for c in result.verdict.criteria if c.finding == "other-fixed-image"]
    assert len(told) == 1
    assert "does not look like those that the model made was trained on" in told[0]
    assert "Use a model for such images, or the method flash." in told[0]
    order = [e["phase"] if "notes" not in e or told[0] not in e["notes"] else "told" for e in events]
    assert "told" in order
    assert order.index("told") < order.index("level")
    assert not result.velocity["velocity"].any() or np.isfinite(result.velocity["velocity"]).all()


def test_a_moving_image_of_something_else_is_told_too(heads: MeanImage, tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", "dual-net", heads)
    moving = scan(2, "knee")
    result = register(scan(1), moving, Parameters(method="deepflash", model=str(folder)), device="cpu", threads=1)
    assert "other-moving-image" in {c.finding for c in result.verdict.criteria}


def test_images_like_the_training_are_not_complained_of(heads: MeanImage, tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", "dual-net", heads)
    result = register(scan(8), scan(9), Parameters(method="deepflash", model=str(folder)), device="cpu", threads=1)
    found = {c.finding for c in result.verdict.criteria if c.code == "training-data"}
    assert not found & {"other-fixed-image", "other-moving-image"}


def test_a_prediction_that_is_no_number_is_dropped(heads: MeanImage, tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", "dual-net", heads, size=1e30)
    result = register(scan(8), scan(9), Parameters(method="deepflash", model=str(folder)), device="cpu", threads=1)
    assert not result.velocity["velocity"].any()
    assert "dropped" in {c.finding for c in result.verdict.criteria}
    assert result.verdict.level != "good"


def test_slices_are_refused_by_a_model_for_volumes(heads: MeanImage, tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", "dual-net", heads)
    with pytest.raises(InputError, match="is for images of 3 dimensions, not 2"):
        register(scan(1, ndim=2), scan(2, ndim=2), Parameters(method="deepflash", model=str(folder)))


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("dual-net", {"network": "octopus"}, "octopus"),
        ("dual-net", {"width": 10**9}, "describes no predictor|do not fit its architecture"),
        ("dual-net", {"center": [0.5]}, "one entry per axis"),
        ("dual-net", {"look": [[0, 1, 2]] * 3}, "describes no predictor"),
        ("dual-net", {"domain": {"shape": [10**6] * 3, "affine": np.eye(4).tolist()}}, "another number of voxels"),
        ("dual-net", {"domain": {"shape": [15, 16, 17], "affine": np.eye(4).tolist()}}, "do not divide its domain"),
        ("dual-net", {"domain": {"shape": [16, 16], "affine": np.eye(3).tolist()}}, "domain has 2 dimensions"),
        ("dual-net", {"domain": {}}, "describes no predictor"),
        ("force-net", {"steps": 10**9}, "more steps than anybody waits for"),
        ("force-net", {"hidden": 10**9}, "describes no predictor|do not fit its architecture"),
    ],
)
def test_a_configuration_that_describes_no_network_is_refused(
    tmp_path: Path, kind: str, change: dict[str, Any], message: str
) -> None:
    model = load_model(saved(tmp_path / "m", kind))
    config = dataclasses.replace(model.config, architecture={**model.config.architecture, **change})
    save_model(tmp_path / "m", config, model.arrays)
    with pytest.raises(InputError, match=message):
        predictor(str(tmp_path / "m"))
