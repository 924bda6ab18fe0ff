"""The model zoo: one small detector of each method, trained on the synthetic sets by the commands of own images.

    python examples/zoo/build.py [METHOD ...]

Writes `examples/zoo/<method>/` (SavedModel, metadata.json, README.md) and the table in `examples/zoo/README.md`; the
trainings stay in `runs/zoo`. A method that is there already is built anew only where it is named.
"""

import json
import shlex
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
RUNS = Path("runs/zoo")
DATA = RUNS / "data" / "synthetic"
MARKS = ("<!-- models -->\n", "<!-- end -->")
# method: category of the synthetic set, options of `train`
MODELS = {
    "fcbigan": ("fibres", "--set width=8 epochs=12 patches_per_epoch=2000"),
    "f-anogan": ("weave", "--set width=4"),
    "cbigan": ("disc", "--set width=2"),
    "ganomaly": ("disc", "--set width=8"),
    "anogan": ("disc", "--set width=8"),
    "draem": ("object", "--set width=4"),
    "grdnet": ("object", "--set width=4"),
}


def commands(method):
    """What makes a model, as the user would type it, from the project's folder."""
    category, options = MODELS[method]
    detector = RUNS / method
    return [
        f"ganspect train --method {method} --data {DATA}/{category} --output {detector} {options} --threads 1 --force",
        f"ganspect calibrate {detector}",
        f"ganspect evaluate {detector} --data {DATA}/{category}",
        f"ganspect export {detector} --output {HERE.relative_to(Path.cwd())}/{method}",
    ]


def table():
    """The models as a Markdown table, from their metadata."""
    heads = ("model", "trained on", "image AUROC", "pixel AUROC", "caught", "false alarms", "size")
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for method, (category, _) in MODELS.items():
        place = HERE / method
        if not (place / "metadata.json").exists():
            continue
        known = json.loads((place / "metadata.json").read_text(encoding="utf-8"))
        found = known["evaluation"]
        pixels = f"{found['pixel_auroc']:.3f}" if found.get("pixel_auroc") is not None else ""
        size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) / 1e6
        lines.append(
            f"| [{known['label']}]({method}) | {category} | {found['image_auroc']:.3f} | {pixels} "
            f"| {found['caught']} of {found['anomalous']} | {found['false_alarms']} of {found['normal']} "
            f"| {size:.1f} MB |"
        )
    return "\n".join(lines) + "\n"


def main(methods):
    """Builds the methods named, or those that are missing; then writes the table."""
    if not DATA.exists():
        subprocess.run(shlex.split(f"ganspect data make {DATA.parent}"), check=True)
    for method in methods or [name for name in MODELS if not (HERE / name / "metadata.json").exists()]:
        for line in commands(method):
            print(line, flush=True)
            subprocess.run(shlex.split(line), check=True)
    page = HERE / "README.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(MARKS[0])
    page.write_text(before + MARKS[0] + table() + MARKS[1] + rest.partition(MARKS[1])[2], encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
