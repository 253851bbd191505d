# SPDX-License-Identifier: Apache-2.0
"""register() and what it is made of: maps, warping, metrics, the verdict."""
