# SPDX-License-Identifier: Apache-2.0
"""The predictor in one pass."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from DeepFLASHRegistrationLib.geodesics.flow import Flow
from DeepFLASHRegistrationLib.geodesics.jacobian import smallest_determinant
from DeepFLASHRegistrationLib.geodesics.shooting import Shooting
from DeepFLASHRegistrationLib.learning.feature_net import (
    SIZES,
    Design,
    Domain,
    FeatureNet,
    Head,
    correlation,
)

SHAPE = (32, 48, 32)
TINY = Design((4, 6, 8, 8), (4, 6, 8), (Head(8, 8, 2.86, steps=2), Head(4, 8, 2.86, steps=2), Head(2, 6, 3.5, steps=3)))


def network(strength: float = 0.0) -> FeatureNet:
    torch.manual_seed(0)
    net = FeatureNet(TINY)
    for head in net.heads:
        torch.nn.init.normal_(head.answer.weight, std=strength)
    return net


def images(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand((count, 1, 8, 12, 8), generator=generator)
    return torch.nn.functional.interpolate(coarse, size=SHAPE, mode="trilinear")[:, 0]


def test_designs_survive_json():
    for design in SIZES.values():
        assert Design.from_dict(json.loads(json.dumps(design.to_dict()))) == design


@pytest.mark.parametrize("change", [{"heads": []}, {"channels": [4, 4]}, {"heads": [{"stride": 3}]}, {"more": 1}])
def test_what_describes_no_network_is_refused(change):
    with pytest.raises((TypeError, KeyError, ValueError)):
        Design.from_dict({**TINY.to_dict(), **change})


def test_silent_heads_leave_the_images_where_they_are():
    net, pair = network(), images(2)
    with torch.no_grad():
        velocity, _, forth, back, warped = net.answer(pair[:1], pair[1:], Domain(TINY, SHAPE))
    assert all(float(x.abs().max()) == 0 for x in (velocity, forth, back))
    torch.testing.assert_close(warped, pair[1:], atol=1e-5, rtol=0)


def test_the_map_is_the_engines_for_the_velocity_and_both_maps_undo_each_other():
    net, both, domain = network(0.1), images(4), Domain(TINY, SHAPE)
    with torch.no_grad():
        last = net(both[:2], both[2:], domain)
        velocity, _, forth, back, _ = net.answer(both[:2], both[2:], domain)
    stage = last.stage
    for k in range(2):
        trajectory = Shooting(stage.band, TINY.metric).shoot(velocity[k], 3, "multistep")
        own = Flow(stage.band, stage.cells).fixed_to_moving(trajectory)
        torch.testing.assert_close(last.displacement[k], own, atol=1e-4, rtol=1e-4)
        assert float(own.abs().max()) > 0.3
        assert smallest_determinant(forth[k], domain.cells) > 0
    there = back + domain.sample(forth, back)
    inner = there[:, :, 4:-4, 4:-4, 4:-4]
    assert float(inner.abs().mean()) < 0.05 * float(forth.abs().mean())


def test_pairs_in_a_batch_are_answered_as_alone():
    net, both, domain = network(0.1), images(4), Domain(TINY, SHAPE)
    with torch.no_grad():
        together = net(both[:2], both[2:], domain).velocity
        for k in range(2):
            torch.testing.assert_close(
                net(both[k : k + 1], both[k + 2 : k + 3], domain).velocity[0], together[k], atol=1e-5, rtol=1e-3
            )


def test_answers_do_not_depend_on_the_unit_of_intensity():
    net, pair, domain = network(0.1), images(2), Domain(TINY, SHAPE)
    with torch.no_grad():
        one, other = net(pair[:1], pair[1:], domain).velocity, net(40 * pair[:1], 7 * pair[1:], domain).velocity
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_an_answer_is_capped():
    net, pair, domain = network(), images(2), Domain(TINY, SHAPE)
    torch.nn.init.constant_(net.heads[0].answer.bias, 1e6)
    with torch.no_grad():
        step = next(net.unroll(*[[x[k : k + 1] for x in net.features(pair)] for k in (0, 1)], domain))
    # A constant passes K^½ unchanged: the cap times the cells' edges.
    torch.testing.assert_close(step.velocity[0, :, 0, 0, 0], torch.full((3,), TINY.cap * 8.0))


def test_correlation_finds_the_shift():
    moving = torch.randn((1, 4, 8, 8, 8), generator=torch.Generator().manual_seed(2))
    fixed = moving.roll((-1, 0, 1), (2, 3, 4))
    found = correlation(fixed, moving, 1)[0, :, 2:6, 2:6, 2:6]
    # Offsets from (−1, −1, −1) on, the last axis fastest: (+1, 0, −1) is number 2·9 + 1·3 + 0.
    assert bool((found.argmax(0) == 21).all())
    torch.testing.assert_close(found[21], torch.ones_like(found[21]))


def test_no_gradient_flows_from_a_head_into_the_one_before():
    net, pair, domain = network(0.1), images(2), Domain(TINY, SHAPE)
    features = [x.detach() for x in net.features(pair)]
    *_, last = net.unroll([x[:1] for x in features], [x[1:] for x in features], domain)
    last.displacement.square().sum().backward()
    assert all(p.grad is None for p in net.heads[0].parameters())
    assert all(bool(torch.isfinite(p.grad).all()) for p in net.heads[-1].parameters())


def test_shapes_that_the_scales_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="multiple of 16"):
        Domain(TINY, (32, 40, 32))


def test_the_last_head_asked_again_is_one_head_more_with_its_weights():
    net, pair, domain = network(0.1), images(2), Domain(TINY, SHAPE)
    again = FeatureNet(dataclasses.replace(TINY, again=1))
    again.load_state_dict(net.state_dict())
    longer = FeatureNet(dataclasses.replace(TINY, heads=(*TINY.heads, TINY.heads[-1])))
    weights = net.state_dict()
    weights |= {k.replace("heads.2.", "heads.3."): v for k, v in weights.items() if k.startswith("heads.2.")}
    longer.load_state_dict(weights)
    with torch.no_grad():
        found = again(pair[:1], pair[1:], domain).velocity
        torch.testing.assert_close(found, longer(pair[:1], pair[1:], Domain(longer.design, SHAPE)).velocity)
        assert not torch.allclose(found, net(pair[:1], pair[1:], domain).velocity, atol=1e-3)
