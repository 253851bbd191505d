# SPDX-License-Identifier: Apache-2.0
"""The script of the triangles and circles: what it draws, measures and paints."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from DeepFLASHRegistrationLib.learning.icon import Design
from DeepFLASHRegistrationLib.registration.register import register
from icon_package import icon_or_skip

icon_or_skip()

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "Utilities"))
    import synthetic_2d

    yield synthetic_2d
    sys.modules.pop("synthetic_2d")


def test_distances_are_those_to_an_outline(script: ModuleType) -> None:
    for seed in range(12):
        far = script.distance(np.random.default_rng(seed))
        slope = np.hypot(*np.gradient(far))
        # A distance grows by one for each pixel, but where two parts of the outline are as near, and next to these.
        assert np.median(slope) == pytest.approx(1.0, abs=1e-3)
        assert slope.max() < 1.05
        assert far.min() < -2
        edges = np.concatenate([far[0], far[-1], far[:, 0], far[:, -1]])
        assert edges.min() > 5  # all of it is to be seen


def test_a_pair_is_drawn_and_hollow_shapes_enclose_what_they_outline(script: ModuleType) -> None:
    pairs = [script.drawn(seed) for seed in range(10)]
    filled = [float(f.image.data[f.label_map.data > 0].mean()) > 0.85 for f, _ in pairs]
    assert True in filled
    assert False in filled
    for fixed, moving in pairs:
        assert fixed.image.data.max() > 0.95
        assert not np.array_equal(fixed.label_map.data, moving.label_map.data)
    np.testing.assert_array_equal(script.drawn(3)[0].image.data, pairs[3][0].image.data)


def test_a_network_learns_is_kept_and_registered_and_all_is_painted(script: ModuleType, tmp_path: Path) -> None:
    tiny = Design((2, 4, 4), (4, 4), (2, 1))
    model = script.trained("gradicon", 0.0, tmp_path, tiny)
    methods = script.entrants({"gradicon": model})
    assert list(methods) == ["GradICON", "NePhi", "FLASH"]
    fixed, moving = script.drawn(4)
    results = [register(*pair, methods["GradICON"], threads=1) for pair in ((fixed, moving), (moving, fixed))]
    figures = dict(zip(script.FIGURES, script.measured(*results, fixed), strict=True))
    assert 0 < figures["Dice"] <= 1
    assert 0 <= figures["inverse error, px"] < 0.5  # after one update
    picture = script.picture([(fixed, moving, results)])
    assert picture.startswith(b"\x89PNG")


def test_grid_lines_are_those_of_the_source(script: ModuleType) -> None:
    """At rest a line every MESH pixels; moved by half of that, they are where the gaps were; stretched, twice as far
    from each other."""
    still = np.zeros((2, script.PIXELS, script.PIXELS), np.float32)
    rest = script.mesh(still)
    period = int(script.MESH * script.SCALE)
    row = rest[period // 2]
    inner = slice(period, -period)
    np.testing.assert_allclose(row[inner], np.roll(row, period)[inner], atol=1e-5)
    assert row[inner].max() > 0.6
    moved = script.mesh(still + np.float32(script.MESH / 2))
    np.testing.assert_allclose(moved[inner, inner], np.roll(rest, (period // 2,) * 2, (0, 1))[inner, inner], atol=1e-4)
    half = -0.5 * np.indices(still.shape[1:], dtype=np.float32)
    assert 0.4 < script.mesh(half)[inner, inner].mean() / rest[inner, inner].mean() < 0.75
