# SPDX-License-Identifier: Apache-2.0
"""How much memory a registration needs, and how much is free. Standard library only: a GUI asks this."""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Sequence

# From the child's peak resident size over images of 48^3 to 128^3 with the presets fast and default, rounded up: fast,
# which leaves the finest level out, needs about 2/3 of this.
HOST_BASE_BYTES = 450 * 2**20  # the interpreter with torch, SimpleITK and their thread pools
DEVICE_BASE_BYTES = 600 * 2**20  # a GPU's context and its libraries
HOST_BYTES_PER_VOXEL = 64  # images, labels and the result's fields, when the work is done on another device
WORK_BYTES_PER_VOXEL = 320  # maps, gradients and sampled images at the finest level
WORK_BYTES_PER_COEFFICIENT = 300  # the geodesic's time steps, their adjoints and the quasi-Newton history

# Filling memory to the brim makes a system swap or end processes, so a part of what is free is left alone.
USABLE_FRACTION = 0.85


def needed_bytes(shape: Sequence[int], band: Sequence[int] = (), device: str = "cpu") -> tuple[int, int]:
    """Estimates the peak memory of a registration.

    Args:
        shape: voxels per axis of the fixed image, or of the working grid if that has more.
        band: frequencies per axis of the velocity (odd numbers), empty to leave its small part out.
        device: "cpu", "cuda", "cuda:1", "mps", ...

    Returns:
        (host, device) bytes; the second is 0 on the CPU, and on "mps", whose memory is the host's.
    """
    work = WORK_BYTES_PER_VOXEL * math.prod(shape)
    if band:
        work += WORK_BYTES_PER_COEFFICIENT * len(band) * math.prod(band)
    host = HOST_BASE_BYTES + HOST_BYTES_PER_VOXEL * math.prod(shape)
    if device.startswith("cuda"):
        return host, DEVICE_BASE_BYTES + work
    return host + work, 0


def coarsening(
    shape: Sequence[int], free_host: int, free_device: int = 0, band: Sequence[int] = (), device: str = "cpu"
) -> float:
    """How many times larger the voxels must be for a registration to fit into the free memory.

    Args:
        shape, band, device: as for `needed_bytes`.
        free_host, free_device: bytes, as for instance `free_bytes()` gives them.

    Returns:
        1.0 if it fits as it is, else the smallest factor (in steps of 0.25) by which to multiply the spacing
        of every axis; inf if not even the smallest grid fits.
    """
    for step in range(4, 65):
        factor = step / 4
        host, work = needed_bytes([max(1, math.ceil(n / factor)) for n in shape], band, device)
        if host <= USABLE_FRACTION * free_host and work <= USABLE_FRACTION * free_device:
            return factor
    return math.inf


def free_bytes() -> int | None:
    """Host memory that can be had without swapping, in bytes; None if the system does not say."""
    try:
        return _READERS.get(sys.platform, lambda: None)()
    except (OSError, ValueError, AttributeError):
        return None


def _free_on_linux() -> int | None:
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


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
