# SPDX-License-Identifier: Apache-2.0
"""Models of the ICON family at work."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from DeepFLASHRegistrationLib.learning.icon import FAMILY, Design, IconNet
from DeepFLASHRegistrationLib.methods.prediction import predictor_of
from DeepFLASHRegistrationLib.methods.trained_models import load_model
from DeepFLASHRegistrationLib.support.errors import InputError
from icon_package import icon_or_skip
from map_models import SHAPE, SHIFT, SPACING, problem_of, registered, saved
from training_images import subject

icon_or_skip()

OWN = (32, 48, 32)  # the shape that a network was trained on


def small(kind: str, factors: tuple[int, ...] = (2, 1), **more: object) -> tuple[IconNet, dict]:
    torch.manual_seed(0)
    design = Design((2, 4, 4), (4, 4), factors, **more)
    network = IconNet(3, design, OWN, kind == "constricon")
    return network, {**design.values(), "shape": list(OWN)}


def shifting(folder: Path, kind: str = "gradicon", voxels: float = SHIFT, **more: object) -> Path:
    """The last step answers with one displacement along the last axis, in voxels of the working grid."""
    network, architecture = small(kind, **more)
    with torch.no_grad():
        *_, bias = network.parameters()
        bias[2] = 10 * voxels / (OWN[2] - 1) if network.design.stretched else voxels
    return saved(folder, kind, architecture, network)


def random_last_layers(folder: Path, kind: str, much: float, **more: object) -> Path:
    network, architecture = small(kind, **more)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if "lastConv" in name:
                value.copy_(much * torch.randn(value.shape))
    return saved(folder, kind, architecture, network)


@pytest.mark.parametrize("how", ["dense", "geodesic", "refined"])
def test_what_the_network_answers_is_where_the_map_leads(tmp_path: Path, how: str) -> None:
    model, method = shifting(tmp_path / "model"), "gradicon+flash" if how == "refined" else "gradicon"
    result = registered(model, method, as_geodesic=how == "geodesic", refinement=2)
    assert result.metrics["mean_dice_after"] > 0.95 > 0.8 > result.metrics["mean_dice_before"]
    assert result.deformation.timed == (how != "dense")
    labels = subject(4, SHAPE, SPACING)[1]
    points = labels.grid.index_to_physical(np.argwhere(labels.data > 0))
    there = result.deformation.points(points, "fixed_to_moving")
    if how != "refined":  # FLASH goes by what is seen
        tolerance = {"dense": 0.01, "geodesic": 0.25}[how] * SPACING
        assert np.median(np.linalg.norm(there - points - [SHIFT * SPACING, 0, 0], axis=-1)) < tolerance
    # The network says the same again of the images exchanged; the map back is the inverse of the first all the same.
    back = np.linalg.norm(result.deformation.points(there, "moving_to_fixed") - points, axis=-1)
    assert back.max() < 0.1 * SPACING


def test_carl_registers_and_its_map_is_inverted(tmp_path: Path) -> None:
    network, architecture = small("carl", (4, 4), attention=6, padding=1)
    predictor = predictor_of(load_model(saved(tmp_path / "model", "carl", architecture, network)))
    problem = problem_of(predictor)
    pair = problem.pair()
    forth, back = predictor.displacements(problem, pair, lambda: False)
    assert back is None
    voxel = torch.tensor([length / n for length, n in zip(problem.lengths, pair.fixed.shape)]).view(3, 1, 1, 1)
    with torch.no_grad():
        expected = predictor.network.fixed_to_moving(pair.fixed[None], pair.moving[None])[0] * voxel
    torch.testing.assert_close(forth, expected)
    result = registered(tmp_path / "model", "carl")
    assert np.isfinite(result.velocity["forth"]).all()
    with pytest.raises(InputError, match="is one of carl, not of gradicon"):
        registered(tmp_path / "model", "gradicon")


@pytest.mark.parametrize("kind", FAMILY)
def test_exchanged_images_exchange_the_maps_of_every_kind(tmp_path: Path, kind: str) -> None:
    predictor = predictor_of(load_model(random_last_layers(tmp_path / "model", kind, 0.06)))
    problem = problem_of(predictor)
    assert all(n % 16 == 0 for n in problem.grid.shape)
    pair = problem.pair()
    swapped = type(pair)(
        pair.moving, pair.fixed, pair.moving_mask, pair.fixed_mask, pair.moving_view, pair.fixed_view, pair.lengths
    )
    forth, back = predictor.displacements(problem, pair, lambda: False)
    there, here = predictor.displacements(problem, swapped, lambda: False)
    assert forth.shape == (3, *problem.grid.shape)
    assert float(forth.norm(dim=0).max()) > 0.3
    if kind == "constricon":
        assert torch.equal(forth, here)
        assert torch.equal(back, there)
    else:  # each of the maps that the network predicts is that of its own pair
        assert back is here is None
        mine, theirs = predictor.network.displacements(pair.fixed[None], pair.moving[None])
        voxel = torch.tensor([length / n for length, n in zip(problem.lengths, pair.fixed.shape)]).view(3, 1, 1, 1)
        torch.testing.assert_close(forth, mine[0] * voxel)
        torch.testing.assert_close(there, theirs[0] * voxel)


def test_a_network_with_a_shape_of_its_own_sees_the_box_stretched_to_it(tmp_path: Path) -> None:
    """Its voxels divide the working grid's box; the map comes back in mm on the working grid."""
    predictor = predictor_of(load_model(shifting(tmp_path / "model", voxels=2.0, stretched=True)))
    problem = problem_of(predictor)
    forth, _ = predictor.displacements(problem, problem.pair(), lambda: False)
    assert tuple(problem.grid.shape) != OWN
    assert forth.shape[1:] == tuple(problem.grid.shape)
    expected = 2.0 * problem.lengths[2] / OWN[2]
    torch.testing.assert_close(forth[2], torch.full_like(forth[2], expected), rtol=2e-3, atol=0)
    assert not forth[:2].any()


def test_what_is_stretched_is_where_it_was() -> None:
    from DeepFLASHRegistrationLib.methods.prediction_icon import _stretched

    axes = [torch.linspace(0, 1, n + 1)[:-1] + 0.5 / n for n in (12, 10, 8)]
    ramp = sum(x.view(*[-1 if i == k else 1 for i in range(3)]) for k, x in enumerate(axes)).expand(1, 1, 12, 10, 8)
    found = _stretched(ramp, (24, 20, 16))
    finer = [torch.linspace(0, 1, n + 1)[:-1] + 0.5 / n for n in (24, 20, 16)]
    expected = sum(x.view(*[-1 if i == k else 1 for i in range(3)]) for k, x in enumerate(finer))
    torch.testing.assert_close(found[0, 0, 1:-1, 1:-1, 1:-1], expected[1:-1, 1:-1, 1:-1], rtol=1e-5, atol=1e-6)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    coarse = Design((2, 4, 4, 4, 4), (4, 4, 4, 4), (16, 1))
    model = saved(tmp_path / "a", "icon", {**coarse.values(), "shape": list(OWN)}, IconNet(3, coarse, OWN, False))
    with pytest.raises(InputError, match=r"needs more than 128 voxels .* Choose another model"):
        registered(model, "icon")
    with pytest.raises(InputError, match="is one of gradicon, not of icon"):
        registered(shifting(tmp_path / "b"), "icon")
    network, architecture = small("gradicon")
    with pytest.raises(InputError, match="do not fit its architecture"):
        registered(saved(tmp_path / "c", "gradicon", architecture | {"factors": [1]}, network), "gradicon")
    for key, value in (("down", [2]), ("factors", [3, 1]), ("shape", [32]), ("shape", None), ("matrices", 1)):
        with pytest.raises(InputError, match="describes no predictor known here"):
            registered(saved(tmp_path / "d", "gradicon", architecture | {key: value}, network), "gradicon")


def test_without_the_package_a_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = shifting(tmp_path / "model")
    monkeypatch.setitem(sys.modules, "icon_registration.constricon", None)
    with pytest.raises(InputError, match="pip install --no-deps icon-registration"):
        registered(model, "gradicon")
