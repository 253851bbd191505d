# SPDX-License-Identifier: Apache-2.0
"""What a method makes of the parameters, before anything is computed."""

from __future__ import annotations

from dataclasses import replace

from ..problem.parameters import METHODS, Parameters
from ..support.errors import InputError
from .trained_models import check_method, load_model

# Of the geodesic that is fitted to a map: little metric beside much map, and a few steps of Gauss and Newton, which the
# distance of maps, being all but quadratic, asks for.
_FITTED = {
    **{"sigma": 0.1, "alpha": 3.0, "power": 1.5, "gamma": 1.0, "alpha_growth": 1.0, "symmetric": False},
    **{"resolutions": (4, 2, 1), "bands": (15, 31, 47), "iterations": (6, 6, 4), "tolerance": 1e-3},
    **{"search": "gauss-newton", "integrator": "rk4", "steps": 0, "map": "semi-lagrangian"},
}
# Of LDDMM for each of FLASH: ten steps by the curvature do what 16 without it do (median).
_MORE_ITERATIONS = 2
# Steps of NePhi for each iteration of FLASH, which looks at all voxels in each.
NEURAL_STEPS = 10


def stages(parameters: Parameters) -> tuple[Parameters, ...]:
    """The parameters in effect, one after the other: the given ones, or a method's own and those of the refinement.

    Raises:
        InputError: there is no such model, or it is damaged.
    """
    method, refined = METHODS[parameters.method], parameters.method.endswith("+flash")
    if method.needs_model:
        model = load_model(parameters.model)
        check_method(model.config, parameters)
        try:
            effective = model.config.effective(parameters)
            last = (model.config.refining(effective),) if refined else ()
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{model.folder}: this model cannot be used (it describes no predictor known here: {error}). Copy it "
                "again, or choose another model."
            ) from error
        return (fitting(effective) if method.fitted else effective, *last)
    if not method.fitted:
        return (parameters,)
    first = without_band(parameters) if method.file == "lddmm" and parameters.dense else fitting(parameters)
    return (first, refining(parameters)) if refined else (first,)


def fitting(parameters: Parameters) -> Parameters:
    """The parameters with which a geodesic is fitted to a map: where and what is compared are the user's."""
    return parameters if parameters.dense else replace(parameters, **_FITTED)


def without_band(parameters: Parameters) -> Parameters:
    """The parameters of LDDMM: FLASH's own, but for the search, which knows no curvature there and takes more steps."""
    iterations = tuple(_MORE_ITERATIONS * n for n in parameters.iterations)
    return replace(parameters, search="lbfgs", iterations=iterations, map="semi-lagrangian")


def refining(parameters: Parameters) -> Parameters:
    """The parameters of FLASH after a map: the last of the levels."""
    last = {name: getattr(parameters, name)[-1:] for name in ("resolutions", "bands")}
    if _FITTED["resolutions"][0] % last["resolutions"][0]:
        raise InputError("After another map FLASH goes on at resolution 1, 2 or 4: choose one of them for the last.")
    return replace(parameters, **last, iterations=(parameters.refinement,), tolerance=0.0, alpha_growth=1.0)
