# SPDX-License-Identifier: Apache-2.0
"""Registrations that are steered: a gland that two modalities show differently, whose true map is known."""

from __future__ import annotations

import numpy as np
import pytest
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.phantom.gland import WHOLE, make_gland
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.problem.surfaces import distance
from DeepFLASHRegistrationLib.registration import register as registration
from DeepFLASHRegistrationLib.registration.metrics import map_points
from DeepFLASHRegistrationLib.registration.register import register
from DeepFLASHRegistrationLib.support.errors import InputError

SMALL = {"shape": (40, 40, 40), "spacing_mm": 2.4}


@pytest.fixture(scope="module", autouse=True)
def _images_aligned_once():
    """What steers comes after the alignment of the images alone, which is the same for most tests."""
    made, known = registration.align, {}

    def once(fixed, moving, kind, **more):
        images = [volume for volume in (fixed, moving, *more["masks"]) if volume is not None]
        key = (kind, *((image.data.tobytes(), image.grid.affine.tobytes()) for image in images))
        if key not in known:
            known[key] = made(fixed, moving, kind, **more)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registration, "align", once)
        yield


@pytest.fixture(scope="module")
def gland():
    return make_gland(1, **SMALL)


@pytest.fixture(scope="module")
def placed(gland):
    """Ten landmarks, those of the moving image to within 2 mm."""
    rng = np.random.default_rng(1)
    return gland.fixed_points[:10], gland.moving_points[:10] + rng.normal(0, 2, (10, 3))


@pytest.fixture(scope="module")
def alone(gland):
    return register(gland.fixed, gland.moving, settings())


@pytest.fixture(scope="module")
def steered(gland, placed):
    x, y = placed
    return register(gland.fixed, gland.moving, settings(landmark_weight=1.0), fixed_points=x, moving_points=y)


def settings(**changes):
    return Parameters.from_preset("fast", **{"similarity": "mi", **changes})


def error(gland, result):
    """Mean distance of the map from the true one in the gland, mm."""
    inside = np.isin(gland.fixed_labels.data, WHOLE)
    points = gland.fixed.grid.index_to_physical(np.argwhere(inside))
    found = map_points(points, result.fixed_to_moving, result.fixed_to_moving.grid)
    return float(np.linalg.norm(found - points - gland.fixed_to_moving[inside], axis=1).mean())


def test_ten_landmarks_halve_the_error_that_mutual_information_leaves(gland, alone, steered):
    assert error(gland, alone) > 4
    assert error(gland, steered) < error(gland, alone) / 2
    assert steered.metrics["folds_strict"]["count"] == 0
    assert steered.metrics["sd_log_determinant"] <= 0.5
    assert steered.metrics["landmarks"]["steered"] == [True] * 10
    assert any("of the landmarks" in note for note in steered.notes)


def test_a_landmark_that_is_30_mm_off_is_set_aside_and_named(gland, placed, steered):
    x, y = placed
    wrong = y.copy()
    rng = np.random.default_rng(0)
    while True:
        off = rng.normal(size=3)
        wrong[3] = y[3] + 30 * off / np.linalg.norm(off)
        if gland.moving.grid.contains(wrong).all():
            break
    kept = np.arange(10) != 3
    chosen = settings(landmark_weight=1.0)
    found = register(gland.fixed, gland.moving, chosen, fixed_points=x, moving_points=wrong)
    without = register(gland.fixed, gland.moving, chosen, fixed_points=x[kept], moving_points=y[kept])
    assert error(gland, found) < 1.1 * error(gland, without)
    assert found.metrics["landmarks"]["steered"] == kept.tolist()
    assert any("did not steer: number 4" in note for note in found.notes)


def test_surfaces_drawn_by_hand_halve_the_error_where_nothing_else_is_seen():
    gland = make_gland(1, contrast="none", **SMALL)
    rng = np.random.default_rng(1)

    def drawn(labels):
        """The gland alone, its surface off by 1 mm here and there."""
        whole = Volume(labels.grid, np.isin(labels.data, WHOLE).astype(np.int32))
        waves = np.fft.irfftn(
            np.fft.rfftn(rng.normal(size=labels.data.shape))
            * np.exp(-0.5 * (4.0 / 2.4 * 2 * np.pi) ** 2 * _square_frequencies(labels.data.shape)),
            s=labels.data.shape,
            axes=(0, 1, 2),
        )
        deep = distance(whole, 1, 12.0).data + waves / waves.std()
        return Volume(labels.grid, (deep > 0).astype(np.int32), labels.name)

    both = {"fixed_labels": drawn(gland.fixed_labels), "moving_labels": drawn(gland.moving_labels)}
    alone = register(gland.fixed, gland.moving, settings(), **both)
    found = register(gland.fixed, gland.moving, settings(label_weight=1.0), **both)
    assert error(gland, found) < error(gland, alone) / 2
    assert found.metrics["mean_dice_after"] > 0.9  # on voxels of 2.4 mm
    assert found.metrics["folds_strict"]["count"] == 0
    assert found.metrics["sd_log_determinant"] <= 0.5


def _square_frequencies(shape):
    axes = [np.fft.fftfreq(n) for n in shape[:-1]] + [np.fft.rfftfreq(shape[-1])]
    return sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij"))


def test_a_bone_keeps_its_shape_and_a_lesion_its_volume(gland):
    both = {"fixed_labels": gland.fixed_labels, "moving_labels": gland.moving_labels}
    start = {"initial_affine": gland.affine, **both}
    free = register(gland.fixed, gland.moving, settings(similarity="lncc"), **start)
    kept = register(
        gland.fixed, gland.moving, settings(similarity="lncc", rigid_labels=(6,), volume_labels=(2,)), **start
    )
    found = kept.metrics["kept"]
    assert found["6"]["kind"] == "rigid"
    assert found["6"]["p95_percent"] < 0.5
    assert abs(found["2"]["percent"]) < 1.0
    # And the images are still followed, though not as far: the dissimilarity at the level that both end with.
    at_rest = register(gland.fixed, gland.moving, settings(similarity="lncc", iterations=(0, 0)), **start)
    rest, *reached = (
        [step["similarity"] for step in r.history if step["level"] == 1][-1] for r in (at_rest, free, kept)
    )
    assert rest - reached[1] > 0.4 * (rest - reached[0]) > 0


def test_what_does_not_steer_changes_no_bit(gland, placed):
    x, y = placed
    both = {"fixed_labels": gland.fixed_labels, "moving_labels": gland.moving_labels}
    plain = register(gland.fixed, gland.moving, settings(iterations=(2, 1)))
    with_all = register(
        gland.fixed,
        gland.moving,
        settings(iterations=(2, 1), landmark_weight=0.0, label_weight=0.0),
        fixed_points=x,
        moving_points=y,
        **both,
    )
    assert np.array_equal(plain.velocity["velocity"], with_all.velocity["velocity"])
    assert "steered" not in with_all.metrics["landmarks"]
    assert "kept" not in with_all.metrics


def test_a_method_that_cannot_be_steered_says_so_before_any_work(gland, placed):
    x, y = placed
    with pytest.raises(InputError, match=r"nephi cannot be steered\. Use flash, lddmm"):
        register(
            gland.fixed,
            gland.moving,
            Parameters(method="nephi", landmark_weight=1.0),
            fixed_points=x,
            moving_points=y,
        )
    with pytest.raises(InputError, match="LDDMM is steered by landmarks"):
        register(
            gland.fixed, gland.moving, Parameters(method="lddmm", rigid_labels=(6,)), fixed_labels=gland.fixed_labels
        )
    with pytest.raises(InputError, match="no landmarks to steer by"):
        register(gland.fixed, gland.moving, settings(landmark_weight=1.0))
