# SPDX-License-Identifier: Apache-2.0
"""Images, their grids and files, intensities, and affine alignment. Needs numpy and SimpleITK, no torch."""
