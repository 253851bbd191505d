# SPDX-License-Identifier: Apache-2.0
"""Images that were cut out of a scan teach nothing by the edge at which they were cut."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from DeepFLASHRegistrationLib.learning.pair_terms import known_to_both
from DeepFLASHRegistrationLib.training.drawing import Drawing, Variety
from DeepFLASHRegistrationLib.training.examples import Images, Maker
from DeepFLASHRegistrationLib.training.icon_method import IconMethod
from DeepFLASHRegistrationLib.training.learned import Method
from DeepFLASHRegistrationLib.training.pack import Pack, known_part
from DeepFLASHRegistrationLib.training.voxelmorph_method import VoxelMorphMethod
from icon_package import icon_or_skip
from training_packs import SHAPE, pack

pytest.importorskip("monai")
icon_or_skip()

STILL = Variety(3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
FIRST, LAST = (6, 4, 5), (25, 27, 24)
INSIDE = tuple(slice(a, b + 1) for a, b in zip(FIRST, LAST))


@pytest.fixture
def crops() -> Pack:
    """Of tissue that goes on everywhere."""
    made, rng = pack("crops", labels=False), np.random.default_rng(1)
    images = np.zeros_like(made.images)
    tissue = rng.integers(60, 230, images[(0, *INSIDE)].shape)
    images[(slice(None), *INSIDE)] = tissue + rng.integers(-20, 20, images[(slice(None), *INSIDE)].shape)
    return dataclasses.replace(made, images=images)


def images_of(pack: Pack, matrices: np.ndarray | None = None) -> Images:
    drawing = Drawing([pack], {pack.name: 1}, STILL)
    drawn = drawing.plain(pack.name, 0, 1)
    if matrices is not None:
        drawn["matrices"] = matrices.astype(np.float32)
    maker = Maker(drawing, "cpu")
    return maker(maker.tensors(drawn))


def test_what_was_cut_out_ends_there_and_what_background_surrounds_does_not(crops: Pack) -> None:
    np.testing.assert_array_equal(known_part(crops, 0), [FIRST, LAST])
    assert known_part(pack("stripped"), 0) is None
    assert bool(images_of(pack("stripped")).known.all())


def test_what_is_known_moves_with_the_image(crops: Pack) -> None:
    matrices = np.repeat(np.eye(4)[None, :3], 2, 0)
    matrices[1, :, 3] = 3, 0, -2
    known = images_of(crops, matrices).known.numpy()
    for side, (matrix, image) in enumerate(zip(matrices, known)):
        first, last = (np.array(x) - matrix[:, 3].astype(int) for x in (FIRST, LAST))
        right = np.zeros(SHAPE, bool)
        right[tuple(slice(max(a, 0), b + 1) for a, b in zip(first, last))] = True
        np.testing.assert_array_equal(image, right, err_msg=str(side))


def test_a_partner_is_known_where_the_map_leads_inside(crops: Pack) -> None:
    images = images_of(crops)
    learner = VoxelMorphMethod("small", "mse", 0.0).learner(SHAPE, "cpu")
    u = torch.zeros(2, 3, *SHAPE)
    u[:, 2] = 4
    right = np.zeros(SHAPE, bool)
    right[INSIDE[0], INSIDE[1], slice(FIRST[2], LAST[2] + 1 - 4)] = True
    for found in known_to_both(learner.voxelmorph_loss.sample, images.known, u):
        np.testing.assert_array_equal(found.numpy() > 0, right)


@pytest.mark.parametrize(
    "method",
    [
        VoxelMorphMethod("small", "lncc", 0.0),
        VoxelMorphMethod("small", "mse", 0.0),
        IconMethod("gradicon", "small", 0.0),
    ],
    ids=lambda method: f"{method.kind} {getattr(method, 'similarity', '')}".strip(),
)
def test_what_lies_beyond_changes_no_loss(crops: Pack, method: Method) -> None:
    torch.manual_seed(0)
    learner = method.learner(SHAPE, "cpu")
    images = images_of(crops)
    beyond = torch.where(images.known, images.clean, torch.rand(images.clean.shape))
    with torch.no_grad():
        first, other = (
            float(learner.loss(dataclasses.replace(images, clean=x))[1][0, 0]) for x in (images.clean, beyond)
        )
        everywhere = torch.ones_like(images.known)
        seen = float(learner.loss(dataclasses.replace(images, clean=beyond, known=everywhere))[1][0, 0])
    assert first == pytest.approx(other, rel=1e-4)
    assert abs(seen - first) > 0.05 * first
