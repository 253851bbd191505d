# SPDX-License-Identifier: Apache-2.0
"""How much memory a registration needs, and how much is free. Standard library only: a GUI asks this."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import InputError

# From the peak resident size of the command, phase by phase (Testing/benchmarks/memory.py).
HOST_BASE_BYTES = 370 * 2**20  # the interpreter with torch, SimpleITK and their thread pools
DEVICE_BASE_BYTES = 600 * 2**20  # a GPU's context and its libraries
_READ = 4  # each voxel of both images and of both label maps, all along
_PREPARING = 10  # each voxel of both images: scaled, and upright for the alignment
_SEARCHING = 4  # the same while searching: what was freed is kept
_CARRYING = 2  # each voxel of both label maps, for the labels' sampler
_AT_END = 16  # each voxel of the fixed image: warped images, determinants, what is seen, what is being looked at
_CARRIED = 6  # each voxel onto which labels are carried, before and after
_FIELD = 12  # each voxel of both fields, if they are small enough to be kept
_WORKING = 22  # each voxel of the working grid: images, masks, views
_CELL = 130  # each voxel of a level: the map, sampled images and the similarity, with their gradients
_COEFFICIENT = 1150  # of the velocity: time steps, their adjoints and the quasi-Newton history
_POINT = 260  # each point at which the final velocities are tabulated
# On a GPU, while maps and labels are made and measured: each voxel of the fixed image, and of both.
_MADE, _BROUGHT = 32, 8
# And each voxel of a level whose evaluations are recorded (geodesics.captured): what one yields stays in the recording,
# of which nobody else can use anything, and two evaluations that the search compares are copies of it.
_RECORDED = 60
# And so much more, to be on the safe side.
_RESERVE = 1.05
# A displacement field of up to so many bytes is kept once it was computed (problem.field): 170 MB of a brain of 1 mm.
KEPT_FIELD_BYTES = 2**28

# Filling memory to the brim makes a system swap or end processes, so a part of what is free is left alone.
USABLE_FRACTION = 0.85
# The estimate was never too large by more than a quarter: where less than this part of it is free, no run ends well.
_HOPELESS_FRACTION = 0.75


@dataclass(frozen=True)
class Sizes:
    """What the memory of a registration depends on.

    Attributes:
        images: voxels of both images.
        fields: voxels of both displacement fields, counted as if each had three components.
        working: voxels of the working grid.
        levels: of each level its voxels, the coefficients of its velocity (all components), and in how many directions
            the images are compared.
        points: of the lattice of the final map.
        fixed: voxels of the fixed image.
        labels: voxels of the label maps of both.
        carried: voxels onto which labels are carried.
    """

    images: int
    fields: int
    working: int
    levels: tuple[tuple[int, int, int], ...]
    points: int
    fixed: int = 0
    labels: int = 0
    carried: int = 0


def needed_bytes(sizes: Sizes, device: str = "cpu") -> tuple[int, int]:
    """Estimates the peak memory of a registration.

    Args:
        sizes: see `Sizes`.
        device: "cpu", "cuda", "cuda:1", "mps", ...

    Returns:
        (host, device) bytes; the second is 0 on the CPU, and on "mps", whose memory is the host's.
    """
    read = _READ * (sizes.images + sizes.labels)
    cuda = device.startswith("cuda")
    cell = _CELL + (_RECORDED if cuda else 0)
    level = max(
        cell * sides * cells + _COEFFICIENT * coefficients * (1 + sides) // 2
        for cells, coefficients, sides in sizes.levels
    )
    work = _WORKING * sizes.working
    kept = _FIELD * sizes.fields
    if kept > 2 * KEPT_FIELD_BYTES:
        # Of one of both, the lattice's slices on the rows and columns of the field.
        kept = kept / 2 * (sizes.points / max(1, sizes.fixed)) ** (1 / 3)
    end = kept + _AT_END * sizes.fixed + _CARRIED * sizes.carried + _CARRYING * sizes.labels
    maps = _POINT * sizes.points
    if cuda:
        host = HOST_BASE_BYTES + read + max(_PREPARING * sizes.images, work + end)
        finish = maps + _MADE * sizes.fixed + _BROUGHT * sizes.images
        return int(_RESERVE * host), DEVICE_BASE_BYTES + int(_RESERVE * (work + max(level, finish)))
    most = max(_PREPARING * sizes.images, _SEARCHING * sizes.images + work + level, work + maps + end)
    return int(_RESERVE * (HOST_BASE_BYTES + read + most)), 0


@dataclass(frozen=True)
class Need:
    """What a registration needs and what is free, in bytes; of a GPU 0 where none is used."""

    host: int
    free_host: int
    device: int = 0
    free_device: int = 0

    @property
    def fits(self) -> bool:
        """Whether all of it can be had without filling the memory to the brim."""
        return self.host <= USABLE_FRACTION * self.free_host and self.device <= USABLE_FRACTION * self.free_device

    @property
    def hopeless(self) -> bool:
        """Whether the host does not have even what the estimate may be too large by; a GPU's work can go to it."""
        return _HOPELESS_FRACTION * self.host > self.free_host

    def __str__(self) -> str:
        text = f"About {_gigabytes(self.host)} of memory are needed and {_gigabytes(self.free_host)} are free"
        if self.device:
            text += f"; on the GPU {_gigabytes(self.device)}, and {_gigabytes(self.free_device)} are free"
        return text


def _gigabytes(size: int) -> str:
    return f"{size / 2**30:.1f} GB"


def free_bytes() -> int | None:
    """Host memory that can be had without swapping, in bytes; None if the system does not say."""
    try:
        return _READERS.get(sys.platform, lambda: None)()
    except (OSError, ValueError, AttributeError):
        return None


def keep_freed_memory() -> None:
    """Lets glibc keep freed blocks: large tensors otherwise go back to the system, and their pages are cleared anew, at
    every step (a tenth to a quarter of the time of a registration)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            libc.mallopt(-4, 0)  # M_MMAP_MAX: no block of its own for large ones
            libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def limit_memory(size: int) -> None:
    """Lets this process have so many bytes of data at most: what would take more fails with MemoryError, or torch's own
    error, instead of taking what others need. Linux alone counts what a process asks for; elsewhere nothing happens."""
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (size, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def give_back_memory() -> None:
    """Returns to the system what is free, kept or not."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def resident_bytes() -> int:
    """Memory that this process has; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError, IndexError):
        return 0


def largest_bytes() -> int:
    """The most memory that this process, or one that it started and saw end, has had; 0 where nobody says."""
    try:
        import resource
    except ImportError:
        return 0
    most = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return most if sys.platform == "darwin" else most * 1024


def check_free(name: str | os.PathLike, needed: int) -> None:
    """Refuses what is larger than the memory, before room is made for it.

    Raises:
        InputError: fewer than `needed` bytes are free.
    """
    free = free_bytes()
    if free is not None and needed > free:
        raise InputError(
            f"{name}: to read it takes {_gigabytes(needed)} of memory, and {_gigabytes(free)} are free. If the image "
            "is that large, resample it to fewer voxels; if not, its header is damaged: export it again."
        )


def _free_on_linux() -> int | None:
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return min([int(line.split()[1]) * 1024, *free_in_groups("/proc/self/cgroup", "/sys/fs/cgroup")])
    return None


# Limit, usage, and what of it are files that make room when asked to: by version of control groups (cgroups(7)).
_GROUP_FILES = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def free_in_groups(membership: str, root: str) -> Iterator[int]:
    """Free bytes under each limit that a container or a cluster's job sets to this process and what runs beside it.

    membership: the file that names the control groups; root: where they are mounted. What cannot be read sets no limit.
    """
    with contextlib.suppress(OSError):
        for line in Path(membership).read_text(encoding="utf-8").splitlines():
            _, controllers, group = line.split(":", 2)
            kind = "memory" if "memory" in controllers.split(",") else controllers
            if kind not in _GROUP_FILES:
                continue
            limit, usage, cached = _GROUP_FILES[kind]
            top = Path(root, kind)
            # A container sees its own group as the top, whatever it is called outside.
            for folder in (top / group.strip("/"), *(top / group.strip("/")).parents):
                with contextlib.suppress(OSError, ValueError):
                    statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                    used = int((folder / usage).read_text()) - int(statistics.get(cached, 0))
                    yield int((folder / limit).read_text()) - used  # ValueError for "max"
                if folder == top:
                    break


class _MemoryStatus(ctypes.Structure):
    # MEMORYSTATUSEX of sysinfoapi.h
    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        *(
            (name, ctypes.c_uint64)
            for name in (
                "total",
                "available",
                "total_page",
                "available_page",
                "total_virtual",
                "available_virtual",
                "extended",
            )
        ),
    )


def _free_on_windows() -> int | None:
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return None
    return status.available


def _free_on_macos() -> int | None:
    # vm_statistics64 of mach/vm_statistics.h starts with the numbers of free, active and inactive pages; the
    # kernel gives inactive ones away as if they were free.
    system = ctypes.CDLL(None)
    system.mach_host_self.restype = ctypes.c_uint32
    system.host_statistics64.argtypes = (ctypes.c_uint32, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    statistics = (ctypes.c_uint32 * 64)()
    count = ctypes.c_uint32(len(statistics))
    host_vm_info64 = 4
    if system.host_statistics64(system.mach_host_self(), host_vm_info64, statistics, ctypes.byref(count)):
        return None
    return (statistics[0] + statistics[2]) * system.getpagesize()


_READERS = {"linux": _free_on_linux, "win32": _free_on_windows, "darwin": _free_on_macos}
