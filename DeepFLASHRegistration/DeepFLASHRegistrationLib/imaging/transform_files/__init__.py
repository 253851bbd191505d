# SPDX-License-Identifier: Apache-2.0
"""Formats of transforms, one per file."""
