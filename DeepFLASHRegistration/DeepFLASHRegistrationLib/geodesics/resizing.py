# SPDX-License-Identifier: Apache-2.0
"""Images on coarser and finer cells of the same domain, by cubic convolution (Keys 1981).

Means over blocks alias, and linear interpolation between coarse cells blurs by how far a point lies from the next
center: at coarse levels both cost more of the overlap than anything else that a level does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def resized(image: Tensor, shape: Sequence[int]) -> Tensor:
    """An image (*own shape) on ``shape`` cells of the same domain, within its own range of values.

    On coarser cells the kernel is as much wider, so that nothing aliases. An axis that keeps its cells is not touched.
    """
    if image.device.type == "mps":  # torch may lack the kernel there
        return resized(image.cpu(), shape).to(image.device)
    result = image
    for axis, n in enumerate(shape):
        own = result.shape
        if own[axis] == n:
            continue
        before, after = math.prod(own[:axis]), math.prod(own[axis + 1 :])
        # Torch resizes planes: all of the other axes as one of the plane's, or as channels.
        plane, size = (
            ((1, 1, before, own[axis]), (before, n)) if after == 1 else ((1, before, own[axis], after), (n, after))
        )
        line = F.interpolate(result.reshape(plane), size=size, mode="bicubic", antialias=True)
        result = line.reshape(*own[:axis], n, *own[axis + 1 :])
    return result if result is image else result.clamp(image.min(), image.max())
