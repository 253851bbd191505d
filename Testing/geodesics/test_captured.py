# SPDX-License-Identifier: Apache-2.0
"""Recorded and replayed evaluations: the same numbers to the bit as plain ones, and what happens where that fails."""

from __future__ import annotations

import contextlib
import gc
import inspect
import threading
import weakref

import pytest
import torch
from DeepFLASHRegistrationLib.geodesics import captured
from DeepFLASHRegistrationLib.geodesics.captured import Captured, require
from DeepFLASHRegistrationLib.geodesics.objective import Objective, Settings
from DeepFLASHRegistrationLib.geodesics.search.conjugate_gradients import solved
from DeepFLASHRegistrationLib.geodesics.search.curvature import Curvature
from DeepFLASHRegistrationLib.geodesics.search.flash import minimize
from geodesic_fields import velocity
from recordings import Again, HostRead, NoReads, OneDevice, Traced
from test_flash import make_level, shifted, window


@pytest.fixture
def recording(monkeypatch):
    """CPUs record here: what, and how often it was replayed."""
    for kind in (Traced, Again):
        monkeypatch.setattr(kind, "made", 0)
        monkeypatch.setattr(kind, "replayed", 0)

    def use(kind):
        monkeypatch.setitem(captured.RECORDINGS, "cpu", kind)
        return kind

    return use


def objectives(shape=(16, 14), settings=None, damp=None, **geometry):
    """The same problem twice: plain, and as it is evaluated often; and a velocity."""
    pair = shifted(shape, shift=(0.9, -0.7, 0.5))
    level = make_level(pair, modes=5, **geometry)
    v = velocity(level.band, 0.8, smoothness=8.0)
    return *(Objective(pair, level, settings or Settings(steps=3), damp, v, often) for often in (False, True)), v


def assert_same(one, other):
    assert (one.energy, one.dissimilarity, one.regularization) == (
        other.energy,
        other.dissimilarity,
        other.regularization,
    )
    assert torch.equal(one.gradient, other.gradient)
    for ours, theirs in zip(one.sights, other.sights, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


CASES = {
    "both ways": {"settings": Settings("lncc", True, steps=3)},
    "mutual information": {"settings": Settings("mi", integrator="rk4", steps=2)},
    "FLASH's own map": {"settings": Settings("ncc", band_limited_map=True, integrator="euler", steps=3), "step": 1.0},
    "3-D, damped": {"settings": Settings("ssd", steps=2), "shape": (8, 6, 7), "damp": window},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_traced_evaluation_is_the_plain_one_at_other_velocities_too(case, recording):
    """Nothing but the operations of one evaluation is done again: what Python decided once is decided for all."""
    kind = recording(Traced)
    plain, often, v = objectives(**case)
    for factor in (1.0, -0.7, 1.3):
        assert_same(plain(factor * v), often(factor * v))
    assert (often.evaluation.trouble, kind.made, kind.replayed) == ("", 1, 2)


@pytest.mark.parametrize("search", ["gauss-newton", "lbfgs"])
@pytest.mark.parametrize("similarity", ["lncc", "mi"])
def test_a_whole_search_is_the_same_to_the_bit_if_its_evaluations_are_replayed(similarity, search, recording):
    pair = shifted(dtype=torch.float32)
    levels = [make_level(pair, 2, 5, 4), make_level(pair, 1, 9, 5)]
    settings = Settings(similarity, similarity == "mi", search=search)
    plain, energies = [], []
    expected = minimize(pair, levels, settings, report=lambda r: plain.append(r.energy))
    kind = recording(Again)
    found = minimize(pair, levels, settings, report=lambda r: energies.append(r.energy))
    assert torch.equal(found.velocity, expected.velocity)
    assert energies == plain
    assert kind.made >= (4 if search == "gauss-newton" else 2)
    assert kind.replayed > 2 * kind.made


def test_no_evaluation_reads_a_tensor_on_the_host():
    plain, _, v = objectives((8, 6, 7), Settings("lncc", True, steps=2), window)
    with captured._later() as conditions, NoReads():
        values = plain._values(v)
    assert all(bool(holds) for holds, _ in conditions)
    assert len(conditions) > 5
    assert torch.equal(values.gradient, plain(v).gradient)
    # And the guard sees what it is for.
    with pytest.raises(HostRead), NoReads():
        plain._values(v)


def moved(value, device, seen=None):
    """All tensors that an object holds, moved in place; their number."""
    seen = set() if seen is None else seen
    if id(value) in seen or not hasattr(value, "__dict__"):
        return 0
    seen.add(id(value))

    def one(x):
        if isinstance(x, torch.Tensor):
            return x.to(device), 1
        if type(x) in (list, tuple):
            parts = [one(y) for y in x]
            return type(x)(y for y, _ in parts), sum(n for _, n in parts)
        return x, moved(x, device, seen) if type(x).__module__.startswith("DeepFLASHRegistrationLib") else 0

    count = 0
    for name, held in list(vars(value).items()):
        found, number = one(held)
        count += number
        if found is not held:
            object.__setattr__(value, name, found)
    return count


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_evaluation_and_a_product_make_no_tensor_on_another_device(case):
    """What would be copied from the host cannot be recorded. The device "meta" has no numbers, and cannot be read."""
    objective, _, v = objectives(**case)
    curvature = Curvature(objective)
    curvature.look(objective(v))
    assert moved(objective, "meta") > 20
    assert moved(curvature, "meta") > 5
    at = v.to("meta")
    with captured._later():
        objective._values(at)  # the first call, which is never recorded, makes tables
    with captured._later(), OneDevice("meta"):
        values = objective._values(at)
        product = curvature.product(at)
    assert values.gradient.shape == product.shape == v.shape
    with pytest.raises(RuntimeError, match="device cpu"), captured._later(), OneDevice("meta"):
        objective._values(v)


def test_what_a_geodesic_must_keep_is_asked_after_the_replay(recording):
    recording(Again)
    plain, often, v = objectives(settings=Settings(steps=1, integrator="euler"), alpha=0.2)
    for factor, finite in ((0.5, True), (0.4, True), (8.0, False), (0.5, True), (8.0, False), (0.3, True)):
        ours, theirs = often(factor * v), plain(factor * v)
        assert (ours.gradient is not None) == finite == (theirs.gradient is not None)
        if finite:
            assert_same(ours, theirs)
    assert not often.evaluation.trouble


def test_more_time_steps_are_another_recording(recording):
    kind = recording(Again)
    plain, often, v = objectives(settings=Settings())
    for _ in range(3):
        for factor in (1.0, 0.9, 0.8):
            assert_same(plain(factor * v), often(factor * v))
        assert plain.refine()
        assert often.refine()
    assert kind.made == 3


def test_an_evaluation_is_the_callers_to_keep(recording):
    recording(Again)
    plain, often, v = objectives()
    kept = [often(factor * v) for factor in (1.0, 0.9, 0.8, 0.7)]
    for factor, evaluation in zip((1.0, 0.9, 0.8, 0.7), kept, strict=True):
        assert_same(plain(factor * v), evaluation)


def test_solutions_are_the_same_to_the_bit_if_products_are_replayed(recording):
    mixing = torch.randn(20, 20, generator=torch.Generator().manual_seed(0))
    a = mixing @ mixing.t() + torch.eye(20)
    calls = Captured()

    def solution(b, calls=None):
        return solved(lambda x: a @ x, b, lambda x: x / a.diagonal(), 12, 1e-3, calls)

    sides = [torch.linspace(-1, k, 20) for k in range(1, 5)]
    expected = [solution(b) for b in sides]
    kind = recording(Traced)
    for b, wanted in zip(sides, expected, strict=True):
        assert torch.equal(solution(b, calls), wanted)
    assert kind.made == 1
    assert kind.replayed > 20


class _Full(Again):
    """A device whose memory does not suffice, while it records or at the given replay."""

    at = 0

    def __init__(self, function, inputs):
        if not self.at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        super().__init__(function, inputs)

    def replay(self):
        if type(self).replayed + 1 == self.at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        super().replay()


@pytest.mark.parametrize("at", [0, 1, 3], ids=["recording", "first replay", "third replay"])
def test_too_little_memory_for_a_recording_changes_no_number_and_is_told(at, recording, monkeypatch):
    pair = shifted(dtype=torch.float32)
    level = make_level(pair, iterations=6)
    expected = minimize(pair, [level], Settings())
    monkeypatch.setattr(_Full, "at", at)
    monkeypatch.setattr(_Full, "replayed", 0)
    recording(_Full)
    found = minimize(pair, [level], Settings())
    assert torch.equal(found.velocity, expected.velocity)
    assert "out of memory" in found.trouble
    assert not expected.trouble


def test_an_error_of_the_function_itself_is_raised(recording):
    recording(Again)
    calls = Captured()

    def function(x):
        require(x.min() > 0, ArithmeticError("negative"))
        return (x.sqrt(),)

    for _ in range(3):
        torch.testing.assert_close(calls(function, torch.full((3,), 4.0))[0], torch.full((3,), 2.0))
    with pytest.raises(ArithmeticError, match="negative"):
        calls(function, torch.tensor([1.0, -1.0, 1.0]))
    with pytest.raises(ArithmeticError, match="negative"):
        Captured(False)(function, torch.tensor([1.0, -1.0, 1.0]))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        Captured()(lambda x: x @ torch.ones(2, 2), torch.ones(3, 3))


def test_two_searches_at_once_do_not_hear_of_each_others_conditions(recording):
    """One goes wrong at the very time when the other gathers its conditions."""
    recording(Again)
    together, outcomes = threading.Barrier(2, timeout=60), {}

    def run(name, value):
        calls = Captured()

        def function(x):
            together.wait()
            require(x.min() > 0, ArithmeticError(name))
            together.wait()
            return x + 1

        for _ in range(4):
            try:
                outcomes.setdefault(name, []).append(float(calls(function, torch.full((2,), value))[0]))
            except ArithmeticError as error:
                outcomes[name].append(str(error))

    threads = [threading.Thread(target=run, args=each) for each in (("good", 1.0), ("bad", -1.0))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert outcomes == {"good": [2.0] * 4, "bad": ["bad"] * 4}


def test_a_level_is_given_back_as_soon_as_it_ended(recording):
    """Its images and recordings would else wait for the garbage collector, on a device that it knows nothing of."""
    recording(Again)
    plain, often, v = objectives()
    for _ in range(3):
        often(v)
    gone = [weakref.ref(plain), weakref.ref(often), weakref.ref(often.evaluation)]
    gc.disable()
    try:
        del plain
        # What this stand-in holds of the function, CUDA does not.
        often.evaluation.forget()
        del often
        assert [ref() for ref in gone] == [None] * 3
    finally:
        gc.enable()


class _Driver:
    """What CudaGraph asks of torch.cuda, written down; the function itself runs on the CPU."""

    def __init__(self, monkeypatch, free=8 << 30, kept=1 << 30):
        self.done, driver = [], self

        class Stream:
            def __init__(self, device=None):
                driver.done.append("stream")

            def wait_stream(self, other):
                driver.done.append("wait")

        class Graph:
            def capture_begin(self, pool=None, capture_error_mode="global"):
                assert not gc.isenabled()
                driver.done.append(f"begin {capture_error_mode}")

            def capture_end(self):
                driver.done.append("end")

            def replay(self):
                driver.done.append("replay")

        usual = Stream()
        for name, value in {
            "Stream": Stream,
            "CUDAGraph": Graph,
            "stream": lambda stream: contextlib.nullcontext(),
            "device": lambda device: contextlib.nullcontext(),
            "current_device": lambda: 0,
            "current_stream": lambda device: usual,
            "mem_get_info": lambda device: (free, 16 << 30),
            "memory_reserved": lambda device: kept,
            "empty_cache": lambda: self.done.append("empty"),
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(captured._thread, "streams", {}, raising=False)
        monkeypatch.setitem(captured.RECORDINGS, "cpu", captured.CudaGraph)
        self.done.clear()


def test_cuda_records_the_second_call_on_a_stream_of_its_own_and_replays(monkeypatch):
    driver, calls = _Driver(monkeypatch), Captured()
    for _ in range(3):
        calls(lambda x: 2 * x, torch.ones(2))
    apart = ["stream", "wait", "wait"], ["wait", "begin thread_local", "end", "wait"]
    assert driver.done == [*apart[0], *apart[1], "replay", "replay"]
    assert gc.isenabled()


def test_cuda_that_fills_up_while_recording_ends_the_recording(monkeypatch):
    driver, calls, runs = _Driver(monkeypatch, free=1 << 20), Captured(), []

    def function(x):
        runs.append(1)
        if len(runs) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return x + 1

    for value in (1.0, 2.0, 3.0):
        assert float(calls(function, torch.tensor(value))) == value + 1
    assert driver.done.count("empty") == 1  # what torch kept for others was given back first
    assert driver.done.count("end") == 1
    assert "replay" not in driver.done
    assert (len(runs), calls.trouble) == (4, "CUDA out of memory.")
    assert gc.isenabled()


def test_torch_has_what_a_recording_asks_of_it():
    """The names and arguments, of the torch that is installed."""
    signature = inspect.signature(torch.cuda.CUDAGraph.capture_begin)
    signature.bind(None, capture_error_mode="thread_local")
    for name in ("Stream", "stream", "current_stream", "current_device", "mem_get_info", "memory_reserved"):
        assert callable(getattr(torch.cuda, name))
