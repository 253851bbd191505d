# SPDX-License-Identifier: Apache-2.0
"""Runs through the child process: started, followed, cancelled, failed, one after the other."""

import os
import signal
import sys
import time

import pytest
from DeepFLASHRegistrationLib.process import ChildDied
from DeepFLASHRegistrationLib.process.runner import Run, Runner
from DeepFLASHRegistrationLib.registration.progress import PHASES
from DeepFLASHRegistrationLib.scene.inputs import Inputs
from DeepFLASHRegistrationLib.scene.runs import DevicesRun, RegistrationRun, runBatch
from DeepFLASHRegistrationLib.support.errors import Cancelled, InputError
from module_nodes import addPair


@pytest.fixture
def runner():
    runner = Runner(sys.executable)
    yield runner
    runner.close()


class Failing(Run):
    task = "devices"

    def finish(self):
        raise InputError("no room in the scene")


def test_a_run_is_started_followed_and_done(runner):
    ended, meanwhile = [], []
    run = DevicesRun()
    run.on_end(ended.append)
    assert runner.wait(runner.start(run), lambda: meanwhile.append(1))["devices"][0]["name"] == "cpu"
    assert run.state == "done"
    assert ended == [run]
    assert meanwhile
    assert runner.current is None
    assert run.seconds_passed >= run.seconds["task"] >= 0


def test_a_callback_that_comes_late_is_called_at_once(runner):
    run = DevicesRun()
    runner.wait(runner.start(run))
    late = []
    run.on_end(late.append)
    assert late == [run]


def test_the_child_stays_warm(runner):
    runner.wait(runner.start(DevicesRun()))
    pid = runner.pid
    runner.wait(runner.start(DevicesRun()))
    assert runner.pid == pid


def test_one_at_a_time(runner):
    run = runner.start(DevicesRun())
    with pytest.raises(RuntimeError, match="running"):
        runner.start(DevicesRun())
    runner.wait(run)


def test_what_cannot_be_read_starts_nothing(runner):
    with pytest.raises(InputError):
        runner.start(RegistrationRun(Inputs()))
    assert runner.current is None
    assert runner.pid is None


def test_a_failure_while_writing_is_the_failure_of_the_run(runner):
    run = runner.start(Failing())
    with pytest.raises(InputError, match="no room"):
        runner.wait(run)
    assert run.state == "failed"
    runner.wait(runner.start(DevicesRun()))


class InSteps(Run):
    """Notes what happens in which step() of the runner."""

    task = "devices"

    def __init__(self):
        super().__init__()
        self.turn, self.seen = 0, {}

    def prepare(self):
        for part in range(3):
            time.sleep(0.02)
            self.seen[f"part {part}"] = self.turn
            yield

    def finish(self):
        self.seen["finish"] = self.turn

    def turns(self, runner, until=lambda seen: False):
        while not self.done and not until(self.seen):
            self.turn += 1
            runner.step()
            time.sleep(0.005)
        return self.seen


def test_a_result_is_taken_in_over_several_turns(runner):
    run = runner.start(InSteps())
    run.on_end(lambda run: run.seen.update(end=run.turn))
    seen = run.turns(runner)
    assert run.state == "done"
    assert seen["part 0"] < seen["part 2"] < seen["finish"] < seen["end"]


def test_cancelled_before_it_is_written_nothing_is_written(runner):
    run = runner.start(InSteps())
    run.turns(runner, lambda seen: "part 0" in seen)
    runner.cancel()
    assert "finish" not in run.turns(runner)
    assert run.state == "cancelled"


@pytest.mark.parametrize("late", ["cancel", "close"])
def test_what_is_written_is_done_whoever_cancels_then(runner, late):
    run = runner.start(InSteps())
    run.turns(runner, lambda seen: "finish" in seen)
    assert not run.done
    getattr(runner, late)()
    assert run.state == "done"
    assert runner.current is None


def test_a_killed_child_is_told_and_replaced(runner):
    runner.wait(runner.start(DevicesRun()))
    run = runner.start(DevicesRun())
    time.sleep(0.3)
    os.kill(runner.pid, signal.SIGKILL)
    try:
        runner.wait(run)  # it may have been quicker, or be given to a fresh child as it had not begun
    except ChildDied:
        assert run.state == "failed"
    runner.wait(runner.start(DevicesRun()))


def test_closing_ends_a_run_as_cancelled(runner):
    run = runner.start(DevicesRun())
    runner.close()
    assert run.state == "cancelled"
    assert isinstance(run.error, Cancelled)
    assert runner.current is None


def test_an_exception_meanwhile_ends_the_run(runner):
    def interrupt():
        raise KeyboardInterrupt

    run = runner.start(DevicesRun())
    with pytest.raises(KeyboardInterrupt):
        runner.wait(run, interrupt)
    assert run.done
    assert runner.current is None


def test_progress_and_time_left_follow_the_events():
    run = Run()
    seen = []
    run.on_event(seen.append)
    run.state, run._began = "running", time.monotonic() - 10
    assert run.seconds_left is None
    run.take({"phase": "level", "progress": 0.5, "message": "half", "energy": 3.0})
    run.take({"phase": "level", "progress": 0.4, "message": "never back"})
    assert (run.progress, run.message, len(run.history), len(seen)) == (0.5, "never back", 1, 2)
    assert 8 < run.seconds_left < 12


def test_a_run_that_never_began_has_taken_no_time():
    run = Run()
    assert (run.seconds_passed, run.seconds_left) == (0.0, None)
    run.end("failed", InputError("no"))
    assert run.seconds_passed == 0.0


def test_a_cancelled_run_does_not_wait_for_what_is_left_out(scene):
    run = RegistrationRun(addPair(scene))
    run.arguments()
    assert list(run.expected) == ["start", *PHASES, "write"]
    run.begin(time.monotonic())
    run.take({"phase": "level", "progress": 0.2, "message": "first"})
    whole = run.seconds_left
    run.state = "cancelling"
    assert run.seconds_left == pytest.approx(run.expected["finish"], rel=0.05)
    assert run.seconds_left < whole


def test_a_pair_that_fails_does_not_stop_the_batch(scene):
    runs = [RegistrationRun(Inputs()), RegistrationRun(addPair(scene))]
    done = []

    def register(run):
        run.arguments()
        done.append(run)

    runBatch(runs, register)
    assert runs[0].state == "failed"
    assert isinstance(runs[0].error, InputError)
    assert done == runs[1:]
