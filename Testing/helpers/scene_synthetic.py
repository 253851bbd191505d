# SPDX-License-Identifier: Apache-2.0
"""Images and a registration result known in closed form: what the engine would hand over, without the engine."""

from types import SimpleNamespace

import numpy as np
import slicer
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.registration.verdict import verdict
from DeepFLASHRegistrationLib.scene.arrays import imageFromArray
from DeepFLASHRegistrationLib.scene.geometry import ijkToRasOfGrid, inSpace, vtkMatrixFrom


class Stretch:
    """x -> (c + (x - c) + (a/k) sin(k (x - c)), y, z) after an affine map: determinant 1 + a cos(k (x - c)).

    LPS mm; `a` in (-1, 1) keeps it invertible, |a| > 1 folds.
    """

    def __init__(self, amplitude=0.4, wavelength=40.0, center=0.0, affine=None, ndim=3):
        self.a, self.k, self.c = amplitude, 2 * np.pi / wavelength, center
        self.affine = np.eye(ndim + 1) if affine is None else np.asarray(affine, float)

    def bend(self, points):
        points = np.array(points, float)
        points[..., 0] += self.a / self.k * np.sin(self.k * (points[..., 0] - self.c))
        return points

    def unbend(self, points):
        points = np.array(points, float)
        wanted = points[..., 0] - self.c
        x = wanted.copy()
        for _ in range(60):
            x -= (x + self.a / self.k * np.sin(self.k * x) - wanted) / (1 + abs(self.a))
        points[..., 0] = x + self.c
        return points

    def fixedToMoving(self, points):
        return self.bend(points) @ self.affine[:-1, :-1].T + self.affine[:-1, -1]

    def movingToFixed(self, points):
        inverse = np.linalg.inv(self.affine)
        return self.unbend(np.asarray(points) @ inverse[:-1, :-1].T + inverse[:-1, -1])

    def determinant(self, points):
        points = np.asarray(points, float)
        return (1 + self.a * np.cos(self.k * (points[..., 0] - self.c))) * np.linalg.det(self.affine[:-1, :-1])


def pointsOf(grid):
    return grid.index_to_physical(np.stack(np.indices(grid.shape), -1))


def makeGrid(shape=(30, 36, 40), spacing=(2.0, 2.0, 2.0), flips=(1, 1, 1), order=(0, 1, 2), tilt=0.0, center=(0, 0, 0)):
    """A grid around `center` (LPS): array axis n runs along world axis order[n] (of z, y, x), tilted by `tilt` rad."""
    columns = np.eye(3)[:, ::-1][:, list(order)] * flips
    c, s = np.cos(tilt), np.sin(tilt)
    rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ columns * spacing
    affine[:3, 3] = np.array(center) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


def smooth(points):
    """An image as a function of LPS mm, slow enough that linear interpolation of 2 mm voxels errs by < 1 of 200."""
    points = np.asarray(points, float)
    wave = np.cos(points[..., 0] / 14 + 0.3) + np.cos(points[..., 1] / 17) + np.cos(points[..., -1] / 19 - 0.4)
    return 100 + 25 * wave


def addVolume(scene, grid, data, name="volume", kind="vtkMRMLScalarVolumeNode"):
    node = scene.AddNewNodeByClass(kind, name)
    node.SetIJKToRASMatrix(vtkMatrixFrom(ijkToRasOfGrid(grid)))
    node.SetAndObserveImageData(imageFromArray(np.asarray(data).reshape(inSpace(grid).shape)))
    node.CreateDefaultDisplayNodes()
    return node


def addLinear(scene, matrix, name="linear"):
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
    node.SetMatrixTransformToParent(vtkMatrixFrom(matrix))
    return node


def addSegmentation(scene, grid, masks, reference=None, name="segmentation", shared=True):
    """Segments from {name: mask}; `shared` in one label map, as the Segment Editor stores them."""
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    representation = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    node.GetSegmentation().SetSourceRepresentationName(representation)
    merged = np.zeros(grid.shape, np.uint8)
    for label, mask in enumerate(masks.values(), start=1):
        merged[mask] = label
    matrix = vtkMatrixFrom(ijkToRasOfGrid(grid))

    def oriented(array):
        image = imageFromArray(array, image=slicer.vtkOrientedImageData())
        image.SetGeometryFromImageToWorldMatrix(matrix)
        return image

    common = oriented(merged)
    colors = [(0.9, 0.1, 0.1), (0.1, 0.8, 0.2), (0.2, 0.3, 0.9), (0.9, 0.8, 0.1)]
    for label, (title, mask) in enumerate(masks.items(), start=1):
        segment = slicer.vtkSegment()
        segment.SetName(title)
        segment.SetColor(*colors[label - 1])
        segment.SetTag("TerminologyEntry", f"Category~{title}~code")
        segment.SetTag("Own", f"tag of {title}")
        segment.SetLabelValue(label if shared else 1)
        segment.AddRepresentation(representation, common if shared else oriented(mask.astype(np.uint8)))
        node.GetSegmentation().AddSegment(segment, f"Id.{title}")
    if reference is not None:
        node.SetReferenceImageGeometryParameterFromVolumeNode(reference)
    return node


def noVelocity(domain, affine):
    """Result.velocity of a map that is but affine, for what must hold one; `Stretch` is no geodesic."""
    d = domain.ndim
    return {
        "domain": domain,
        "unit_mm": 10.0,
        "velocity": np.zeros((d,) + (5,) * d, np.float32),
        "alpha": 0.01,
        "power": 3.0,
        "gamma": 1.0,
        "metric_step": None,
        "affine": np.asarray(affine, float),
        "margin_mm": 10.0,
        "band_limited": False,
        "integrator": "rk4",
        "steps": 0,
    }


def makeResult(fixedGrid, movingGrid, truth, image=smooth, margin=4, labels=None, labelsAt=None):
    """A Result (as the library's contract has it) of the analytic map `truth`; labels through labelsAt(moving LPS)."""
    fieldGrid = fixedGrid.padded(margin)
    inverseGrid = movingGrid.padded(margin)
    here = pointsOf(fixedGrid)
    there = truth.fixedToMoving(here)
    determinant = truth.determinant(here)
    with np.errstate(invalid="ignore", divide="ignore"):
        logJacobian = np.log(determinant)
    history = [
        {
            "level": step // 5,
            "iteration": step % 5,
            "energy": 10.0 / (1 + step),
            "similarity": 8.0 / (1 + step),
            "regularization": 2.0 / (1 + step),
            "smallest_determinant": 0.6,
            "seconds": 0.1 * step,
        }
        for step in range(10)
    ]
    metrics = {
        "similarity_before": 0.5,
        "similarity_after": 0.98,
        "mean_dice_before": 0.6,
        "mean_dice_after": 0.9,
        "dice": {
            1: {
                "before": 0.6,
                "after": 0.9,
                "volume_moving_mm3": 1000.0,
                "volume_warped_mm3": 1100.0,
                "volume_fixed_mm3": 1120.0,
            }
        },
        "volume_change": {1: 10.0},
        "landmarks": {"before_mm": [4.0, 6.0], "after_mm": [1.0, 2.0]},
        "folds": {"count": int((determinant <= 0).sum()), "percent": 100 * float((determinant <= 0).mean())},
        "folds_strict": {"count": 0, "percent": 0.0},
        "smallest_determinant": float(determinant.min()),
        "largest_determinant": float(determinant.max()),
        "sd_log_determinant": float(np.nanstd(logJacobian)),
        "inverse_error_mm": {"mean": 0.01, "p95": 0.02, "max": 0.05},
        "largest_displacement_mm": 3.0,
        "overlap": 0.9,
        "border_hits": 0.0,
    }
    return SimpleNamespace(
        fixed_grid=fixedGrid,
        moving_grid=movingGrid,
        parameters=Parameters(),
        field_grid=fieldGrid,
        inverse_grid=inverseGrid,
        affine=truth.affine,
        warped=Volume(fixedGrid, image(there).astype(np.float32)),
        moving_affine=Volume(fixedGrid, image(here).astype(np.float32)),
        fixed_to_moving=(truth.fixedToMoving(pointsOf(fieldGrid)) - pointsOf(fieldGrid)).astype(np.float32),
        displacement=(there - here).astype(np.float32),
        moving_to_fixed=(truth.movingToFixed(pointsOf(inverseGrid)) - pointsOf(inverseGrid)).astype(np.float32),
        log_jacobian=Volume(fixedGrid, logJacobian.astype(np.float32)),
        uncertainty=None,
        labels=None if labelsAt is None else Volume(fixedGrid, labelsAt(there).astype(np.int32)),
        labels_before=None,
        velocity=noVelocity(fixedGrid, truth.affine),
        history=history,
        metrics=metrics,
        timings={},
        provenance={},
        verdict=verdict(metrics),
        cancelled=False,
        notes=[],
    )
