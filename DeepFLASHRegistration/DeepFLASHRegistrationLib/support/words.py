# SPDX-License-Identifier: Apache-2.0
"""Texts for people: who translates them, and figures within them.

A translator, called `_` wherever it is passed, takes an English text and returns it in the reader's language with the
same fields in braces. Slicer's tools look for the literal in every `_("...")`, and its translator (slicer.i18n.tr) for
the file that calls it: so a text is translated where it is written.
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable
from numbers import Real
from typing import Any

Translator = Callable[[str], str]


def english(text: str) -> str:
    """The translator of whoever reads English."""
    return text


class _Fields(string.Formatter):
    """As str.format, but numbers have a true minus, a format that ends in % shows a part of one in percent ("5 %"), and
    what is no finite number is a dash."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if not isinstance(value, Real):
            return "–" if value is None else super().format_field(value, format_spec)
        if not math.isfinite(value):
            return "–"
        if format_spec.endswith("%"):
            form = format_spec[:-1]
            text = f"{100 * value:{form if form[-1:].isalpha() else form + 'f'}} %"
        else:
            text = super().format_field(value, format_spec)
        if not text.startswith("-"):
            return text
        return text.replace("-", "−", 1) if any(digit in text for digit in "123456789") else text[1:]


filled = _Fields().format
