# SPDX-License-Identifier: Apache-2.0
"""The name that users' scripts hold: the settings live in problem.parameters."""

from .problem.parameters import *  # noqa: F403
