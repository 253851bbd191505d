# SPDX-License-Identifier: Apache-2.0
"""The networks of CARL and uniCARL."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from DeepFLASHRegistrationLib.learning import icon, unicarl
from DeepFLASHRegistrationLib.learning.attention import AttentionStep, CoordinateAttention
from DeepFLASHRegistrationLib.learning.icon import SIZES, Design, IconNet
from DeepFLASHRegistrationLib.learning.unicarl import PUBLISHED, UniCarlDesign, UniCarlNet
from DeepFLASHRegistrationLib.support.errors import Cancelled
from icon_package import icon_or_skip

package = icon_or_skip()

TINY = ((2, 4, 4), (4, 4))
SHAPE = (20, 24, 18)
NARROW = UniCarlDesign(*TINY, (4, 4, 1), attention=8, padding=8, stretched=True, blurs=(3, 2))


def carl(factors: tuple[int, ...] = (4, 2), shape: tuple[int, ...] = SHAPE, **more: object) -> IconNet:
    torch.manual_seed(0)
    design = Design(*TINY, factors, attention=6, padding=2, **{"length": 8.0, **more})
    return IconNet(len(shape), design, shape, False)


def attention_of(net: IconNet) -> AttentionStep:
    (found,) = (module for module in net.modules() if isinstance(module, AttentionStep))
    return found


def test_the_first_step_attends_where_voxels_are_larger_and_the_next_sees_what_it_left() -> None:
    net = carl()
    a, b = torch.rand(2, 1, *SHAPE)
    seen = {}
    attention_of(net).register_forward_hook(lambda module, given, found: seen.update(given=given, found=found))
    with torch.no_grad():
        u = net.fixed_to_moving(b, a)
    pooled = [torch.nn.functional.avg_pool3d(image[:, None], 4) for image in (a[..., :16], b[..., :16])]
    for mine, theirs in zip(seen["given"], pooled, strict=True):
        assert mine.shape == (1, 1, 5, 6, 5)
        torch.testing.assert_close(mine[..., :4], theirs)
    # The U-Net says nothing yet: the whole is what the attention says, between its voxels by trilinear weights.
    expected = torch.nn.functional.interpolate(seen["found"], SHAPE, mode="trilinear", align_corners=True)
    torch.testing.assert_close(u, icon.per_axis(expected, [n - 1 for n in SHAPE]), rtol=1e-3, atol=1e-3)
    assert float(u.abs().max()) > 1


@pytest.mark.parametrize("shape", [SHAPE, (24, 34)])
def test_u_nets_after_the_attention_count_in_voxels(shape: tuple[int, ...]) -> None:
    net = carl(shape=shape)
    images = torch.rand(2, 1, *shape)
    with torch.no_grad():
        before = net.fixed_to_moving(*images)
        (bias,) = (value for name, value in net.named_parameters() if "lastConv.bias" in name)
        bias += 3.0  # everywhere: the attention's map is read that far away
        after = net.fixed_to_moving(*images)
    moved = tuple(slice(0, -3) for _ in shape), tuple(slice(3, None) for _ in shape)
    torch.testing.assert_close(after[0][(..., *moved[0])], before[0][(..., *moved[1])] + 3, rtol=1e-3, atol=1e-3)


def test_both_directions_of_a_pair_are_those_of_each_by_itself() -> None:
    net = carl()
    a, b = torch.rand(2, 2, *SHAPE)
    with torch.no_grad():
        forth, back = net.displacements(a, b)
        assert torch.equal(forth, net.fixed_to_moving(a, b))
        assert torch.equal(back, net.fixed_to_moving(b, a))
    assert attention_of(net).known is None
    # Each pair of a batch by itself.
    with torch.no_grad():
        torch.testing.assert_close(net.fixed_to_moving(a[1:], b[1:])[0], forth[1], rtol=1e-3, atol=1e-3)


def test_attention_is_left_when_that_is_wanted() -> None:
    net, seen = carl(), []

    def look() -> None:
        seen.append(1)
        raise Cancelled("Cancelled.")

    net.between = look
    with pytest.raises(Cancelled):
        net.displacements(*torch.rand(2, 1, *SHAPE))
    assert seen == [1]
    assert attention_of(net).known is None


def test_images_that_are_too_small_are_told_and_the_smallest_are_not() -> None:
    design = SIZES["carl"]["small"]
    net = IconNet(3, design, (24, 24, 24), False)
    with torch.no_grad():
        assert net.displacements(*torch.rand(2, 1, *[design.least + 1] * 3))[0].shape[2:] == (design.least + 1,) * 3
        with pytest.raises(ValueError, match=f"no more than {design.least}"):
            net.displacements(*torch.rand(2, 1, *[design.least] * 3))
        net = UniCarlNet(3, NARROW, (24, 24, 24), False)
        assert NARROW.least == 16
        assert torch.isfinite(net.displacements(*torch.rand(2, 1, 17, 17, 17))[0]).all()
    assert SIZES["carl"]["large"].least == 32
    assert PUBLISHED.least == 64


@pytest.mark.parametrize("values", [{"attention": 2}, {"attention": 10**6}, {"padding": -1}, {"length": 0.0}])
def test_what_makes_no_attention_is_refused(values: dict) -> None:
    with pytest.raises(ValueError, match="make no attention"):
        Design(*TINY, (4, 2), **{"attention": 8, "padding": 2, **values})
    with pytest.raises(ValueError, match="no step of ConstrICON"):
        IconNet(3, Design(*TINY, (4, 2), attention=8), SHAPE, True)


@pytest.mark.parametrize(
    "values", [{"attention": 0, "padding": 0}, {"padding": 7}, {"blurs": (3,)}, {"blurs": (3, 0)}, {"factors": (4, 2)}]
)
def test_what_makes_no_uni_carl_is_refused(values: dict) -> None:
    given = {"factors": (4, 4, 1), "attention": 8, "padding": 8, "blurs": (3, 2)}
    with pytest.raises(ValueError, match="make no uniCARL"):
        UniCarlDesign(*TINY, **{**given, **values})


# ------------------------------------------------------------------------------------------------------------- uniCARL


def test_uni_carl_has_the_weights_of_its_authors_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their names, within what moves the images of the training, and how many there are."""
    monkeypatch.setitem(sys.modules, "footsteps", types.ModuleType("footsteps"))
    unicarl._parts()
    with icon.stand_ins():
        from icon_registration.unicarl import unigradicon_train_parallel as theirs
    with torch.device("meta"):
        state = theirs.make_net(3, [1, 1, 64, 64, 64], equivariantize=False).regis_net.state_dict()
        mine = UniCarlNet(3, PUBLISHED, (160, 160, 160), False).net
    assert {"netPsi.netPsi." + k: v.shape for k, v in mine.state_dict().items()} == {
        k: v.shape for k, v in state.items()
    }
    assert sum(p.numel() for p in mine.parameters()) == 142_287_326


def test_its_attention_is_the_packages() -> None:
    torch.manual_seed(3)
    _, parts = unicarl._parts()
    theirs = parts.AttentionRegistration(3, 2)
    theirs.dim = 5
    theirs.assign_identity_map([1, 1, 3, 4, 5])
    moving, fixed = torch.randn(2, 5, 7, 8, 9), torch.randn(2, 5, 3, 4, 5)
    torch.testing.assert_close(CoordinateAttention()(moving, fixed), theirs(moving, fixed), rtol=1e-4, atol=1e-5)


def test_uni_carl_answers_as_the_packages_network_with_its_own_attention() -> None:
    """The same weights in the package's composition, of its width, one blur each."""
    torch.manual_seed(4)
    net = UniCarlNet(3, NARROW, (24, 28, 20), False)
    images = torch.rand(2, 1, 24, 28, 20)
    with torch.no_grad():
        expected = net.fixed_to_moving(*images)
        (featurizer,) = (m for m in net.modules() if type(m).__name__ == "AttentionFeaturizer")
        _, parts = unicarl._parts()
        theirs = parts.AttentionRegistration(3, NARROW.padding // 4)
        theirs.dim = NARROW.attention
        featurizer.registerer.net = theirs
        net._laid = None  # the coordinates are laid out anew, also for that
        found = net.fixed_to_moving(*images)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert float(expected.abs().max()) > 1


def test_the_packages_choice_of_a_device_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package.config, "device", torch.device("meta"))
    for name in ("icon_registration.carl", "icon_registration.unicarl.fixed_point_carl"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with torch.device("meta"):
        unicarl._parts()  # computes something, which nothing could where there is no memory
    assert package.config.device == torch.device("meta")
