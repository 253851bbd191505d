# SPDX-License-Identifier: Apache-2.0
"""Pairs of nodes to register, and results to write without having registered."""

import numpy as np
from DeepFLASHRegistrationLib.scene.inputs import Inputs
from DeepFLASHRegistrationLib.scene.runs import RegistrationRun
from scene_synthetic import Stretch, addSegmentation, addVolume, makeGrid, makeResult, pointsOf, smooth

FIXED = makeGrid((16, 18, 20), (3, 3, 3))
MOVING = makeGrid((17, 18, 19), (3, 3, 3), tilt=0.1)


def ball(grid, radii=(20, 22, 18)):
    """Where a smooth ball lies, and its picture."""
    distance = sum((pointsOf(grid)[..., axis] / radius) ** 2 for axis, radius in enumerate(radii))
    picture = 100 / (1 + np.exp(6 * (distance - 1))) + 8 * np.cos(pointsOf(grid)[..., 0] / 5) * (distance < 1)
    return picture.astype(np.float32), distance < 1


def addPair(scene):
    """A fixed and a moving ball, each with a segmentation of one segment."""
    nodes = []
    for name, grid, radii in (("fixed", FIXED, (20, 22, 18)), ("moving", MOVING, (23, 18, 20))):
        picture, inside = ball(grid, radii)
        volume = addVolume(scene, grid, picture, name)
        nodes += [volume, addSegmentation(scene, grid, {"ball": inside}, volume, f"{name} segmentation")]
    return Inputs(fixedVolume=nodes[0], fixedSegmentation=nodes[1], movingVolume=nodes[2], movingSegmentation=nodes[3])


def finished(run: RegistrationRun):
    """The run with a made result, as if the child had returned it."""
    run.arguments()
    labels = run.moving.label_map
    inside = None if labels is None else (lambda points: (np.linalg.norm(points, axis=-1) < 18).astype(int))
    run.value = makeResult(run.fixed.grid, run.moving.grid, Stretch(0.3), smooth, labelsAt=inside)
    return run


def names(scene):
    """Names and classes of all nodes, to see whether anything came or went."""
    return sorted(
        (node.GetClassName(), node.GetName() or "")
        for node in (scene.GetNthNode(index) for index in range(scene.GetNumberOfNodes()))
    )


def addSlices(scene, **placement):
    """A single slice each with its segmentation; two ellipses would be the same after an affine alignment."""
    nodes = []
    for name, radii in (("fixed", (30, 22, 1e9)), ("moving", (24, 28, 1e9))):
        grid = makeGrid((1, 48, 50), (2, 2, 2), **placement)
        picture, inside = ball(grid, radii)
        volume = addVolume(scene, grid, picture, name)
        nodes += [volume, addSegmentation(scene, grid, {"ball": inside}, volume, f"{name} segmentation")]
    return Inputs(fixedVolume=nodes[0], fixedSegmentation=nodes[1], movingVolume=nodes[2], movingSegmentation=nodes[3])
