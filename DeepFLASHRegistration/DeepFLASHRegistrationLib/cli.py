# SPDX-License-Identifier: Apache-2.0
"""The name that users' scripts hold (python -m DeepFLASHRegistrationLib.cli): the command line lives in commands/."""

import sys

from .commands.main import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
