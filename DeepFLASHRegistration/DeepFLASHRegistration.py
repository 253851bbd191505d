# SPDX-License-Identifier: Apache-2.0
import json
import sys
from dataclasses import replace

import slicer
import vtk
from DeepFLASHRegistrationLib.gui.check_list import CheckList
from DeepFLASHRegistrationLib.gui.compare_panel import ComparePanel
from DeepFLASHRegistrationLib.gui.delayed import delayed
from DeepFLASHRegistrationLib.gui.display_panel import DisplayPanel, Shown
from DeepFLASHRegistrationLib.gui.folds import Folds
from DeepFLASHRegistrationLib.gui.input_watch import InputWatch
from DeepFLASHRegistrationLib.gui.keyboard import makeReachable
from DeepFLASHRegistrationLib.gui.logic import DeepFLASHRegistrationLogic
from DeepFLASHRegistrationLib.gui.machine import MachinePanel
from DeepFLASHRegistrationLib.gui.model_fits import ModelFits
from DeepFLASHRegistrationLib.gui.node_selectors import keepFromJumping
from DeepFLASHRegistrationLib.gui.parameter_form import ParameterForm
from DeepFLASHRegistrationLib.gui.parameter_node import DeepFLASHRegistrationParameterNode, removeUnusedSettings
from DeepFLASHRegistrationLib.gui.readout_panel import ReadoutPanel
from DeepFLASHRegistrationLib.gui.refine_panel import RefinePanel
from DeepFLASHRegistrationLib.gui.report_panel import ReportPanel
from DeepFLASHRegistrationLib.gui.run_panel import RunPanel
from DeepFLASHRegistrationLib.gui.sample_data import registerSampleData
from DeepFLASHRegistrationLib.gui.save_panel import SavePanel
from DeepFLASHRegistrationLib.gui.series_panel import SeriesPanel
from DeepFLASHRegistrationLib.gui.telling import told
from DeepFLASHRegistrationLib.gui.template_panel import TemplatePanel
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.scene.checks import checkInputs
from DeepFLASHRegistrationLib.scene.display.colors import completeColors
from DeepFLASHRegistrationLib.scene.display.layouts import addLayouts
from DeepFLASHRegistrationLib.scene.inputs import Inputs
from DeepFLASHRegistrationLib.scene.refining import hints
from DeepFLASHRegistrationLib.scene.runs import GeodesicRun, RegistrationRun
from DeepFLASHRegistrationLib.scene.series_run import SequenceRun
from DeepFLASHRegistrationLib.scene.stamps import Stamps
from DeepFLASHRegistrationLib.scene.velocity import hasVelocity
from DeepFLASHRegistrationLib.support.errors import InputError
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

DOCUMENTATION = "https://github.com/deepflash-registration/SlicerDeepFLASH/blob/main/docs/tutorial.md"


class DeepFLASHRegistration(ScriptedLoadableModule):
    """Uses ScriptedLoadableModule base class, available at:
    https://github.com/Slicer/Slicer/blob/main/Base/Python/slicer/ScriptedLoadableModule.py"""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("DeepFLASH Registration")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Registration")]
        self.parent.dependencies = ["Sequences"]
        self.parent.contributors = ["SlicerDeepFLASH developers"]
        self.parent.helpText = _("""
Finds the smooth, invertible deformation that carries one image, its segmentations and landmarks to another, shows it
with its Jacobian determinant, and says how far it can be trusted. No data leave the computer. Research software, not
for clinical decisions. See the <a href="{url}">tutorial</a>.
""").format(url=DOCUMENTATION)
        self.parent.acknowledgementText = _("""
Implements FLASH (M. Zhang, P. T. Fletcher, IJCV 127, 2019) and DeepFLASH (J. Wang, M. Zhang, CVPR 2020); please cite
them. License: Apache 2.0. Patents: none known.
""")
        slicer.app.connect("startupCompleted()", lambda: registerSampleData(self.resourcePath("Icons")))
        slicer.app.connect("startupCompleted()", self._onStartupCompleted)

    @staticmethod
    def _onStartupCompleted():
        """Scenes that were saved while something of ours was shown are loaded as they were, module opened or not."""
        addLayouts(slicer.mrmlScene)
        loaded = slicer.vtkMRMLScene.EndImportEvent
        slicer.mrmlScene.AddObserver(loaded, lambda scene, event: completeColors(scene))


class DeepFLASHRegistrationWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Uses ScriptedLoadableModuleWidget base class, available at:
    https://github.com/Slicer/Slicer/blob/main/Base/Python/slicer/ScriptedLoadableModule.py"""

    def __init__(self, parent=None) -> None:
        """Called when the user opens the module the first time and the widget is initialized."""
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)  # needed for parameter node observation
        self.logic = None
        self._parameterNode = None
        self._parameterNodeGuiTag = None

    def setup(self) -> None:
        """Called when the user opens the module the first time and the widget is initialized."""
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/DeepFLASHRegistration.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = DeepFLASHRegistrationLogic()

        self.form = ParameterForm(self.onParametersChanged)
        self.folds = Folds(self.ui, self.form, self.logic.machine, lambda: self.checkTimer.start())
        self.models = ModelFits(self.form, self.logic, lambda: self.checkTimer.start())
        self.ui.parameterNodeSelector.addAttribute("vtkMRMLScriptedModuleNode", "ModuleName", self.moduleName)
        # Inputs are looked at a moment after they were chosen, not at every step of a spin box.
        self.checkTimer = delayed(self.checkNow, msec=250)
        self.pairTimer = delayed(lambda: (node := self._parameterNode) and node.chooseOnlyPair(slicer.mrmlScene), 250)
        self.watch = InputWatch(self.checkTimer.start)
        self.stamps = Stamps()
        self.checks = CheckList(self.ui.checksFrame, self.onRemedy)
        self.runPanel = RunPanel(self.ui, self.logic, self.onRunEnded)
        self.displays = DisplayPanel(self.ui, self.makeGeodesic)
        self.readout = ReadoutPanel(self.ui, self.displays.showResult)
        self.report = ReportPanel(self.ui)
        self.machinePanel = MachinePanel(self.ui, self.logic, self.checkTimer.start)
        self.comparing = ComparePanel(self)
        self.refining = RefinePanel(self)
        self.saving = SavePanel(self)
        self.series = SeriesPanel(self)
        self.template = TemplatePanel(self)
        makeReachable(uiWidget)
        keepFromJumping(uiWidget)

        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndImport)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.NodeAddedEvent, lambda *_event: self.pairTimer.start())
        self.ui.parameterNodeSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.onParameterNodeSelected)
        self.ui.registerButton.connect("clicked(bool)", self.onRegisterButton)
        self.ui.keepButton.connect("clicked(bool)", self.onKeepButton)
        self.initializeParameterNode()

    def cleanup(self) -> None:
        """Called when the application closes and the module widget is destroyed."""
        self.logic.close()
        self.logic.following.close()
        self.runPanel.close()
        self.watch.setNodes([])
        self.setParameterNode(None)
        self.displays.close()
        self.readout.close()
        self.checkTimer.stop()
        self.pairTimer.stop()
        self.removeObservers()

    def enter(self) -> None:
        """Called each time the user opens this module."""
        self.initializeParameterNode()

    def exit(self) -> None:
        """Called each time the user opens a different module. A run goes on meanwhile."""
        self.setParameterNode(None)

    def onSceneStartClose(self, caller, event) -> None:
        """Called just before the scene is closed."""
        self.logic.cancel(now=True)
        self.displays.clear()
        self.readout.setShown(Shown(), None)
        self.report.setTables(None, None)
        self.runPanel.setSubject(None, None, None)
        self.watch.setNodes([])
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event) -> None:
        """Called just after the scene is closed."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def onSceneEndImport(self, caller, event) -> None:
        """Called just after a scene was loaded: its settings take the place of settings that were never used."""
        self.setParameterNode(None)
        removeUnusedSettings(self.logic.getAllParameterNodes())
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self) -> None:
        """Ensure parameter node exists and observed."""
        if self._parameterNode is None or self._parameterNode.parameterNode.GetScene() is None:
            node = self.logic.getParameterNode()
            node.chooseOnlyPair(slicer.mrmlScene)
            self.setParameterNode(node)

    def onParameterNodeSelected(self, node) -> None:
        """Other settings were chosen, or new ones made."""
        if node is not None and self._parameterNode and node is not self._parameterNode.parameterNode:
            self.setParameterNode(DeepFLASHRegistrationParameterNode(node))

    def setParameterNode(self, node) -> None:
        """Set and observe parameter node: when it is changed the GUI must be updated immediately."""
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode.parameterNode, vtk.vtkCommand.ModifiedEvent, self.update)
        self._parameterNode = node
        if node:
            # In the .ui file, a Qt dynamic property "SlicerParameterName" is set on each element that needs connection.
            self._parameterNodeGuiTag = node.connectGui(self.ui)
            self.addObserver(node.parameterNode, vtk.vtkCommand.ModifiedEvent, self.update)
            self.ui.parameterNodeSelector.setCurrentNode(node.parameterNode)
        self.update()

    def update(self, caller=None, event=None) -> None:
        """Shows what the parameter node and the run have become."""
        node = self._parameterNode
        if node:
            if not self.runPanel.busy:
                node.settleOutputs()
            if node.values() != self.form.values():
                self.form.setValues(node.values())
            self.runPanel.setSubject(node.parameterNode, node.fixedVolume, node.movingVolume)
            shown = node.shown()
            self.displays.setShown(shown, hasVelocity(node.transform))
            self.readout.setShown(shown, node.labelsTable)
            self.report.setTables(node.metricsTable, node.labelsTable)
            self.watch.setNodes(node.inputs().nodes().values())
            self.checkTimer.start()
        self._updateButtons()

    def _updateButtons(self) -> None:
        missing = self.checks.missing(self._parameterNode, self.form.problem())
        self.runPanel.update(missing, said=missing == "\n".join(self.checks.errors) != "")
        self.folds.update(self._parameterNode)
        self.displays.setBusy(self.runPanel.busy)
        self.refining.update(missing)
        self.saving.update()
        self.series.update()
        self.template.update()

    def checkNow(self) -> None:
        """Looks at the chosen volumes, and offers remedies for what speaks against them."""
        node = self._parameterNode
        if not node or self.runPanel.busy:
            return
        self.displays.setShown(node.shown(), hasVelocity(node.transform))
        if node.fixedVolume and node.movingVolume:
            self.machinePanel.ask()
        parameters = Parameters() if self.form.problem() else self.form.parameters()
        device, free = self.logic.machine.memory()
        found = checkInputs(node.inputs(), parameters, device, freeDevice=free)
        changed = self.stamps.changed(node.transform)
        self.refining.setChanged(changed)
        found += self.series.offered() + self.models.checks(node.inputs(), parameters) + changed
        self.checks.show(found + hints(node.transform, node.inputs(), parameters))
        self._updateButtons()

    def onRemedy(self, changes) -> None:
        """The button beside a warning changes parameters."""
        self.form.change(changes)
        self.onParametersChanged()

    def onParametersChanged(self) -> None:
        """The user changed a parameter."""
        if self._parameterNode:
            self._parameterNode.settings = json.dumps(self.form.values())

    def onRegisterButton(self) -> None:
        """Register, or Cancel while something runs."""
        if self.runPanel.busy:
            self.runPanel.cancel()
        else:
            self.machinePanel.whenIdle(self._register, self.runPanel.status)
        self._updateButtons()

    def _register(self, refine=None) -> bool:
        """Starts a registration, from the result of this transform if there is one; whether that was possible."""
        started, node = False, self._parameterNode
        if node:  # the scene may have been closed meanwhile
            with told(_("The registration cannot begin.")):
                # A result is refined in the alignment that it has.
                inputs = replace(node.inputs(), initialTransform=None) if refine else node.inputs()
                run = self.logic.newRun(inputs, self.models.consented(), node.outputsToWrite(), refine)
                started = self.runPanel.start(run)
        self._updateButtons()
        return started

    def onRunEnded(self, run) -> None:
        """A run that this window started has ended, in whatever way."""
        if not isinstance(run, GeodesicRun) or run.state != "done":
            self.displays.geodesicFailed()
        if isinstance(run, RegistrationRun) and run.state == "done":
            self._take(run)
        if isinstance(run, SequenceRun):
            self.series.ended(run)
        self.update()

    def _take(self, run) -> None:
        """Chooses the outputs of a run where it was started, so that the next one updates them, and shows them."""
        node = DeepFLASHRegistrationParameterNode(self.runPanel.settings)
        if node.fixedVolume is run.inputs.fixedVolume and node.movingVolume is run.inputs.movingVolume:
            node.setOutputs(run.nodes)
        self.refining.setLast(run)
        if self._parameterNode and self.runPanel.isOfSubject(run):
            self.update()
            self.displays.showResult()
            self.ui.displayCollapsibleButton.collapsed = self.ui.reportCollapsibleButton.collapsed = False

    def onKeepButton(self) -> None:
        """Writes the best so far of a cancelled registration."""
        run = self.runPanel.registration
        with told(_("Failed to write the result.")):
            self.logic.keep(run)
            self._take(run)
            self.runPanel.sayOutcome(run, _("Cancelled; the best so far was kept."))
        self.update()

    def _start(self, run) -> bool:
        """Starts what makes more of a result; whether that was possible."""
        started = self.runPanel.start(run)
        if not started:
            self.displays.geodesicFailed()
        self._updateButtons()
        return started

    def makeGeodesic(self) -> bool:
        """Starts making the sequence of the geodesic; whether that is possible."""
        run = GeodesicRun(self._parameterNode.transform)
        return self.machinePanel.whenIdle(lambda: self._start(run), self.runPanel.status)


class DeepFLASHRegistrationTest(ScriptedLoadableModuleTest):
    """What must hold in every Slicer, without a window and without torch. Testing/in_slicer tests the rest."""

    def setUp(self):
        """Do whatever is needed to reset the state - typically a scene clear will be enough."""
        slicer.mrmlScene.Clear()

    def runTest(self):
        """Run as few or as many tests as needed here."""
        self.setUp()
        self.test_LogicStartsNothing()
        self.setUp()
        self.test_WrongInputIsTold()

    def test_LogicStartsNothing(self):
        logic = DeepFLASHRegistrationLogic()
        self.assertIsNone(logic.current)
        self.assertNotIn("torch", sys.modules)
        self.assertEqual(logic.getParameterNode().values(), Parameters().to_dict())

    def test_WrongInputIsTold(self):
        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
        before = slicer.mrmlScene.GetNumberOfNodes()
        for fixed, moving in ((None, volume), (volume, None), (volume, volume)):
            with self.assertRaises(InputError):
                RegistrationRun(Inputs(fixed, moving)).arguments()
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), before)
