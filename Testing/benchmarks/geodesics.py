# SPDX-License-Identifier: Apache-2.0
"""Where the time of one energy-and-gradient evaluation goes, each part beside a floor or a rival in the same run.

python Testing/benchmarks/geodesics.py [--shape 128,160,128] [--threads 2]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "DeepFLASHRegistration"))

from DeepFLASHRegistrationLib.geodesics.band import Band, Lattice, Metric
from DeepFLASHRegistrationLib.geodesics.flow import Flow
from DeepFLASHRegistrationLib.geodesics.sampling import Sampler
from DeepFLASHRegistrationLib.geodesics.shooting import Shooting
from DeepFLASHRegistrationLib.geodesics.similarities import LocalCorrelation


def milliseconds(work: Callable[[], object], repeats: int = 7) -> float:
    """Median time of a call, after one that does not count."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return sorted(times)[repeats // 2] * 1e3


def row(name: str, ours: float, rival: str, theirs: float) -> None:
    print(f"{name:52} {ours:9.2f} ms   {rival:38} {theirs:9.2f} ms   ratio {ours / theirs:6.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="128,160,128")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    shape = tuple(map(int, options.shape.split(",")))
    lengths = tuple(map(float, shape))
    for n in (15, 31, 47):
        band = Band((n,) * 3, lengths)
        shooting = Shooting(band, Metric(6.0, 2.0))
        coefficients = torch.randn(10, *band.modes)
        points = shooting.product.lattice.shape
        spectrum = torch.randn(10, *points[:-1], points[-1] // 2 + 1, dtype=torch.complex64)
        row(
            f"evaluate 10 fields of band {n} on {points}",
            milliseconds(lambda: shooting.product(coefficients)),
            "padded real FFT",
            milliseconds(lambda: torch.fft.irfftn(spectrum, s=points, dim=(1, 2, 3))),
        )
        v = torch.randn(3, *band.modes) * 0.02 / shooting.L
        row(
            f"EPDiff right-hand side, band {n}: 14 transforms",
            milliseconds(lambda: shooting.acceleration(v)),
            "term by term: 27 transforms",
            milliseconds(lambda: shooting.K * shooting._direct(v, shooting.L * v)),
        )
    band = Band((47,) * 3, lengths)
    shooting, coarse = Shooting(band, Metric(6.0, 2.0)), Lattice.cells(tuple(n // 2 for n in shape), lengths)
    flow = Flow(band, coarse)
    v = (torch.randn(3, *band.modes) * 0.02 / shooting.L).requires_grad_()

    def shoot() -> None:
        trajectory = shooting.shoot(v, 4, "multistep")
        torch.autograd.grad(sum(m.sum() for m in trajectory.middles), v)

    def follow() -> None:
        torch.autograd.grad(flow.displacement([v] * 4, 0.25).sum(), v)

    full = Lattice.cells(shape, lengths)
    sampler, image = Sampler(full, full), torch.rand(1, *shape)
    u = torch.rand(3, *shape, requires_grad=True)
    similarity = LocalCorrelation(torch.rand(shape), torch.ones(shape), (3, 3, 3))
    warped = torch.rand(shape, requires_grad=True)
    copy = torch.empty(shape)
    bytes_moved = milliseconds(lambda: copy.copy_(image[0]))
    sampled = milliseconds(lambda: F.grid_sample(image[None], sampler.identity, align_corners=True))
    row("shoot 4 steps, band 47, and its gradient", milliseconds(shoot), "one image sampled", sampled)
    row("follow 4 steps at half resolution, and its gradient", milliseconds(follow), "one image sampled", sampled)
    row(
        "sample the image, and its gradient",
        milliseconds(lambda: torch.autograd.grad(sampler(image, u).sum(), u)),
        "one image sampled",
        sampled,
    )
    row(
        "local correlation, and its gradient",
        milliseconds(lambda: torch.autograd.grad(similarity(warped), warped)),
        "one image copied (the floor of bytes)",
        bytes_moved,
    )


if __name__ == "__main__":
    main()
