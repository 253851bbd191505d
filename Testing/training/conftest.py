# SPDX-License-Identifier: Apache-2.0
"""What tests of trainings share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.methods.pose import MeanImage
from DeepFLASHRegistrationLib.training import pack_model
from DeepFLASHRegistrationLib.training.mean_image import mean_image

_MADE: dict[tuple[bytes, ...], MeanImage] = {}


@pytest.fixture
def mean_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained models get the mean image that an earlier training on the same images made."""

    def once(images: Sequence[Volume], cancelled: Callable[[], bool] | None = None) -> MeanImage:
        key = tuple(image.data.tobytes() for image in images)
        if key not in _MADE:
            _MADE[key] = mean_image(images, cancelled)
        return _MADE[key]

    monkeypatch.setattr(pack_model, "mean_image", once)
