# SPDX-License-Identifier: Apache-2.0
"""Formats of landmarks, one per file."""
