# SPDX-License-Identifier: Apache-2.0
"""What the child process can do with many registrations, besides the tasks of `process.tasks`."""

from __future__ import annotations

import base64
import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..support.errors import Cancelled, InputError

# How soon a wish to stop is noticed.
_LOOK_SECONDS = 0.5


def register_series(control: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Registers the items of a series as `deepflash register-series` does, one after the other in this process.

    Args:
        arguments: "images", the items (Volume) on one grid; "seconds" from one to the next, 0 if unknown; "how", a
            dict of cohorts.series.How; "mask" on the reference (Volume) or None; "parameters", "device", "threads";
            "folder", of all files, in which the same call goes on where it was.

    Returns:
        {"items": of each None, or {"warped": Volume, "velocity": the file in base64, "level": of the verdict},
         "failed": messages by number of the item}; after a wish to stop, of what was done by then.

    Raises:
        InputError: an item cannot be used, or none could be registered.
        Cancelled: before any was.
    """
    from ..imaging.image_files.series import write_series
    from ..imaging.io import write_volume
    from ..imaging.time_series import read_series
    from ..jobs.ledger import Done, Failed
    from .many import Settings
    from .series import How, SeriesRun

    folder, images = Path(arguments["folder"]), arguments.pop("images")
    count, how, seconds = len(images), dict(arguments["how"]), arguments["seconds"]
    folder.mkdir(parents=True, exist_ok=True)
    with _noticed(control):
        control.progress({"phase": "series", "progress": 0.0, "message": "Reading the items"})
        write_series(folder / "series.nii", images[0].grid, _usable(images), count, seconds)
        del images
        if arguments["mask"] is not None:
            how["mask"] = str(folder / "mask.nii.gz")
            write_volume(how["mask"], arguments["mask"])
        settings = Settings(arguments["parameters"], None, arguments["device"], arguments["threads"])
        # The folder is this call's own: what other settings left in it is replaced.
        run = SeriesRun(read_series([folder / "series.nii"]), folder / "out", settings, How(**how), force=True)
        with contextlib.suppress(Cancelled):
            work = _Work(control, run.count, run.count - len(run.open))
            run.run_here(work, cancelled=work.cancelled)
        items = run.items()
        done = [item for item in items if isinstance(item.result, Done)]
        failed = {str(item.number): item.result.message for item in items if isinstance(item.result, Failed)}
        if not done:
            if control.cancelled():
                raise Cancelled("Cancelled before the first item was registered.")
            raise InputError(next(iter(failed.values()), "No item could be registered."))
        return {"items": [_brought(item) if item in done else None for item in items], "failed": failed}


def _usable(images: list[Any]) -> Iterator[Any]:
    """The voxels of each; InputError that names the item which cannot be registered."""
    from ..imaging.volume import checked_image

    for number, image in enumerate(images):
        try:
            yield checked_image(image).data
        except InputError as error:
            raise InputError(f"Item {number}: {error} Remove it from the series.") from error


def _brought(item: Any) -> dict[str, Any]:
    from ..imaging.io import read_volume
    from ..results.velocity import VELOCITY
    from .series import WARPED

    velocity = base64.b64encode((item.folder / VELOCITY).read_bytes()).decode("ascii")
    level = (item.result.value or {}).get("verdict", {}).get("level", "")
    return {"warped": read_volume(item.folder / WARPED), "velocity": velocity, "level": level}


class _Work:
    """Does one job after the other, and tells how far all of them are."""

    def __init__(self, control: Any, count: int, done: int) -> None:
        self._control, self._count, self._done = control, count, done

    def __call__(self, job: Any, arguments: dict[str, Any]) -> Any:
        from ..process.tasks import TASKS

        found = TASKS[job.task](self, arguments)
        self._done += 1
        return found

    def progress(self, event: Mapping[str, Any]) -> None:
        """Passes on what a registration tells; raises Cancelled if all is to stop."""
        if self._control.cancelled():
            raise Cancelled("Cancelled.")
        share = (self._done + float(event.get("progress", 0.0))) / self._count
        message = f"{self._done + 1} of {self._count}: {event.get('message', '')}"
        self._control.progress({"phase": "series", "progress": share, "message": message})

    def cancelled(self) -> bool:
        return self._control.cancelled()


@contextlib.contextmanager
def _noticed(control: Any) -> Iterator[None]:
    """Lets the parent know at once that its wish to stop was heard, whatever is just being computed."""
    ended = threading.Event()

    def look() -> None:
        while not (ended.wait(_LOOK_SECONDS) or control.cancelled()):
            pass

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


TASKS: dict[str, Callable[[Any, dict[str, Any]], Any]] = {"register_series": register_series}
