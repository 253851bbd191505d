# SPDX-License-Identifier: Apache-2.0
"""What lies in the folder of a template."""

from __future__ import annotations

TEMPLATE, LABELS, AGREEMENT = "template.nii.gz", "labels.nii.gz", "labels_agreement.nii.gz"
# Of templates of cut images: where most subjects are seen.
MASK = "mask.nii.gz"
POSES, ROUNDS, SUBJECTS, AVERAGES = "poses", "rounds", "subjects", "averages"
STANDARD = "standard"
# The template's mirror image registered to it, and the velocity with which the geodesic to it begins.
ASYMMETRY, AXIS = "asymmetry", "asymmetry.npy"
# A folder with this file is a template that is done.
SUMMARY = "template.json"
# Of its subjects' structures, if they were asked for.
VOLUMES = "volumes.tsv"
# By what new subjects are brought to a template as its own were: what these were aligned with affinely, what they were
# registered to in the last round, and the mean of the velocities that were found there.
SPACE, POSED, REGISTERED, MEAN = "space", "posed.nii.gz", "registered.nii.gz", "mean_velocity.npy"


def further(name: str, count: int) -> list[str]:
    """The file names of further images of a template, beside that of the first."""
    return [f"{name.removesuffix('.nii.gz')}_{number}.nii.gz" for number in range(2, count + 2)]


def mask_of(name: str) -> str:
    """The file name of an image's mask in the folder SPACE."""
    return f"{name.removesuffix('.nii.gz')}_mask.nii.gz"
