# SPDX-License-Identifier: Apache-2.0
"""The networks of the ICON family, and what their losses measure."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from DeepFLASHRegistrationLib.learning import icon
from DeepFLASHRegistrationLib.learning.gaussian_correlation import GaussianCorrelation
from DeepFLASHRegistrationLib.learning.icon import FAMILY, PUBLISHED, SIZES, Design, IconNet
from DeepFLASHRegistrationLib.learning.inverse_consistency import (
    diffusion,
    inconsistency,
    inconsistency_gradient,
    jittered,
)
from icon_package import icon_or_skip

package = icon_or_skip()

TINY = ((2, 4, 4), (4, 4))
SHAPE = (20, 24, 18)


def network(method: str, shape: tuple[int, ...] = SHAPE, **more: object) -> IconNet:
    torch.manual_seed(0)
    factors = (2, 1) if len(shape) == 3 else (4, 2, 1)
    return IconNet(len(shape), Design(*TINY, factors, **more), shape, method == "constricon")


def seeing_the_difference(net: IconNet, much: float) -> IconNet:
    """Each U-Net answers with so much times the moving minus the fixed image on all axes, of which each has ten voxels,
    or if stretched a length of the image."""
    with torch.no_grad():
        for name, value in net.named_parameters():
            if "lastConv" in name:
                value.zero_()
                if value.ndim > 1:
                    middle = tuple(n // 2 for n in value.shape[2:])
                    value[(slice(None), -2, *middle)] = 10 * much  # the U-Net divides by ten
                    value[(slice(None), -1, *middle)] = -10 * much
    return net


def random_last_layers(net: IconNet, much: float) -> IconNet:
    with torch.no_grad():
        for name, value in net.named_parameters():
            if "lastConv" in name:
                value.copy_(much * torch.randn(value.shape))
            elif "dense3" in name:  # what it sees of images that are much alike differs little
                value.copy_(60 * torch.randn(value.shape))
    return net


def smooth_images(shape: tuple[int, ...]) -> torch.Tensor:
    """A pair, (2, 1, *shape)."""
    torch.manual_seed(1)
    mode = "trilinear" if len(shape) == 3 else "bilinear"
    coarse = torch.rand(2, 1, *[5] * len(shape))
    return torch.nn.functional.interpolate(coarse, shape, mode=mode, align_corners=True)


# ------------------------------------------------------------------------------------------------------------ networks


@pytest.mark.parametrize("shape", [SHAPE, (24, 34)])
@pytest.mark.parametrize("method", FAMILY)
def test_displacements_count_in_voxels_and_point_from_fixed_to_moving(method: str, shape: tuple[int, ...]) -> None:
    net = seeing_the_difference(network(method, shape), 0.02)
    ones = torch.ones(1, *shape)
    forth, back = net.displacements(torch.zeros_like(ones), ones)
    # Every step adds as much; of ConstrICON twice that, since both sides see it, and all but the last are gone twice.
    count = len(net.design.factors)
    steps = 2 * (2 * count - 1) if method == "constricon" else count
    torch.testing.assert_close(forth, torch.full_like(forth, steps * 0.2), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(back, -forth, rtol=1e-4, atol=1e-4)


def test_a_step_sees_the_moving_image_as_the_steps_before_left_it() -> None:
    """The second step of two sees no difference where the first has removed it."""
    net = seeing_the_difference(network("icon", (24, 24, 24), stretched=True), 0.0)
    x = torch.linspace(0, 1, 24)[:, None, None].expand(1, 24, 24, 24)
    moving, fixed = 0.5 * x, 0.5 * x + 0.1  # the first lies 0.2 lengths further along the first axis
    with torch.no_grad():
        for name, value in net.named_parameters():
            if "lastConv.bias" in name and ".netPhi" in name:
                value[0] = 10 * 0.2
    with torch.no_grad():
        (weight,) = (v for k, v in net.named_parameters() if ".netPsi" in k and "lastConv.weight" in k)
        weight[0, -2, 1, 1, 1], weight[0, -1, 1, 1, 1] = 10.0, -10.0
    u = net.displacements(fixed, moving)[0][0, 0]
    # Not at the border, beyond which the moving image goes on as it ends.
    torch.testing.assert_close(u[2:16], torch.full_like(u[2:16], 0.2 * 23), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", FAMILY)
def test_what_works_on_voxels_moves_them_alike_on_any_grid(method: str) -> None:
    for stretched in (False, True):
        net = seeing_the_difference(network(method, SHAPE, stretched=stretched), 0.02)
        own, larger = (
            net.displacements(torch.zeros(1, *shape), torch.ones(1, *shape))[0][0, :, 0, 0, 0]
            for shape in (SHAPE, (40, 24, 36))
        )
        ratio = torch.tensor([(m - 1) / (n - 1) for m, n in zip((40, 24, 36), SHAPE)])
        torch.testing.assert_close(larger, own * ratio if stretched else own, rtol=1e-4, atol=1e-4)


def test_constricon_exchanges_its_maps_with_the_images_to_the_bit() -> None:
    shape = (34, 36, 33)
    net = random_last_layers(network("constricon", shape, matrices=2), 0.1)
    a, b = smooth_images(shape)
    with torch.no_grad():
        forth, back = net.displacements(a, b)
        there, here = net.displacements(b, a)
    assert float(forth.norm(dim=1).mean()) > 0.5
    assert torch.equal(forth, here)
    assert torch.equal(back, there)
    # An ordinary network's do not.
    other = random_last_layers(network("icon", shape), 0.1)
    with torch.no_grad():
        forth, back = other.displacements(a, b)
    assert not torch.allclose(forth, -back, atol=0.1)


def test_constricons_linear_part_is_inverted_exactly_and_its_velocities_nearly() -> None:
    shape = (34, 36, 33)
    a, b = smooth_images(shape)
    for linear, mean, largest in ((True, 1e-4, 1e-4), (False, 0.05, 0.5)):
        net = random_last_layers(network("constricon", shape, matrices=1), 0.03)
        if linear:
            net.net = net.net.netPhi
        with torch.no_grad():
            forth, back = net.transforms(a, b)
            both = forth(back(net.identity)) - net.identity
            moved = net.displacement(forth).norm(dim=1).mean()
        error = icon.per_axis(both, [n - 1 for n in shape]).norm(dim=1)
        assert float(moved) > 0.5
        assert float(error.mean()) < mean
        assert float(error.max()) < largest


def test_the_published_network_has_the_published_weights() -> None:
    """The tree of the package's documents, and how many weights uniGradICON's file has."""
    with torch.device("meta"):
        tree = package.FunctionFromVectorField(package.networks.tallUNet2(dimension=3))
        for _ in range(2):
            step = package.FunctionFromVectorField(package.networks.tallUNet2(dimension=3))
            tree = package.TwoStepRegistration(package.DownsampleRegistration(tree, dimension=3), step)
        last = package.FunctionFromVectorField(package.networks.tallUNet2(dimension=3))
        theirs = package.TwoStepRegistration(tree, last).state_dict()
        mine = IconNet(3, PUBLISHED, (175, 175, 175), False).net
    assert {k: v.shape for k, v in mine.state_dict().items()} == {k: v.shape for k, v in theirs.items()}
    assert len(theirs) == 188
    assert sum(p.numel() for p in mine.parameters()) == 70_680_916


@pytest.mark.parametrize("method", FAMILY)
def test_the_device_of_the_images_counts_and_not_the_packages_choice(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, (a, b) = random_last_layers(network(method), 0.01), smooth_images(SHAPE)
    with torch.no_grad():
        expected = net.displacements(a, b)
    monkeypatch.setattr(package.config, "device", torch.device("meta"))
    monkeypatch.setattr(package.constricon, "device", torch.device("meta"))
    net = random_last_layers(network(method), 0.01)
    with torch.no_grad():
        found = net.displacements(a, b)
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))
    # And where the images are the weights come to be.
    net.displacements(a.to("meta"), b.to("meta"))
    assert {p.device.type for p in net.parameters()} == {"meta"}


def test_images_that_are_too_small_are_told_and_the_smallest_are_not() -> None:
    for sizes in SIZES.values():
        design = sizes["small"]
        net = IconNet(3, design, (24, 24, 24), bool(design.matrices))
        images = torch.rand(2, 1, *[design.least + 1] * 3)
        assert net.displacements(*images)[0].shape[2:] == images.shape[2:]
        with pytest.raises(ValueError, match=f"no more than {design.least}"):
            net.displacements(*torch.rand(2, 1, *[design.least] * 3))
    assert SIZES["gradicon"]["large"].least == 64
    assert SIZES["constricon"]["large"].least == 32


@pytest.mark.parametrize(
    "values",
    [
        {"down": (2, 4)},
        {"factors": ()},
        {"factors": (1, 2)},
        {"factors": (3, 1)},
        {"factors": (10**9,)},
        {"up": (4, 0)},
        {"matrices": 9},
        {"down": None},
    ],
)
def test_what_makes_no_network_is_refused(values: dict) -> None:
    with pytest.raises((ValueError, TypeError)):
        Design(**{"down": TINY[0], "up": TINY[1], "factors": (2, 1), **values})
    with pytest.raises(ValueError, match="ConstrICON alone"):
        network("icon", matrices=1)


def test_batch_normalization_keeps_its_statistics() -> None:
    net = network("gradicon").train()
    before = {k: v.clone() for k, v in net.state_dict().items() if "running" in k or "batches" in k}
    forth, _ = net.displacements(*smooth_images(SHAPE))
    forth.square().mean().backward()
    assert before
    assert all(torch.equal(net.state_dict()[k], v) for k, v in before.items())


def test_what_the_package_imports_and_never_uses_need_not_be_there() -> None:
    code = (
        "import sys\n"
        "from DeepFLASHRegistrationLib.learning import icon\n"
        "icon._is_installed = lambda name: False\n"
        "import torch\n"
        "before = set(sys.modules)\n"
        "for consistent in (False, True):\n"
        "    net = icon.IconNet(3, icon.Design((2, 4, 4), (4, 4), (2, 1)), (12, 12, 12), consistent)\n"
        "    net.displacements(*torch.rand(2, 1, 12, 12, 12))\n"
        "assert not {'matplotlib', 'tqdm', 'torchvision', 'itk'} & (set(sys.modules) - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


# -------------------------------------------------------------------------------------------------------------- losses


def test_penalties_of_linear_maps_are_those_of_their_matrices() -> None:
    torch.manual_seed(1)
    a, b = (torch.eye(3, dtype=torch.float64) + 0.1 * torch.randn(3, 3, dtype=torch.float64) for _ in range(2))

    def linear(matrix: torch.Tensor):
        return lambda x: torch.einsum("ij,njxyz->nixyz", matrix, x)

    points = torch.rand(1, 3, 5, 6, 7, dtype=torch.float64)
    left = torch.eye(3, dtype=torch.float64) - a @ b
    expected = left.square().sum() / 3
    torch.testing.assert_close(inconsistency_gradient(linear(a), linear(b), points), expected)
    errors = [linear(torch.eye(3, dtype=torch.float64) - m)(points).square().mean() for m in (a @ b, b @ a)]
    torch.testing.assert_close(inconsistency(linear(a), linear(b), points), errors[0] + errors[1])
    inverse = linear(torch.linalg.inv(a))
    assert float(inconsistency_gradient(linear(a), inverse, points)) < 1e-20
    assert float(inconsistency(linear(a), inverse, points)) < 1e-20


def test_the_gradient_is_the_packages_at_its_points(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (18, 18, 18)
    net = random_last_layers(network("gradicon", shape), 0.1)
    forth, back = net.transforms(*smooth_images(shape))
    theirs = package.GradientICON(net.net, package.LNCC(5), 1.5)
    theirs.assign_identity_map([1, 1, *shape])
    torch.manual_seed(3)
    expected = theirs.compute_gradient_icon_loss(forth, back)
    torch.manual_seed(3)
    found = inconsistency_gradient(forth, back, jittered(net.identity))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)
    assert float(found.detach()) > 1e-3


def test_points_lie_a_voxel_from_every_second_one() -> None:
    identity = network("icon")
    identity.displacements(*smooth_images(SHAPE))
    points = jittered(identity.identity, 2)
    assert points.shape == (1, 3, 10, 12, 9)
    apart = (points - identity.identity[..., ::2, ::2, ::2])[0].flatten(1).std(1)
    np.testing.assert_allclose(apart, [1 / n for n in SHAPE], rtol=0.1)


def test_diffusion_of_a_linear_velocity_is_its_matrix_and_the_same_at_any_resolution() -> None:
    torch.manual_seed(2)
    matrix = torch.randn(3, 3, dtype=torch.float64)
    for shape in ((9, 9, 9), (17, 17, 17)):
        axes = [torch.linspace(0, 1, n, dtype=torch.float64) for n in shape]
        x = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        v = torch.einsum("ij,jxyz->ixyz", matrix, x)[None]
        torch.testing.assert_close(diffusion(v), matrix.square().sum() / 3)
    # The package has a voxel more of each length.
    theirs = package.losses.DiffusionRegularizedNet(None, None, 1)
    theirs.assign_identity_map([1, 1, *shape])
    expected = theirs.compute_bending_energy_loss(v + theirs.identity_map.double())
    torch.testing.assert_close(diffusion(v) * (17 / 16) ** 2, expected, rtol=1e-5, atol=0)


def test_velocities_are_those_that_the_map_is_made_of() -> None:
    net = seeing_the_difference(network("constricon", stretched=True), 0.02)
    forth, back = net.transforms(torch.zeros(1, *SHAPE), torch.ones(1, *SHAPE))
    there, here = icon.velocities(forth), icon.velocities(back)
    assert sorted(v.shape[2:] for v in there) == sorted([torch.Size((10, 12, 9)), torch.Size(SHAPE)])
    for v in there:
        torch.testing.assert_close(v, torch.full_like(v, 0.04))
    assert all(any(torch.equal(v, -w) for w in here) for v in there)


@pytest.mark.parametrize("shape", [(24, 32, 28), (24, 32)])
def test_the_correlation_is_the_packages(shape: tuple[int, ...]) -> None:
    torch.manual_seed(4)
    a, b = torch.rand(2, 2, *shape)
    expected = package.LNCC(5)(a[:, None], b[:, None])
    torch.testing.assert_close(GaussianCorrelation(shape)(a, b), expected, rtol=1e-5, atol=1e-6)
    assert float(GaussianCorrelation(shape)(a, a)) < 0.01
    squared = package.losses.SquaredLNCC(5)(a[:, None], b[:, None])
    torch.testing.assert_close(GaussianCorrelation(shape, squared=True)(a, b), squared, rtol=1e-5, atol=1e-6)
    # Brightness and contrast are of no matter, but for the guard and the border, beyond which all is dark.
    inside = tuple(slice(10, -10) for _ in shape)
    brighter = torch.zeros_like(a)
    brighter[(slice(None), *inside)] = 3 * b[(slice(None), *inside)]
    for x, y in itertools.pairwise((brighter, brighter / 3)):
        torch.testing.assert_close(
            GaussianCorrelation(shape)(a, x), GaussianCorrelation(shape)(a, y), rtol=1e-2, atol=1e-3
        )


def test_the_correlation_within_a_support_sees_nothing_beyond_it():
    shape, rng = (14, 11), np.random.default_rng(3)
    a, b = (torch.from_numpy(rng.random((1, *shape))) for _ in range(2))
    support = torch.zeros(1, *shape, dtype=torch.float64)
    support[:, 2:12, 3:11] = 1
    term = GaussianCorrelation(shape, 3).double()
    found = float(term(a, b, support))
    # Each window by hand: of what is known within it, weighted by the Gaussian.
    at = np.argwhere(support[0].numpy())
    values = []
    for center in at:
        apart = at - center
        near = (np.abs(apart) <= 6).all(1)
        weight = np.exp(-0.5 * ((apart[near] / 3) ** 2).sum(1))
        weight /= weight.sum()
        i, j = (x[0].numpy()[tuple(at[near].T)] for x in (a, b))
        i, j = i - weight @ i, j - weight @ j
        values.append((weight @ (i * j)) / np.sqrt((weight @ i**2 + 1e-5) * (weight @ j**2 + 1e-5)))
    assert found == pytest.approx(1 - np.mean(values), abs=1e-9)
    other = torch.where(support > 0, b, torch.rand(1, *shape, dtype=torch.float64))
    assert float(term(a, other, support)) == pytest.approx(found, abs=1e-12)
