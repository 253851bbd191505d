# SPDX-License-Identifier: Apache-2.0
"""What callers can act on: input that cannot be used, and a wish to stop."""


class InputError(ValueError):
    """Input that cannot be used. The message names the file (or the argument) and the remedy."""


class Cancelled(Exception):  # noqa: N818 - the user's wish, no error
    """Cancelled before there was anything to return."""
