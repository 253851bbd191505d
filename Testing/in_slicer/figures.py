# SPDX-License-Identifier: Apache-2.0
"""Figures of the module in Slicer: seconds from click to result, longest turns of the event loop, and what grows.

    make test-slicer SLICER=… ARGS="--figures"                 a pair of 128³, then 100 runs of 64³ in a row
    make test-slicer SLICER=… ARGS="--figures 256 1000 40"     a pair of 256³, then 1000 runs of 40³

Fails if anything but memory is more after the last run than it was after the fifth, or memory by more than 30 MB.
"""

import gc
import os
import sys
import time
from pathlib import Path

import slicer
from DeepFLASHRegistrationLib.process import folders

sys.path.insert(0, str(Path(__file__).resolve().parent))
from window_driver import Turns, makePair, spin, start, waitUntil

# Every private folder that was made.
made = []
# Caches fill during the first few runs.
SETTLED = 5
ALLOWED_MB = 30


def descendants(pid):
    """Process numbers of what a process has started, and those have."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def megabytes(pids):
    """Resident memory that is the processes' own."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            total += int(line.split()[1]) if line.startswith("RssAnon") else 0
    return total / 1024


def state(widget):
    """What may grow."""
    gc.collect()
    waitUntil(lambda: widget.logic.current is None)
    children = descendants(os.getpid())
    return {
        "MB of Slicer": megabytes([os.getpid()]),
        "MB of the child": megabytes(children),
        "processes": len(children),
        "threads": len(os.listdir("/proc/self/task")),
        "open files": sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in [os.getpid(), *children]),
        "folders left": sum(path.exists() for path in made),
        "nodes": slicer.mrmlScene.GetNumberOfNodes(),
        "observers": len(widget.Observations),
        "widgets": len(slicer.util.findChildren(slicer.util.mainWindow())),
    }


def register(widget, preset):
    """One run by a click; returns what is to be said of it."""
    widget.form.change({"preset": preset})
    widget.onParametersChanged()
    spin(0.6)
    began = time.monotonic()
    with Turns() as turns:
        run = start(widget)
        waitUntil(lambda: run.done, 3600)
    seconds = time.monotonic() - began
    with Turns() as after:
        spin(1.0)
    assert run.state == "done", run.error
    child = run.seconds
    return (
        f"{seconds:.2f} s from click to result, of which the task {child['task']:.2f} s and the child around it "
        f"{child['total'] - child['task']:.2f} s; longest turn {1000 * turns.longest:.0f} ms "
        f"({1000 * turns.elapsed:.0f} ms elapsed), and {1000 * after.longest:.0f} ms in the second after"
    )


def choose(widget, edge):
    slicer.mrmlScene.Clear()
    fixed, _, moving, movingSegmentation, _ = makePair((edge,) * 3, 184.0 / edge)
    widget.ui.fixedVolumeSelector.setCurrentNode(fixed)
    widget.ui.movingVolumeSelector.setCurrentNode(moving)
    widget.ui.movingSegmentationSelector.setCurrentNode(movingSegmentation)
    spin(1.0)


def say(text):
    print(f"FIGURE {text}", flush=True)


def times(widget, edge):
    choose(widget, edge)
    say(f"load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors; pair of {edge}^3")
    widget.logic.close()  # what was asked of it when the pair was chosen has started it
    say(f"cold, preset fast: {register(widget, 'fast')}")
    say(f"warm, preset fast: {register(widget, 'fast')}")
    say(f"warm, preset default: {register(widget, 'default')}")


def growth(widget, runs, edge):
    choose(widget, edge)
    seen = []
    for run in range(runs):
        register(widget, "fast")
        seen.append(state(widget))
        if run in (0, SETTLED - 1, runs // 2, runs - 1) or run % 10 == 9:
            say(f"after run {run + 1} of {edge}^3: " + ", ".join(f"{name} {n:.0f}" for name, n in seen[-1].items()))
    more = {name: seen[-1][name] - seen[SETTLED - 1][name] for name in seen[-1]} if runs > SETTLED else {}
    grown = [name for name, n in more.items() if n > (ALLOWED_MB if name.startswith("MB") else 0)]
    say(f"{runs} runs in a row: " + ("grown: " + ", ".join(grown) if grown else "nothing grew"))
    return not grown


def note(folder, *arguments, make=folders.PrivateFolder.__init__):
    """Makes a private folder and remembers it."""
    make(folder, *arguments)
    made.append(folder.path)


def main(edge=128, runs=100, edgeOfRuns=64):
    folders.PrivateFolder.__init__ = note
    slicer.util.mainWindow().resize(1500, 940)
    slicer.util.selectModule("DeepFLASHRegistration")
    widget = slicer.modules.DeepFLASHRegistrationWidget
    if edge:
        times(widget, edge)
    good = growth(widget, runs, edgeOfRuns) if runs else True
    widget.logic.close()
    return 0 if good else 1


try:
    status = main(*[int(each) for each in os.environ.get("DEEPFLASH_FIGURES", "").split()])
except BaseException:
    import traceback

    traceback.print_exc()
    status = 1
slicer.util.exit(status)
