# SPDX-License-Identifier: Apache-2.0
"""Structures by the words in the names of labels."""

from __future__ import annotations

import pytest
from DeepFLASHRegistrationLib.imaging.label_names import structures_of
from DeepFLASHRegistrationLib.support.errors import InputError


def test_structures_hold_the_words_of_their_names() -> None:
    names = {
        4: "3rd Ventricle",
        7: "central_insular",
        102: "Right AIns  anterior insula",
        103: "Left AIns  anterior insula",
        114: "Right Cun   cuneus",
        168: "Right PCu   precuneus",
        172: "Right PIns  posterior insula",
        39: "Left Cerebellum White Matter",
    }
    found = structures_of(names, ["insula", "cuneus", "Left cerebellum"])
    assert found == {"insula": {102, 103, 172}, "cuneus": {114}, "Left cerebellum": {39}}
    everything = structures_of(names)
    assert everything["ains anterior insula"] == {102, 103}
    assert sum(map(len, everything.values())) == len(names)
    with pytest.raises(InputError, match="no structure 'putamen'"):
        structures_of(names, ["putamen"])
