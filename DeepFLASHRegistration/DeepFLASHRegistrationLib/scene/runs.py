# SPDX-License-Identifier: Apache-2.0
"""What the child process is asked for, in terms of nodes: a registration, its geodesic, its files, a sample pair."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import slicer
import vtk

from ..imaging.grid import Grid
from ..imaging.intensities import foreground
from ..imaging.landmarks import Landmarks
from ..imaging.volume import Volume
from ..methods.choosing import Look, is_open, likely
from ..methods.peers import checked_peers as checkedPeers
from ..methods.stages import stages
from ..problem.parameters import METHODS, Parameters
from ..problem.subject import Subject
from ..process.runner import Run
from ..registration import needs
from ..registration.maps import field_grids
from ..registration.progress import PHASES, share_done
from ..results.plain import plain
from ..results.starts import arguments_of
from ..support.errors import InputError
from .carry import meshOf
from .checks import noTransform
from .conversion import landmarksFromNode, volumeFromNode
from .fields import affineInPlane
from .geometry import LPS_RAS, arrayFromVtkMatrix, checkLinear
from .inputs import Inputs
from .known_transforms import sampledTransform
from .labels import Labels, labelsFromNode, maskFromNode
from .outputs import NEW, OutputNodes, PreparedResult, checkOutputs, writeResult
from .refining import refinement
from .samples import addSample
from .sequence import geodesicTransforms, writeGeodesicSequence
from .stamps import Stamps
from .structures import numbered
from .transaction import Transaction
from .translation import tr as _
from .velocity import fingerprint, savedResult

# More points than this per axis of the geodesic's fields show nothing more, and a sequence holds many of them.
_GEODESIC_SAMPLES = 56
# Voxels per axis from which the size of the fixed object is told before a run.
_LOOKED_AT = 40


class RegistrationRun(Run):
    """A registration of nodes.

    Attributes:
        nodes: the outputs in the scene; None until the run is done.
        fixed, moving: what the nodes hold, once it was started.
        result: everything the registration found, without nodes (registration.result.Result); of a cancelled
            run the best so far, if there is one, which `keep` writes into the scene.
        affine: (d+1, d+1) LPS mm, fixed -> moving, that takes the place of the alignment where it is known from an
            earlier registration of the same pair; to be set before the start.
        refine: the transform of a result of the same pair, from whose velocity it goes on; to be set before the start.
        pace: by phase, how many times as long as `registration.needs.seconds` says it takes on this computer.
    """

    task = "register"
    left_out = ("prepare", "affine", "level", "write")

    def __init__(
        self,
        inputs: Inputs,
        parameters: Parameters | None = None,
        outputs: OutputNodes | None = None,
        device: str = "auto",
        threads: int | None = None,
        peers: str = "",
    ) -> None:
        """`peers`: the Python that has other programs, for the methods that are theirs."""
        super().__init__()
        self.inputs, self.outputs = inputs, OutputNodes() if outputs is None else outputs
        self.parameters = Parameters() if parameters is None else parameters
        self.nodes: OutputNodes | None = None
        self.fixed: Subject | None = None
        self.moving: Subject | None = None
        self.pace: Mapping[str, float] = {}
        self.affine: np.ndarray | None = None
        self.refine: slicer.vtkMRMLTransformNode | None = None
        self._machine = {"device": device, "threads": threads or None}
        self._peers = peers
        self._movingLabels: Labels | None = None
        self._prepared: PreparedResult | None = None
        self._stamps: tuple[dict[str, object], dict[str, object]] | None = None
        self._written: tuple[Transaction, str] | None = None

    @property
    def result(self) -> Any:
        """registration.result.Result, None if there is none."""
        return self.value

    @property
    def metrics(self) -> dict[str, Any]:
        """The measurements, {} if there is no result."""
        return self.value.metrics if self.value is not None else {}

    @property
    def verdict(self) -> Any:
        """registration.verdict.Verdict, with the names of the labels; None if there is no result."""
        if self.value is None:
            return None
        return self.value.verdict.named(self._movingLabels.names if self._movingLabels is not None else {})

    def summary(self) -> dict[str, Any]:
        """What became of it, in JSON's own types: state, error, verdict, metrics, notes, parameters, provenance,
        seconds, and the IDs of the nodes that were made; what there is not is None."""
        found, verdict = self.value, self.verdict
        nodes = {} if self.nodes is None else {each.name: getattr(self.nodes, each.name) for each in fields(self.nodes)}
        return plain(
            {
                "state": self.state,
                "error": None if self.error is None else str(self.error),
                "verdict": None
                if verdict is None
                else {**verdict.to_dict(), "reasons": list(map(str, verdict.reasons))},
                "metrics": None if found is None else found.metrics,
                "notes": None if found is None else found.notes,
                "parameters": (self.parameters if found is None else found.parameters).to_dict(),
                "provenance": None if found is None else found.provenance,
                "seconds": None if found is None else found.timings,
                "nodes": {name: node.GetID() for name, node in nodes.items() if isinstance(node, slicer.vtkMRMLNode)},
            }
        )

    def arguments(self) -> dict[str, Any]:
        """The nodes as arguments of `registration.register.register`.

        Raises:
            InputError: a node cannot be used, or an output cannot be written.
        """
        inputs = self.inputs
        if inputs.fixedVolume is None:
            raise InputError(_("No fixed volume is chosen. Choose one."))
        if inputs.movingVolume is None:
            raise InputError(_("No moving volume is chosen. Choose one."))
        if inputs.fixedVolume is inputs.movingVolume:
            raise InputError(_("Fixed and moving volume are the same. Choose another one."))
        checkOutputs(self.outputs, list(inputs.nodes().values()), inputs.movingSegmentation)
        images = volumeFromNode(inputs.fixedVolume), volumeFromNode(inputs.movingVolume)
        stamps = Stamps()
        self._stamps = stamps.of(inputs.fixedVolume), stamps.of(inputs.movingVolume)
        labels = self._labels(images[0].ndim)
        masks = [
            None if mask is None else maskFromNode(mask, volume)
            for mask, volume in ((inputs.fixedMask, inputs.fixedVolume), (inputs.movingMask, inputs.movingVolume))
        ]
        self.parameters = numbered(self.parameters, *labels)
        maps = [None if each is None else each.volume for each in labels]
        channels = [
            (image, *([] if node is None else [volumeFromNode(node)]))
            for image, node in zip(images, (inputs.fixedChannel, inputs.movingChannel), strict=True)
        ]
        self.fixed, self.moving = map(Subject, channels, maps, masks, self._landmarks(*images))
        if inputs.movingModel is not None:
            meshOf(inputs.movingModel)  # what cannot be carried is refused now, not after the registration
        begun = self._start(images[0].grid, images[1].grid)
        found = {"fixed": self.fixed, "moving": self.moving, "parameters": self.parameters, **self._machine, **begun}
        self.expected = self._expected("initial_affine" in begun)
        return found

    def _start(self, fixed: Grid, moving: Grid) -> dict[str, Any]:
        """What the method starts from, and who computes it.

        Raises:
            InputError: the transform that it needs is not chosen, the other program is not there, or it cannot go on
                from the result that is to be refined.
        """
        if self.refine is not None:
            start = refinement(self.refine, self.inputs, self.parameters)
            self.parameters = start.parameters
            self.fixed = self.fixed.with_image(self.fixed.image.noted(*start.notes))
            return start.given
        method, chosen = METHODS[self.parameters.method], self.inputs.initialTransform
        found: dict[str, Any] = {}
        if method.peer:
            found["peers"] = checkedPeers(self._peers, self.parameters.method)
        if method.needs_transform:
            if chosen is None:
                raise InputError(noTransform())
            found["initial_map"] = sampledTransform(chosen, fixed, moving)
        elif self.affine is not None:
            found["initial_affine"] = self.affine
        elif chosen is not None:
            found["initial_affine"] = _initialAffine(chosen, fixed, moving)
        return found

    @property
    def kind(self) -> str:
        """Runs of the same kind on the same computer keep the same pace."""
        return f"{self.parameters.preset}/{self.parameters.method}/{self._machine['device']}"

    def _expected(self, aligned: bool) -> dict[str, float]:
        """Seconds of each phase, {} if the settings cannot be used, which the registration says better."""
        inside = None if self.fixed.mask is None else self.fixed.mask.thinned(_LOOKED_AT)
        try:
            if inside is None or not inside.data.any():
                image = self.fixed.image.thinned(_LOOKED_AT)
                inside = image.with_data(foreground(image).astype(np.uint8))
            parameters = self.parameters
            if is_open(parameters):
                parameters = likely(parameters, [Look.at(each.image, each.mask) for each in (self.fixed, self.moving)])
            effective = stages(parameters)
            sizes = needs.sizes(self.fixed.grid, self.moving.grid, inside, effective)
        except (InputError, ValueError):
            return {}
        known = needs.seconds(sizes, effective)
        if aligned:  # nothing is to be learned of an alignment that is known already
            known["affine"] = 0.0
        return {phase: each * self.pace.get(phase, 1.0) for phase, each in known.items()}

    def share_done(self, phase: str, progress: float) -> float:
        """How much of a phase is done (0 ... 1)."""
        return share_done(phase, progress) if phase in PHASES else 0.0

    def _labels(self, ndim: int) -> tuple[Labels | None, Labels | None]:
        inputs = self.inputs
        # A segmentation of a single slice may have a geometry of its own that is no single slice.
        references = (inputs.fixedVolume, inputs.movingVolume) if ndim == 2 else (None, None)
        fixed = None
        if inputs.movingSegmentation is not None:
            self._movingLabels = labelsFromNode(inputs.movingSegmentation, references[1])
        if inputs.fixedSegmentation is not None:
            fixed = labelsFromNode(inputs.fixedSegmentation, references[0], self._movingLabels)
        return fixed, self._movingLabels

    def _landmarks(self, fixed: Volume, moving: Volume) -> tuple[Landmarks | None, Landmarks | None]:
        inputs = self.inputs
        if inputs.movingMarkups is None:
            return None, None
        there = landmarksFromNode(inputs.movingMarkups, moving.grid)  # also refuses what could not be carried
        if inputs.fixedMarkups is None:
            return None, None
        return landmarksFromNode(inputs.fixedMarkups, fixed.grid), there

    def prepare(self) -> Iterator[None]:
        """Converts what the nodes will hold, which takes longer than to write them."""
        self._checkInputs()
        self._prepared = PreparedResult(self.value, self.inputs.fixedVolume, self.inputs.movingVolume)
        yield from self._prepared.steps(self.outputs)

    def _checkInputs(self) -> None:
        for node in self.inputs.nodes().values():
            if node.GetScene() is None:
                raise InputError(
                    _("{name} was removed from the scene during the registration.").format(name=node.GetName())
                )

    def finish(self) -> None:
        """Writes the outputs, all or none."""
        self._checkInputs()
        for each in fields(self.outputs):
            node = getattr(self.outputs, each.name)
            if node is not None and node != NEW and node.GetScene() is None:
                setattr(self.outputs, each.name, NEW)
        segmentation = self.inputs.movingSegmentation
        if segmentation is not None and self._movingLabels.segments:
            known = {identifier for ids in self._movingLabels.segments.values() for identifier in ids}
            if set(segmentation.GetSegmentation().GetSegmentIDs()) != known:
                raise InputError(
                    _("Segments of {segmentation} were added or removed during the registration. Run it again.").format(
                        segmentation=segmentation.GetName()
                    )
                )
        transaction = Transaction(self.inputs.fixedVolume.GetScene())
        self.nodes = writeResult(
            self.value,
            self.inputs,
            self.outputs,
            movingLabels=self._movingLabels,
            prepared=self._prepared,
            stamps=self._stamps,
            transaction=transaction,
        )
        self._prepared = None  # the nodes hold them now
        if self.refine is not None:
            self._written = transaction, fingerprint(self.nodes.transform)

    @property
    def canBeUndone(self) -> bool:
        """Whether it has refined a result, which was neither removed nor written anew since."""
        return self._written is not None and fingerprint(self.nodes.transform) == self._written[1]

    def undo(self) -> None:
        """Takes back what a refinement has written: its nodes hold the result from before, those it made are gone.

        Raises:
            InputError: there is nothing to take back.
        """
        if not self.canBeUndone:
            raise InputError(_("There is no refinement to undo, or its result was removed or written anew since."))
        transaction, _velocity = self._written
        transaction.undo()
        self.nodes = self._written = None

    @property
    def canBeKept(self) -> bool:
        """Whether it was cancelled when there was something worth keeping, which is not in the scene yet."""
        return self.state == "cancelled" and self.value is not None and self.nodes is None

    def keep(self) -> OutputNodes:
        """Writes the best so far of a cancelled run into the scene.

        Raises:
            InputError: there is nothing to keep.
        """
        if self.value is None:
            raise InputError(_("The registration was cancelled before there was a result to keep."))
        self.finish()
        return self.nodes


class DevicesRun(Run):
    """What can be computed on. `value` becomes what process.tasks.devices says."""

    task = "devices"
    brief = True


class GeodesicRun(Run):
    """The maps between the alignment (t = 0) and the result (t = 1) of a registration, as a sequence of transforms.

    They are computed from what is in the scene, so also after it was saved and loaded.

    Attributes:
        browser: of the sequence; None until the run is done.
    """

    task = "geodesic"

    def __init__(self, transform: slicer.vtkMRMLTransformNode, steps: int = 11) -> None:
        """`transform`: that of a result (OutputNodes.transform)."""
        super().__init__()
        self.transform, self.times = transform, [float(t) for t in np.linspace(0, 1, steps)]
        self.browser: slicer.vtkMRMLSequenceBrowserNode | None = None
        self._grid: Grid | None = None
        self._transforms: list[slicer.vtkOrientedGridTransform] = []

    def arguments(self) -> dict[str, Any]:
        """The velocity, and where its maps are wanted.

        Raises:
            InputError: the scene does not hold what is needed.
        """
        self._volumes()
        saved = savedResult(self.transform)
        grid = field_grids(saved.fixed_grid, saved.deformation.affine)[0]
        self._grid = grid.resampled(factor=[max(1.0, size / _GEODESIC_SAMPLES) for size in grid.shape])
        return {"velocity": arguments_of(saved.deformation), "times": self.times, "grid": self._grid}

    def _volumes(self) -> tuple[slicer.vtkMRMLScalarVolumeNode, slicer.vtkMRMLScalarVolumeNode]:
        node = self.transform
        if node.GetScene() is None:
            raise InputError(_("{name} is not in the scene any more.").format(name=node.GetName()))
        fixed = node.GetNodeReference(node.GetFixedNodeReferenceRole())
        moving = node.GetNodeReference(node.GetMovingNodeReferenceRole())
        if fixed is None or moving is None:
            which = _("The fixed volume of {name} is not in the scene any more.")
            if fixed is not None:
                which = _("The moving volume of {name} is not in the scene any more.")
            raise InputError(which.format(name=node.GetName()))
        return fixed, moving

    def prepare(self) -> Iterator[None]:
        """Converts the maps, one by one."""
        for transform in geodesicTransforms(self.value, self._grid, *self._volumes()):
            self._transforms.append(transform)
            yield

    def finish(self) -> None:
        """Makes the sequence, or updates that of an earlier result of the same transform."""
        self.browser = writeGeodesicSequence(self.transform, self.times, self._transforms, *self._volumes())
        self._transforms = []  # the sequence holds them now


class SaveRun(Run):
    """The files of a registration, its report among them, in a folder. `value` becomes the report's path."""

    task = "save"

    def __init__(self, registration: RegistrationRun, folder: str, force: bool = False) -> None:
        super().__init__()
        self._arguments = {
            "result": registration.result,
            "folder": folder,
            "force": force,
            "fixed": registration.fixed,
            "moving": registration.moving,
        }

    def arguments(self) -> dict[str, Any]:
        """The result, its inputs and where to."""
        return self._arguments


class SampleRun(Run):
    """A pair of heads made for the purpose, with segmentations and landmarks.

    Attributes:
        nodes: fixed and moving volume, segmentation and markups; empty until the run is done.
    """

    task = "phantom"

    def __init__(self, scene: slicer.vtkMRMLScene, **arguments: Any) -> None:
        """`arguments`: those of phantom.pairs.make_pair."""
        super().__init__()
        self._scene, self._arguments = scene, arguments
        self.nodes: list[slicer.vtkMRMLNode] = []

    def arguments(self) -> dict[str, Any]:
        """What the pair shall be like."""
        return self._arguments

    def finish(self) -> None:
        """Puts the pair into the scene."""
        self.nodes = addSample(self._scene, self.value)


def runBatch(runs: Sequence[RegistrationRun], register: Callable[[RegistrationRun], Any]) -> None:
    """Registers one pair after the other. A pair that fails says so in its `state` and `error`; the next one follows.

    Args:
        register: starts a run and waits for its end; raises what it failed for.
    """
    for run in runs:
        try:
            register(run)
        except (InputError, RuntimeError) as error:
            if not run.done:  # it could not even be started
                run.end("failed", error)


def _initialAffine(node: slicer.vtkMRMLTransformNode, fixed: Grid, moving: Grid) -> np.ndarray:
    """(d+1, d+1) LPS mm, fixed -> moving, of a transform node that moves the moving volume to the fixed one."""
    checkLinear(node)
    matrix = vtk.vtkMatrix4x4()
    node.GetMatrixTransformToWorld(matrix)
    fixedToMoving = np.linalg.inv(arrayFromVtkMatrix(matrix))
    if fixed.ndim == 3 or moving.ndim == 3:
        return LPS_RAS @ fixedToMoving @ LPS_RAS
    try:
        return affineInPlane(fixedToMoving, fixed, moving)
    except ValueError as error:
        raise InputError(
            _(
                "The initial transform {name} turns the slice out of its plane. Choose one that moves and turns it "
                "within its plane."
            ).format(name=node.GetName())
        ) from error
