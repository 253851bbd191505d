# SPDX-License-Identifier: Apache-2.0
"""The module's logic, which scripts and the console call; Slicer finds it in the module's file."""

import shutil
import sys

import qt
import slicer
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic

from ..cohorts import tasks as cohortTasks
from ..process.runner import Runner
from ..scene.inputs import Inputs
from ..scene.origins import markOutputs
from ..scene.outputs import OutputNodes
from ..scene.runs import DevicesRun, RegistrationRun, SampleRun, runBatch
from ..scene.series_run import SequenceRun
from ..scene.templates import SubjectRun, TemplateNodes, addTemplate
from .machine import Machine
from .package_installation import ensure_installed
from .parameter_node import DeepFLASHRegistrationParameterNode
from .series_following import SeriesFollowing
from .telling import logFailure
from .tidying import Tidying


class DeepFLASHRegistrationLogic(ScriptedLoadableModuleLogic):
    """Registers volumes, in a child process that stays warm between registrations. Works without a window.

    >>> logic = slicer.util.getModuleLogic("DeepFLASHRegistration")
    >>> run = logic.register(fixedVolume, movingVolume, movingSegmentation=segmentation)
    >>> run.verdict.level, run.metrics["similarity_after"], run.nodes.warpedVolume
    """

    def __init__(self) -> None:
        """Called when the logic class is instantiated. Starts nothing."""
        ScriptedLoadableModuleLogic.__init__(self)
        self.isSingletonParameterNode = False  # several settings per scene
        self.machine = Machine()
        self.tidying = Tidying(slicer.mrmlScene)
        self.following = SeriesFollowing(slicer.mrmlScene, self)
        self._runner = Runner(shutil.which("PythonSlicer") or sys.executable, cohortTasks.__name__)
        self._timer = qt.QTimer()
        self._timer.setInterval(20)
        self._timer.connect("timeout()", self._onTimer)
        slicer.app.connect("aboutToQuit()", self.close)

    def getParameterNode(self):
        return DeepFLASHRegistrationParameterNode(super().getParameterNode())

    @property
    def current(self):
        """The run that has not ended yet, None if there is none."""
        return self._runner.current

    def register(
        self,
        fixedVolume,
        movingVolume,
        *,
        movingSegmentation=None,
        fixedSegmentation=None,
        fixedMask=None,
        movingMask=None,
        fixedMarkups=None,
        movingMarkups=None,
        movingModel=None,
        initialTransform=None,
        fixedChannel=None,
        movingChannel=None,
        refine=None,
        parameters=None,
        outputs=None,
        progressCallback=None,
        completedCallback=None,
        waitForCompletion=True,
    ) -> RegistrationRun:
        """
        Register a moving to a fixed volume. Input nodes are never changed.
        :param fixedVolume, movingVolume: scalar volumes; a single slice is registered in 2-D
        :param movingSegmentation: segmentation or label map to carry over; names, colors and terminology are kept
        :param fixedSegmentation: compared with the carried one, by names
        :param fixedMask, movingMask: segmentations, label maps or volumes; what lies outside does not count
        :param movingMarkups, movingModel: carried over
        :param fixedMarkups: compared with movingMarkups, point by point
        :param initialTransform: moves the moving volume near the fixed one: linear, or any for the method "transform"
        :param fixedChannel, movingChannel: further images of the same subjects (T2 beside T1), compared besides
        :param refine: the transform of a result of these volumes, to go on from its velocity in its alignment
        :param parameters: Parameters, e.g. Parameters.from_preset("fast"); None for the defaults
        :param outputs: OutputNodes, each a node to update, NEW (default) or None; e.g. the `nodes` of an earlier run
        :param progressCallback: called with a dict (phase, progress, message, energy, ...) for each event
        :param completedCallback: called with the run when it has ended
        :param waitForCompletion: if False, returns at once; the run's `done`, `state`, `error` and `nodes` tell later
        :return: RegistrationRun with `nodes`, `metrics`, `verdict` and `result`
        :raises InputError: an input cannot be used; Cancelled: cancelled by the user; RuntimeError: it failed
        """
        given = (fixedVolume, movingVolume, movingSegmentation, fixedSegmentation, fixedMask, movingMask)
        inputs = Inputs(*given, fixedMarkups, movingMarkups, movingModel, initialTransform, fixedChannel, movingChannel)
        run = self.newRun(inputs, parameters, outputs, refine)
        return self.start(run, progressCallback, completedCallback, waitForCompletion)

    def registerBatch(self, pairs, progressCallback=None) -> list[RegistrationRun]:
        """
        Register many pairs with one warm child process. A pair that fails does not stop the next.
        :param pairs: dicts of arguments of register: fixedVolume, movingVolume, ..., parameters, outputs
        :param progressCallback: as in register; events have also "pair", counted from 0
        :return: the runs; `state` is "done" or "failed", then `error` says why
        """
        runs = []
        for pair in pairs:
            inputs = Inputs(**{name: node for name, node in pair.items() if name not in ("parameters", "outputs")})
            runs.append(self.newRun(inputs, pair.get("parameters"), pair.get("outputs")))

        def register(run):
            tell = progressCallback and (lambda event: progressCallback({**event, "pair": runs.index(run)}))
            self.start(run, tell)

        runBatch(runs, register)
        return runs

    def registerSequence(
        self,
        sequence,
        how=None,
        *,
        mask=None,
        parameters=None,
        folder=None,
        progressCallback=None,
        completedCallback=None,
        waitForCompletion=True,
    ) -> SequenceRun:
        """
        Register the items of a sequence of volumes; the results play along with it.
        :param how: cohorts.series.How, e.g. How(reference="mean", cyclic=True); None for onto the first item
        :param mask: segmentation, label map or volume on the reference; what lies outside does not count
        :param folder: where the same call goes on after it was cancelled; by default nothing is left on the disk
        :return: SequenceRun with `nodes`; the other arguments and errors are as for register
        """
        run = SequenceRun(sequence, how, parameters, mask, folder, self.machine.choice()[:2])
        return self.start(run, progressCallback, completedCallback, waitForCompletion)

    def loadTemplate(self, folder) -> TemplateNodes:
        """
        Load what "deepflash template" wrote: the template, its labels as a segmentation, and a table of its subjects.
        :return: TemplateNodes with `volume`, `segmentation` (None without labels), `table` and `saved.subjects`
        :raises InputError: the folder holds no template that is done; the scene is as it was
        """
        return addTemplate(slicer.mrmlScene, folder)

    def showSubject(
        self, template, name, *, outputs=None, progressCallback=None, completedCallback=None, waitForCompletion=True
    ) -> SubjectRun:
        """
        A subject of a template as it was registered, from its velocity, as the nodes that `register` makes.
        :param template: what loadTemplate returned
        :param name: one of template.saved.subjects; its image and labels are loaded if they are not there
        :return: SubjectRun with `inputs`, `nodes`, `metrics` and `verdict`; the rest as for register
        """
        run = SubjectRun(template, name, outputs, *self.machine.choice()[:2])
        return self.start(run, progressCallback, completedCallback, waitForCompletion)

    def newRun(self, inputs, parameters=None, outputs=None, refine=None) -> RegistrationRun:
        """A registration that `start` takes, on the chosen device."""
        run = RegistrationRun(inputs, parameters, outputs, *self.machine.choice())
        run.refine, run.pace = refine, self.machine.pace(run.kind)
        return run

    def start(self, run, progressCallback=None, completedCallback=None, waitForCompletion=True):
        """Start any run; arguments, result and errors as for register."""
        ensure_installed(run)
        run.on_event(progressCallback)
        self._runner.start(run)
        run.on_end(self._onEnd)
        run.on_end(completedCallback or (None if waitForCompletion else logFailure))
        if waitForCompletion:
            self._runner.wait(run, slicer.app.processEvents)
        else:
            self._timer.start()
        return run

    def keep(self, run) -> OutputNodes:
        """Write the best so far of a cancelled run into the scene."""
        run.keep()
        markOutputs(run.nodes, run.inputs)
        return run.nodes

    def cancel(self, now=False) -> None:
        """Ask the present run to stop and to keep the best so far (run.keep()); with now=True end it at once."""
        self._runner.cancel(now)

    def close(self) -> None:
        """End the child process. The next run starts a fresh one."""
        self._timer.stop()
        self._runner.close()

    def log(self) -> list[str]:
        """The last lines that the child process printed."""
        return self._runner.log()

    def makeSample(self, **arguments) -> list:
        """Make two heads with segmentations and landmarks; returns the nodes, fixed and moving volume first."""
        return self.start(SampleRun(slicer.mrmlScene, **arguments)).nodes

    def _onTimer(self) -> None:
        self._runner.step()
        if self._runner.current is None:
            self._timer.stop()

    def _onEnd(self, run) -> None:
        if isinstance(run, DevicesRun) and run.value:
            self.machine.devices = run.value["devices"]
        elif isinstance(run, SequenceRun):
            self.following.start()
        elif isinstance(run, RegistrationRun) and run.state == "done":
            markOutputs(run.nodes, run.inputs)
            self.machine.learn(run.kind, run.ratios)
