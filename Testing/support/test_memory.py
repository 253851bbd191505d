# SPDX-License-Identifier: Apache-2.0
"""Memory is estimated before a run and compared with what is free."""

from __future__ import annotations

from pathlib import Path

import pytest
from DeepFLASHRegistrationLib.support import memory

GIGABYTE = 2**30


def test_free_memory_is_known_on_this_system() -> None:
    free = memory.free_bytes()
    assert free is not None
    assert 2**24 < free < 2**50


def sizes(images: int, modes: int, sides: int = 1) -> memory.Sizes:
    """Of two images of so many voxels each, on a working grid as large."""
    return memory.Sizes(2 * images, 3 * images, images, ((images, 3 * modes**3, sides),), 100_000)


def test_need_grows_with_image_band_and_directions() -> None:
    needs = [memory.needed_bytes(sizes(*of))[0] for of in ((64**3, 17), (128**3, 17), (128**3, 47), (128**3, 47, 2))]
    assert needs[0] > memory.HOST_BASE_BYTES
    assert needs == sorted(set(needs))


def test_a_gpu_takes_the_work_and_the_host_keeps_the_images() -> None:
    host, none = memory.needed_bytes(sizes(128**3, 47), device="cpu")
    images, work = memory.needed_bytes(sizes(128**3, 47), device="cuda:1")
    assert none == 0
    assert images < host
    assert work > memory.DEVICE_BASE_BYTES


@pytest.mark.parametrize("symmetric", [False, True])
def test_what_recordings_keep_is_counted(symmetric: bool) -> None:
    """What an evaluation yields, three times: in the recording, and as copies of the best and of the one on trial."""
    torch = pytest.importorskip("torch")
    from DeepFLASHRegistrationLib.geodesics.band import Band, Metric
    from DeepFLASHRegistrationLib.geodesics.objective import Level, Objective, Pair, Settings

    shape = (24, 20, 22)
    lengths, everywhere = tuple(map(float, shape)), torch.ones(shape)
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    pair = Pair(image, image.flip(0), everywhere, everywhere, None, None, lengths)
    # As the presets have it, the map is followed on a coarser lattice than that of the voxels.
    level = Level((1, 1, 1), Band((7, 7, 7), lengths), Metric(3.0, 2.0), (2.0,) * 3, 1, 2.0)
    objective = Objective(pair, level, Settings(symmetric=symmetric, steps=3), None, torch.zeros(3, 7, 7, 7))
    kept = sum(x.nbytes for x in torch.utils._pytree.tree_leaves(objective._values(torch.zeros(3, 7, 7, 7))))
    cells, sides = image.numel(), 1 + symmetric
    sizes = memory.Sizes(0, 0, 0, ((cells, 0, sides),), 0)
    counted = memory.needed_bytes(sizes, "cuda")[1] - memory.DEVICE_BASE_BYTES
    counted -= memory.needed_bytes(sizes)[0] - int(1.05 * memory.HOST_BASE_BYTES)
    assert 0.8 <= counted / (3 * kept) <= 1.3


def test_a_part_of_what_is_free_is_left_alone() -> None:
    assert memory.Need(8 * GIGABYTE, 10 * GIGABYTE).fits
    assert not memory.Need(9 * GIGABYTE, 10 * GIGABYTE).fits
    assert not memory.Need(GIGABYTE, 10 * GIGABYTE, 9 * GIGABYTE, 10 * GIGABYTE).fits
    assert not memory.Need(1, 0).fits


def test_only_what_no_error_of_the_estimate_can_save_is_hopeless() -> None:
    assert not memory.Need(10 * GIGABYTE, 8 * GIGABYTE).hopeless
    assert memory.Need(10 * GIGABYTE, 7 * GIGABYTE).hopeless
    # What a GPU lacks is computed on the CPU.
    assert not memory.Need(GIGABYTE, 10 * GIGABYTE, 10 * GIGABYTE, GIGABYTE).hopeless


@pytest.mark.parametrize(
    ("membership", "names"),
    [
        ("0::/job/step\n", ("memory.max", "memory.current", "inactive_file")),
        (
            "9:name=systemd:/job/step\n4:memory:/job/step\n0::/\n",
            ("memory/{}memory.limit_in_bytes", "memory/{}memory.usage_in_bytes", "total_inactive_file"),
        ),
    ],
    ids=["version 2", "version 1"],
)
def test_the_limits_of_a_cluster_job_and_of_its_steps_count(tmp_path: Path, membership: str, names: tuple) -> None:
    (tmp_path / "cgroup").write_text(membership)
    top = "memory/" if "{}" in names[0] else ""
    limit, usage = (name.replace("memory/{}", "") for name in names[:2])
    for group, most, used, cached in (("job", "8000", 5000, 1000), ("job/step", "max", 4000, 0)):
        folder = tmp_path / top / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / limit).write_text(f"{most}\n")
        (folder / usage).write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 1\n{names[2]} {cached}\n")
    assert list(memory.free_in_groups(str(tmp_path / "cgroup"), str(tmp_path))) == [4000]
    # In a container the group's name leads nowhere, and its limits stand at the top.
    (tmp_path / "cgroup").write_text(membership.replace("/job/step", "/docker/1234"))
    for name in (limit, usage, "memory.stat"):
        (tmp_path / top / name).write_text((tmp_path / top / "job" / name).read_text())
    assert list(memory.free_in_groups(str(tmp_path / "cgroup"), str(tmp_path))) == [4000]


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert list(memory.free_in_groups(str(tmp_path / "none"), str(tmp_path))) == []
