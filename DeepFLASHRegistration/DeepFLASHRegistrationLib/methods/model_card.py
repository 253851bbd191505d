# SPDX-License-Identifier: Apache-2.0
"""The card of a model: what a user must know of it, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .trained_models import ModelConfig


def model_card(config: ModelConfig, weights: int) -> str:
    """The model card of a config: Markdown."""
    lines = [f"# {config.name}", "", config.description, ""]
    if config.license_note:
        lines += [f"**{config.license_note}**", ""]
    rows = {
        "kind": f"{config.kind}, {weights:,} weights",
        "images": f"{config.ndim}-D, trained at {config.spacing_mm:g} mm, objects of {config.extent_mm[0]:.0f} to "
        f"{config.extent_mm[1]:.0f} mm",
        "training data": config.training_data,
        "training": config.trained,
        "license": config.license,
        "attribution": config.attribution,
    }
    lines += ["| | |", "|---|---|", *(f"| {key} | {_cell(text)} |" for key, text in rows.items() if text), ""]
    if config.held_out:
        lines += ["## On unseen subjects", "", "| | |", "|---|---|"]
        lines += [f"| {_cell(key)} | {_cell(_figure(value))} |" for key, value in config.held_out.items()]
        lines.append("")
    if config.limits:
        lines += ["## Limits", "", config.limits, ""]
    versions = ", ".join(f"{name} {version}" for name, version in config.versions.items())
    return "\n".join([*lines, f"Made with {versions}.", ""])


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
