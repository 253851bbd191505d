# SPDX-License-Identifier: Apache-2.0
"""What every button of the window does in every state of it. A new button, or a new state, is a row or a column here.

DeepFLASHRegistrationButtonsTest.py brings the window into each state and presses all buttons.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Greyed:
    """The button cannot be pressed, and its tooltip says why, with this word."""

    word: str


PRESSED = "pressed"  # it can be pressed: nothing raises, nobody is told of an error
HIDDEN = "hidden"

# What the window may be in. "again" and "later" begin with a result.
WITHOUT_RESULT = (
    "no volume",
    "one volume",
    "same volume twice",
    "pair",
    "running",
    "cancelling",
    "cancelled",
    "failed",
    "other pair",
    "second scene",
    "reloaded while running",
)
WITH_RESULT = ("done", "refined", "running again", "failed again", "reloaded later")
STATES = WITHOUT_RESULT + WITH_RESULT
BUSY = ("running", "cancelling", "running again")


def _shows(word: str) -> dict:
    """Shows something of a result."""
    return {state: PRESSED if state in WITH_RESULT else Greyed(word) for state in STATES}


TABLE = {
    "register": {
        **dict.fromkeys(STATES, PRESSED),
        "no volume": Greyed("fixed"),
        "one volume": Greyed("fixed"),
        "same volume twice": Greyed("same"),
    },
    "refine": {
        **dict.fromkeys(STATES, Greyed("Register")),
        **dict.fromkeys(BUSY, Greyed("computed")),
        **dict.fromkeys(("done", "refined", "failed again", "reloaded later"), PRESSED),
    },
    "pair": {
        **dict.fromkeys(STATES, Greyed("Register")),
        **dict.fromkeys(BUSY, Greyed("computed")),
        **dict.fromkeys(("done", "refined", "failed again", "reloaded later"), PRESSED),
    },
    "undo": {
        **dict.fromkeys(STATES, Greyed("Refine")),
        **dict.fromkeys(BUSY, Greyed("computed")),
        "refined": PRESSED,
    },
    "keep": {**dict.fromkeys(STATES, HIDDEN), "cancelled": PRESSED},
    "log": dict.fromkeys(STATES, PRESSED),
    "fade": _shows("Register"),
    "sideBySide": _shows("Register"),
    "flicker": _shows("Register"),
    "checkerboard": _shows("Register"),
    "grid": _shows("Register"),
    "jacobian": _shows("Register"),
    "outlines": _shows("segmentation"),
    "charts": _shows("Register"),
    "geodesic": {**_shows("Register"), "running again": Greyed("computed")},
    "change": _shows("Register"),
    "squeeze": _shows("Register"),
    "worstLabel": _shows("labels"),
    "save": {
        **dict.fromkeys(STATES, Greyed("Register")),
        **dict.fromkeys(BUSY, Greyed("computed")),
        # Of a result that is in the scene, whatever came after it.
        **dict.fromkeys(("done", "refined", "failed again", "reloaded later"), PRESSED),
    },
    "copyPython": dict.fromkeys(STATES, PRESSED),
    "templateLoad": dict.fromkeys(STATES, PRESSED),
    "templateSubject": dict.fromkeys(STATES, Greyed("Load one")),
    "series": {**dict.fromkeys(STATES, Greyed("sequence")), **dict.fromkeys(BUSY, Greyed("computed"))},
    "compare": {
        **dict.fromkeys(STATES, PRESSED),
        "no volume": Greyed("fixed"),
        "one volume": Greyed("fixed"),
        "same volume twice": Greyed("same"),
        **dict.fromkeys(BUSY, Greyed("computed")),
    },
}
# Those that change the state, so that it is brought about anew for what follows; they come last.
CHANGING = ("keep", "undo", "refine", "register")

# What can be deleted of a result and its inputs -> which buttons cannot be pressed then.
DELETED = {
    "warpedVolume": ("fade", "sideBySide", "flicker", "checkerboard"),
    "transform": ("grid", "geodesic", "pair"),
    "inverseTransform": (),
    "logJacobianVolume": ("jacobian", "change", "squeeze"),
    "segmentation": ("outlines", "worstLabel"),
    "markups": (),
    "metricsTable": (),
    "labelsTable": ("worstLabel",),
    "convergenceChart": ("charts",),
    "histogramChart": (),
    "velocity": ("geodesic", "pair"),
    "fixedSegmentation": ("outlines",),
    "movingSegmentation": ("outlines", "worstLabel"),
    "movingMarkups": (),
    "fixedVolume": (
        *("fade", "sideBySide", "flicker", "checkerboard", "grid", "jacobian", "charts", "geodesic"),
        *("change", "squeeze", "worstLabel", "save", "register", "compare", "pair"),
    ),
    "movingVolume": (
        "geodesic",
        "save",
        "register",
        "compare",
        "pair",
    ),  # what it became is still there to be looked at
}
