# SPDX-License-Identifier: Apache-2.0
"""Formats of surfaces, one per file."""
