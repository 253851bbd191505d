# SPDX-License-Identifier: Apache-2.0
"""Figures of the module in Slicer: seconds from click to result, longest block of the event loop, memory, leaks.

Slicer --no-splash --additional-module-paths DeepFLASHRegistration --python-script Testing/in_slicer/figures.py
    [edge in voxels, default 128] [short runs in a row, default 100]
"""

import resource
import sys
import time
from pathlib import Path

import slicer

sys.path.insert(0, str(Path(__file__).resolve().parent))
from window_driver import click, makePair, spin, waitUntil


def megabytes():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def register(widget, preset):
    widget.form.change({"preset": preset})
    widget.onParametersChanged()
    spin(0.6)
    began = time.monotonic()
    click(widget.ui.registerButton)
    longest = waitUntil(lambda: not widget.runPanel.busy, 3600)
    run = widget.runPanel.run
    assert run.state == "done", run.error
    child = run.seconds
    return (
        f"{time.monotonic() - began:.2f} s from click to result, of which the task {child['task']:.2f} s and the "
        f"child around it {child['total'] - child['task']:.2f} s; longest block {1000 * longest:.0f} ms; "
        f"Slicer {megabytes():.0f} MB"
    )


def main(edge, short):
    slicer.util.selectModule("DeepFLASHRegistration")
    widget = slicer.modules.DeepFLASHRegistrationWidget
    spacing = 184.0 / edge
    fixed, _, moving, movingSegmentation, _ = makePair((edge,) * 3, spacing)
    print(f"FIGURE Slicer with a pair of {edge}^3 loaded: {megabytes():.0f} MB")
    ui = widget.ui
    ui.fixedVolumeSelector.setCurrentNode(fixed)
    ui.movingVolumeSelector.setCurrentNode(moving)
    ui.movingSegmentationSelector.setCurrentNode(movingSegmentation)
    spin(1.0)
    print(f"FIGURE cold: {register(widget, 'fast')}", flush=True)
    print(f"FIGURE warm: {register(widget, 'fast')}", flush=True)
    print(f"FIGURE warm: {register(widget, 'default')}", flush=True)
    slicer.mrmlScene.Clear()
    fixed, _, moving, _, _ = makePair((1, 40, 40), 4.0)
    ui.fixedVolumeSelector.setCurrentNode(fixed)
    ui.movingVolumeSelector.setCurrentNode(moving)
    spin(1.0)
    sizes = []
    for _ in range(short):
        register(widget, "fast")
        sizes.append(megabytes())
    if sizes:
        print(
            f"FIGURE {short} runs in a row: {sizes[0]:.0f} MB after the first, {sizes[len(sizes) // 2]:.0f} MB after "
            f"half, {sizes[-1]:.0f} MB after the last; {slicer.mrmlScene.GetNumberOfNodes()} nodes",
            flush=True,
        )
    widget.logic.close()


arguments = [int(each) for each in sys.argv[1:] if each.isdigit()]
main(*(arguments + [128, 100][len(arguments) :]))
slicer.util.exit(0)
