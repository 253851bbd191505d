# SPDX-License-Identifier: Apache-2.0
"""What tests of cohorts share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A template of four drawn slices with labels, as it was written, and its data."""
    from DeepFLASHRegistrationLib.cohorts.template_summary import write_template_summary
    from made_templates import draw, run

    folder: Path = tmp_path_factory.mktemp("template")
    data = draw(folder / "data")
    template = run(data, folder / "T")
    write_template_summary(template)
    return template, data
