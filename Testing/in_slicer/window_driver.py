# SPDX-License-Identifier: Apache-2.0
"""What the tests in Slicer share: a small pair, waiting with a live event loop, and clicks like those of a person."""

import time

import numpy as np
import qt
import slicer
import vtk


def makePair(shape=(40, 46, 40), spacing=4.0):
    """Two balls with a different stretch, a segmentation of each, and landmarks of the moving one."""
    k, j, i = (np.arange(n) - (n - 1) / 2 for n in shape)
    z, y, x = np.meshgrid(k * spacing, j * spacing, i * spacing, indexing="ij")
    nodes = []
    for name, (a, b, c) in (("fixed ball", (52, 62, 50)), ("moving ball", (60, 52, 55))):
        distance = (x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2
        inner = ((x - 12) / (0.4 * a)) ** 2 + (y / (0.5 * b)) ** 2 + (z / (0.4 * c)) ** 2
        picture = 100 / (1 + np.exp(8 * (distance - 1))) + 60 / (1 + np.exp(8 * (inner - 1)))
        matrix = vtk.vtkMatrix4x4()
        for axis, values in enumerate((i, j, k)):
            matrix.SetElement(axis, axis, spacing)
            matrix.SetElement(axis, 3, values[0] * spacing)
        volume = slicer.util.addVolumeFromArray(picture.astype(np.float32), matrix, name)
        segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{name} segmentation")
        segmentation.CreateDefaultDisplayNodes()
        segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        for title, inside in (("shell", (distance < 1) & (inner >= 1)), ("core", inner < 1)):
            segmentation.GetSegmentation().AddEmptySegment(title, title)
            slicer.util.updateSegmentBinaryLabelmapFromArray(inside.astype(np.uint8), segmentation, title, volume)
        nodes += [volume, segmentation]
    markups = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "moving points")
    markups.AddControlPoint(20, 10, 5, "one")
    markups.AddControlPoint(-20, 15, -5, "two")
    return (*nodes, markups)


def spin(seconds):
    """Lets Slicer work for a while; returns the longest time that one turn of the event loop took.

    It is the time that this thread computed: what it waits for on a machine that does other things besides is not its
    own fault.
    """
    longest, end = 0.0, time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.thread_time()
        slicer.app.processEvents()
        longest = max(longest, time.thread_time() - began)
        time.sleep(0.002)
    return longest


def waitUntil(condition, seconds=300.0):
    """Waits with a live event loop; returns the longest turn of it. AssertionError if it takes too long."""
    longest, end = 0.0, time.monotonic() + seconds
    while not condition():
        longest = max(longest, spin(0.02))
        assert time.monotonic() < end, "waited in vain"
    return longest


def click(button):
    """A real click in the middle of a visible, enabled button."""
    assert button.enabled, f"{button.objectName} is disabled: {button.toolTip}"
    area = button.parent()
    while area is not None and not hasattr(area, "ensureWidgetVisible"):
        area = area.parent()
    if area is not None:
        area.ensureWidgetVisible(button)
    spin(0.05)
    point = qt.QPointF(button.width / 2, button.height / 2)
    for kind, pressed in (
        (qt.QEvent.MouseButtonPress, qt.Qt.LeftButton),
        (qt.QEvent.MouseButtonRelease, qt.Qt.NoButton),
    ):
        slicer.app.sendEvent(button, qt.QMouseEvent(kind, point, qt.Qt.LeftButton, pressed, qt.Qt.NoModifier))
    spin(0.05)


def nodeNames():
    """Names of all nodes that a person can see in the Data module."""
    return sorted(
        node.GetName()
        for node in slicer.util.getNodesByClass("vtkMRMLNode")
        if node.IsA("vtkMRMLStorableNode") and not node.GetHideFromEditors()
    )
