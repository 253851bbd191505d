# SPDX-License-Identifier: Apache-2.0
"""Getting torch into Slicer's Python without changing what Slicer brings, and without loading it into Slicer.

The PyTorch extension (module PyTorchUtils) knows which build suits the computer and asks the user.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..scene.translation import tr as _
from ..support.errors import Cancelled

TORCH_REQUIREMENT = ">=2.2"
KEPT = ("numpy", "scipy", "SimpleITK")


def torch_is_installed() -> bool:
    """Whether the child process will find torch. Does not import it."""
    return importlib.util.find_spec("torch") is not None


def ensure_torch() -> None:
    """Has torch installed by the PyTorch extension, after asking, if it is missing.

    Raises:
        RuntimeError: the PyTorch extension is missing, the installation failed, or it changed a package of Slicer's.
        Cancelled: the user declined.
    """
    if torch_is_installed():
        return
    try:
        import PyTorchUtils
    except ImportError as error:
        raise RuntimeError(
            _(
                "PyTorch is needed, and the extension PyTorch, which installs it, is missing. Open the Extensions "
                "Manager (View / Extensions Manager), install the extension PyTorch, restart Slicer, and try again."
            )
        ) from error
    failure = None
    with slicers_own_kept("PyTorch"):
        try:
            # It ends with an import of torch, which is kept out of this process: the child will do that.
            with _kept_out("torch"):
                logic = PyTorchUtils.PyTorchUtilsLogic()
                logic.installTorch(askConfirmation=True, torchVersionRequirement=TORCH_REQUIREMENT)
        except Exception as error:  # whatever others' code and pip may raise
            if getattr(error, "name", None) != "torch":
                failure = error
    if torch_is_installed():
        return
    if failure is not None:
        raise RuntimeError(
            _(
                "PyTorch could not be installed ({reason}). Details are in the Python console. Try again when the "
                "computer is online and has some gigabytes of free disk space, or install it in the module PyTorch "
                "Utils."
            ).format(reason=failure)
        ) from failure
    raise Cancelled(_("PyTorch was not installed, so nothing was registered."))


@contextlib.contextmanager
def slicers_own_kept(what: str) -> Iterator[None]:
    """Installs something, with the packages that belong to Slicer held at their versions.

    Args:
        what: is installed, for messages.

    Raises:
        RuntimeError: one of them changed nevertheless; says how to restore it.
    """
    before = _versions()
    with _constraints(before):
        yield
    importlib.invalidate_caches()
    after = _versions()
    changed = {name: (version, after.get(name)) for name, version in before.items() if after.get(name) != version}
    if changed:
        became = _("{package} {before} became {after}")
        text = ", ".join(became.format(package=name, before=old, after=new) for name, (old, new) in changed.items())
        restore = " ".join(f"{name}=={versions[0]}" for name, versions in changed.items())
        raise RuntimeError(
            _(
                "Installing {what} changed packages that belong to Slicer: {changes}. Restore them in the Python "
                "console with {command} and restart Slicer."
            ).format(what=what, changes=text, command=f"slicer.util.pip_install({restore!r})")
        )


def _versions() -> dict[str, str]:
    found = {}
    for name in KEPT:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@contextlib.contextmanager
def _constraints(versions: dict[str, str]) -> Iterator[None]:
    """pip, also when others call it, keeps these packages at these versions."""
    before = os.environ.get("PIP_CONSTRAINT")
    with tempfile.TemporaryDirectory(prefix="deepflash-pip-") as folder:
        path = Path(folder) / "constraints.txt"
        path.write_text("".join(f"{name}=={version}\n" for name, version in versions.items()), encoding="utf-8")
        os.environ["PIP_CONSTRAINT"] = f"{before} {path}" if before else str(path)
        try:
            yield
        finally:
            if before is None:
                del os.environ["PIP_CONSTRAINT"]
            else:
                os.environ["PIP_CONSTRAINT"] = before


@contextlib.contextmanager
def _kept_out(name: str) -> Iterator[None]:
    """An import of this package fails meanwhile."""
    if name in sys.modules:  # somebody else's module has imported it already
        yield
        return
    sys.modules[name] = None
    try:
        yield
    finally:
        sys.modules.pop(name, None)
