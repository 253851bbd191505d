# SPDX-License-Identifier: Apache-2.0
"""What a run needs of packages, installed before it begins, after asking; by pip, without what they pull along."""

from __future__ import annotations

import importlib.util
from typing import Any, NamedTuple

import slicer

from ..problem.parameters import METHODS
from ..scene.translation import tr as _
from ..support.errors import Cancelled
from .torch_installation import ensure_torch, slicers_own_kept


class _Package(NamedTuple):
    """What it is called, its requirement, size and license."""

    title: str
    requirement: str
    size: str
    license: str


_PACKAGES = {
    "monai": _Package("MONAI", "monai>=1.5", "2 MB", "Apache-2.0"),
    "icon_registration": _Package("icon-registration", "icon-registration>=1.1.9", "0.2 MB", "Apache-2.0"),
}


def package_is_installed(name: str) -> bool:
    """Whether the child process will find it. Does not import it."""
    return importlib.util.find_spec(name) is not None


def ensure_installed(run: Any) -> None:
    """Has torch, and what the method of a run needs besides, installed, after asking, where they are missing.

    Raises:
        RuntimeError: an installation failed, or changed a package of Slicer's.
        Cancelled: the user declined.
    """
    ensure_torch()
    parameters = getattr(run, "parameters", None)
    name = METHODS[parameters.method].package if parameters is not None else ""
    if not name or package_is_installed(name):
        return
    package = _PACKAGES[name]
    text = _(
        "The method {method} needs the package {title} ({size}, license {license}), which is not installed.\n\nInstall "
        "it into Slicer's Python now? Nothing else is installed or changed."
    ).format(method=parameters.method, **package._asdict())
    title = _("Install {title}").format(title=package.title)
    if not slicer.util.confirmOkCancelDisplay(text, windowTitle=title):
        raise Cancelled(_("{title} was not installed, so nothing was registered.").format(title=package.title))
    failure = None
    with slicers_own_kept(package.title):
        try:
            slicer.util.pip_install(f"--no-deps {package.requirement}")
        except Exception as error:  # whatever pip may raise
            failure = error
    if not package_is_installed(name):
        raise RuntimeError(
            _(
                "{title} could not be installed ({reason}). Details are in the Python console. Try again when the "
                "computer is online, or choose another method."
            ).format(title=package.title, reason=failure)
        ) from failure
