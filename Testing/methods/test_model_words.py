# SPDX-License-Identifier: Apache-2.0
"""A sentence about every model, of what its own metadata tell."""

import dataclasses

import pytest
from DeepFLASHRegistrationLib.methods.model_words import figures_of_dice, model_sentence, model_title
from DeepFLASHRegistrationLib.methods.trained_models import BUNDLED, ModelConfig, model_config
from DeepFLASHRegistrationLib.problem.parameters import Parameters

TRAINED = ModelConfig(
    name="mine",
    kind="unrolled",
    architecture={},
    parameters=Parameters(),
    ndim=2,
    unit_mm=1.0,
    spacing_mm=1.0,
    extent_mm=(30.4, 59.6),
    energy=(0.4, 0.1),
    description="retinas.",
    training_data="",
    license="CC0",
)


@pytest.mark.parametrize("folder", sorted(BUNDLED.iterdir()), ids=lambda folder: folder.name)
def test_every_bundled_model_says_what_for_which_images_how_good_and_on_which_terms(folder):
    config = model_config(folder)
    text = model_sentence(config)
    for part in (config.description, "3-D images", config.license, config.license_note):
        assert part in text
    assert f"to {figures_of_dice(config)[1]:.2f}." in text
    assert model_title(config) == f"{config.name}: {config.description}"


def test_models_of_users_say_what_their_metadata_tell():
    assert model_sentence(TRAINED) == (
        "Purpose: retinas. It takes 2-D images of objects of 30 to 60 mm. How good it is on subjects that it was not "
        "trained on is not stated. License: CC0."
    )
    for held_out, said in (
        ({"validation Dice before": 0.5, "validation Dice after": 0.75, "energy left": 0.3}, "from 0.50 to 0.75."),
        ({"energy left": 0.31}, "leaves 31 % of the energy."),
        ({"mean TRE, mm": 1.2, "folds": 0}, "mean TRE, mm 1.2, folds 0."),
    ):
        assert said in model_sentence(dataclasses.replace(TRAINED, held_out=held_out))
    unnamed = dataclasses.replace(TRAINED, description="")
    assert model_title(unnamed) == "mine"
    assert "What it is for is not stated." in model_sentence(unnamed)


def test_the_sentence_can_be_translated():
    text = model_sentence(TRAINED, lambda text: text.upper() if "{" not in text else text)
    assert "HOW GOOD IT IS" in text
