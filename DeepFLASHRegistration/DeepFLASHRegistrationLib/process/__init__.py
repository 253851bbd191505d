# SPDX-License-Identifier: Apache-2.0
"""Registration in a child process, which the caller survives. Needs numpy; the child, what tasks need."""

from .client import Job, RegistrationProcess, State
from .errors import ChildDied, ChildHung, DiskFull, JobFailed, OutOfMemory, ProcessError

__all__ = [
    "ChildDied",
    "ChildHung",
    "DiskFull",
    "Job",
    "JobFailed",
    "OutOfMemory",
    "ProcessError",
    "RegistrationProcess",
    "State",
]
