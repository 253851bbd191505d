# SPDX-License-Identifier: Apache-2.0
"""A result as a folder of files: written, read again, applied to other images, points and surfaces."""
