# SPDX-License-Identifier: Apache-2.0
"""What the tests in Slicer share: a small pair, waiting with a live event loop, and clicks like those of a person."""

import time
from typing import ClassVar

import numpy as np
import qt
import slicer
import vtk
from DeepFLASHRegistrationLib.cohorts.many import Settings
from DeepFLASHRegistrationLib.cohorts.template import TemplateRun
from DeepFLASHRegistrationLib.cohorts.template_how import How
from DeepFLASHRegistrationLib.cohorts.template_summary import write_template_summary
from DeepFLASHRegistrationLib.imaging.io import write_volume
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.scene.conversion import volumeFromNode
from DeepFLASHRegistrationLib.scene.labels import labelsFromNode
from DeepFLASHRegistrationLib.training.dataset import read_dataset


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


def makeTemplate(folder, pair):
    """A template of the two balls with their segmentations, as the command line writes it; its folder."""
    data = folder / "scans"
    data.mkdir()
    for volume, segmentation in (pair[:2], pair[2:4]):
        name = volume.GetName().replace(" ", "_")
        write_volume(data / f"{name}.nii.gz", volumeFromNode(volume))
        write_volume(data / f"{name}_labels.nii.gz", labelsFromNode(segmentation, volume).volume)
    parameters = Parameters.from_preset("fast")
    made = TemplateRun(read_dataset(data), folder / "T", Settings(parameters, threads=1), How(rounds=1))
    made.run(lambda end: slicer.app.processEvents())
    write_template_summary(made)
    return folder / "T"


class Turns:
    """The longest turn of the event loop while Slicer works in spin() or waitUntil().

    Attributes:
        longest: seconds that this thread computed in one turn: what it waits for on a machine that does other things
            besides is not its own fault.
        elapsed: seconds that passed in one turn.
    """

    _present: ClassVar = []

    def __enter__(self):
        self.longest = self.elapsed = 0.0
        self._present.append(self)
        return self

    def __exit__(self, *exception):
        self._present.remove(self)

    @classmethod
    def take(cls, work=None):
        """Lets the event loop do one turn, or does what would be one."""
        computed, began = time.thread_time(), time.monotonic()
        (work or slicer.app.processEvents)()
        for each in cls._present:
            each.longest = max(each.longest, time.thread_time() - computed)
            each.elapsed = max(each.elapsed, time.monotonic() - began)


def spin(seconds):
    """Lets Slicer work for a while."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        Turns.take()
        time.sleep(0.002)


def waitUntil(condition, seconds=300.0):
    """Waits with a live event loop. AssertionError if it takes too long."""
    end = time.monotonic() + seconds
    while not condition():
        spin(0.01)
        assert time.monotonic() < end, "waited in vain"


def click(button, pause=0.05):
    """A real click in the middle of a visible, enabled button."""
    assert button.enabled, f"{button.objectName} is disabled: {button.toolTip}"
    area = button.parent()
    while area is not None and not hasattr(area, "ensureWidgetVisible"):
        area = area.parent()
    if area is not None:
        area.ensureWidgetVisible(button)
    spin(pause)
    point = qt.QPointF(button.width / 2, button.height / 2)
    press = qt.QMouseEvent(qt.QEvent.MouseButtonPress, point, qt.Qt.LeftButton, qt.Qt.LeftButton, qt.Qt.NoModifier)
    release = qt.QMouseEvent(qt.QEvent.MouseButtonRelease, point, qt.Qt.LeftButton, qt.Qt.NoButton, qt.Qt.NoModifier)
    slicer.app.sendEvent(button, press)
    Turns.take(lambda: slicer.app.sendEvent(button, release))
    spin(pause)


def choosePair(ui, pair):
    """Chooses what makePair made."""
    fixed, fixedSegmentation, moving, movingSegmentation, markups = pair
    ui.fixedVolumeSelector.setCurrentNode(fixed)
    ui.movingVolumeSelector.setCurrentNode(moving)
    ui.movingSegmentationSelector.setCurrentNode(movingSegmentation)
    ui.fixedSegmentationSelector.setCurrentNode(fixedSegmentation)
    ui.movingMarkupsSelector.setCurrentNode(markups)


def choose(form, name, value):
    """Chooses a value of a parameter by its technical name, in whatever words it is shown."""
    box = form.widgets[name]
    index = box.findData(value)
    assert index >= 0, f"{value} is none of the choices of {name}"
    box.setCurrentIndex(index)


def start(widget):
    """Clicks Register and waits until the run has begun; returns it."""
    before = widget.runPanel.run
    click(widget.ui.registerButton)
    waitUntil(lambda: widget.runPanel.run is not before)
    return widget.runPanel.run


def nodeNames():
    """Names of all nodes that a person can see in the Data module."""
    return sorted(
        node.GetName()
        for node in slicer.util.getNodesByClass("vtkMRMLNode")
        if node.IsA("vtkMRMLStorableNode") and not node.GetHideFromEditors()
    )


def letterOf(text):
    """The underlined letter of a label or button, in lower case; "" if there is none."""
    return text.replace("&&", "").partition("&")[2][:1].lower()
