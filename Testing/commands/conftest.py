# SPDX-License-Identifier: Apache-2.0
"""The pair of the command line's tests."""

from command_line import pair

__all__ = ["pair"]
