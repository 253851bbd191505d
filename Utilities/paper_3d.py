# SPDX-License-Identifier: Apache-2.0
"""The 3-D comparison of DeepFLASH (Wang & Zhang, CVPR 2020, section 4) with its baselines, on hippocampi.

    python Utilities/paper_3d.py --data FOLDER [-o OUT] [--brains] [--pairs 16] [--properties 2]

FOLDER holds `hippocampus` (images/, labels/: Medical Segmentation Decathlon, task 4) and, for --brains, `oasis-brains`
(MICCAI 2012 multi-atlas challenge). `deepflash compare` registers pairs of subjects that no model was trained on, by
all methods from the same alignment, into OUT; what it measured is written to docs/comparison.md, with the box plots of
the paper's figure 6 and the bars of its figure 7, and with --properties what of the claims of ICON and its kin holds
of each method. ANTs and Greedy are left out where no Python that has them is named
(DEEPFLASH_PEERS). Interrupted, the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "DeepFLASHRegistration"))
sys.path.insert(0, str(ROOT / "Utilities"))

from train_models import HELD_OUT

PAGE = ROOT / "docs" / "comparison.md"
PICTURES = ROOT / "docs" / "images"
REFERENCE = "flash"
HIPPOCAMPI = [
    *("flash", "flash:hippocampus@iterations=100x100", "fast", "lddmm", "nephi"),
    *("nephi-codes:nephi-hippocampus", "nephi-codes:nephi-hippocampus@instance_steps=50"),
    *("quicksilver:quicksilver-hippocampus", "quicksilver:quicksilver-hippocampus@geodesic"),
    *("voxelmorph:voxelmorph-hippocampus", "voxelmorph:voxelmorph-hippocampus@geodesic"),
    *("icon:icon-hippocampus", "constricon:constricon-hippocampus", "carl:carl-hippocampus"),
    *("gradicon:gradicon-hippocampus", "gradicon:gradicon-hippocampus@geodesic"),
    *("deepflash:dual-net-hippocampus", "deepflash:hippocampus", "deepflash+flash:hippocampus"),
]
BRAINS = ["flash", "fast", "deepflash:brain-t1", "deepflash+flash:brain-t1"]
PEERS = ["ants", "ants@geodesic", "greedy", "greedy@geodesic"]
# The eight structures of the paper's figure 6, by the words of their names (Neuromorphometrics has no corpus callosum).
STRUCTURES = "accumbens,caudate,cerebellum,putamen,hippocampus,amygdala,thalamus,pallidum"
WORDS = {
    "alignment": "affine alignment alone",
    "flash": "FLASH (preset default)",
    "fast": "FLASH (preset fast)",
    "flash:hippocampus@iterations=100x100": "FLASH, converged at the settings of *hippocampus*",
    "lddmm": "LDDMM, no band",
    "nephi": "NePhi, pairwise",
    "ants": "ANTs SyN",
    "greedy": "Greedy",
}
# Below the boxes of a chart.
SHORT = {
    "alignment": "affine",
    "voxelmorph:voxelmorph-hippocampus": "voxelmorph",
    "quicksilver:quicksilver-hippocampus": "quicksilver",
    "gradicon:gradicon-hippocampus": "gradicon",
    "icon:icon-hippocampus": "icon",
    "constricon:constricon-hippocampus": "constricon",
    "carl:carl-hippocampus": "carl",
    "nephi-codes:nephi-hippocampus": "nephi, codes",
    "deepflash:dual-net-hippocampus": "dual net",
    "deepflash:hippocampus": "deepflash",
    "deepflash+flash:hippocampus": "+ flash",
    "deepflash:brain-t1": "deepflash",
    "deepflash+flash:brain-t1": "+ flash",
}
COLUMNS = (
    ("dice", "Dice", 4),
    ("folds_strict", "Folded voxels", 1),
    ("sd_log_determinant", "Spread of log J", 3),
    ("inverse_error_p95_mm", "Inverse error, 95 %, mm", 3),
    ("seconds", "Seconds", 1),
    ("seconds_alone", "method alone", 1),
    ("memory_mb", "Memory, MB", 0),
)


def hippocampi(data: Path, out: Path) -> tuple[Path, list[str]]:
    """A table of the subjects that no model has seen, and what it adds to the command."""
    test, _ = HELD_OUT["hippocampus"]
    images = sorted((data / "hippocampus" / "images").glob("*.nii.gz"))
    if not images:
        raise SystemExit(f"{data}: holds no hippocampus/images. Name the folder that holds them (--data).")
    rows = [
        (p.name.partition(".")[0], p, data / "hippocampus" / "labels" / p.name) for n, p in enumerate(images) if test(n)
    ]
    return _table(out / "hippocampi.csv", rows), []


def brains(data: Path, out: Path) -> tuple[Path, list[str]]:
    """The same of the brains, by the paper's structures."""
    images = [p for p in sorted((data / "oasis-brains").glob("*_SS.nii.gz")) if p.name[:4] in HELD_OUT["brain-t1"][0]]
    if not images:
        raise SystemExit(f"{data}: holds no oasis-brains. Name the folder that holds them (--data).")
    rows = [(p.name[:4], p, p.with_name(p.name.replace("_SS", "_glm"))) for p in images]
    more = ["--structures", STRUCTURES, "--ignore", "1,2,3"]
    names = data / "oasis-brains" / "labels.csv"
    return _table(out / "brains.csv", rows), ["--names", str(names), *more] if names.exists() else more[2:]


def _table(path: Path, rows: Sequence[tuple[str, Path, Path]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("subject", "image", "labels"))
        writer.writerows((name, image.resolve(), labels.resolve()) for name, image, labels in rows)
    return path


def compared(table: Path, methods: Sequence[str], pairs: int, out: Path, more: Sequence[str]) -> dict[str, Any]:
    """What `deepflash compare` says of pairs of a table."""
    command = [sys.executable, "-m", "DeepFLASHRegistrationLib.cli", "compare", str(table), "-o", str(out)]
    command += [
        "--methods",
        ",".join(methods),
        "--reference",
        REFERENCE,
        "--pairs",
        str(pairs),
        "--threads",
        "1",
        *more,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "DeepFLASHRegistration")}
    code = subprocess.run(command, env=environment, check=False).returncode
    if code not in (0, 1) or not (out / "comparison.json").exists():
        raise SystemExit(code or 1)
    return json.loads((out / "comparison.json").read_text(encoding="utf-8"))


def rows(found: Mapping[str, Any]) -> str:
    """The table of a comparison, in Markdown."""
    shown = [c for c in COLUMNS if any(c[0] in line["figures"] for line in found["methods"])]
    titles = [
        "Method",
        *(title for _, title, _ in shown),
        "Dice against FLASH (p)",
        "of its gain",
        "Weights, MB",
        "Training",
    ]
    lines = ["| " + " | ".join(titles) + " |", "|" + " --- |" * len(titles)]
    for line in found["methods"]:
        cells = [WORDS.get(line["method"], line["method"])]
        for name, _, digits in shown:
            value = line["figures"].get(name)
            cells.append("" if value is None else f"{value['mean']:.{digits}f} ± {value['sd']:.{digits}f}")
        difference = line["differences"].get("dice")
        p = "" if difference is None or difference["p_holm"] is None else f" ({difference['p_holm']:.2g})"
        cells.append("" if difference is None else f"{difference['mean']:+.4f}{p}")
        share = line["share_of_gain"]
        cells.append("" if share is None or line["method"] == "alignment" else f"{100 * share:.0f} %")
        cells += [str(line["model"].get(name) or "") for name in ("weights_mb", "trained")]
        if line["failed"]:
            cells[0] += f" ({line['failed']} without a result)"
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def properties(found: Mapping[str, Any]) -> str:
    """The table of what holds of the methods, in Markdown: a row for each method and alignment."""
    from DeepFLASHRegistrationLib.cohorts.properties_table import cell

    titles = list(dict.fromkeys(line["title"] for line in found["properties"]))
    by_row: dict[tuple[str, str], list[str]] = {}
    for line in found["properties"]:
        by_row.setdefault((WORDS.get(line["method"], line["method"]), line["alignment"]), []).append(cell(line))
    lines = ["| " + " | ".join(["Method", "Alignment", *titles]) + " |", "|" + " --- |" * (len(titles) + 2)]
    return "\n".join([*lines, *("| " + " | ".join([*row, *cells]) + " |" for row, cells in by_row.items())])


def boxes(found: Mapping[str, Any], name: str) -> str:
    """Box plots of Dice by structure, as pictures beside the page; what shows them, in Markdown."""
    from DeepFLASHRegistrationLib.report.charts import box_chart, standalone

    shown = []
    for number, (structure, by_method) in enumerate(found["structures"].items()):
        groups = [(SHORT.get(method, method), values) for method, values in by_method.items() if "@" not in method]
        title = f"Dice of label {structure}" if structure.isdigit() else f"Dice: {structure}"
        svg = standalone(box_chart(groups, title))
        path = PICTURES / f"comparison_{name}_{number}.svg"
        path.write_text(svg, encoding="utf-8")
        shown.append(f"![{title}](images/{path.name})")
    return "\n\n".join(shown)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("DEEPFLASH_DATA"), help="[DEEPFLASH_DATA]")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "demo" / "paper-3d")
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--properties", type=int, default=0, metavar="PAIRS", help="of which they are measured (none)")
    parser.add_argument("--brains", action="store_true", help="pairs of brains too: an hour more")
    options = parser.parse_args()
    if options.data is None:
        parser.error("name the folder of the images: --data FOLDER, or DEEPFLASH_DATA")
    from DeepFLASHRegistrationLib.methods.trained_models import find_models

    known = {found.name for found in find_models()}
    methods = [name for name in HIPPOCAMPI if ":" not in name or name.split(":")[1].split("@")[0] in known]
    for name in sorted(set(HIPPOCAMPI) - set(methods)):
        print(f"{name}: left out, that model is not here (Utilities/train_models.py trains it).", flush=True)
    data, peers = Path(options.data).resolve(), PEERS if os.environ.get("DEEPFLASH_PEERS") else []
    table, more = hippocampi(data, options.output)
    parts = {"hippocampi": compared(table, methods + peers, options.pairs, options.output / "hippocampi", more)}
    if options.brains:
        table, more = brains(data, options.output)
        parts["brains"] = compared(table, BRAINS + peers[::2], 6, options.output / "brains", more)
    written = {name: f"{rows(found)}\n\n{boxes(found, name)}" for name, found in parts.items()}
    if options.properties:
        table, more = hippocampi(data, options.output)
        each = [name for name in methods if "@" not in name]
        found = compared(table, each, options.properties, options.output / "properties", [*more, "--properties"])
        written["properties"] = properties(found)
    text = PAGE.read_text(encoding="utf-8")
    for name, shown in written.items():
        start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, _, rest = text.partition(start)
        text = f"{before}{start}\n{shown}\n{end}{rest.partition(end)[2]}"
    PAGE.write_text(text, encoding="utf-8")
    print(f"The tables are in {PAGE}; all results and a page with pictures in {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
