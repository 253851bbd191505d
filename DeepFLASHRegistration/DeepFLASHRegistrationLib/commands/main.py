# SPDX-License-Identifier: Apache-2.0
"""The command line: deepflash COMMAND, each a file of this room.

Exit codes: 0 done, 1 failure, 2 wrong input (nothing written), 3 some of many pairs failed and the rest is done, 130
cancelled (nothing half-written).
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from types import FrameType
from typing import Any

from ..support.errors import Cancelled, InputError
from ..support.memory import keep_freed_memory
from ..support.processors import share_processors
from ..version import __version__

# Each is a file with DESCRIPTION, add_options(parser) and run(options), and a line of the help. A file whose options
# depend on what it is given has for_arguments(arguments) besides, which returns the one that is meant.
COMMANDS = {
    "register": "register a moving image to a fixed one",
    "register-many": "register the pairs of a table, several at once, to be resumed at any time",
    "register-series": "register the items of a series in time, such as a cine, onto one of them",
    "bids": "register the images of a data set in BIDS to a template, as a BIDS app",
    "template": "make the image in the middle of many subjects, to be resumed at any time",
    "project": "bring a new subject to a template, and say where it lies among the template's own",
    "volumes": "write the volumes of the structures of a template's subjects",
    "status": "say how far the jobs of register-many, register-series or template are",
    "compare": "compare methods on the same pairs",
    "apply": "carry an image, labels, points or a surface over with a saved result",
    "dicom": "write a saved result as DICOM objects: registrations, a segmentation",
    "phantom": "make a pair of images whose true map is known",
    "models": "list trained models, show one's card, install or remove one",
    "teach": "find velocities of many pairs by FLASH, to train on",
    "pack": "put images of many subjects into one file to train on",
    "train": "train a model on images of your own",
}
# Frames of Python's own import, and how long an interrupt waits for them to end.
_IMPORTLIB, _LATER_SECONDS = "<frozen importlib", 0.02
DONE, FAILED, WRONG_INPUT, SOME_FAILED, CANCELLED = 0, 1, 2, 3, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code.

    Args:
        arguments: default: those of the process, which may then be ended here.
    """
    try:
        code = _run(arguments)
    except KeyboardInterrupt:  # before or after what _run guards
        code = _say("Cancelled; nothing was written.", CANCELLED)
    if arguments is None:
        # Python would end itself by SIGINT instead if the interrupt came while a module in C, as torch has many, ran
        # Python text on its import: handled or not, CPython keeps such an interrupt in mind (bpo-1054041). And it would
        # take half a second to put away what ends with the process anyway.
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except OSError:
            code = code or FAILED
        os._exit(code)
    return code


def _run(arguments: Sequence[str] | None) -> int:
    keep_freed_memory()
    share_processors()
    options = None
    try:
        with _interruptible(to_the_end=arguments is None):
            command, options = _parsed(list(sys.argv[1:] if arguments is None else arguments))
            return command.run(options)
    except SystemExit as end:  # argparse has said why
        return WRONG_INPUT if end.code else DONE
    except KeyboardInterrupt:
        return _say("Cancelled; nothing was written.", CANCELLED)
    except Cancelled as end:
        return _say(f"Cancelled. {end}", CANCELLED)
    except InputError as error:
        return _say(f"Error: {error}", WRONG_INPUT)
    except BrokenPipeError:
        # The reader of standard output went away; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return FAILED
    except Exception as error:
        if getattr(options, "traceback", False):
            raise
        return _say(f"Failed: {_in_words(error)}", FAILED)


def _parsed(arguments: list[str]) -> tuple[Any, argparse.Namespace]:
    """The command's file and its options; only the command that is meant is loaded."""
    parser = argparse.ArgumentParser(
        prog="deepflash", description="Diffeomorphic registration of medical images by band-limited geodesics."
    )
    parser.add_argument("--version", action="version", version=f"deepflash {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    name = parser.parse_args(arguments[:1]).command
    command = import_module(f".{name.replace('-', '_')}", __package__)
    if hasattr(command, "for_arguments"):
        command = command.for_arguments(arguments[1:])
    options = argparse.ArgumentParser(prog=f"deepflash {name}", description=command.DESCRIPTION)
    command.add_options(options)
    options.add_argument("--traceback", action="store_true", help="show where a failure happened")
    found = options.parse_args(arguments[1:])
    found.given = arguments
    return command, found


@contextlib.contextmanager
def _interruptible(to_the_end: bool) -> Iterator[None]:
    """Makes Ctrl-C, and what a terminal that closes or a scheduler sends, one KeyboardInterrupt.

    Afterwards they are what they were, or, if only the end of the process follows, without effect: then they come too
    late, and must not change the exit code.
    """
    last, waiting = -math.inf, False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal last, waiting
        if frame is not None and frame.f_code.co_filename.startswith(_IMPORTLIB):
            # What is raised there may be lost, and with it a lock that another thread's import waits for.
            later = threading.Timer(_LATER_SECONDS, _signal_main_thread, (number,))
            later.daemon, waiting = True, True
            later.start()
            return
        # Impatient fingers: a second signal must not interrupt the cleaning up after the first.
        now = time.monotonic()
        if now - last > 1:
            last, waiting = now, False
            raise KeyboardInterrupt

    before = {}
    try:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            with contextlib.suppress(ValueError, AttributeError, OSError):  # not the main thread, or no such signal
                number = getattr(signal, name)
                # nohup and shells in the background have some ignored, and mean it.
                if signal.getsignal(number) != signal.SIG_IGN:
                    before[number] = signal.signal(number, interrupt)
        yield
    except Exception as error:
        if waiting:  # whatever went wrong meanwhile, this was wanted first
            raise KeyboardInterrupt from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if to_the_end else handler)


def _signal_main_thread(number: int) -> None:
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident, number)
    else:
        signal.raise_signal(number)


def _say(message: str, code: int) -> int:
    with contextlib.suppress(OSError):
        print(message, file=sys.stderr)
    return code


def _in_words(error: BaseException) -> str:
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower() or "can't allocate memory" in str(error):
        return (
            "the memory did not suffice. Close other programs, choose a larger working voxel (--spacing-mm), or the "
            "preset fast."
        )
    if isinstance(error, OSError) and error.strerror:
        return f"{f'{error.filename}: ' if error.filename else ''}{error.strerror}."
    if isinstance(error, (OSError, RuntimeError, ArithmeticError)) and str(error):
        return str(error)
    return (
        f"unexpected {type(error).__name__}: {error}. This is a mistake in the program: please report it, with what "
        "--traceback shows."
    )
