# SPDX-License-Identifier: Apache-2.0
"""Does a written field mean the same in ITK and in ANTs? Differences of their warped images from warped.nii.gz.

    python Testing/benchmarks/fields_elsewhere.py [RESULT_FOLDER MOVING_IMAGE]

RESULT_FOLDER is what "deepflash register" wrote; without it a pair is made and registered. ANTs is used if antspyx is
installed. Printed per program: mean and largest difference inside the image, as a fraction of the image's range.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "DeepFLASHRegistration"))

from DeepFLASHRegistrationLib.commands import main as cli


def report(name: str, found: np.ndarray, expected: np.ndarray) -> None:
    difference = np.abs(found - expected) / np.ptp(expected)
    print(
        f"{name:12} mean {difference.mean():.2e}  99.9 % {np.quantile(difference, 0.999):.2e}  "
        f"largest {difference.max():.2e}"
    )


def main() -> None:
    if len(sys.argv) == 3:
        compare(Path(sys.argv[1]), sys.argv[2])
    elif len(sys.argv) == 1:
        with tempfile.TemporaryDirectory() as folder:
            fixed, moving = f"{folder}/pair/fixed.nii.gz", f"{folder}/pair/moving.nii.gz"
            cli.main(["phantom", f"{folder}/pair"])
            cli.main(["register", fixed, moving, "-o", f"{folder}/result", "--preset", "fast", "--quiet"])
            compare(Path(folder) / "result", moving)
    else:
        sys.exit(__doc__)


def compare(folder: Path, moving_path: str) -> None:
    warped = sitk.ReadImage(str(folder / "warped.nii.gz"), sitk.sitkFloat32)
    expected = sitk.GetArrayFromImage(warped)
    moving = sitk.ReadImage(moving_path, sitk.sitkFloat32)
    outside = float(sitk.GetArrayViewFromImage(moving).min())
    field = sitk.ReadImage(str(folder / "fixed_to_moving.nii.gz"), sitk.sitkVectorFloat64)
    by_itk = sitk.Resample(moving, warped, sitk.DisplacementFieldTransform(field), sitk.sitkLinear, outside)
    report("SimpleITK", sitk.GetArrayFromImage(by_itk), expected)
    try:
        import ants
    except ImportError:
        print("ANTs         not installed (pip install antspyx)")
        return
    by_ants = ants.apply_transforms(
        ants.image_read(str(folder / "warped.nii.gz")),
        ants.image_read(moving_path),
        [str(folder / "fixed_to_moving.nii.gz")],
        defaultvalue=outside,
    )
    report("ANTs", by_ants.numpy().T, expected)


if __name__ == "__main__":
    main()
