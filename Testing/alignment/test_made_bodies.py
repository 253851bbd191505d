# SPDX-License-Identifier: Apache-2.0
"""Bodies of other people, larger, smaller and turned: aligned about as the affine between them says, feet down.

The intensities of two people need not agree best exactly there, since each one's organs lie elsewhere; all of the cases
of Testing/benchmarks/any_anatomy.py are measured by their labels.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
from DeepFLASHRegistrationLib.alignment.affine import AffineAlignment, align
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.problem.problem import scaled
from DeepFLASHRegistrationLib.problem.subject import Subject
from made_bodies import Pair, made_heads, made_pair, turn_about


def aligned(pair: Pair, moving: Volume | None = None) -> AffineAlignment:
    sides = [scaled(Subject(v).checked("image"), Parameters()).image for v in (pair.fixed, moving or pair.moving)]
    return align(*sides)


@functools.cache
def aligned_pair(kind: str, modality: str, seed: int) -> tuple[np.ndarray, AffineAlignment]:
    """The true affine of a made pair, and its alignment."""
    pair = made_pair(kind, modality, seed)
    return pair.truth, aligned(pair)


@functools.cache
def heads(kind: str) -> Pair:
    return made_heads(kind, 0)


def off(found: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """The angle in degrees between two affines, and the ratio of their scales."""
    turns, sizes = [], []
    for matrix in (found, truth):
        u, s, v = np.linalg.svd(matrix[:3, :3])
        turns.append(u @ v)
        sizes.append(np.prod(s) ** (1 / 3))
    angle = np.arccos(np.clip((np.trace(turns[0].T @ turns[1]) - 1) / 2, -1, 1))
    return float(np.rad2deg(angle)), float(sizes[0] / sizes[1])


@pytest.mark.parametrize(
    ("kind", "modality"),
    [("abdomen", "CT"), ("abdomen", "MR"), ("heart", "CT"), ("lungs", "CT"), ("fetal-brain", "MR")],
)
def test_bodies_of_another_size_lie_as_their_headers_say(kind, modality) -> None:
    truth, found = aligned_pair(kind, modality, 1)
    angle, size = off(found.matrix, truth)
    assert angle < 15
    assert 0.85 < size < 1.15


@pytest.mark.parametrize(("kind", "modality"), [("abdomen", "CT"), ("abdomen", "MR"), ("fetal-brain", "MR")])
def test_two_images_of_one_kind_are_not_said_to_differ_in_contrast(kind, modality) -> None:
    for seed in (0, 1):
        _, found = aligned_pair(kind, modality, seed)
        assert not any("contrast" in note for note in found.notes)


@pytest.mark.parametrize("kind", ["small-head", "infant's-head"])
def test_a_head_of_half_the_size_is_found(kind) -> None:
    pair = heads(kind)
    angle, size = off(aligned(pair).matrix, pair.truth)
    assert angle < 10
    assert 0.9 < size < 1.1


@pytest.mark.parametrize(("axis", "degrees"), [((1, 0, 0), 180), ((0, 0, 1), 90)])
def test_strong_evidence_turns_a_body_against_its_header(axis, degrees) -> None:
    pair = heads("thick-slices")
    turn = turn_about(axis, degrees, pair.moving.grid.center)
    grid = type(pair.moving.grid)(pair.moving.grid.shape, turn @ pair.moving.grid.affine)
    angle, _ = off(aligned(pair, Volume(grid, pair.moving.data, "head")).matrix, turn @ pair.truth)
    assert angle < 10
