# SPDX-License-Identifier: Apache-2.0
"""How a dual net is trained: on the velocities that FLASH found, then on FLASH's energy and the overlap of labels.

All images lie in their own pose on the model's domain, once and for all; what is drawn anew for each pair (who is moved
onto whom, how well the pose and the alignment succeeded, contrasts, random displacements) is drawn from these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..alignment.affine import align
from ..alignment.starts import rotation
from ..geodesics.band import Band, Lattice, Metric, Upsampler
from ..geodesics.batched import BatchedFlow, BatchedSampler, BatchedShooting
from ..geodesics.jacobian import smallest_determinant
from ..geodesics.similarities import LocalCorrelation
from ..imaging.intensities import background_value
from ..imaging.resampling import nearest
from ..imaging.volume import Volume
from ..learning.dual_net import DualNet, fit
from ..methods.pose import pose
from ..problem.deformation import border_window
from ..problem.parameters import Parameters
from ..problem.resampling import linear
from ..problem.subject import Subject
from ..problem.working import level_factors, level_modes
from .pairs import Variation
from .posed import Posed, PosedRecipe
from .resumable import Resumable
from .trainer import Schedule, mean_dice

_PAIRS = 16  # per update
_STEPS = 3  # of the geodesics while training
_POINTS = 3.2  # of the maps' lattice per shortest wavelength
_WARM_UP, _LEAST_RATE, _CLIP = 30, 0.02, 1.0
_EPOCHS = 60  # on FLASH's velocities
_MOST_LABELS = 12  # that are told apart


@dataclass(frozen=True)
class Batch:
    """Pairs on the domain at the resolution of the registrations: images (n, *cells), where they are known, and soft
    labels (n, labels, *cells), of the fixed and of the moving side."""

    images: tuple[Tensor, Tensor]
    known: tuple[Tensor, Tensor]
    labels: tuple[Tensor, Tensor]


class PosedSubjects:
    """Subjects in their own pose on a domain.

    Args:
        subjects: with images as `problem.scaled` scales them.
        place: the domain, and the mean image in whose space it lies.
        parameters, unit_mm: of the registrations.
    """

    def __init__(self, subjects: Sequence[Subject], place: Posed, parameters: Parameters, unit_mm: float):
        self.place, self.parameters, self.unit_mm = place, parameters, unit_mm
        mean, domain = place.mean, place.domain
        self.ndim, self.spacing_mm = domain.ndim, float(domain.spacing.min())
        maps = [subject.label_map.data for subject in subjects if subject.labels]
        self.labels = tuple(sorted({int(label) for each in maps for label in np.unique(each) if label}))[:_MOST_LABELS]
        rows, self.poses, ways, extents = [], [], [], []
        for subject in subjects:
            image = subject.image
            found = pose(image, mean)
            back = np.linalg.inv(found.matrix)
            outside = 0.0 if background_value(image) is not None else float(np.percentile(image.data[::4], 5))
            everywhere = Volume(image.grid, np.ones(image.grid.shape, np.uint8))
            known = nearest(everywhere, domain, back) > 0 if outside else np.ones(domain.shape, bool)
            labels = np.zeros(domain.shape, np.int64)
            if subject.labels:
                labels = nearest(subject.label_map, domain, back)
            rows.append([linear(image, domain, back, outside), known, *(labels == label for label in self.labels)])
            self.poses.append(found.matrix)
            ways.append(found.matrix @ align(mean.image, image.upright(), "affine", masks=(mean.seen, None)).matrix)
            extents.append(np.ptp(image.grid.index_to_physical(np.argwhere(image.data > image.data.min())), axis=0))
        self.extent_mm = (float(np.min(extents)), float(np.max(extents)))
        # (subjects, image, known, labels …, *domain)
        self.arrays = torch.from_numpy(np.stack([np.stack(row).astype(np.float16) for row in rows]))
        # Points of the mean image's space -> points of each subject's own pose.
        self.ways = np.stack(ways)

    def __len__(self) -> int:
        return len(self.ways)


def _homogeneous(grid_shape: Sequence[int], affine: np.ndarray, factors: Sequence[int]) -> Tensor:
    """Points (cells, d + 1) of the centers of blocks of voxels, LPS mm with a 1."""
    ranges = [np.arange(n // f) * f + (f - 1) / 2 for n, f in zip(grid_shape, factors, strict=True)]
    index = np.stack(np.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, len(ranges))
    points = index @ affine[:-1, :-1].T + affine[:-1, -1]
    return torch.from_numpy(np.concatenate([points, np.ones((len(points), 1))], 1))


class Drawing:
    """Draws batches of pairs of some subjects."""

    def __init__(self, subjects: PosedSubjects, factors: tuple[int, ...], device: str):
        self.subjects, self.factors, self.device = subjects, factors, device
        domain = subjects.place.domain
        self.shape = tuple(n // f for n, f in zip(domain.shape, factors, strict=True))
        pool = F.avg_pool3d if domain.ndim == 3 else F.avg_pool2d
        # Blocks' means at every voxel: what a coarser grid shows wherever it lies.
        self.smooth = pool(subjects.arrays.float(), factors, 1).half().to(device)
        self.points = _homogeneous(domain.shape, domain.affine, factors).to(device)
        self.inverse = torch.from_numpy(np.array(domain.inverse_affine)).to(device)
        self.offset = torch.tensor([(f - 1) / 2 for f in factors], device=device)

    def at(self, chosen: Tensor, ways: Tensor, displacement: Tensor | None = None) -> Tensor:
        """Subjects at the domain's cells moved by a displacement (n, d, *cells; mm along the domain's axes) and then by
        matrices (n, d+1, d+1), LPS mm; (n, channels, *cells)."""
        d = len(self.shape)
        index = self.points @ (self.inverse @ ways.to(self.points)).transpose(1, 2)[..., :d]
        if displacement is not None:
            turn = (self.inverse @ ways.to(self.points))[:, :d, :d] @ torch.linalg.inv(self.inverse)[:d, :d]
            spacing = torch.from_numpy(self.subjects.place.domain.spacing).to(index)
            voxels = displacement.flatten(2).transpose(1, 2).to(index) / spacing
            index = index + voxels @ turn.transpose(1, 2)
        size = torch.tensor(self.smooth.shape[2:], device=index.device)
        points = (2 * (index - self.offset) / (size - 1) - 1).flip(-1).float().view(len(chosen), *self.shape, d)
        return F.grid_sample(self.smooth[chosen].float(), points, padding_mode="border", align_corners=True)

    def batch(
        self, pairs: tuple[Tensor, Tensor], ways: Tensor, moves: tuple[Tensor, Tensor | None, Tensor | None]
    ) -> Batch:
        """Pairs; ``ways``: from the pose of the fixed to that of the moving subjects; ``moves``: of the fixed pose by
        matrices, and displacements of the fixed and of the moving image."""
        still, one, two = moves
        fixed, moving = self.at(pairs[0], still, one), self.at(pairs[1], ways @ still, two)
        return Batch(*(tuple(x[:, part] for x in (fixed, moving)) for part in (0, 1, slice(2, None))))

    def between(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """By way of the mean image, from the pose of one to that of another subject, (n, d+1, d+1)."""
        ways = torch.from_numpy(self.subjects.ways)
        return ways[moving] @ torch.linalg.inv(ways[fixed])


class PosedTrainer(Resumable):
    """Weights of a dual net, their optimizer, and where the training stands; what `train` asks of a trainer."""

    rank, processes = 0, 1

    def __init__(
        self,
        recipe: PosedRecipe,
        place: Posed,
        schedule: Schedule,
        variation: Variation,
        device: str,
        teachers: Sequence[tuple[tuple[int, int], Mapping[str, Any]]] = (),
    ):
        """``teachers``: pairs of subjects with the geodesics that FLASH found for them (`Result.velocity`)."""
        parameters, domain = recipe.parameters, place.domain
        self.recipe, self.schedule, self.variation = recipe, schedule, variation
        self.parameters, self.device, self.teachers = parameters, device, teachers
        self.factors = level_factors(domain, parameters)[-1]
        lengths = tuple(float(x) for x in domain.extent / recipe.unit_mm)
        self.band = band = Band(level_modes(domain, parameters)[-1], lengths)
        metric = Metric(parameters.alpha, parameters.power, parameters.gamma)
        self.predictor = DualNet(band, recipe.network, recipe.width, place.center, place.look).to(device)
        self.optimizer = torch.optim.AdamW(self.predictor.parameters(), schedule.learning_rate, weight_decay=1e-4)
        self.cells = Lattice.cells(tuple(n // f for n, f in zip(domain.shape, self.factors, strict=True)), lengths)
        wavelength = min(2 * length / max(n - 1, 1) for n, length in zip(band.modes, lengths, strict=True))
        points = [
            max(4, min(round(_POINTS * x / wavelength), n)) for x, n in zip(lengths, self.cells.shape, strict=True)
        ]
        self.lattice = Lattice.cells(tuple(points), lengths)
        margin = parameters.margin_mm / recipe.unit_mm
        self.shooting = BatchedShooting(band, metric, device=device)
        self.flow = BatchedFlow(band, self.lattice, device=device, window=lambda x: border_window(x, lengths, margin))
        self.upsample = Upsampler(self.lattice, self.cells, torch.float32, device)
        self.sample = BatchedSampler(self.cells, self.cells, device=device)
        voxel = domain.spacing * np.array(self.factors)
        self.radius = tuple(max(1.0, float(parameters.window_mm / v - 1) / 2) for v in voxel)
        self.begin()
        self._drawing: dict[int, Drawing] = {}

    def step(self, subjects: PosedSubjects) -> dict[str, float]:
        """One update; before the first one, all that FLASH teaches."""
        if self.iteration == 0:
            self.taught(subjects)
        self.predictor.train()
        done = self.progress()
        warm = min(1.0, (self.iteration + 1) / _WARM_UP)
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.learning_rate * warm * max(_LEAST_RATE, 0.5 * (1 + math.cos(math.pi * done)))
        generator = torch.Generator().manual_seed(self.schedule.seed * 1_000_003 + self.iteration)
        batch = self.drawn(subjects, generator)
        energy, overlap, _ = self.judged(batch, self.velocities(batch), _STEPS)
        loss = energy.mean()
        found = {"energy 0": float(energy.detach().mean())}
        if overlap is not None and self.schedule.label_weight:
            loss = loss + self.schedule.label_weight * (1 - overlap.mean())
            found["overlap 0"] = float(overlap.detach().mean())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.predictor.parameters(), _CLIP)
        self.optimizer.step()
        self.iteration += 1
        return found

    @torch.no_grad()
    def validate(self, subjects: PosedSubjects, pairs: Sequence[tuple[int, int]]) -> dict[str, float]:
        """Means over pairs of unseen subjects: see trainer.Trainer.validate."""
        self.predictor.eval()
        drawing, rows = self.drawing(subjects), []
        for fixed, moving in pairs:
            one, two = torch.tensor([fixed]), torch.tensor([moving])
            still = torch.eye(subjects.ndim + 1, dtype=torch.float64)[None]
            batch = drawing.batch((one, two), drawing.between(one, two), (still, None, None))
            energy, _, u = self.judged(batch, self.velocities(batch), 2 * _STEPS)
            hard = [torch.cat([1 - x.sum(1, keepdim=True), x], 1).argmax(1) for x in batch.labels]
            warped = self.sample(hard[1][:, None].float(), u, mode="nearest")[:, 0].long()
            dice = [mean_dice(hard[0], x) if subjects.labels else 0.0 for x in (hard[1], warped)]
            rows.append([float(energy), smallest_determinant(u[0], self.cells), *dice])
        values = np.array(rows)
        names = ("energy", "smallest_determinant", "dice_before", "dice")
        means = dict(zip(names, values.mean(0).tolist(), strict=True))
        return means | {"energy_sd": float(values[:, 0].std())}

    # ---------------------------------------------------------------------------------------------- how it is done

    def drawing(self, subjects: PosedSubjects) -> Drawing:
        if id(subjects) not in self._drawing:
            self._drawing[id(subjects)] = Drawing(subjects, self.factors, self.device)
        return self._drawing[id(subjects)]

    def velocities(self, batch: Batch) -> Tensor:
        return self.predictor.velocities(self.predictor.spectra(*batch.images))

    def judged(self, batch: Batch, velocities: Tensor, steps: int) -> tuple[Tensor, Tensor | None, Tensor]:
        """FLASH's energy (n,), that of the unregistered pair 1; soft Dice (n, labels), None without; the maps."""
        u = self.upsample(self.flow.displacement(self.shooting.middles(velocities, steps), 1 / steps))
        (fixed, moving), (known, others) = batch.images, batch.known
        both = ((known > 0.5) & (others > 0.5)).float()
        data = 1 / (2 * self.parameters.sigma**2)
        covered = (known > 0.5).float().flatten(1).mean(1).clamp(min=1e-3)
        norm = 0.5 * self.shooting.energy(velocities) / covered
        channels = torch.cat([moving[:, None], batch.labels[1]], 1)
        warped = self.sample(channels, u)
        terms = [LocalCorrelation(fixed[k], both[k], self.radius, support=both[k]) for k in range(len(fixed))]
        left = torch.stack([term(image) for term, image in zip(terms, warped[:, 0], strict=True)])
        rest = torch.stack([term(image) for term, image in zip(terms, moving, strict=True)]).detach().clamp(min=1e-6)
        overlap = None
        if batch.labels[0].shape[1]:
            axes = tuple(range(2, warped.ndim))
            shared = 2 * (warped[:, 1:] * batch.labels[0]).sum(axes)
            overlap = shared / (warped[:, 1:].square().sum(axes) + batch.labels[0].square().sum(axes) + 1e-3)
        return (data * left + norm) / (data * rest), overlap, u

    def drawn(self, subjects: PosedSubjects, generator: torch.Generator) -> Batch:
        """Pairs, varied at random."""
        drawing, n, count = self.drawing(subjects), _PAIRS * self.schedule.batch, len(subjects)
        fixed = torch.randint(count, (n,), generator=generator)
        moving = (fixed + torch.randint(1, count, (n,), generator=generator)) % count
        still, change = (self._moved(n, subjects.ndim, generator) for _ in range(2))
        d, turn = subjects.ndim, math.radians(self.variation.turn)
        change[:, :d, :d] += turn * torch.randn(n, d, d, generator=generator, dtype=torch.float64)
        ways = drawing.between(fixed, moving) @ change
        moves = (still, *(self._displacements(n, generator) for _ in range(2)))
        batch = drawing.batch((fixed, moving), ways, moves)
        looks = [self._recolored(image, generator) for image in batch.images]
        return Batch(tuple(looks), batch.known, batch.labels)

    def _moved(self, n: int, d: int, generator: torch.Generator) -> Tensor:
        """Rigid matrices (n, d+1, d+1) by which a pose may have failed."""
        matrices = torch.eye(d + 1, dtype=torch.float64).repeat(n, 1, 1)
        angles = torch.randn(n, 1 if d == 2 else 3, generator=generator, dtype=torch.float64)
        angles *= 2 * math.radians(self.variation.turn)
        for k in range(n):
            matrices[k, :d, :d] = torch.from_numpy(rotation(angles[k].numpy()))
        matrices[:, :d, d] = self.variation.shift_mm * torch.randn(n, d, generator=generator, dtype=torch.float64)
        return matrices

    def _displacements(self, n: int, generator: torch.Generator) -> Tensor | None:
        """Random smooth displacements in mm, (n, d, *cells)."""
        most = self.variation.deformation_mm
        if not most:
            return None
        d = self.band.ndim
        noise = torch.randn(n, d, *self.band.modes, generator=generator).to(self.device) * self.shooting.K.sqrt()
        size = most * torch.rand(n, generator=generator).to(self.device) / noise.flatten(1).norm(dim=1)
        return self.upsample(self.flow.evaluate(noise * size.view(-1, *[1] * (d + 1))))

    def _recolored(self, images: Tensor, generator: torch.Generator) -> Tensor:
        gamma = torch.exp(self.variation.contrast * torch.randn(len(images), generator=generator)).to(images)
        return images.clamp(min=0) ** gamma.view(-1, *[1] * (images.ndim - 1))

    def taught(self, subjects: PosedSubjects, say: Callable[[Any], None] | None = None) -> None:
        """Learns FLASH's velocities, and from them in which units spectra are seen and returned."""
        drawing, spectra, velocities = self.drawing(subjects), [], []
        for (fixed, moving), geodesic in self.teachers:
            own = subjects.place.domain.affine @ geodesic["domain"].inverse_affine  # the pose in which it was found
            still = subjects.poses[fixed] @ np.linalg.inv(own)
            way = subjects.poses[moving] @ geodesic["affine"] @ np.linalg.inv(subjects.poses[fixed])
            ways, moves = (torch.from_numpy(np.ascontiguousarray(x))[None] for x in (way, still))
            batch = drawing.batch((torch.tensor([fixed]), torch.tensor([moving])), ways, (moves, None, None))
            spectra.append(self.predictor.spectra(*batch.images))
            velocities.append(torch.from_numpy(np.array(geodesic["velocity"]))[None].to(self.device))
        pairs = torch.cat(spectra), torch.cat(velocities)
        fit(self.predictor, pairs, epochs=_EPOCHS, learning_rate=self.schedule.learning_rate, report=say)
