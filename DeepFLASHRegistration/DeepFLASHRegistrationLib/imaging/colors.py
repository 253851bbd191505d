# SPDX-License-Identifier: Apache-2.0
"""Pictures in color, of which registration sees the luminance."""

from __future__ import annotations

import numpy as np

# Of red, green and blue as displays show them (ITU-R BT.601, what most programs that make pictures gray use).
WEIGHTS = (0.299, 0.587, 0.114)


def luminance(data: np.ndarray) -> tuple[np.ndarray, str]:
    """One value per voxel of channels (..., 2 to 4), and what was done in words.

    Equal channels (a gray picture stored in color) give exactly their value, of its own type.
    """
    channels = data.shape[-1]
    opaque = channels == 3 or data[..., -1].min() == data[..., -1].max()
    opacity = "" if opaque else ", opacity left out, and what is transparent read as what lies under it"
    gray = data[..., 0]
    if channels == 2 or ((gray == data[..., 1]).all() and (gray == data[..., 2]).all()):
        return np.ascontiguousarray(gray), f"its {channels} channels hold one gray value{opacity}"
    red, green, blue = WEIGHTS
    value = np.float32(red) * data[..., 0] + np.float32(green) * data[..., 1] + np.float32(blue) * data[..., 2]
    return value, f"is in color; its luminance was taken ({red} red + {green} green + {blue} blue{opacity})"
