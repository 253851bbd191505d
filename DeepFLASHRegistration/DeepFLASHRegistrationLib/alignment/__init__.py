# SPDX-License-Identifier: Apache-2.0
"""Rigid and affine alignment of two images, and its pyramid."""
