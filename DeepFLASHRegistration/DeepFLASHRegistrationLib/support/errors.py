# SPDX-License-Identifier: Apache-2.0
"""What callers can act on: input that cannot be used, and a wish to stop."""


class InputError(ValueError):
    """Input that cannot be used. The message names the file (or the argument) and the remedy."""


class Cancelled(Exception):
    """Cancelled before there was anything to return."""
