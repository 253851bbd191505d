# SPDX-License-Identifier: Apache-2.0
"""Trains the models that come with the extension.

    python Utilities/train_models.py hippocampus --data FOLDER --out MODELS
    python Utilities/train_models.py brain-t1 --data FOLDER --out MODELS [--processes 2]
    python Utilities/train_models.py brain --data FOLDER --out MODELS
    python Utilities/train_models.py dual-net-hippocampus --data FOLDER --out MODELS
    python Utilities/train_models.py voxelmorph-hippocampus --data FOLDER --out MODELS
    python Utilities/train_models.py quicksilver-hippocampus --data FOLDER --out MODELS
    python Utilities/train_models.py icon-hippocampus --data FOLDER --out MODELS
    python Utilities/train_models.py gradicon-hippocampus --data FOLDER --out MODELS
    python Utilities/train_models.py constricon-hippocampus --data FOLDER --out MODELS
    python Utilities/train_models.py carl-hippocampus --data FOLDER --out MODELS
    python Utilities/train_models.py nephi-hippocampus --data FOLDER --out MODELS
    python Utilities/train_models.py mean-images --data FOLDER --out MODELS

FOLDER holds `hippocampus` (images/, labels/: Medical Segmentation Decathlon, task 4), `oasis-brains` (skull-stripped
brains ID_SS.nii.gz with labels ID_glm.nii.gz: MICCAI 2012 multi-atlas challenge), `adults-t1` (OpenNeuro ds002748,
stripped) and `head-labels` (label maps of SynthSeg). Subjects named in HELD_OUT are never trained on; the figures of
the model cards are measured on them. Interrupted, the same command goes on where it was.

*brain* is packed and trained on the packs, which also can be carried to a machine with a GPU; see docs/training.md.
*dual-net-hippocampus* is taught by FLASH first, into MODELS/velocities. The two baselines of its paper, GradICON,
ConstrICON, CARL and NePhi are trained on a pack of the same hippocampi, *quicksilver-hippocampus* by LDDMM's momenta
(MODELS/momenta).
`mean-images` gives the models in MODELS the mean image of what they were trained on; their weights stay as they are.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HELD_OUT = {
    # Every eighth image, and for validation every sixteenth, in the order of their names.
    "hippocampus": (lambda number: number % 8 == 3, lambda number: number % 16 == 6),
    "brain-t1": ({"1000", "1001", "1006", "1009", "1017", "1036"}, set()),
}
OPTIONS = {
    "hippocampus": [
        "--recipe=crop",
        "--deformation-mm=1",
        "--mirror",
        "--name=hippocampus",
        "--description=T1 crops around one hippocampus, anterior and posterior part",
        "--training-data=165 crops of the Medical Segmentation Decathlon, task 4 (hippocampus), with labels",
        "--license=CC BY-SA 4.0",
        "--license-note=Derived from data under CC BY-SA 4.0: share alike, and give credit.",
        "--attribution=Medical Segmentation Decathlon (Antonelli et al., arXiv:1902.09063 and 2106.05735)",
    ],
    "dual-net-hippocampus": [
        "--recipe=crop-dual-net",
        "--iterations=4000",
        "--minutes=24",
        "--validate-every=60",
        "--patience=100",
        "--validation-pairs=13",
        "--label-weight=3",
        "--deformation-mm=1.5",
        "--name=dual-net-hippocampus",
        "--description=T1 crops around one hippocampus, by the dual net of the DeepFLASH paper in a pose",
        "--license=CC BY-SA 4.0",
        "--license-note=Derived from data under CC BY-SA 4.0: share alike, and give credit.",
        "--attribution=Medical Segmentation Decathlon (Antonelli et al., arXiv:1902.09063 and 2106.05735)",
    ],
    "voxelmorph-hippocampus": [
        "--method=voxelmorph",
        "--learning-rate=6e-4",
        "--deformation=1",
        "--name=voxelmorph-hippocampus",
        "--description=T1 crops around one hippocampus, by VoxelMorph",
    ],
    "quicksilver-hippocampus": [
        "--method=quicksilver",
        "--dropout=0.2",
        "--name=quicksilver-hippocampus",
        "--description=T1 crops around one hippocampus, by Quicksilver",
    ],
    "icon-hippocampus": [
        "--method=icon",
        "--learning-rate=6e-4",
        "--deformation=1",
        "--name=icon-hippocampus",
        "--description=T1 crops around one hippocampus, by ICON",
    ],
    "gradicon-hippocampus": [
        "--method=gradicon",
        "--deformation=1",
        "--name=gradicon-hippocampus",
        "--description=T1 crops around one hippocampus, by GradICON",
        "--limits=Its maps fold at some voxels.",
    ],
    "constricon-hippocampus": [
        "--method=constricon",
        "--deformation=1",
        "--name=constricon-hippocampus",
        "--description=T1 crops around one hippocampus, by ConstrICON",
    ],
    "carl-hippocampus": [
        "--method=carl",
        "--learning-rate=2e-3",
        "--deformation=1",
        "--name=carl-hippocampus",
        "--description=T1 crops around one hippocampus, by CARL",
        "--limits=Its encoder is narrower than the published one: 16 features instead of 128.",
    ],
    "nephi-hippocampus": [
        "--method=nephi-codes",
        "--learning-rate=6e-4",
        "--deformation=1",
        "--name=nephi-hippocampus",
        "--description=T1 crops around one hippocampus, by NePhi",
    ],
    "brain": [
        "--mix=adults=0.5,heads=0.5",
        "--minutes=8",
        "--name=brain",
        "--description=brains of adults in MR images of any contrast, at 1.25 mm",
        "--license=Apache-2.0",
    ],
    "brain-t1": [
        "--recipe=brain",
        "--deformation-mm=2",
        "--mirror",
        "--labels-at-once=12",
        "--name=brain-t1",
        "--description=skull-stripped T1 brains of adults, at 1.25 mm",
        "--training-data=9 brains of the MICCAI 2012 multi-atlas challenge (OASIS), with labels, multiplied by random "
        "geodesics",
        "--license=CC BY-NC 4.0",
        "--license-note=Not for commercial use: trained on data under CC BY-NC.",
        "--attribution=MRI from the OASIS project; labels provided by Neuromorphometrics, Inc. "
        "(neuromorphometrics.com) under academic subscription",
    ],
}
# What models that learn from the pack of hippocampi share.
HIPPOCAMPI = [
    "--shape=48,64,48",
    "--spacing-mm=1",
    "--description=T1 crops around one hippocampus of the Medical Segmentation Decathlon, task 4",
    "--license=CC BY-SA 4.0",
    "--attribution=Medical Segmentation Decathlon (Antonelli et al., arXiv:1902.09063 and 2106.05735)",
]
ON_HIPPOCAMPI = [
    *("--minutes=30", "--painted=0", "--contrasts=0", "--degraded=0.1", "--cropped=0", "--validate-every=240"),
    "--license=CC BY-SA 4.0",
    "--license-note=Derived from data under CC BY-SA 4.0: share alike, and give credit.",
]
MOMENTA = [
    *("--method=lddmm", "--pairs=100", "--resolutions=2", "--bands=31", "--iterations=12", "--integrator=multistep")
]
# Of *brain*: by pack, its folder, how many of the last subjects are kept aside, and what its labels mean.
GRID = ["--shape=128,160,128", "--spacing-mm=1.25"]
PACKS = {
    "adults": (
        "adults-t1",
        4,
        [
            "--description=T1 brains of OpenNeuro ds002748",
            "--license=CC0",
            "--attribution=Images: Bezmaternykh et al., Neural Plasticity 2021, 8846097 (OpenNeuro ds002748)",
        ],
    ),
    "heads": (
        "head-labels",
        2,
        [
            "--label-maps",
            "--outside-from=501",
            "--names=freesurfer",
            "--description=heads of SynthSeg",
            "--license=Apache-2.0",
            "--attribution=Label maps: SynthSeg, Billot et al., Medical Image Analysis 2023",
        ],
    ),
}
# One training after the other, each from what the last one reached: updates that two processes share.
PASSES = {
    "hippocampus": [["--iterations=3200", "--joining=0,0", "--validate-every=400", "--validation-pairs=24"]],
    "brain-t1": [
        ["--iterations=500", "--joining=0,0", "--label-weight=1.5", "--validate-every=100"],
        ["--iterations=300", "--joining=0,0", "--learning-rate=7e-4", "--validate-every=100"],
    ],
}


def hippocampus(data: Path, out: Path) -> tuple[Path, str]:
    """A table of the images to train on, and who validates."""
    images = sorted((data / "hippocampus" / "images").glob("*.nii.gz"))
    test, validation = HELD_OUT["hippocampus"]
    rows = [(p, data / "hippocampus" / "labels" / p.name) for n, p in enumerate(images) if not test(n)]
    unseen = [p.name.split(".")[0] for n, p in enumerate(images) if validation(n)]
    return _table(out / "hippocampus.csv", [(p.name.split(".")[0], p, labels) for p, labels in rows]), ",".join(unseen)


def brain_t1(data: Path, out: Path) -> tuple[Path, str]:
    """The same for the brains, of which there are too few to validate with."""
    images = sorted((data / "oasis-brains").glob("*_SS.nii.gz"))
    rows = [(p.name[:4], p, p.with_name(p.name.replace("_SS", "_glm"))) for p in images]
    return _table(out / "brain-t1.csv", [row for row in rows if row[0] not in HELD_OUT["brain-t1"][0]]), "0"


def brain(data: Path, out: Path, more: Sequence[str]) -> int:
    """Packs of what may be used freely, and the training on them."""
    deepflash = [sys.executable, "-m", "DeepFLASHRegistrationLib.cli"]
    packs = []
    for name, (folder, aside, settings) in PACKS.items():
        packs.append(out / f"{name}.npz")
        if packs[-1].exists():
            continue
        images = sorted(p.name.partition(".")[0] for p in (data / folder).glob("*.nii.gz"))
        command = [*deepflash, "pack", str(data / folder), "-o", str(packs[-1]), *GRID, *settings]
        code = subprocess.run([*command, f"--validation={','.join(images[-aside:])}"], check=False).returncode
        if code:
            return code
    command = [*deepflash, "train", *map(str, packs), "-o", str(out / "brain"), *OPTIONS["brain"], *more]
    return subprocess.run(command, check=False).returncode


def dual_net(data: Path, out: Path, more: Sequence[str]) -> int:
    """FLASH's velocities of the hippocampi that *hippocampus* is trained on, and the dual net that learns from them."""
    table, validation = hippocampus(data, out)
    deepflash, velocities = [sys.executable, "-m", "DeepFLASHRegistrationLib.cli"], out / "velocities"
    recipe = OPTIONS["dual-net-hippocampus"][0]
    folder = out / "dual-net-hippocampus"
    settings = [f"--labels={velocities}", f"--validation={validation}", *OPTIONS["dual-net-hippocampus"], *more]
    for command in (
        [*deepflash, "teach", str(table), "-o", str(velocities), recipe, "--pairs=200"],
        [*deepflash, "train", str(table), "-o", str(folder), *settings],
    ):
        code = subprocess.run(command, check=False).returncode
        if code:
            return code
    return 0


def on_hippocampi(name: str, data: Path, out: Path, more: Sequence[str]) -> int:
    """The baselines of the paper on a pack of the hippocampi that *hippocampus* is trained on."""
    table, validation = hippocampus(data, out)
    deepflash, pack, momenta = [sys.executable, "-m", "DeepFLASHRegistrationLib.cli"], out / "hippocampi.npz", []
    commands = []
    if not pack.exists():
        commands.append(["pack", str(table), "-o", str(pack), f"--validation={validation}", *HIPPOCAMPI])
    if name == "quicksilver-hippocampus":
        commands.append(["teach", str(pack), "-o", str(out / "momenta"), *MOMENTA])
        momenta = [f"--labels={out / 'momenta'}"]
    commands.append(["train", str(pack), "-o", str(out / name), *OPTIONS[name], *ON_HIPPOCAMPI, *momenta, *more])
    for command in commands:
        code = subprocess.run([*deepflash, *command], check=False).returncode
        if code:
            return code
    return 0


def mean_images(data: Path, out: Path) -> int:
    """Mean images for the models in a folder, of the subjects that they were trained on."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "DeepFLASHRegistration"))
    from DeepFLASHRegistrationLib.imaging.io import read_volume
    from DeepFLASHRegistrationLib.methods.trained_models import load_model, save_model
    from DeepFLASHRegistrationLib.training.mean_image import mean_image

    hippocampi = sorted((data / "hippocampus" / "images").glob("*.nii.gz"))
    brains = sorted((data / "oasis-brains").glob("*_SS.nii.gz"))
    adults = sorted((data / "adults-t1").glob("*.nii.gz"))
    test, validation = HELD_OUT["hippocampus"]
    seen = [p for n, p in enumerate(hippocampi) if not test(n) and not validation(n)]
    trained = {
        "hippocampus": ("alike", seen),
        "voxelmorph-hippocampus": ("alike", seen),
        "quicksilver-hippocampus": ("alike", seen),
        "brain-t1": ("alike", [p for p in brains if p.name[:4] not in HELD_OUT["brain-t1"][0]]),
        "brain": ("any", adults[: -PACKS["adults"][1]]),
    }
    for name, (contrast, images) in trained.items():
        if not (out / name).is_dir():
            continue
        model, mean = load_model(out / name), mean_image([read_volume(path) for path in images])
        save_model(out / name, dataclasses.replace(model.config, contrast=contrast), model.arrays, mean)
        print(f"{name}: {' x '.join(map(str, mean.gray.shape))} voxels, agreement {mean.agreement}", flush=True)
    return 0


def _table(path: Path, rows: list[tuple[str, Path, Path]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("subject", "image", "labels"))
        writer.writerows(rows)
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=[*sorted(OPTIONS), "mean-images"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=2, help="that share each update (default: 2)")
    options, more = parser.parse_known_args()  # further options are those of deepflash train
    if options.model == "dual-net-hippocampus":
        return dual_net(options.data.resolve(), options.out.resolve(), more)
    if options.model.endswith("-hippocampus"):
        return on_hippocampi(options.model, options.data.resolve(), options.out.resolve(), more)
    if options.model == "mean-images":
        return mean_images(options.data, options.out)
    if options.model == "brain":
        options.out.mkdir(parents=True, exist_ok=True)
        return brain(options.data, options.out, more)
    make = {"hippocampus": hippocampus, "brain-t1": brain_t1}[options.model]
    table, validation = make(options.data.resolve(), options.out.resolve())
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={options.processes}"]
    passes, last = PASSES[options.model], None
    for number, settings in enumerate(passes, 1):
        folder = options.out / (options.model if number == len(passes) else f"{options.model}-pass-{number}")
        command = [*launch, "-m", "DeepFLASHRegistrationLib.cli", "train", str(table), "-o", str(folder)]
        command += [f"--validation={validation}", *OPTIONS[options.model], *settings, *more]
        if last is not None:
            command.append(f"--initial-model={last}")
        code = subprocess.run(command, env={"OMP_NUM_THREADS": "1", **os.environ}, check=False).returncode
        if code:
            return code
        last = folder
    return 0


if __name__ == "__main__":
    sys.exit(main())
