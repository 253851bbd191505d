# SPDX-License-Identifier: Apache-2.0
"""A displacement as a function of coordinates and of latent codes."""

from __future__ import annotations

import pytest
import torch
from DeepFLASHRegistrationLib.learning.coded_field import LEAST, SIZES, CodedDesign, CodedField, FittedCodes
from DeepFLASHRegistrationLib.learning.icon_loss import IconLoss
from DeepFLASHRegistrationLib.learning.inverse_consistency import DELTA, inconsistency_gradient

TINY = CodedDesign((4, 6, 8, 8), 5, 3, 8, 1.0, 12)
SHAPE = (20, 26, 17)


def field(shape: tuple[int, ...] = SHAPE, much: float = 0.1) -> CodedField:
    torch.manual_seed(0)
    net = CodedField(len(shape), TINY, shape)
    with torch.no_grad():
        net.last.weight.copy_(much * torch.randn(net.last.weight.shape))
    return net


def pair(shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    return torch.rand(2, 1, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", [SHAPE, (24, 34)])
def test_it_starts_at_rest_and_its_maps_are_those_of_images_exchanged(shape: tuple[int, ...]) -> None:
    fixed, moving = pair(shape)
    assert not CodedField(len(shape), TINY, shape).fixed_to_moving(fixed, moving).any()
    net = field(shape)
    with torch.no_grad():
        forth, back = net.transforms(fixed, moving)
        there, here = net.transforms(moving, fixed)
        for one, other in ((forth, here), (back, there)):
            assert torch.equal(one(net.identity), other(net.identity))
        assert not torch.equal(forth(net.identity), back(net.identity))


def test_it_is_a_function_of_points_whatever_else_is_asked() -> None:
    """The whole, parts of it and points one by one are the same map; voxel i of n lies at i / (n - 1)."""
    net, (fixed, moving) = field(), pair()
    with torch.no_grad():
        phi = net.transforms(fixed, moving)[0]
        whole = net.fixed_to_moving(fixed, moving)
    assert 0.2 < float(whole.abs().max()) < 20
    for at in ((3, 4, 5), (10, 20, 9), (16, 7, 12)):
        point = torch.tensor([i / (n - 1) for i, n in zip(at, SHAPE)]).view(1, 3, 1)
        with torch.no_grad():
            moved = (phi(point) - point)[0, :, 0] * torch.tensor([n - 1.0 for n in SHAPE])
        torch.testing.assert_close(moved, whole[(0, slice(None), *at)], atol=1e-4, rtol=1e-4)


def test_it_is_at_rest_on_the_faces_and_beyond_them() -> None:
    net, (fixed, moving) = field(), pair()
    phi = net.transforms(fixed, moving)[0]
    beyond = torch.tensor([[-0.1, 0.5, 0.5], [0.5, 1.2, 0.5], [-0.5 / 19, 0.5, 0.5]]).T[None]
    torch.testing.assert_close(phi(beyond), beyond)


def test_local_codes_act_where_they_lie_and_shared_ones_everywhere() -> None:
    net, (fixed, moving) = field(), pair()
    with torch.no_grad():
        codes = net.codes(fixed, moving)
        assert codes.local.shape == (1, 5, 5, 7, 5)
        assert codes.shared.shape == (1, 3)
        before = net.transform(codes)(net.identity)
        local = codes.local.clone()
        local[:, :, 2, 3, 2] += 1.0  # of the voxels 8..11, 12..15 and 8..11
        after = net.transform(codes._replace(local=local))(net.identity)
        changed = (after - before)[0].abs().amax(0).nonzero()
        everywhere = net.transform(codes._replace(shared=codes.shared + 1.0))(net.identity)
    assert changed.amin(0).tolist() == [6, 10, 6]
    assert changed.amax(0).tolist() == [13, 17, 13]
    inside = (slice(None), *[slice(5, n - 5) for n in SHAPE])
    assert bool(((everywhere - before)[0].abs().amax(0) > 0)[inside[1:]].all())


@pytest.mark.parametrize("shape", [SHAPE, (24, 34)])
def test_what_the_loss_sees_is_the_map_between_points_of_every_second_voxel(shape: tuple[int, ...]) -> None:
    net, (fixed, moving) = field(shape, much=0.02), pair(shape)
    with torch.no_grad():
        net.waves *= 0.2  # a smooth field
        for shift in net.shifts:
            shift.weight *= 0.2
        seen, whole = net.displacement(net.transforms(fixed, moving)[0]), net.fixed_to_moving(fixed, moving)
    assert seen.shape == whole.shape
    inside = (..., *[slice(5, n - 5) for n in shape])  # where it does not fade out
    assert float((seen - whole)[inside].norm() / whole[inside].norm()) < 0.1


def test_its_gradient_consistency_is_that_of_its_jacobians() -> None:
    """In float64, against derivatives by autograd."""
    net, (fixed, moving) = field(much=0.02).double(), pair().double()
    net._on(SHAPE, fixed.device)
    net.identity, net._voxels = net.identity.double(), net._voxels.double()
    forth, back = net.transforms(fixed, moving)
    points = 0.3 + 0.4 * torch.rand(1, 3, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def left(x: torch.Tensor) -> torch.Tensor:
        return x - forth(back(x.view(1, 3, 1))).view(3)

    exact = torch.stack([torch.autograd.functional.jacobian(left, points[0, :, k]) for k in range(6)])
    found = inconsistency_gradient(forth, back, points, DELTA / 1000)
    # The mean over components and points, summed over the axes.
    torch.testing.assert_close(found, exact.square().mean((0, 1)).sum(), rtol=1e-4, atol=0)


def test_codes_of_a_pair_are_all_that_is_fitted() -> None:
    net, images = field().requires_grad_(False), pair()[:, 0]
    coded = FittedCodes(net, images)
    assert [tuple(each.shape) for each in coded.parameters()] == [(1, 5, 5, 7, 5), (1, 3)] * 2
    fixed, moving = images.split(1)
    assert torch.equal(coded.fixed_to_moving(fixed, moving), net.fixed_to_moving(fixed, moving))
    loss = IconLoss("nephi-codes", SHAPE, "cpu")
    torch.manual_seed(3)
    loss(coded.requires_grad_(True), images, images).total.backward()
    assert all(each.grad.any() for each in coded.parameters())
    assert not any(each.requires_grad for each in net.parameters())


def test_boxes_of_other_sizes_have_their_middle_where_the_training_had_it() -> None:
    net = field()
    with torch.no_grad():
        for each in (net.encoder.local[1], net.encoder.shared):
            each.weight.zero_()  # the same codes everywhere, of any image
        small = net.fixed_to_moving(*pair())
        large = net.fixed_to_moving(*pair((28, 34, 25)))
    middle = [slice(4, n - 4) for n in SHAPE]
    shifted = [slice(8, n) for n in SHAPE]
    torch.testing.assert_close(large[(..., *shifted)], small[(..., *middle)], atol=1e-4, rtol=1e-4)


def test_what_makes_no_network_is_refused() -> None:
    for values in ({"channels": (4, 4)}, {"layers": 99}, {"width": 0}, {"shared": 10**9}, {"omega": float("nan")}):
        with pytest.raises(ValueError, match="make no network"):
            CodedDesign(**values)
    with pytest.raises(ValueError, match="is no shape of 3 dimensions"):
        CodedField(3, TINY, (LEAST, 32, 32))
    with pytest.raises(ValueError, match=r"15 x 32 x 32 voxels have no more than 15"):
        field().fixed_to_moving(*pair((15, 32, 32)))


def test_without_memory_it_has_the_same_weights() -> None:
    for design in SIZES.values():
        with torch.device("meta"):
            net = CodedField(3, design, (32, 32, 32))
        assert all(value.is_meta for value in net.state_dict().values())
