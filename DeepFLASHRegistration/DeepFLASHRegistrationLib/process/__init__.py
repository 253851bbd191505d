# SPDX-License-Identifier: Apache-2.0
"""Registration in a child process, which the caller survives. Needs numpy; the child, what tasks need."""

from .client import RegistrationProcess
from .errors import ChildDied, ChildHung, DiskFull, JobFailed, OutOfMemory, ProcessError
from .job import Job, State

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
