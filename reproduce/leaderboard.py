"""The leaderboard: every method on every category with committed rows, both protocols, beside what others report.

    python -m ganspect.reproduce.leaderboard docs/leaderboard.md --results reproduce/results

Rows come from the committed results of all papers alone, a method's first score and its longest training. Those of the
literature (`published/literature_mvtec.csv`) are context of full-size images and full schedules, never targets.
"""

import argparse
import csv
import importlib
import sys
from importlib.resources import files
from pathlib import Path

from ganspect.reproduce import cells, committed, printed, tables
from ganspect.reproduce.cli import PAPERS
from ganspect.training.files import atomic_write

COLUMNS = {
    "image AUROC": ("image_auroc", ("paper", "clean")),
    "pixel AUROC": ("pixel_auroc", ("paper", "clean")),
    "AUPRO": ("pixel_aupro_0.30", ("paper", "clean")),
    "s / image": ("seconds_per_image", ("paper",)),
    "training": ("training_seconds", ("paper",)),
    "weights": ("parameters", ("paper",)),
}
# `{method: {metric: [(column of the file, where it is from)]}}`
LITERATURE = {
    "GANomaly": {
        "image_auroc": (("GN_a", "DiffAD"), ("GN_al", "anomalib 2.6"), ("GN_bao", "BaoIAD, best epoch on test")),
    },
    "DRAEM": {"image_auroc": (("DR_i", "DiffAD"),), "pixel_auroc": (("DR_p", "DRAEM"),)},
    "AE-SSIM": {"pixel_auroc": (("SS_p", "MVTec 2019"),)},
    "AE-L2": {"pixel_auroc": (("L2_p", "MVTec 2019"),)},
    "AnoGAN": {"pixel_auroc": (("AG_p", "MVTec 2019"),)},
    "PaDiM": {"image_auroc": (("PD_i", "anomalib"),), "pixel_auroc": (("PD_p", "anomalib"),)},
    "PatchCore": {"image_auroc": (("PC_i", "official"),), "pixel_auroc": (("PC_p", "official"),)},
}
OTHERS = ("other losses", "other scoring", "other noise")  # of verdicts
LONGER = (
    "cbigan_120_epochs",
    "grdnet_gray_statistics",
    "grdnet_gray_full_width",
)  # ablations that are listed beside the main tables
TITLE = """# Leaderboard

Every method on every category that this project has measured, by the image AUROC of the clean protocol (by the pixel
AUROC where there is none): the first score of the longest training of each file. Values are `paper protocol / clean
protocol`; `share` is of the paper's schedule. What was looked for because a result on test images was poor says so: its
clean values are so but for that choice. Each row's command and commit: `reproduce/results/<file>.csv`.
Compare times only within one machine. Made by `python -m ganspect.reproduce.leaderboard docs/leaderboard.md`.
"""


def page(results):
    """The page as Markdown.

    Args:
        results: folder of the committed CSV files.
    """
    places = {}
    for name, module in PAPERS.items():
        paper = importlib.import_module(module)
        for place in (name, *(f"ablations/{folder}/{name}" for folder in LONGER)):
            for entry in _entries(paper, place, committed.read(Path(results) / f"{place}.csv")):
                places.setdefault((entry["dataset"], entry["category"]), []).append(entry)
    literature = _literature()
    parts = [TITLE]
    for (dataset, category), entries in sorted(places.items()):
        parts.append(f"## {dataset} / {category}\n\n{_table(entries)}")
        if dataset == "mvtec_ad" and category in literature:
            parts.append(f"As reported elsewhere, on other budgets: {_context(literature[category])}.\n")
    return "\n".join(parts)


def _entries(paper, place, rows):
    """One dict for each method and category of a file's rows: its values by (metric, protocol), and its budget."""
    labels = {printed.headline(paper, method) for method in paper.METHODS.values()}
    found = {}
    for row in rows:
        grouped = row["category"] in getattr(paper, "GROUPS", {})
        if row["method"] not in labels or row["dataset"] == cells.SYNTHETIC or grouped:
            continue
        found.setdefault((row["dataset"], row["category"], row["method"]), []).append(row)
    out = []
    for (dataset, category, method), some in found.items():
        epochs = max((row["epochs"] for row in some), key=lambda text: int(text or 0))
        some = [row for row in some if row["epochs"] == epochs]
        values = {(row["metric"], row["protocol"]): row["value"] for row in some}
        if not any(metric in ("image_auroc", "pixel_auroc") for metric, _ in values):
            continue
        share = float(some[0]["schedule"] or 1)
        trained = f"{share * int(epochs):.0f} of {epochs}" if epochs and share < 1 else epochs
        named = f"{method}, {trained} epochs" if epochs else method
        out.append(
            {"dataset": dataset, "category": category, "method": named, "place": place, "values": values}
            | {name: some[0][name] for name in ("schedule", "model", "data", "seeds", "hardware")}
            | {"remarks": _remarks(paper, some)}
        )
    return out


def _remarks(paper, rows):
    """What a method has other than the paper, and whether a test result led to it."""
    method = paper.METHODS[committed.methods_by_label(paper)[rows[0]["method"]]]
    others = [text for text in OTHERS if any(text in row["verdict"] for row in rows)]
    return others + [cells.SOUGHT] * method.sought


def _table(entries):
    """The methods of one category, the best first."""

    def place(entry):
        found = entry["values"]
        values = [found.get((m, "clean"), found.get((m, "paper"))) for m in ("image_auroc", "pixel_auroc")]
        return [-1.0 if value is None else float(value) for value in values]

    head = ["method", "file", *COLUMNS, "share", "seeds", "what departs", "hardware"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for entry in sorted(entries, key=place, reverse=True):
        shown = [_cell(entry["values"], *column) for column in COLUMNS.values()]
        departs = [*(entry[name] for name in ("model", "data") if entry[name] != "paper"), *entry["remarks"]]
        budget = [entry["schedule"], str(entry["seeds"]), "; ".join(departs), entry["hardware"]]
        lines.append("| " + " | ".join([entry["method"], entry["place"], *shown, *budget]) + " |")
    return "\n".join(lines) + "\n"


def _cell(values, metric, protocols):
    """One metric by its protocols; empty where it was not measured."""
    found = [values.get((metric, protocol)) for protocol in protocols]
    if all(value is None for value in found):
        return ""
    return " / ".join("" if value is None else tables.show(float(value), metric) for value in found)


def _literature():
    """`{category: {column: text}}` of the published file."""
    with (files("ganspect.reproduce") / "published" / "literature_mvtec.csv").open(
        encoding="utf-8", newline=""
    ) as file:
        return {row.pop("category"): row for row in csv.DictReader(file)}


def _context(row):
    """What others report of a category, as fractions."""
    parts = []
    for method, metrics in LITERATURE.items():
        for metric, columns in metrics.items():
            found = [f"{float(row[column]) / 100:.3f} ({source})" for column, source in columns if row.get(column)]
            if found:
                parts.append(f"{method}, {metric.replace('_auroc', ' AUROC')}, {', '.join(found)}")
    return "; ".join(parts)


def main(arguments=None):
    """Writes the page; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--results", type=Path, default=Path("reproduce/results"))
    options = parser.parse_args(arguments)
    with atomic_write(options.file) as file:
        file.write(page(options.results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
