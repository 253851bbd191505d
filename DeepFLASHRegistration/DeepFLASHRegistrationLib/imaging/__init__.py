# SPDX-License-Identifier: Apache-2.0
"""Images, their grids and files, and intensities. Needs numpy and SimpleITK, no torch."""
