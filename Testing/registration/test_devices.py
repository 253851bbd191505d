# SPDX-License-Identifier: Apache-2.0
"""register() on a device that fails in the middle: the same result from the CPU, and a note.

"cpu:0" is a device that is not "cpu" to us, and computes the same.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence

import numpy as np
import pytest
import registration_pairs as pairs
from DeepFLASHRegistrationLib.alignment import affine
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.problem import field, resampling
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.problem.problem import Problem, comparable
from DeepFLASHRegistrationLib.problem.subject import Subject
from DeepFLASHRegistrationLib.registration import agreement, maps, measuring, metrics, voxelwise
from DeepFLASHRegistrationLib.registration.carried import carried, parts
from DeepFLASHRegistrationLib.registration.register import register
from DeepFLASHRegistrationLib.support import torch_device
from scipy.ndimage import gaussian_filter

torch = pytest.importorskip("torch")

from another_device import NAME, another_device, is_it  # noqa: E402
from DeepFLASHRegistrationLib.geodesics import captured  # noqa: E402
from DeepFLASHRegistrationLib.geodesics.objective import Objective  # noqa: E402
from DeepFLASHRegistrationLib.problem.deformation import Deformation  # noqa: E402
from recordings import Again  # noqa: E402
from test_maps import steep  # noqa: E402

TINY = Parameters.from_preset("default", resolutions=(1,), bands=(9,), iterations=(4,), initial_alignment="none")
FIXED_GRID, MOVING_GRID = pairs.box((18, 20, 17), 5.2), pairs.box((19, 18, 18), (5.0, 5.5, 5.3))
# What asks whether it works on a GPU.
FOLLOWING = (affine, resampling, field, maps, measuring, metrics, voxelwise, agreement)
FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
GONE = RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be reported later")
SENTENCES = {
    FULL: "The memory of cpu:0 did not suffice; this was computed on the CPU.",
    GONE: "cpu:0 failed (CUDA error: unspecified launch failure); this was computed on the CPU. Before you use that "
    "device again, start the program anew.",
}


@pytest.fixture(scope="module")
def tiny():
    return pairs.fixed_image(FIXED_GRID), pairs.moving_image(MOVING_GRID)


@pytest.fixture(scope="module")
def plain(tiny):
    return register(*tiny, TINY, device="cpu", threads=1)


def failing(monkeypatch, kind, name, error, at=1, times=1):
    """The method raises at its ``at``-th call, so many times."""
    whole, calls = getattr(kind, name), []

    def method(self, *arguments, **named):
        calls.append(1)
        if at <= len(calls) < at + times:
            raise type(error)(*error.args)
        return whole(self, *arguments, **named)

    monkeypatch.setattr(kind, name, method)
    return calls


def assert_same(one, other):
    assert np.array_equal(one.velocity["velocity"], other.velocity["velocity"])
    assert np.array_equal(one.fixed_to_moving, other.fixed_to_moving)
    assert np.array_equal(one.moving_to_fixed, other.moving_to_fixed)
    assert np.array_equal(one.warped.data, other.warped.data)


@pytest.mark.parametrize("error", [FULL, GONE], ids=["full", "gone"])
@pytest.mark.parametrize(
    ("kind", "name", "at"),
    [(Objective, "__call__", 1), (Objective, "__call__", 3), (Deformation, "field", 3)],
    ids=["at first", "in the middle", "at the end"],
)
def test_a_device_that_fails_gives_way_to_the_cpu(error, kind, name, at, tiny, plain, monkeypatch):
    calls, told = failing(monkeypatch, kind, name, error, at), []
    result = register(*tiny, TINY, device="cpu:0", threads=1, progress=told.append)
    assert len(calls) > at
    assert_same(result, plain)
    assert result.notes.count(SENTENCES[error]) == 1
    assert any(SENTENCES[error] in event.get("notes", ()) for event in told)
    assert result.provenance["device"] == plain.provenance["device"]
    assert not set(SENTENCES.values()) & set(plain.notes)


def test_a_mistake_of_the_program_is_no_failure_of_the_device(tiny, monkeypatch):
    failing(monkeypatch, Objective, "__call__", RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        register(*tiny, TINY, device="cpu:0", threads=1)


def test_a_device_that_takes_all_with_it_is_named_with_the_remedy(tiny, monkeypatch):
    failing(monkeypatch, Objective, "__call__", GONE, times=99)
    with pytest.raises(RuntimeError, match=r"cpu:0 failed \(CUDA error.+\)\. Start the program anew, and choose the"):
        register(*tiny, TINY, device="cpu:0", threads=1)


def test_out_of_memory_in_a_recorded_evaluation_changes_nothing_and_is_told(tiny, plain, monkeypatch):
    class Full(Again):
        def replay(self):
            if type(self).replayed == 2:
                raise FULL
            super().replay()

    monkeypatch.setitem(captured.RECORDINGS, "cpu", Full)
    result = register(*tiny, TINY, device="cpu:0", threads=1)
    assert_same(result, plain)
    assert any(
        "could not record the evaluations (CUDA out of memory" in note and "the same result" in note
        for note in result.notes
    )


def test_all_that_a_gpu_does_gives_what_the_cpu_gives(monkeypatch):
    """Aligned, resampled and searched as on CUDA, with recordings, from labels to measures."""
    whole = pairs.fixed_image(pairs.box((32, 30, 34), 3.0)), pairs.moving_image(pairs.box((33, 32, 31), 3.1))
    labels = {"moving_labels": pairs.moving_labels(whole[1].grid)}
    parameters = pairs.quick(initial_alignment="affine")
    there = register(*whole, parameters, device="cpu", threads=1, **labels)
    on_device = []
    for module in FOLLOWING:
        monkeypatch.setattr(module, "is_cuda", lambda device: on_device.append(1) or True)
    monkeypatch.setitem(captured.RECORDINGS, "cpu", Again)
    monkeypatch.setattr(Again, "replayed", 0)
    here = register(*whole, parameters, device="cpu:0", threads=1, **labels)
    assert Again.replayed > 100
    assert here.notes == there.notes
    apart = np.linalg.norm(here.fixed_to_moving - there.fixed_to_moving, axis=-1)
    assert apart.mean() < 0.005
    assert apart.max() < 0.1
    assert np.count_nonzero(here.labels.data != there.labels.data) <= 1e-3 * here.labels.data.size
    assert on_device
    assert here.verdict.level == there.verdict.level
    for name in ("similarity_before", "similarity_after", "overlap", "mean_dice_after"):
        if name in there.metrics:
            assert here.metrics[name] == pytest.approx(there.metrics[name], abs=2e-3), name


@dataclasses.dataclass
class Found:
    """A geodesic that folds somewhere, between two images with labels."""

    sides: list[Subject]
    velocity: dict
    problem: Problem
    parameters: Parameters

    @classmethod
    def of(cls, d: int, size: int = 32) -> Found:
        rng = np.random.default_rng(3)
        grids = pairs.box((size, size, size)[:d], 1.0), pairs.box((size + 5, size + 3, size + 4)[:d], 0.95)
        sides = []
        for grid in grids:
            noise = gaussian_filter(rng.normal(size=grid.shape), 2)
            data = np.where(noise > 0, noise + 0.1, 0).astype(np.float32)
            labels = Volume(grid, (data > 0.15).astype(np.int32) * rng.integers(1, 4, grid.shape, dtype=np.int32))
            sides.append(Subject(Volume(grid, data, "image"), labels=labels).checked("image"))
        velocity = steep(grids[0], (size / 2,) * d)
        velocity["affine"] = np.eye(d + 1)
        velocity["affine"][:d] += 0.02 * rng.normal(size=(d, d + 1))
        parameters = pairs.quick(initial_alignment="none")
        problem = Problem(*comparable(*sides, parameters), velocity["affine"], parameters)
        return cls(sides, velocity, problem, parameters)

    def finish(self, device: str = "cpu", brought: Sequence[int] = ()) -> tuple:
        """Maps, images and fields, what is seen, figures; and what had come to the host before the end."""
        fixed, moving = self.sides
        found = maps.unfolded(fixed.grid, self.velocity, np.ones(fixed.grid.shape, bool), device)
        there = carried(fixed, moving, found)
        figures = measuring.measured(fixed, moving, there, found, self.problem, self.parameters)
        early = list(brought)
        return found, parts(there, found, fixed.grid, moving), there.seen.cpu().numpy(), figures, early


@pytest.mark.parametrize("d", [2, 3])
def test_the_finish_on_a_device_is_that_of_the_cpu(d, monkeypatch):
    """The maps of one geodesic, with folds to mend, what they make of images and labels, and the figures, in slabs of
    any size."""
    case = Found.of(d)
    fixed_grid, finish = case.sides[0].grid, case.finish
    there, made, seen, figures, _ = finish()
    for module in FOLLOWING:
        monkeypatch.setattr(module, "is_cuda", lambda device: True)
        for name in ("_DEVICE_POINTS", "_DEVICE_VOXELS", "DEVICE_VOXELS"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, 9000)
    here, made_here, seen_here, figures_here, _ = finish()
    assert any("damped" in note for note in there.notes) or d == 2
    assert here.notes == there.notes
    assert np.abs(np.exp(made_here["log_jacobian"].data) - np.exp(made["log_jacobian"].data)).max() < 1e-4
    for name in ("fixed_to_moving", "moving_to_fixed"):
        ours, theirs = getattr(here, name), getattr(there, name)
        assert np.abs(ours.at(np.array([[5] * d, [20] * d])) - theirs.at(np.array([[5] * d, [20] * d]))).max() < 1e-4
        assert np.abs(np.asarray(ours) - np.asarray(theirs)).max() < 1e-4
    monkeypatch.setattr(field, "is_cuda", lambda device: False)
    for name in ("fixed_to_moving", "moving_to_fixed"):
        settled = getattr(here, name)
        settled._whole = None
        alone = here.deformation.field(settled.grid, name, between=name == "moving_to_fixed")
        assert np.array_equal(np.asarray(settled), np.asarray(alone))  # as if there had been no device
    for name in ("warped", "moving_affine"):
        assert np.abs(made_here[name].data - made[name].data).max() < 1e-3 * np.ptp(made[name].data)
    for name in ("labels", "labels_before"):
        assert np.count_nonzero(made_here[name].data != made[name].data) <= 1e-3 * fixed_grid.size
    assert np.count_nonzero(seen_here != seen) <= 1e-3 * fixed_grid.size
    assert_figures(figures_here, figures)


def test_the_finish_mixes_no_devices_and_brings_to_the_host_what_was_asked_for_at_the_end(monkeypatch):
    case = Found.of(3, 24)
    monkeypatch.setattr(agreement, "_ITERATIONS", 1)
    monkeypatch.setattr(agreement, "_CELLS", 1000)
    _, made, seen, figures, _ = case.finish()
    for module in FOLLOWING:
        monkeypatch.setattr(module, "is_cuda", is_it)
    with another_device() as brought:
        here, made_here, seen_here, figures_here, early = case.finish(NAME, brought)
    size = case.sides[0].grid.size
    assert max(early) < size  # the ends of a few points
    assert brought.count(size) == 6  # both images and both label maps, determinants, and what is seen
    assert not any("meta" in field.device for field in (here.fixed_to_moving, here.moving_to_fixed))
    for name in ("warped", "moving_affine", "labels", "labels_before"):
        assert np.abs(made_here[name].data - made[name].data).mean() < 1e-3 * np.ptp(made[name].data), name
    assert np.count_nonzero(seen_here != seen) <= 1e-3 * size
    assert_figures(figures_here, figures)


def assert_figures(here, there):
    """All numbers of Result.metrics, to what points a rounding apart may change."""
    assert type(here) is type(there)
    if isinstance(there, dict):
        assert here.keys() == there.keys()
        for name in there:
            assert_figures(here[name], there[name])
    elif isinstance(there, float):
        assert here == pytest.approx(there, rel=2e-3, abs=2e-3, nan_ok=True)
    else:
        assert here == there


def test_a_gpu_left_aside_is_told(tiny, plain, monkeypatch):
    monkeypatch.setattr(torch_device, "_gpu", lambda: (False, "The NVIDIA driver on your system is too old."))
    result = register(*tiny, TINY, threads=1)
    assert_same(result, plain)
    assert any("driver on your system is too old. This was computed on the CPU" in note for note in result.notes)


def test_two_registrations_at_once_are_as_each_alone(tiny, plain, monkeypatch):
    """Recorded and replayed side by side, in one process."""
    monkeypatch.setitem(captured.RECORDINGS, "cpu", Again)
    other = register(*tiny[::-1], TINY, device="cpu", threads=1)
    found = {}
    threads = [
        threading.Thread(target=lambda k=k, two=two: found.update({k: register(*two, TINY, device="cpu", threads=1)}))
        for k, two in enumerate((tiny, tiny[::-1], tiny))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for number, expected in ((0, plain), (1, other), (2, plain)):
        assert_same(found[number], expected)
