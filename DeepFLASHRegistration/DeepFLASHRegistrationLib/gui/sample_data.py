# SPDX-License-Identifier: Apache-2.0
"""The made pair in the Sample Data module: nothing is downloaded."""

from __future__ import annotations

import os

import slicer


def registerSampleData(icons: str) -> None:
    """Adds the pair; `icons` is the folder with its picture."""
    import SampleData

    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="DeepFLASH",
        sampleName="DeepFLASHHeads",
        thumbnailFileName=os.path.join(icons, "DeepFLASHHeads.png"),
        uris="",
        fileNames="",
        nodeNames="",
        customDownloader=lambda source: slicer.util.getModuleLogic("DeepFLASHRegistration").makeSample(),
    )
