# SPDX-License-Identifier: Apache-2.0
"""Command-line options made from the fields of a dataclass: one option each, named and explained as the field is."""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Callable, Collection
from typing import Any, TypeVar

from ..problem.parameters import Parameters
from .options import checked

_T = TypeVar("_T")
_METAVARS = {"int": "N", "float": "X", "str": "NAME"}


def add_fields(parser: Any, kind: type, leave_out: Collection[str] = (), defaults: bool = False) -> None:
    """Adds an option for every field of a dataclass but some; those of a dataclass within it follow.

    Help, unit and choices come from a field's metadata, else from the "Attributes:" of the class.

    Args:
        parser: an ArgumentParser or a group of one.
        kind: a dataclass of bool, int, float, str, tuples of those, and further dataclasses, all with defaults.
        leave_out: names of fields without an option.
        defaults: whether the help tells the defaults.
    """
    texts = _documented(kind)
    for f in dataclasses.fields(kind):
        if f.name in leave_out:
            continue
        if dataclasses.is_dataclass(f.default_factory):
            add_fields(parser, f.default_factory, (), defaults)
            continue
        unit = f" [{f.metadata['unit']}]" if f.metadata.get("unit") else ""
        choices = f" ({', '.join(f.metadata['choices'])})" if f.metadata.get("choices") else ""
        text = f"{f.metadata.get('help') or texts.get(f.name, '')}{unit}{choices}".replace("%", "%%")
        if defaults and f.default != "":
            value = ",".join(map(str, f.default)) if isinstance(f.default, tuple) else f.default
            text += f" (default: {value})"
        flag = f"--{f.name.replace('_', '-')}"
        if f.type == "bool":
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            metavar = _METAVARS.get(f.type) or ",".join(2 * [_METAVARS[_of(f.type)]]) + ",…"
            parser.add_argument(flag, type=_value(f.type), default=None, help=text, metavar=metavar)


def given_fields(options: argparse.Namespace, kind: type) -> dict[str, Any]:
    """The values of a dataclass's fields that were given on the command line; those of dataclasses within it apart."""
    names = [f.name for f in dataclasses.fields(kind)]
    return {name: getattr(options, name) for name in names if getattr(options, name, None) is not None}


def from_options(options: argparse.Namespace, kind: type[_T]) -> _T:
    """A dataclass with what was given on the command line, and defaults for the rest."""
    values = given_fields(options, kind)
    for f in dataclasses.fields(kind):
        if dataclasses.is_dataclass(f.default_factory):
            values[f.name] = dataclasses.replace(f.default_factory(), **given_fields(options, f.default_factory))
    return kind(**values)


def _value(kind: str) -> Callable[[str], Any]:
    if kind.startswith("tuple"):
        one = _value(_of(kind))

        def several(text: str) -> tuple[Any, ...]:
            return tuple(one(x.strip()) for x in text.split(","))

        several.__name__ = {"int": "list of whole numbers", "float": "list of numbers"}.get(_of(kind), "list")
        return several
    return {"int": int, "float": float, "str": str}[kind]


def _of(kind: str) -> str:
    """What a tuple is of: the first of several kinds."""
    return re.split(r"[,|\s]", kind.removeprefix("tuple["))[0]


def _documented(kind: type) -> dict[str, str]:
    """What the docstring of a class says of each attribute."""
    _, _, section = (kind.__doc__ or "").partition("Attributes:\n")
    texts: dict[str, str] = {}
    name = ""
    for line in section.split("\n\n")[0].splitlines():
        found = re.match(r"^ {8}(\w+(?:, \w+)*): (.*)$", line)
        if found:
            name = found[1]
            texts.update(dict.fromkeys(name.split(", "), found[2]))
        elif name:
            for one in name.split(", "):
                texts[one] += f" {line.strip()}"
    return {key: text.strip().rstrip(".") for key, text in texts.items()}


def given_parameters(options: argparse.Namespace) -> Parameters:
    """The settings of many registrations: those of --preset, but for the fields and the --init that were given.

    Raises:
        InputError: they contradict each other, or a value is none that there is.
    """
    changes = {name: value for name, value in given_fields(options, Parameters).items() if name != "preset"}
    if getattr(options, "init", None):
        changes["initial_alignment"] = options.init
    return checked(lambda: Parameters.from_preset(options.preset, **changes))
