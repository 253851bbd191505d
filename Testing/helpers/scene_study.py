# SPDX-License-Identifier: Apache-2.0
"""A result shown in off-screen views, and what a user would call their state."""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
from DeepFLASHRegistrationLib.scene.inputs import Inputs
from DeepFLASHRegistrationLib.scene.outputs import writeResult
from scene_synthetic import Stretch, addVolume, makeGrid, makeResult, pointsOf, smooth

GRID = makeGrid((30, 36, 40), (2.0, 2.0, 2.0))
WINDOWS = {"fixed": (180.0, 100.0), "moving": (260.0, 130.0)}
USUAL = ("Red", "Green", "Yellow")


def other(points):
    """The moving image: unlike the fixed one everywhere."""
    return 250 - smooth(points)


def makeStudy(room, truth=None):
    truth = truth or Stretch(0.5, 40.0)
    moving = makeGrid((34, 40, 44), (2.0, 2.0, 2.0))
    volumes = {
        name: addVolume(room.scene, grid, image(pointsOf(grid)).astype(np.float32), name)
        for name, grid, image in (("fixed", GRID, smooth), ("moving", moving, other))
    }
    for name, volume in volumes.items():
        volume.GetDisplayNode().AutoWindowLevelOff()
        volume.GetDisplayNode().SetWindowLevel(*WINDOWS[name])
    result = makeResult(GRID, moving, truth, image=other)
    nodes = writeResult(result, Inputs(volumes["fixed"], volumes["moving"]))
    room.show(volumes["moving"], volumes["fixed"])
    room.composite("Red").SetForegroundOpacity(0.25)
    room.views["Red"]._logic.SetSliceOffset(2.0)
    return SimpleNamespace(truth=truth, result=result, nodes=nodes, **volumes)


def stateOf(room):
    """All a user would call the view: layout, what slices show and where, how nodes are displayed; and all nodes."""
    state = {"layout": room.layoutNode.GetViewArrangement()}
    for name in USUAL:
        composite, sliceNode = room.composite(name), room.views[name].get_view_node()
        state[name] = (
            composite.GetBackgroundVolumeID(),
            composite.GetForegroundVolumeID(),
            composite.GetLabelVolumeID(),
            composite.GetForegroundOpacity(),
            composite.GetLabelOpacity(),
            composite.GetLinkedControl(),
            tuple(sliceNode.GetFieldOfView()),
            sliceNode.GetSliceOffset(),
            sliceNode.GetUseLabelOutline(),
        )
    state["nodes"] = {
        room.scene.GetNthNode(index).GetID()
        for index in range(room.scene.GetNumberOfNodes())
        if not (room.scene.GetNthNode(index).GetSingletonTag() or "").startswith("DeepFLASH")
    }
    return state


@contextmanager
def shownThenAsBefore(room, toggle):
    """Shows; after the block hides, and requires the identical state and pictures."""
    pictures, state = room.pictures(), stateOf(room)
    toggle.show()
    toggle.show()  # twice is once
    yield
    toggle.hide()
    toggle.hide()
    after = stateOf(room)
    # As in Slicer, the nodes of views that a layout once had stay in the scene; so does the color table.
    after["nodes"] -= {
        identifier
        for identifier in after["nodes"] - state["nodes"]
        if room.scene.GetNodeByID(identifier).GetName().startswith(("Slice ", "DeepFLASH determinant"))
    }
    assert after == state
    for name, picture in room.pictures().items():
        np.testing.assert_array_equal(picture, pictures[name])


def grey(value, which):
    window, level = WINDOWS[which]
    return float(np.clip((value - level + window / 2) / window * 255, 0, 255))


def voxelsIn(room, name, step=5):
    """(array index, LPS) of voxels in a view's slice, away from borders."""
    node = room.views[name].get_view_node()
    offset = node.GetSliceOffset()
    axis = {"Red": 0, "Green": 1, "Yellow": 2}[name]
    lps = {"Red": (0, 0, offset), "Green": (0, -offset, 0), "Yellow": (-offset, 0, 0)}[name]
    plane = int(np.rint(GRID.physical_to_index(lps)[axis]))
    ranges = [range(4, n - 4, step) for n in GRID.shape]
    ranges[axis] = [plane]
    return [((k, j, i), GRID.index_to_physical((k, j, i))) for k in ranges[0] for j in ranges[1] for i in ranges[2]]


def at(room, picture, name, lps):
    row, column = room.pixel(name, np.array(lps) * (-1, -1, 1))
    return picture[row, column]


def farStudy(room):
    """The moving image lies elsewhere and is of another size: the affine part of the map is large."""
    affine = [[1, 0, 0, 300], [0, 0.9, 0, 0], [0, 0, 1, -40], [0, 0, 0, 1.0]]
    truth = Stretch(0.5, 40.0, affine=affine)
    moving = makeGrid((40, 44, 54), (2.0, 2.0, 2.0), center=(300, 0, -40))
    fixed = addVolume(room.scene, GRID, smooth(pointsOf(GRID)), "fixed")
    movingNode = addVolume(room.scene, moving, other(pointsOf(moving)), "moving")
    nodes = writeResult(makeResult(GRID, moving, truth, image=other), Inputs(fixed, movingNode))
    room.show(fixed)
    return SimpleNamespace(truth=truth, nodes=nodes, fixed=fixed, moving=movingNode)
