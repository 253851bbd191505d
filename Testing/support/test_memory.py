# SPDX-License-Identifier: Apache-2.0
"""Memory is estimated before a run and compared with what is free."""

from __future__ import annotations

import math

from DeepFLASHRegistrationLib.support import memory

GIGABYTE = 2**30


def test_free_memory_is_known_on_this_system() -> None:
    free = memory.free_bytes()
    assert free is not None
    assert 2**24 < free < 2**50


def test_need_grows_with_image_and_band() -> None:
    small, _ = memory.needed_bytes((64, 64, 64), (17, 17, 17))
    large, _ = memory.needed_bytes((128, 128, 128), (17, 17, 17))
    wide, _ = memory.needed_bytes((128, 128, 128), (33, 33, 33))
    assert memory.HOST_BASE_BYTES < small < large < wide


def test_a_gpu_takes_the_work_and_the_host_keeps_the_images() -> None:
    host, none = memory.needed_bytes((128, 128, 128), device="cpu")
    images, work = memory.needed_bytes((128, 128, 128), device="cuda:1")
    assert none == 0
    assert images < host
    assert work > images


def test_what_fits_stays_as_it_is() -> None:
    assert memory.coarsening((128, 128, 128), 16 * GIGABYTE) == 1


def test_what_does_not_fit_is_made_coarser_just_enough() -> None:
    factor = memory.coarsening((512, 512, 512), 8 * GIGABYTE)
    fits = [math.ceil(512 / factor)] * 3
    too_large = [math.ceil(512 / (factor - 0.25))] * 3
    assert 1 < factor < 4
    assert memory.needed_bytes(fits)[0] <= 0.85 * 8 * GIGABYTE < memory.needed_bytes(too_large)[0]


def test_a_small_gpu_decides_too() -> None:
    assert memory.coarsening((256, 256, 256), 64 * GIGABYTE, 2 * GIGABYTE, device="cuda") > 1


def test_no_memory_fits_nothing() -> None:
    assert memory.coarsening((64, 64, 64), 0) == math.inf
