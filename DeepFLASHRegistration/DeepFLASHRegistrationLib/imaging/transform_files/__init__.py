# SPDX-License-Identifier: Apache-2.0
"""Formats of linear transforms, one per file."""
