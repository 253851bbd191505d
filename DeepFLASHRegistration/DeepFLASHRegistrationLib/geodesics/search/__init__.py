# SPDX-License-Identifier: Apache-2.0
"""The search for the initial velocity: FLASH, level by level."""
