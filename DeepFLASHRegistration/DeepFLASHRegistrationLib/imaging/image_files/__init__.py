# SPDX-License-Identifier: Apache-2.0
"""Formats of images, one per file."""
